"""exp as the fourth power of a polynomial.

With u = x / 16, exp(4 u) is a polynomial of degree 8, split at u^4 (Paterson and Stockmeyer 1973)
into four products; two squarings follow. Where x is out of range the result is replaced by a
constant, chosen by a bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tercet.function.fixed import (
    coarse,
    polynomial,
    product,
    product_plus,
    replaced,
    rounded,
)
from tercet.function.tables import EXP, EXP_NEGATIVE
from tercet.protocol.base import Bits, Protocol, Share
from tercet.protocol.rounds import Steps, together

#: Fractional bits of the result of ``exp_negative``.
WORK_SCALE = 24
#: exp saturates at 2^15.
LARGEST_LOG2 = 15
#: Up to here exp(x) is computed; beyond 2^-5 more it is 2^15.
HIGHEST = 10.3125
#: Below this exp(x) counts as 0.
LOWEST = -11.8125
_UNIT = 4


def exp(
    protocol: Protocol, x: Share, scale: int, bits: int, at: str, result: int | None = None
) -> Steps[Share]:
    """Return exp(x) with ``result`` fractional bits (``scale`` unless given).

    |x| < 2^(bits-1) units.

    Domain: x < 10.3125. Beyond 10.34375 the result is 2^15 exactly, below -11.8125 it is 0.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 14 rounds, 332 bytes an element (bits = 62).
    """
    bits, to = max(bits, scale + 5), scale if result is None else result
    below, inside, value = yield from together(
        coarse(protocol, x, LOWEST, scale, bits, scale - 5, f"{at}/low"),
        coarse(protocol, x, HIGHEST, scale, bits, scale - 5, f"{at}/high"),
        _fourth_power(protocol, x, scale, EXP, 23, to, f"{at}/power"),
    )
    assert isinstance(below, Bits) and isinstance(inside, Bits) and isinstance(value, Share)
    beyond = protocol.bit_not(inside)
    zero = yield from replaced(protocol, below, value, 0.0, to, f"{at}/zero")
    return (yield from replaced(protocol, beyond, zero, 2.0**LARGEST_LOG2, to, f"{at}/largest"))


def exp_negative(
    protocol: Protocol, x: Share, scale: int, bits: int, at: str, result: int = WORK_SCALE
) -> Steps[Share]:
    """Return exp(x) with ``result`` fractional bits for x <= 0, above -2^(bits-1) units.

    Domain: x <= 2^-5. Below -(result + 1) log 2 (at least -18) the result is 0 exactly.
    """
    low = -math.floor((result + 1) * math.log(2) * 32) / 32
    below, value = yield from together(
        coarse(protocol, x, low, scale, max(bits, scale + 6), scale - 5, f"{at}/low"),
        _fourth_power(protocol, x, scale, EXP_NEGATIVE, 24, result, f"{at}/power"),
    )
    assert isinstance(below, Bits) and isinstance(value, Share)
    return (yield from replaced(protocol, below, value, 0.0, result, f"{at}/zero"))


def _fourth_power(
    protocol: Protocol,
    x: Share,
    scale: int,
    c: Sequence[float],
    work: int,
    result: int,
    at: str,
) -> Steps[Share]:
    """Return (sum of c_j (x/16)^j)^4. Ten rounds."""
    low = scale + _UNIT
    u2 = yield from product(protocol, x, x, 2 * low - work, f"{at}/2")
    u3, u4 = yield from together(
        product(protocol, u2, x, low, f"{at}/3"), product(protocol, u2, u2, work, f"{at}/4")
    )
    # The upper coefficients keep few bits: they count by u^4 only.
    upper = polynomial(protocol, c[4:], ((x, low), (u2, work), (u3, work), (u4, work)), work + 12)
    lower = polynomial(protocol, c[:4], ((x, low), (u2, work), (u3, work)), 2 * work + 12)
    total = product_plus(protocol, upper, u4, lower)
    y = yield from rounded(protocol, total, 2 * work + 12 - 24, f"{at}/polynomial")
    squared = yield from product(protocol, y, y, 48 - 22, f"{at}/square")
    return (yield from product(protocol, squared, squared, 44 - result, f"{at}/fourth"))
