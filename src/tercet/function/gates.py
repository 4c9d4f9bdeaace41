"""Functions that are max(x, 0) but for something small around 0: GELU, SiLU, softplus, mish.

f(x) = max(x, 0) + p(|x|), with p by pieces; p is even, but for mish, which has two sides.
"""

from __future__ import annotations

from tercet.function.fixed import add
from tercet.function.pieces import Pieces, folded
from tercet.function.tables import GELU, GELU_TANH, MISH, SILU, SOFTPLUS
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps


def gelu(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return x Phi(x), with Phi the distribution function of the normal law.

    Domain: all x, |x| < 2^(bits-1) units. Beyond 4.625 the result is max(x, 0) exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 19 rounds, 390 bytes an element (bits = 62).
    """
    return _gate(protocol, x, scale, bits, GELU, at)


def gelu_tanh(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).

    Domain: all x, |x| < 2^(bits-1) units. Beyond 4.5 the result is max(x, 0) exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 19 rounds, 390 bytes an element (bits = 62).
    """
    return _gate(protocol, x, scale, bits, GELU_TANH, at)


def silu(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return x / (1 + exp(-x)).

    Domain: all x, |x| < 2^(bits-1) units. Beyond 14.5 the result is max(x, 0) exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 19 rounds, 430 bytes an element (bits = 62).
    """
    return _gate(protocol, x, scale, bits, SILU, at)


def softplus(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return log(1 + exp(x)).

    Domain: all x, |x| < 2^(bits-1) units. Beyond 11.75 the result is max(x, 0) exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 19 rounds, 392 bytes an element (bits = 62).
    """
    return _gate(protocol, x, scale, bits, SOFTPLUS, at)


def mish(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return x tanh(softplus(x)).

    Domain: all x, |x| < 2^(bits-1) units. Beyond 14.5 the result is max(x, 0) exactly.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 23 rounds, 666 bytes an element (bits = 62).
    """
    return _gate(protocol, x, scale, bits, MISH, at)


def _gate(
    protocol: Protocol, x: Share, scale: int, bits: int, pieces: Pieces, at: str
) -> Steps[Share]:
    parts = yield from folded(protocol, x, scale, bits, pieces, at)
    return add(protocol, parts.positive, parts.value)
