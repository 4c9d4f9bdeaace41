"""Functions that a framework spells out and the language has whole: GELU, SiLU, softplus, mish.

Each pattern looks back from the last node of what it recognises. A pattern that does not fit
leaves the graph as it is, which costs more and means the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from tercet.frontend.graph import Node, Operand, Var
from tercet.frontend.matching import Matcher

_CLOSE = 1e-3


def factors(matcher: Matcher, operand: Operand) -> tuple[float, list[Operand]]:
    """Return a product as its number and its other factors."""
    operand = matcher.strip(operand)
    number = matcher.number(operand)
    if number is not None:
        return number, []
    if node := matcher.producer(operand, "neg"):
        c, rest = factors(matcher, node.inputs[0])
        return -c, rest
    if node := matcher.producer(operand, "mul"):
        a, left = factors(matcher, node.inputs[0])
        b, right = factors(matcher, node.inputs[1])
        return a * b, left + right
    if (node := matcher.producer(operand, "div")) and matcher.number(node.inputs[1]):
        a, left = factors(matcher, node.inputs[0])
        return a / (matcher.number(node.inputs[1]) or 1.0), left
    return 1.0, [operand]


def _is(value: float, wanted: float) -> bool:
    return math.isclose(value, wanted, rel_tol=_CLOSE)


def _whole(node: Node, name: str, x: Operand) -> Node | None:
    if not isinstance(x, Var) or x.shape != node.outputs[0].shape:
        return None
    return replace(node, name=name, params={}, inputs=(x,), primitive=None)


def silu(matcher: Matcher, node: Node) -> Node | None:
    """Recognise x * logistic(x)."""
    if node.name != "mul":
        return None
    for gate, x in (node.inputs, node.inputs[::-1]):
        made = matcher.producer(matcher.strip(gate), "logistic")
        if made and matcher.strip(made.inputs[0]) == matcher.strip(x):
            return _whole(node, "silu", matcher.strip(x))
    return None


def mish(matcher: Matcher, node: Node) -> Node | None:
    """Recognise x * tanh(softplus(x))."""
    if node.name != "mul":
        return None
    for gate, x in (node.inputs, node.inputs[::-1]):
        made = matcher.producer(matcher.strip(gate), "tanh")
        inner = made and matcher.producer(matcher.strip(made.inputs[0]), "softplus")
        if inner and matcher.strip(inner.inputs[0]) == matcher.strip(x):
            return _whole(node, "mish", matcher.strip(x))
    return None


def softplus(matcher: Matcher, node: Node) -> Node | None:
    """Recognise logaddexp(x, 0): max(x, 0) + log1p(exp(-|x - 0|)), unless x is NaN."""
    if node.name != "select_n" or len(node.inputs) != 3:
        return None
    test = matcher.producer(node.inputs[0], "ne")
    total = matcher.producer(node.inputs[1], "add")
    if not test or not total or test.inputs[0] != test.inputs[1]:
        return None
    top = matcher.producer(total.inputs[0], "max")
    logarithm = matcher.producer(total.inputs[1], "log1p")
    power = logarithm and matcher.producer(logarithm.inputs[0], "exp")
    minus = power and matcher.producer(power.inputs[0], "neg")
    size = minus and matcher.producer(minus.inputs[0], "abs")
    difference = size and matcher.producer(size.inputs[0], "sub")
    if not top or not difference or matcher.number(top.inputs[1]) != 0:
        return None
    x = top.inputs[0]
    if difference.inputs[0] != x or matcher.number(difference.inputs[1]) != 0:
        return None
    return _whole(node, "softplus", x)


def gelu(matcher: Matcher, node: Node) -> Node | None:
    """Recognise x / 2 times erfc(-x / sqrt 2), 1 + erf(x / sqrt 2) or 1 + tanh(...)."""
    if node.name not in ("mul", "div"):
        return None
    half, rest = factors(matcher, node.outputs[0])
    if not _is(half, 0.5) or len(rest) != 2:
        return None
    for x, gate in (rest, rest[::-1]):
        if (made := matcher.producer(gate, "erfc")) and _scaled(
            matcher, made.inputs[0], x, -math.sqrt(0.5)
        ):
            return _whole(node, "gelu", x)
        added = matcher.producer(gate, "add")
        if not added:
            continue
        inner = [matcher.strip(i) for i in added.inputs if matcher.number(i) != 1.0]
        if len(inner) != 1:
            continue
        if (made := matcher.producer(inner[0], "erf")) and _scaled(
            matcher, made.inputs[0], x, math.sqrt(0.5)
        ):
            return _whole(node, "gelu", x)
        if (made := matcher.producer(inner[0], "tanh")) and _cubic(matcher, made.inputs[0], x):
            return _whole(node, "gelu_tanh", x)
    return None


def _scaled(matcher: Matcher, operand: Operand, x: Operand, factor: float) -> bool:
    c, rest = factors(matcher, operand)
    return rest == [x] and _is(c, factor)


def _cubic(matcher: Matcher, operand: Operand, x: Operand) -> bool:
    """Return whether ``operand`` is sqrt(2 / pi) (x + 0.044715 x^3)."""
    c, rest = factors(matcher, operand)
    if not _is(c, math.sqrt(2 / math.pi)) or len(rest) != 1:
        return False
    added = matcher.producer(rest[0], "add")
    if not added:
        return False
    first, second = (factors(matcher, i) for i in added.inputs)
    if first != (1.0, [x]):
        first, second = second, first
    if first != (1.0, [x]) or not _is(second[0], 0.044715):
        return False
    return second[1] == [x, x, x] or _is_cube(matcher, second[1], x)


def _is_cube(matcher: Matcher, rest: Sequence[Operand], x: Operand) -> bool:
    if len(rest) == 1:
        made = matcher.producer(rest[0], "integer_pow")
        return bool(made and made.params["y"] == 3 and matcher.strip(made.inputs[0]) == x)
    if len(rest) == 2:
        squares = [matcher.producer(r, "integer_pow", "square") for r in rest]
        known = [s for s in squares if s and s.params.get("y", 2) == 2]
        return x in rest and bool(known and matcher.strip(known[0].inputs[0]) == x)
    return False


def negative_zero(matcher: Matcher, node: Node) -> Node | None:
    """Recognise what puts -0 below 0 in front of an argmax: fixed point has no -0."""
    test = matcher.producer(node.inputs[0], "and") if node.name == "select_n" else None
    if test is None:
        return None
    x = node.inputs[1]
    for zero, sign in (test.inputs, test.inputs[::-1]):
        equal = matcher.producer(zero, "eq")
        shift = matcher.producer(matcher.strip(sign), "shift_right_arithmetic")
        bits = shift and matcher.producer(shift.inputs[0], "bitcast_convert_type")
        if not equal or not bits or matcher.number(equal.inputs[1]) != 0:
            continue
        if equal.inputs[0] == x == bits.inputs[0]:
            return _whole(node, "copy", x)
    return None


def from_the_end(matcher: Matcher, node: Node) -> Node | None:
    """Recognise i + n where i < 0, of a place i that an argmax or a sort made: never below 0."""
    if node.name != "select_n" or len(node.inputs) != 3:
        return None
    test = matcher.producer(node.inputs[0], "lt")
    place = node.inputs[1]
    if not test or test.inputs[0] != place or matcher.number(test.inputs[1]) != 0:
        return None
    return _whole(node, "copy", place) if matcher.is_place(place) else None


#: In order: mish contains a softplus.
PATTERNS = (negative_zero, from_the_end, softplus, mish, silu, gelu)
