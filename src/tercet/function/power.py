"""x^p for a public real exponent: exp(p log x)."""

from __future__ import annotations

from tercet.function.exponential import exp
from tercet.function.fixed import rounded, scaled
from tercet.function.logarithm import log
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps

#: Fractional bits of an exponent, and of p log x.
EXPONENT_SCALE, _WORK = 16, 20
#: Largest exponent.
MAX_EXPONENT = 16


def power(
    protocol: Protocol, x: Share, exponent: float, scale: int, bits: int, at: str
) -> Steps[Share]:
    """Return x^exponent for |exponent| <= 16, at most 2^15 (where the result saturates).

    Domain: 2^-f <= x < 2^(30-f) (1 - 2^-6), f = ``scale``. x <= 0 counts as 2^-f.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 71 rounds, 932 bytes an element (bits = 62).
    """
    logarithm = yield from log(protocol, x, scale, bits, f"{at}/log", _WORK)
    product = scaled(protocol, logarithm, exponent, EXPONENT_SCALE)
    product = yield from rounded(protocol, product, EXPONENT_SCALE, f"{at}/times")
    return (yield from exp(protocol, product, _WORK, _WORK + 9, f"{at}/exp", scale))
