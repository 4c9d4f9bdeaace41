"""x^-1/2 and x^1/2: a polynomial of degree 4 on [1/4, 1) (0.2 %), then one of Newton's steps."""

from __future__ import annotations

import numpy as np

from tercet.function.fixed import add, lifted, multiply, polynomial, product, product_plus, rounded
from tercet.function.normalise import (
    STEPS,
    TOP,
    WIDE_STEPS,
    WIDE_TOP,
    factor,
    normalised,
    ones,
    positive,
)
from tercet.function.tables import RSQRT
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps

#: Fractional bits of m^-1/2.
_WORK = 26
#: Most fractional bits with which 30 bits of x suffice.
NARROW_SCALE = 24


def rsqrt(
    protocol: Protocol, x: Share, scale: int, bits: int, at: str, result: int | None = None
) -> Steps[Share]:
    """Return x^-1/2 with ``result`` fractional bits (``scale`` unless given).

    Domain: 2^-f <= x < 2^(30-f) (1 - 2^-6), f = ``scale`` (29 for 30 where f is odd). Above, the
    result is that of the end; for x <= 0 it is a positive number between 2^(f/2) and 2^(f/2+3).
    With more than 24 fractional bits, as a variance before its truncation has, 46 stands for 30.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 53 rounds, 648 bytes an element (bits = 62).
    """
    top = TOP if scale <= NARROW_SCALE else WIDE_TOP
    x = yield from positive(protocol, x, bits, f"{at}/clamp", top)
    to = scale if result is None else result
    return (yield from _of_positive(protocol, x, scale, to, at, top))


def _of_positive(
    protocol: Protocol, x: Share, scale: int, to: int, at: str, top: int = TOP
) -> Steps[Share]:
    # An odd scale has no half: one bit more has (x < 2^29 there).
    x = lifted(protocol, x, scale % 2)
    even = scale + scale % 2
    m, power = yield from normalised(
        protocol,
        x,
        STEPS if top == TOP else WIDE_STEPS,
        ones(protocol, x.shape),
        factor(protocol, halves=True),
        f"{at}/norm",
        top,
    )
    m = yield from rounded(protocol, m, top - 26, f"{at}/mantissa")
    square = yield from product(protocol, m, m, 52 - 24, f"{at}/square")
    upper = polynomial(protocol, (0.0, *RSQRT[3:]), ((m, 26), (square, 24)), 36)
    lower = polynomial(protocol, RSQRT[:3], ((m, 26), (square, 24)), 60)
    start = yield from rounded(
        protocol,
        product_plus(protocol, upper, square, lower),
        60 - _WORK,
        f"{at}/start",
    )
    # y (3 - m y^2) / 2
    squared = yield from product(protocol, start, start, 2 * _WORK - 26, f"{at}/again")
    rest = protocol.add_public(
        protocol.map(np.negative, protocol.product(multiply, m, squared)),
        np.asarray(np.uint64(1 << 52)),
    )
    error = yield from rounded(protocol, rest, 52 - 26, f"{at}/error")
    change = yield from product(protocol, start, error, 27, f"{at}/change")
    y = add(protocol, start, change)
    # x = m 2^top / 4^k units: x^-1/2 = y 2^k 2^(f/2 - top/2).
    return (
        yield from product(protocol, y, power, _WORK + top // 2 - even // 2 - to, f"{at}/scale")
    )


def sqrt(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return x^1/2 as x times ``rsqrt`` of x, kept at more bits.

    Domain: 0 <= x < 2^(30-f) (1 - 2^-6). For x < 0 the result is 0.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 55 rounds, 678 bytes an element (bits = 62).
    """
    x = yield from positive(protocol, x, bits, f"{at}/clamp")
    extra = 26
    inverse = yield from _of_positive(protocol, x, scale, extra, f"{at}/inverse")
    return (yield from product(protocol, x, inverse, extra, f"{at}/join"))
