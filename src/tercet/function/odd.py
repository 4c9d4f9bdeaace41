"""Sigmoid, tanh and erf: f(|x|) by pieces, then the sign."""

from __future__ import annotations

from tercet.function.fixed import add, constant_minus
from tercet.function.pieces import Pieces, folded
from tercet.function.tables import ERF, SIGMOID, TANH
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps


def sigmoid(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return 1 / (1 + exp(-x)).

    Domain: all x, |x| < 2^(bits-1) units. Beyond 11.75 the result is 0 or 1 exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 21 rounds, 424 bytes an element (bits = 62).
    """
    return _mirrored(protocol, x, scale, bits, SIGMOID, 1.0, at)


def tanh(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return tanh x.

    Domain: all x, |x| < 2^(bits-1) units. Beyond 6.125 the result is -1 or 1 exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 21 rounds, 423 bytes an element (bits = 62).
    """
    return _mirrored(protocol, x, scale, bits, TANH, 0.0, at)


def erf(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return the error function of x.

    Domain: all x, |x| < 2^(bits-1) units. Beyond 3.25 the result is -1 or 1 exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 21 rounds, 421 bytes an element (bits = 62).
    """
    return _mirrored(protocol, x, scale, bits, ERF, 0.0, at)


def _mirrored(
    protocol: Protocol, x: Share, scale: int, bits: int, pieces: Pieces, total: float, at: str
) -> Steps[Share]:
    """Return f(|x|) where x >= 0, else ``total`` - f(|x|)."""
    at_size = yield from folded(protocol, x, scale, bits, pieces, at)
    twice = add(protocol, at_size.value, at_size.value)
    change = constant_minus(protocol, total, twice, scale)
    flip = yield from protocol.select(at_size.negative, change, f"{at}/mirror")
    return add(protocol, at_size.value, flip)
