"""Rules for comparisons, for logic on their results and for the choice by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, is_whole
from tercet.frontend.values import Known, Secret, Taint, Value, derive, public

#: Between two whole numbers: a product of secret ones may be a unit of the last place too small.
_HALF = public(0.5)


def _compare(swap: bool, invert: bool) -> Rule:
    """Return the rule of x < y, with operands swapped for > and the bit inverted for >=."""

    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        x, y = args
        if any(isinstance(a, Secret) and a.bit for a in args):
            raise low.unsupported(node.name, "on the result of a comparison")
        difference = low.sub(y, x) if swap else low.sub(x, y)
        if any(map(is_whole, node.inputs)):
            difference = low.add(difference, _HALF)
        bit = low.negative(difference)
        return [low.invert(bit) if invert else bit]

    return rule


def _equal(same: bool) -> Rule:
    """Return the rule of x == y or x != y: neither x < y nor y < x."""

    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        x, y = args
        if isinstance(x, Secret) and isinstance(y, Secret) and x.handle == y.handle:
            # A test for NaN, of which there is none.
            answer = np.full((1,) * len(x.shape), same)
            return [Known(answer, x.shape, Taint.PUBLIC, f"equal {same}")]
        if any(isinstance(a, Secret) and a.bit for a in args):
            raise low.unsupported(node.name, "on the result of a comparison")
        difference = low.sub(x, y)
        if any(map(is_whole, node.inputs)):
            near = [low.sub(d, _HALF) for d in (difference, low.neg(difference))]
            equal = _both(low, *map(low.negative, near))
        else:
            above, below = low.negative(low.neg(difference)), low.negative(difference)
            equal = _both(low, low.invert(above), low.invert(below))
        return [equal if same else low.invert(equal)]

    return rule


def _finite(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    (x,) = args
    return [Known(np.full((1,) * len(x.shape), True), x.shape, Taint.PUBLIC, "finite")]


def _reduced(all_of: bool) -> Rule:
    """Return the rule of "all" or "any" of bits along axes."""

    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        (x,) = args
        axes = tuple(node.params["axes"])
        assert isinstance(x, Secret)
        if not (x.bit or x.truth):
            raise low.unsupported(node.name, "on other values than a secret comparison")
        # Bits have no axes to sum over: count them as numbers, then compare.
        one, zero = public(1.0), public(0.0)
        wanted = low.invert(x) if all_of else x
        counted = low.select(wanted, zero, one) if wanted.bit else wanted
        assert isinstance(counted, Secret)
        total = low.emit("sum", counted.handle, axes=axes) if axes else counted
        none = low.negative(low.sub(total, public(0.5)))
        return [none if all_of else low.invert(none)]

    return rule


def _logic(function: Callable[[Lowering, Secret, Secret], Secret]) -> Rule:
    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        x, y = args
        if isinstance(x, Known):
            x, y = y, x
        if isinstance(y, Known) and y.scalar and isinstance(x, Secret) and (x.bit or x.truth):
            return [x if bool(y.number) is (function is _both) else y]
        if isinstance(x, Secret) and isinstance(y, Secret) and (x.truth or y.truth):
            both = [low.number(a) if a.bit else a for a in (x, y)]
            if function is _either:
                both = [low.invert(a) for a in both]
            joint = low.mul(*both)
            assert isinstance(joint, Secret)
            return [joint if function is _both else low.invert(joint)]
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
    if not (isinstance(x, Secret) and (x.bit or x.truth)):
        raise low.unsupported(node.name, "on other values than a secret comparison")
    return [low.invert(x)]


def _select_n(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    which, *cases = args
    if len(cases) != 2:
        raise low.unsupported(node.name, f"among {len(cases)} cases")
    other, chosen = cases
    if any(isinstance(c, Secret) and c.bit for c in cases):
        cases = [low.number(c) if isinstance(c, Secret) and c.bit else c for c in cases]
        other, chosen = cases
    if isinstance(which, Secret):
        if not (which.bit or which.truth):
            raise low.unsupported(node.name, "by a secret index")
        return [low.select(which, other, chosen)]
    other, chosen = (_mask_number(c) for c in cases)
    if which.scalar:
        return [chosen if which.array.reshape(()) else other]
    return [low.add(_masked(low, which, chosen, True), _masked(low, which, other, False))]


#: Stands for the lowest number of a float where a mask puts it, in front of a softmax.
_MASKED = -(2.0**13)


def _mask_number(value: Value) -> Value:
    if isinstance(value, Known) and value.scalar and value.number < -1e30:
        return public(_MASKED)
    return value


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
    "eq": _equal(True),
    "ne": _equal(False),
    "is_finite": _finite,
    "reduce_and": _reduced(True),
    "reduce_or": _reduced(False),
    "and": _logic(_both),
    "or": _logic(_either),
    "not": _not,
    "select_n": _select_n,
}
