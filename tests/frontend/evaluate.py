"""A float64 evaluator of programs: what a program means, without fixed point or protocol.

Truncations and shifts change the representation only, so they are identities here. Kept apart
from the runtime on purpose: it checks the frontend, and later the interpreter, independently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from tercet.frontend.traced import Traced
from tercet.program.program import Role
from tercet.program.types import bind_shape

Dims: TypeAlias = tuple[int, ...]


def evaluate(traced: Traced, x: np.ndarray) -> np.ndarray:
    """Return the output of ``traced`` on the batch ``x``."""
    program, batch = traced.program, len(x)
    values: list[np.ndarray] = []
    for value in program.inputs:
        array = np.asarray(x if value.role is Role.INPUT else traced.arrays[value.name], np.float64)
        assert array.shape == bind_shape(value.type.shape, batch), value.name
        values.append(array)
    for instruction in program.instructions:
        attrs = {
            k: v if isinstance(v, int) else bind_shape(v, batch)
            for k, v in instruction.attrs.items()
        }
        scale = program.type_of(instruction.args[0]).scale
        if instruction.op == "add_const":
            attrs = {"value": instruction.attrs["value"] / 2**scale}
        result = EVALUATORS[instruction.op](*(values[a] for a in instruction.args), **attrs)
        assert result.shape == bind_shape(instruction.type.shape, batch), instruction
        values.append(result)
    (output,) = program.outputs
    return values[output]


def _slice(x: np.ndarray, start: Dims, limit: Dims, stride: Dims) -> np.ndarray:
    return x[tuple(map(slice, start, limit, stride))]


def _pad(x: np.ndarray, low: Dims, high: Dims, interior: Dims) -> np.ndarray:
    spread = [
        d + max(d - 1, 0) * i + lo + hi
        for d, i, lo, hi in zip(x.shape, interior, low, high, strict=True)
    ]
    result = np.zeros(spread)
    where = tuple(
        slice(lo, lo + max(d - 1, 0) * (i + 1) + 1 if d else lo, i + 1)
        for d, i, lo in zip(x.shape, interior, low, strict=True)
    )
    result[where] = x
    return result


def _windows(
    x: np.ndarray, fill: float, window: Dims, strides: Dims, low: Dims, high: Dims
) -> np.ndarray:
    padded = np.pad(x, list(zip(low, high, strict=True)), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(padded, window)
    return views[tuple(slice(None, None, s) for s in strides)]


def _window_sum(x: np.ndarray, **attrs: Dims) -> np.ndarray:
    return _windows(x, 0.0, **attrs).sum(axis=tuple(range(x.ndim, 2 * x.ndim)))


def _max_pool(x: np.ndarray, bits: int, **attrs: Dims) -> np.ndarray:
    return _windows(x, -np.inf, **attrs).max(axis=tuple(range(x.ndim, 2 * x.ndim)))


def _conv(
    x: np.ndarray,
    w: np.ndarray,
    strides: Dims,
    low: Dims,
    high: Dims,
    input_dilation: Dims,
    kernel_dilation: Dims,
    groups: int,
) -> np.ndarray:
    around = ((0, *low, 0), (0, *high, 0), (0, *(d - 1 for d in input_dilation), 0))
    x = _pad(x, *around)
    size, rank = w.shape[:-2], x.ndim - 2
    reach = [(k - 1) * d + 1 for k, d in zip(size, kernel_dilation, strict=True)]
    out = [(n - r) // s + 1 for n, r, s in zip(x.shape[1:-1], reach, strides, strict=True)]
    result = np.zeros((len(x), *out, w.shape[-1]))
    c, o = w.shape[-2], w.shape[-1] // groups
    for place in itertools.product(*map(range, size)):
        start = [p * d for p, d in zip(place, kernel_dilation, strict=True)]
        part = x[
            (
                slice(None),
                *(
                    slice(b, b + (n - 1) * s + 1, s)
                    for b, n, s in zip(start, out, strides, strict=True)
                ),
            )
        ]
        for g in range(groups):
            result[..., g * o : (g + 1) * o] += np.tensordot(
                part[..., g * c : (g + 1) * c], w[place][:, g * o : (g + 1) * o], 1
            )
    assert rank == len(out)
    return result


def _softmax(x: np.ndarray, axis: int, bits: int) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _log_softmax(x: np.ndarray, axis: int, bits: int) -> np.ndarray:
    return np.log(_softmax(x, axis, bits))


def _lookup(index: np.ndarray, table: np.ndarray, shared: int, bits: int) -> np.ndarray:
    places = np.clip(np.rint(index), 0, table.shape[-2] - 1).astype(int)
    found = np.zeros((*index.shape, table.shape[-1]))
    for first in np.ndindex(*index.shape[:shared]):
        found[first] = table[first][places[first]]
    return found


def _top_k(x: np.ndarray, k: int) -> np.ndarray:
    places = np.argsort(-x, axis=-1, kind="stable")[..., :k]
    return np.stack((places, np.take_along_axis(x, places, -1)), -1)


def _cumsum(x: np.ndarray, axis: int, reverse: int) -> np.ndarray:
    return np.flip(np.cumsum(np.flip(x, axis), axis), axis) if reverse else np.cumsum(x, axis)


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def _gelu_tanh(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


_UNARY: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf),
    "gelu": lambda x: x * np.vectorize(math.erfc)(-x * math.sqrt(0.5)) / 2,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "softplus": _softplus,
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "abs": np.abs,
}


def _scale(x: np.ndarray, multiplier: int, bits: int) -> np.ndarray:
    return x * math.ldexp(multiplier, -bits)


EVALUATORS: Mapping[str, Callable[..., np.ndarray]] = {
    "reshape": lambda x, shape: x.reshape(shape),
    "transpose": lambda x, axes: x.transpose(axes),
    "broadcast": lambda x, shape: np.broadcast_to(x, shape),
    "slice": _slice,
    "pad": _pad,
    "concat": lambda *xs, axis: np.concatenate(xs, axis),
    "reverse": lambda x, axes: np.flip(x, axes),
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "sum": lambda x, axes: x.sum(axis=axes),
    "window_sum": _window_sum,
    "scale": _scale,
    "shift_left": lambda x, bits: x,
    "add_const": lambda x, value: x + value,
    "mul": np.multiply,
    "matmul": np.matmul,
    "conv": _conv,
    "truncate": lambda x, shift: x,
    "truncate_fresh": lambda x, shift: x,
    "relu": lambda x, shift, bits: np.maximum(x, 0),
    "negative": lambda x, shift, bits: x < 0,
    "bit_not": np.logical_not,
    "bit_and": np.logical_and,
    "select": np.multiply,
    "maximum": lambda x, y, bits: np.maximum(x, y),
    "reduce_max": lambda x, axes, bits: x.max(axis=axes),
    "max_pool": _max_pool,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "sort": lambda x, axis, bits: np.sort(x, axis),
    "argmax": lambda x, axis: x.argmax(axis),
    "top_k": _top_k,
    "lookup": _lookup,
    "cumsum": _cumsum,
    "rsqrt": lambda x, scale, bits: x**-0.5,
    "reshare": lambda x: x,
    "reciprocal": lambda x, signed, bits: 1 / x,
    "divide": lambda x, y, signed, bits: x / y,
    "power": lambda x, exponent, bits: x ** (exponent / 2**16),
    **{name: lambda x, bits, f=function: f(x) for name, function in _UNARY.items()},
}
