"""A sum over windows of a convolution becomes one convolution with a larger kernel.

Both are linear, so the sum of w shifted copies of a kernel, applied at the windows' stride, is
the kernel of the whole: 16 products for each output of a 3 x 3 convolution and a 2 x 2 pool
instead of 36, and no intermediate of the convolution's size. The owner adds the kernels up before
sharing; biases in between are multiplied by the window's size. It is done where it saves products.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tercet.program.passes.rewrite import (
    Array,
    Arrays,
    Rewrite,
    array_input,
    count_uses,
    definition,
)
from tercet.program.program import Input, Instruction, Program


@dataclass(frozen=True, slots=True)
class _Pooled:
    """A convolution (its number) that is summed over windows, and the biases on the way."""

    conv: Instruction
    kernel: Input
    biases: list[Input]


def fold_pools(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with ``window_sum(conv(x, w) + b)`` as one convolution."""
    rewrite, uses = Rewrite(program, arrays), count_uses(program)
    for number, instruction in rewrite.numbered():
        found = _find(program, instruction, uses) if instruction.op == "window_sum" else None
        if found is None:
            rewrite.values[number] = rewrite.copy(instruction)
        else:
            rewrite.values[number] = _fold(rewrite, instruction, found)
    return rewrite.finish()


def _find(program: Program, pool: Instruction, uses: dict[int, int]) -> _Pooled | None:
    window, strides = _ints(pool, "window"), _ints(pool, "strides")
    if any((*_ints(pool, "low"), *_ints(pool, "high"))) or (window[0], window[-1]) != (1, 1):
        return None
    value, biases = pool.args[0], list[Input]()
    while (made := definition(program, value)) is not None and uses[value] == 1:
        if made.op == "add":
            value, other = made.args
            bias = array_input(program, other)
            if bias is None or math.prod(bias.type.shape) != math.prod(bias.type.shape[-1:]):
                return None  # not one number a channel
            biases.append(bias)
        elif made.op == "conv":
            kernel = array_input(program, made.args[1])
            if kernel is None or any(d != 1 for d in _ints(made, "input_dilation")):
                return None
            before = math.prod(kernel.type.shape[:-2]) * math.prod(strides)
            saves = math.prod(_extents(made, kernel, window)) <= before
            return _Pooled(made, kernel, biases) if saves else None
        else:
            return None
    return None


def _extents(conv: Instruction, kernel: Input, window: Sequence[int]) -> list[int]:
    """Return the spatial extents of the kernel of the whole."""
    return [
        (taps - 1) * spread + 1 + (width - 1) * stride
        for taps, spread, width, stride in zip(
            kernel.type.shape[:-2],
            _ints(conv, "kernel_dilation"),
            window[1:-1],
            _ints(conv, "strides"),
            strict=True,
        )
    ]


def _fold(rewrite: Rewrite, pool: Instruction, found: _Pooled) -> int:
    conv, kernel = found.conv, found.kernel
    window, steps = _ints(pool, "window")[1:-1], _ints(conv, "strides")
    array = rewrite.arrays[kernel.name]
    spread = _ints(conv, "kernel_dilation")
    total = np.zeros((*_extents(conv, kernel, (1, *window, 1)), *array.shape[-2:]))
    for offset in np.ndindex(*window):
        place = tuple(
            slice(o * step, o * step + (taps - 1) * s + 1, s)
            for o, step, taps, s in zip(offset, steps, array.shape, spread, strict=False)
        )
        total[place] += array
    pooled = rewrite.declare(f"{kernel.name}/pooled", kernel.role, total, kernel.type.scale)
    strides = tuple(a * b for a, b in zip(steps, _ints(pool, "strides")[1:-1], strict=True))
    attrs: dict[str, Any] = {
        **conv.attrs,
        "strides": strides,
        "kernel_dilation": (1,) * len(strides),
    }
    value = rewrite.emit(conv.source, "conv", rewrite.values[conv.args[0]], pooled, **attrs)
    for bias in reversed(found.biases):
        summed = rewrite.arrays[bias.name] * math.prod(window)
        added = rewrite.declare(f"{bias.name}/pooled", bias.role, summed, bias.type.scale)
        value = rewrite.emit(conv.source, "add", value, added)
    return value


def _ints(instruction: Instruction, name: str) -> tuple[int, ...]:
    return tuple(instruction.attrs[name])  # type: ignore[arg-type]
