"""The interpreter: runs a verified program on a protocol, one instruction after the other.

One table names what each operation does. The interpreter knows shapes and forms only; it never
looks into a share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tercet.function.maximum import max_pool, maximum, reduce_max
from tercet.function.top import argmax, top_k
from tercet.program.program import Program
from tercet.protocol.base import Bits, Kernel, Partial, Protocol, Share
from tercet.protocol.rounds import Steps
from tercet.ring import gradients, kernels, local
from tercet.runtime.functions import FUNCTIONS
from tercet.runtime.step import Step

Words: TypeAlias = NDArray[np.uint64]
Value: TypeAlias = Share | Partial | Bits | Words | tuple[Share, Bits]
Watch: TypeAlias = Callable[[int, Value], None]


def run(
    program: Program,
    protocol: Protocol,
    inputs: Mapping[str, Share | Words],
    batch: int,
    watch: Watch | None = None,
) -> Steps[Share]:
    """Return the steps that run ``program`` and end in its output.

    The output of a guarded program is flat, (rows, elements), with the flag as its last column.

    Args:
        program: a verified program.
        protocol: this party's side of the protocol.
        inputs: for each named input its share, or the array of a public one.
        batch: number of rows.
        watch: called with the number and value of each instruction's result (calibration).
    """
    values: dict[int, Value] = {n: inputs[i.name] for n, i in enumerate(program.inputs)}
    for number, instruction in enumerate(program.instructions):
        args = tuple(values[a] for a in instruction.args)
        step = Step(program, protocol, instruction, args, str(number), batch)
        if instruction.op in LOCAL:
            result = LOCAL[instruction.op](step)
        else:
            result = yield from ROUNDS[instruction.op](step)
        values[number + len(program.inputs)] = result
        if watch is not None:
            watch(number, result)
        for a in program.dying[number]:
            del values[a]
    outputs = [cast("Share", values[o]) for o in program.outputs]
    if not program.guarded:
        return outputs[0]
    columns = zip(*(protocol.map(_by_row, o).parts for o in outputs), strict=True)
    return Share(tuple(np.concatenate(c, 1) for c in columns))


def _by_row(a: Words) -> Words:
    return a.reshape(len(a), -1)


def _map(step: Step, function: Callable[[Words], Words]) -> Value:
    (x,) = step.args
    return function(x) if isinstance(x, np.ndarray) else step.protocol.map(function, x)


def _reshape(step: Step) -> Value:
    return _map(step, lambda a: a.reshape(step.shape()))


def _transpose(step: Step) -> Value:
    return _map(step, lambda a: a.transpose(step.attr("axes")))


def _broadcast(step: Step) -> Value:
    return _map(step, lambda a: np.broadcast_to(a, step.shape()))


def _slice(step: Step) -> Value:
    index = tuple(
        slice(s, e, k)
        for s, e, k in zip(
            step.attr("start"), step.shape("limit"), step.attr("stride"), strict=True
        )
    )
    return _map(step, lambda a: a[index])


def _pad(step: Step) -> Value:
    return _map(
        step, lambda a: local.pad(a, step.attr("low"), step.attr("high"), step.attr("interior"))
    )


def _reverse(step: Step) -> Value:
    return _map(step, lambda a: np.flip(a, step.attr("axes")))


def _concat(step: Step) -> Value:
    axis = step.attr("axis")
    if isinstance(step.args[0], np.ndarray):
        return np.concatenate(step.args, axis)
    columns = zip(*(x.parts for x in step.args), strict=True)
    return cast("Value", type(step.args[0])(tuple(np.concatenate(c, axis) for c in columns)))


def _sum(step: Step) -> Value:
    return _map(step, lambda a: np.sum(a, axis=step.attr("axes"), dtype=np.uint64))


def _window_sum(step: Step) -> Value:
    window = tuple(step.attr(n) for n in ("window", "strides", "low", "high"))
    return _map(step, lambda a: local.window_sum(a, *window))


def _scale(step: Step) -> Value:
    word = np.uint64(step.attr("multiplier") & ((1 << 64) - 1))
    return _map(step, lambda a: a * word) if word != 1 else cast("Value", step.args[0])


def _shift_left(step: Step) -> Value:
    return _map(step, lambda a: a << np.uint64(step.attr("bits")))


def _add_const(step: Step) -> Value:
    (x,) = step.args
    word = np.asarray(np.uint64(step.attr("value") & ((1 << 64) - 1)))
    return x + word if isinstance(x, np.ndarray) else step.protocol.add_public(x, word)


def _neg(step: Step) -> Value:
    return _map(step, np.negative)


def _add(step: Step) -> Value:
    x, y = step.args
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        return x + y
    if isinstance(x, np.ndarray):
        x, y = y, x
    return step.protocol.add_public(x, y) if isinstance(y, np.ndarray) else step.protocol.add(x, y)


def _sub(step: Step) -> Value:
    x, y = step.args
    minus = np.negative(y) if isinstance(y, np.ndarray) else step.protocol.map(np.negative, y)
    return _add(replace(step, args=(x, minus)))


def _product(kernel: Callable[[Step], Kernel]) -> Callable[[Step], Value]:
    """Apply a bilinear kernel to two shares, a share and an array, or two arrays."""

    def apply(step: Step) -> Value:
        x, y = step.args
        multiply = kernel(step)
        result: Value
        if isinstance(y, np.ndarray):
            if isinstance(x, np.ndarray):
                return multiply(x, y)
            result = step.protocol.map(lambda a: multiply(a, y), x)
            return result
        if isinstance(x, np.ndarray):
            result = step.protocol.map(lambda b: multiply(x, b), y)
            return result
        return step.protocol.product(multiply, x, y)

    return apply


def _conv_attributes(step: Step) -> dict[str, Any]:
    return {
        "strides": step.attr("strides"),
        "padding": tuple(zip(step.attr("low"), step.attr("high"), strict=True)),
        "input_dilation": step.attr("input_dilation"),
        "kernel_dilation": step.attr("kernel_dilation"),
        "groups": step.attr("groups"),
    }


def _conv(step: Step) -> Kernel:
    return partial(kernels.conv, **_conv_attributes(step))


def _conv_input(step: Step) -> Kernel:
    return partial(gradients.conv_input, extents=step.attr("extents"), **_conv_attributes(step))


def _conv_kernel(step: Step) -> Kernel:
    return partial(gradients.conv_kernel, window=step.attr("extents"), **_conv_attributes(step))


def _truncate(step: Step) -> Steps[Value]:
    return step.protocol.truncate(step.args[0], step.attr("shift"), step.at)


def _relu(step: Step) -> Steps[Value]:
    return step.protocol.relu(step.args[0], step.attr("shift"), step.attr("bits"), step.at)


def _negative(step: Step) -> Steps[Value]:
    return step.protocol.negative(step.args[0], step.attr("shift"), step.attr("bits"), step.at)


def _max_pool(step: Step) -> Steps[Value]:
    window, strides, low, high = (step.attr(n) for n in ("window", "strides", "low", "high"))
    return max_pool(
        step.protocol, step.args[0], window, strides, low, high, step.attr("bits"), step.at
    )


def _reduce_max(step: Step) -> Steps[Value]:
    return reduce_max(step.protocol, step.args[0], step.attr("axes"), step.attr("bits"), step.at)


def _cumsum(step: Step) -> Value:
    axis = step.attr("axis")

    def total(a: Words) -> Words:
        if step.attr("reverse"):
            return np.flip(np.cumsum(np.flip(a, axis), axis, dtype=np.uint64), axis)
        return np.cumsum(a, axis, dtype=np.uint64)

    return _map(step, total)


def _argmax(step: Step) -> Steps[Value]:
    scale = step.instruction.type.scale
    return argmax(step.protocol, step.args[0], step.attr("axis"), scale, step.at)


def _top_k(step: Step) -> Steps[Value]:
    scale = step.instruction.type.scale
    return top_k(step.protocol, step.args[0], step.attr("k"), scale, step.at)


LOCAL: dict[str, Callable[[Step], Value]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast": _broadcast,
    "slice": _slice,
    "pad": _pad,
    "concat": _concat,
    "reverse": _reverse,
    "add": _add,
    "sub": _sub,
    "neg": _neg,
    "sum": _sum,
    "window_sum": _window_sum,
    "cumsum": _cumsum,
    "shift_left": _shift_left,
    "scale": _scale,
    "add_const": _add_const,
    "mul": _product(lambda step: np.multiply),
    "matmul": _product(lambda step: kernels.matmul),
    "conv": _product(_conv),
    "conv_input": _product(_conv_input),
    "conv_kernel": _product(_conv_kernel),
    "rectified": lambda step: step.args[0][0],
    "active": lambda step: step.args[0][1],
    "bit_not": lambda step: step.protocol.bit_not(step.args[0]),
}

ROUNDS: dict[str, Callable[[Step], Steps[Any]]] = {
    "truncate": _truncate,
    "truncate_fresh": lambda step: step.protocol.truncate_fresh(
        step.args[0], step.attr("shift"), step.at
    ),
    "relu": _relu,
    "round": lambda step: step.protocol.round(step.args[0], step.attr("shift"), step.at),
    "rectify": lambda step: step.protocol.rectify(
        step.args[0], step.attr("shift"), step.attr("low"), step.attr("bits"), step.at
    ),
    "gate": lambda step: step.protocol.gate(
        step.args[0], step.args[1], step.attr("shift"), step.at
    ),
    "negative": _negative,
    "reshare": lambda step: step.protocol.reshare(step.args[0], step.at),
    "bit_and": lambda step: step.protocol.bit_and(step.args[0], step.args[1], step.at),
    "select": lambda step: step.protocol.select(step.args[0], step.args[1], step.at),
    "maximum": lambda step: maximum(
        step.protocol, step.args[0], step.args[1], step.attr("bits"), step.at
    ),
    "reduce_max": _reduce_max,
    "max_pool": _max_pool,
    "argmax": _argmax,
    "top_k": _top_k,
    **FUNCTIONS,
}
