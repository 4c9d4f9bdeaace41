"""Rules for functions with a contract, each one operation of the language."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tercet.frontend.graph import Node
from tercet.frontend.lowering import Lowering
from tercet.frontend.rules.rule import Rule, is_whole, secret
from tercet.frontend.values import Known, Secret, Value, derive, public
from tercet.program.functions import EXPONENT_SCALE, MAX_EXPONENT

#: A whole power up to this one is made of products.
MAX_POWER = 16


def _unary(op: str) -> Rule:
    def rule(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
        return [low.function(op, secret(low, node, args[0]))]

    return rule


def _exp2(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [low.function("exp", low.times(secret(low, node, args[0]), math.log(2)))]


def _expm1(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [low.add(low.function("exp", secret(low, node, args[0])), public(-1.0))]


def _erfc(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [low.add(low.neg(low.function("erf", secret(low, node, args[0]))), public(1.0))]


def _root(low: Lowering, x: Secret) -> Secret:
    return low.function("rsqrt", x, scale=low.scale)


def _rsqrt(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [_root(low, secret(low, node, args[0]))]


def _div(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, y = args
    if is_whole(node.outputs[0]):
        raise low.unsupported(node.name, "of whole numbers")
    if isinstance(y, Known):
        # A zero divisor is refused when the infinity is registered.
        with np.errstate(divide="ignore"):
            inverse = np.asarray(1.0 / y.array.astype(np.float64))
        return [low.mul(secret(low, node, x), derive("reciprocal", inverse, y.shape, y))]
    y = secret(low, node, y)
    signed = not low.is_positive(y)
    narrow = low.narrow(y)
    if isinstance(x, Known) and x.scalar:
        inverse_of = low.function("reciprocal", narrow, signed=int(signed))
        return [low.mul(low.broadcast(inverse_of, y.shape), x)]
    return [low.divide(low.share(x), narrow, signed)]


def _integer_pow(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    return [_power(low, secret(low, node, args[0]), int(node.params["y"]))]


def _pow(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, power = args
    if not (isinstance(power, Known) and power.scalar):
        raise low.unsupported(node.name, "with an exponent that is not one public number")
    if power.number.is_integer():
        return [_power(low, secret(low, node, x), int(power.number))]
    if abs(power.number) > MAX_EXPONENT:
        raise low.unsupported(node.name, f"with exponent {power.number:g}")
    x = secret(low, node, x)
    if power.number in (0.5, -0.5):
        return [low.function("sqrt", x) if power.number > 0 else _root(low, x)]
    exponent = round(power.number * (1 << EXPONENT_SCALE))
    return [low.function("power", x, exponent=exponent)]


def _power(low: Lowering, x: Secret, power: int) -> Value:
    if power < 0:
        inverse = low.function("reciprocal", x, signed=int(not low.is_positive(x)))
        return _power(low, inverse, -power)
    if not 1 <= power <= MAX_POWER:
        raise low.unsupported("pow", f"with exponent {power}")
    result: Value | None = None
    square: Value = x
    while power:
        if power & 1:
            result = square if result is None else low.mul(result, square)
        power >>= 1
        if power:
            square = low.mul(square, square)
    assert result is not None
    return result


def _sign(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x = secret(low, node, args[0])
    one, zero = public(1.0), public(0.0)
    above = low.select(low.negative(low.neg(x)), zero, one)
    return [low.sub(above, low.select(low.negative(x), zero, one))]


def _log_softmax(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    (axis,) = node.params["axes"]
    return [low.function("log_softmax", secret(low, node, args[0]), axis=int(axis))]


def _cumsum(low: Lowering, node: Node, args: Sequence[Value]) -> Sequence[Value]:
    x, reverse = secret(low, node, args[0]), bool(node.params["reverse"])
    return [low.emit("cumsum", x.handle, axis=int(node.params["axis"]), reverse=int(reverse))]


_SAME = ("exp", "log", "log1p", "sqrt", "tanh", "erf")
_RECOGNISED = ("gelu", "gelu_tanh", "silu", "softplus", "mish")

FUNCTIONS: dict[str, Rule] = {
    **{name: _unary(name) for name in (*_SAME, *_RECOGNISED)},
    "rsqrt": _rsqrt,
    "logistic": _unary("sigmoid"),
    "abs": _unary("abs"),
    "exp2": _exp2,
    "expm1": _expm1,
    "erfc": _erfc,
    "div": _div,
    "integer_pow": _integer_pow,
    "pow": _pow,
    "sign": _sign,
    "log_softmax": _log_softmax,
    "cumsum": _cumsum,
}
