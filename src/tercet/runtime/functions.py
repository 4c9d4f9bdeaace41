"""How the interpreter runs the functions of ``tercet.function``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tercet.function.exponential import exp
from tercet.function.gates import gelu, gelu_tanh, mish, silu, softplus
from tercet.function.logarithm import log, log1p
from tercet.function.lookup import lookup
from tercet.function.maximum import absolute
from tercet.function.odd import erf, sigmoid, tanh
from tercet.function.power import EXPONENT_SCALE, power
from tercet.function.reciprocal import divide, reciprocal
from tercet.function.root import rsqrt, sqrt
from tercet.function.softmax import log_softmax, softmax
from tercet.function.sort import sort
from tercet.protocol.base import Share
from tercet.protocol.rounds import Steps
from tercet.runtime.step import Step

_UNARY: dict[str, Callable[..., Steps[Share]]] = {
    "exp": exp,
    "log": log,
    "log1p": log1p,
    "sqrt": sqrt,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "erf": erf,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "silu": silu,
    "softplus": softplus,
    "mish": mish,
}


def _unary(function: Callable[..., Steps[Share]]) -> Callable[[Step], Steps[Any]]:
    def run(step: Step) -> Steps[Any]:
        (x,) = step.args
        scale = step.instruction.type.scale
        return function(step.protocol, x, scale, step.attr("bits"), step.at)

    return run


def _over_axis(function: Callable[..., Steps[Share]]) -> Callable[[Step], Steps[Any]]:
    def run(step: Step) -> Steps[Any]:
        (x,) = step.args
        scale, axis = step.instruction.type.scale, step.attr("axis")
        return function(step.protocol, x, axis, scale, step.attr("bits"), step.at)

    return run


def _quotient(function: Callable[..., Steps[Share]]) -> Callable[[Step], Steps[Any]]:
    def run(step: Step) -> Steps[Any]:
        scale, signed = step.instruction.type.scale, bool(step.attr("signed"))
        return function(step.protocol, *step.args, scale, step.attr("bits"), signed, step.at)

    return run


def _rsqrt(step: Step) -> Steps[Any]:
    bits, result = step.attr("bits"), step.attr("scale")
    return rsqrt(step.protocol, step.args[0], step.scale, bits, step.at, result)


def _power(step: Step) -> Steps[Any]:
    exponent = step.attr("exponent") / (1 << EXPONENT_SCALE)
    scale = step.instruction.type.scale
    return power(step.protocol, step.args[0], exponent, scale, step.attr("bits"), step.at)


def _sort(step: Step) -> Steps[Any]:
    return sort(step.protocol, step.args[0], step.attr("axis"), step.attr("bits"), step.at)


def _lookup(step: Step) -> Steps[Any]:
    (index, table), shared, bits = step.args, step.attr("shared"), step.attr("bits")
    return lookup(step.protocol, index, table, shared, step.scale, bits, step.at)


FUNCTIONS: dict[str, Callable[[Step], Steps[Any]]] = {
    **{name: _unary(function) for name, function in _UNARY.items()},
    "abs": lambda step: absolute(step.protocol, step.args[0], step.attr("bits"), step.at),
    "reciprocal": _quotient(reciprocal),
    "divide": _quotient(divide),
    "power": _power,
    "rsqrt": _rsqrt,
    "softmax": _over_axis(softmax),
    "log_softmax": _over_axis(log_softmax),
    "sort": _sort,
    "lookup": _lookup,
}
