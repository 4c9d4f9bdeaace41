"""Rules for arithmetic on each element, for reductions and for softmax."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, is_whole, merge, secret
from tercet.frontend.values import Secret, Value, derive
from tercet.program.checks import RANGE_BITS


def _binary(method: Callable[[Lowering, Value, Value], Value]) -> Rule:
    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        for arg in args:
            if isinstance(arg, Secret):
                secret(low, node, arg)
        return [method(low, args[0], args[1])]

    return rule


def _unary(method: Callable[[Lowering, Secret], Value]) -> Rule:
    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        return [method(low, secret(low, node, args[0]))]

    return rule


def _reduce_sum(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, axes = secret(low, node, args[0]), tuple(node.params["axes"])
    return [low.emit("sum", x.handle, axes=axes) if axes else x]


def _largest(low: Lowering, x: Value, axes: tuple[int, ...]) -> Value:
    assert isinstance(x, Secret)
    return low.emit("reduce_max", x.handle, axes=axes, bits=RANGE_BITS) if axes else x


def _reduce_max(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [_largest(low, secret(low, node, args[0]), tuple(node.params["axes"]))]


def _reduce_min(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x = low.neg(secret(low, node, args[0]))
    return [low.neg(_largest(low, x, tuple(node.params["axes"])))]


def _softmax(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, axes = secret(low, node, args[0]), tuple(sorted(node.params["axes"]))
    shape = x.shape
    if len(axes) == 1:
        return [low.emit("softmax", x.handle, axis=axes[0], bits=RANGE_BITS)]
    order = (*(a for a in range(len(shape)) if a not in axes), *axes)
    kept = len(shape) - len(axes)
    moved = low.transpose(x, order)
    rows = low.reshape(moved, (*moved.shape[:kept], merge(moved.shape[kept:])))
    soft = low.emit("softmax", rows.handle, axis=kept, bits=RANGE_BITS)
    back = tuple(int(a) for a in np.argsort(order))
    return [low.transpose(low.reshape(soft, moved.shape), back)]


def _clamp(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    least, x, most = args
    return [low.minimum(low.maximum(secret(low, node, x), least), most)]


def _identity(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [args[0]]


def _convert(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    (x,) = args
    kind = np.dtype(node.params["new_dtype"])
    assert isinstance(x, Secret)
    if x.truth:
        return [replace(x, truth=False)]
    # bfloat16 and its kin are no NumPy kinds: everything that is not a whole number is a float.
    if kind.kind in "iu" and not x.bit and (is_whole(node.inputs[0]) or low.is_input(x)):
        # Whole already, of an input by agreement with the client: a table looks up the nearest one.
        return [x]
    if kind.kind in "iu" or (kind.kind == "b") != x.bit:
        if not x.bit:
            raise low.unsupported("to_integer")
        one = derive("one", np.ones(()), ())
        zero = derive("zero", np.zeros(()), ())
        return [low.select(x, zero, one)]
    return [x]


def _square(low: Lowering, x: Secret) -> Value:
    return low.mul(x, x)


ARITHMETIC: dict[str, Rule] = {
    "add": _binary(lambda low, x, y: low.add(x, y)),
    "add_any": _binary(lambda low, x, y: low.add(x, y)),
    "sub": _binary(lambda low, x, y: low.sub(x, y)),
    "mul": _binary(lambda low, x, y: low.mul(x, y)),
    "max": _binary(lambda low, x, y: low.maximum(x, y)),
    "min": _binary(lambda low, x, y: low.minimum(x, y)),
    "neg": _unary(lambda low, x: low.neg(x)),
    "square": _unary(_square),
    "reduce_sum": _reduce_sum,
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "softmax": _softmax,
    "clamp": _clamp,
    "copy": _identity,
    "copy_p": _identity,
    "stop_gradient": _identity,
    "optimization_barrier": lambda low, node, args: list(args),
    "reduce_precision": _identity,
    "convert_element_type": _convert,
}
