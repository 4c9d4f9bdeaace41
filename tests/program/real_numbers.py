"""What a program means in real numbers: float64, no rounding, no ring."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tercet.program.program import Instruction, Program, Role
from tercet.program.types import bind_shape


def evaluate(program: Program, arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Return the output of ``program`` for the rows ``x``."""
    values = [x if i.role is Role.INPUT else arrays[i.name] for i in program.inputs]
    for instruction in program.instructions:
        scale = program.type_of(instruction.args[0]).scale
        args = [values[a] for a in instruction.args]
        values.append(_apply(instruction, scale, args, len(x)))
    return values[program.outputs[0]]


def _apply(made: Instruction, scale: int, args: list[np.ndarray], batch: int) -> np.ndarray:
    x, at = args[0], made.attrs
    match made.op:
        case "truncate" | "truncate_fresh" | "reshare" | "shift_left":
            return x
        case "scale":
            return x * at["multiplier"] / 2 ** at["bits"]
        case "add_const":
            return x + at["value"] / 2**scale
        case "reshape":
            return x.reshape(bind_shape(at["shape"], batch))
        case "broadcast":
            return np.broadcast_to(x, bind_shape(at["shape"], batch))
        case "transpose":
            return x.transpose(at["axes"])
        case "slice":
            stop = bind_shape(at["limit"], batch)
            return x[tuple(map(slice, at["start"], stop, at["stride"]))]
        case "pad":
            assert not any(at["interior"])
            return np.pad(x, list(zip(at["low"], at["high"], strict=True)))
        case "reverse":
            return np.flip(x, at["axes"])
        case "concat":
            return np.concatenate(args, at["axis"])
        case "neg":
            return -x
        case "add":
            return x + args[1]
        case "sub":
            return x - args[1]
        case "sum":
            return x.sum(at["axes"])
        case "window_sum":
            return _windows(x, at).sum(tuple(range(-x.ndim, 0)))
        case "max_pool":
            return _windows(x, at).max(tuple(range(-x.ndim, 0)))
        case "mul":
            return x * args[1]
        case "matmul":
            return x @ args[1]
        case "conv":
            return _conv(x, args[1], at)
        case "relu":
            return np.maximum(x, 0)
    raise NotImplementedError(made.op)


def _windows(x: np.ndarray, at: Mapping[str, object]) -> np.ndarray:
    x = np.pad(x, list(zip(at["low"], at["high"], strict=True)))
    return sliding_window_view(x, at["window"])[tuple(slice(None, None, s) for s in at["strides"])]


def _conv(x: np.ndarray, w: np.ndarray, at: Mapping[str, object]) -> np.ndarray:
    assert {*at["input_dilation"]} == {1}
    space, groups = tuple(range(1, x.ndim - 1)), at["groups"]
    spread = [(n - 1) * d + 1 for n, d in zip(w.shape, at["kernel_dilation"], strict=False)]
    dilated = np.zeros((*spread, *w.shape[-2:]))
    dilated[tuple(slice(None, None, d) for d in at["kernel_dilation"])] = w
    w = dilated
    x = np.pad(x, [(0, 0), *zip(at["low"], at["high"], strict=True), (0, 0)])
    patches = sliding_window_view(x, w.shape[:-2], space)
    patches = patches[(slice(None), *(slice(None, None, s) for s in at["strides"]))]
    results = [
        np.tensordot(
            p,
            k,
            ([1 + len(space), *range(2 + len(space), p.ndim)], [-2 % k.ndim, *range(k.ndim - 2)]),
        )
        for p, k in zip(
            np.split(patches, groups, 1 + len(space)), np.split(w, groups, -1), strict=True
        )
    ]
    return np.concatenate(results, -1)
