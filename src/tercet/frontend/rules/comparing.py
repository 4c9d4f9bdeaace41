"""Rules for comparisons, for logic on their results and for the choice by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule
from tercet.frontend.values import Known, Secret, Value, derive


def _compare(swap: bool, invert: bool) -> Rule:
    """Return the rule of x < y, with operands swapped for > and the bit inverted for >=."""

    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        x, y = args
        if any(isinstance(a, Secret) and a.bit for a in args):
            raise low.unsupported(node.name, "on the result of a comparison")
        bit = low.negative(low.sub(y, x) if swap else low.sub(x, y))
        return [low.invert(bit) if invert else bit]

    return rule


def _logic(function: Callable[[Lowering, Secret, Secret], Secret]) -> Rule:
    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        x, y = args
        if not (isinstance(x, Secret) and isinstance(y, Secret) and x.bit and y.bit):
            raise low.unsupported(node.name, "on other values than two secret comparisons")
        return [function(low, x, y)]

    return rule


def _both(low: Lowering, x: Secret, y: Secret) -> Secret:
    return low.emit("bit_and", x.handle, y.handle)


def _either(low: Lowering, x: Secret, y: Secret) -> Secret:
    return low.invert(_both(low, low.invert(x), low.invert(y)))


def _not(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    (x,) = args
    if not (isinstance(x, Secret) and x.bit):
        raise low.unsupported(node.name, "on other values than a secret comparison")
    return [low.invert(x)]


def _select_n(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    which, *cases = args
    if len(cases) != 2:
        raise low.unsupported(node.name, f"among {len(cases)} cases")
    other, chosen = cases
    if any(isinstance(c, Secret) and c.bit for c in cases):
        raise low.unsupported(node.name, "among results of comparisons")
    if isinstance(which, Secret):
        if not which.bit:
            raise low.unsupported(node.name, "by a secret index")
        return [low.select(which, other, chosen)]
    if which.scalar:
        return [chosen if which.array.reshape(()) else other]
    return [low.add(_masked(low, which, chosen, True), _masked(low, which, other, False))]


def _masked(low: Lowering, which: Known, value: Value, keep: bool) -> Value:
    mask = which.array.astype(bool) == keep
    if isinstance(value, Known):
        # Not a product: infinity times zero is not a number.
        numbers = np.where(mask, value.array, 0)
        return derive(f"where {keep}", numbers, value.shape, which, value)
    return low.mul(value, derive(f"mask {keep}", mask.astype(np.float64), which.shape, which))


COMPARING: dict[str, Rule] = {
    "lt": _compare(swap=False, invert=False),
    "gt": _compare(swap=True, invert=False),
    "ge": _compare(swap=False, invert=True),
    "le": _compare(swap=True, invert=True),
    "and": _logic(_both),
    "or": _logic(_either),
    "not": _not,
    "select_n": _select_n,
}
