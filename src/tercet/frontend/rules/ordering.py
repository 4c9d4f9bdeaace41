"""Rules for what goes by the order of numbers: sorting, the largest, and their places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, secret
from tercet.frontend.rules.shaping import cut
from tercet.frontend.values import Known, Secret, Taint, Value, public
from tercet.program.checks import RANGE_BITS
from tercet.program.functions import MAX_SORTED
from tercet.program.operations import MAX_CLASSES, MAX_TOP


def _numbers(low: Lowering, node: Node, value: Value) -> Secret:
    """Return secret numbers; truth values count as 0 and 1."""
    if isinstance(value, Secret) and value.bit:
        return low.number(value)
    return secret(low, node, value)


def _place(largest: bool) -> Rule:
    """Return the rule of argmax or argmin: the first of equal numbers."""

    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        x = _numbers(low, node, args[0])
        (axis,) = node.params["axes"]
        if x.shape[axis] > MAX_CLASSES:
            raise low.unsupported(
                node.name, f"of {x.shape[axis]} numbers (at most {MAX_CLASSES:,})"
            )
        compared = x if largest else low.negated(x)
        return [low.emit("argmax", compared.handle, axis=int(axis))]

    return rule


def _leading(low: Lowering, node: Node, x: Secret, axis: int, count: int) -> tuple[Secret, Secret]:
    """Return the ``count`` largest along ``axis``, in falling order, and their places."""
    extent = x.shape[axis]
    if extent > MAX_CLASSES or (count > MAX_TOP and extent > MAX_SORTED):
        raise low.unsupported(
            node.name,
            f"for {count} of {extent} numbers (at most {MAX_SORTED:,}; the first {MAX_TOP} of at "
            f"most {MAX_CLASSES:,})",
        )
    last = len(x.shape) - 1
    order = (*(a for a in range(last + 1) if a != axis), axis)
    back = tuple(int(a) for a in np.argsort(order))
    found = low.emit("top_k", low.transpose(x, order).handle, k=count)
    columns = []
    for column in range(2):
        start, limit = [0] * (last + 1) + [column], [*found.shape[:-1], column + 1]
        one = cut(low, found, start, limit, [1] * (last + 2))
        columns.append(low.transpose(low.reshape(one, found.shape[:-1]), back))
    return columns[1], columns[0]


def _top_k(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x = _numbers(low, node, args[0])
    axis = int(node.params.get("axis", -1)) % len(x.shape)
    return _leading(low, node, x, axis, int(node.params["k"]))


def _sort(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    axis = int(node.params["dimension"])
    x = _numbers(low, node, args[0])
    if len(args) == 1:
        if x.shape[axis] > MAX_SORTED:
            raise low.unsupported(node.name, f"of {x.shape[axis]} numbers (at most {MAX_SORTED:,})")
        return [low.emit("sort", x.handle, axis=axis, bits=RANGE_BITS)]
    first, step = _progression(low, node, args[1:], axis)
    values, places = _leading(low, node, low.negated(x), axis, x.shape[axis])
    moved = places if step > 0 else low.negated(places)
    return [low.negated(values), low.add(moved, public(float(first))) if first else moved]


def _progression(low: Lowering, node: Node, others: Sequence[Value], axis: int) -> tuple[int, int]:
    """Return first number and step if what is sorted along are places, forwards or backwards."""
    if len(others) == 1 and isinstance(others[0], Known) and others[0].taint is Taint.PUBLIC:
        moved = np.moveaxis(others[0].full(), axis, -1)
        places = np.arange(moved.shape[-1])
        if np.array_equal(moved, np.broadcast_to(places, moved.shape)):
            return 0, 1
        if np.array_equal(moved, np.broadcast_to(places[::-1], moved.shape)):
            return len(places) - 1, -1
    raise low.unsupported(node.name, "of several arrays by one of them")


ORDERING: dict[str, Rule] = {
    "argmax": _place(True),
    "argmin": _place(False),
    "top_k": _top_k,
    "sort": _sort,
}
