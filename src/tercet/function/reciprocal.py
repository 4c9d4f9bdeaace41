"""1 / x and x / y.

The divisor is brought into [1/4, 1); there a polynomial of degree 4 (relative error 0.87 %) starts
one of Newton's steps.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from tercet.function.fixed import (
    RANGE_BITS,
    add,
    add_constant,
    coarse,
    constant_minus,
    fill,
    multiply,
    polynomial,
    product,
    product_plus,
    ring_constant,
    rounded,
    times,
)
from tercet.function.normalise import (
    PACKED,
    STEPS,
    TOP,
    clamped,
    factor,
    normalised,
    ones,
    packed,
)
from tercet.function.tables import RECIPROCAL
from tercet.protocol.base import Bits, Protocol, Share, subtract
from tercet.protocol.rounds import Steps, together

#: Fractional bits of 1 / m.
_WORK = 24
#: Relative error of the polynomial.
_START_ERROR = 0.0087
#: A quotient saturates somewhere above 2^QUOTIENT_LOG2.
QUOTIENT_LOG2 = 14

# Start of the iteration on [1/2, 1]: 2.9142 - 2 c has relative error below 0.0858.
_START = 2.9142


def reciprocal(
    protocol: Protocol, x: Share, scale: int, bits: int, signed: bool, at: str
) -> Steps[Share]:
    """Return 1 / x for |x| < 2^(bits-1) units; x >= 0 unless ``signed``.

    Domain: 2^-f <= |x| < 2^(30-f), f = ``scale``. Above, the result is that of 2^(30-f); 1 / 0 is
    a positive number between 2^f and 2^(f+4).

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 57 rounds, 555 bytes an element (bits = 62).
    """
    flipped: Bits | None = None
    if signed:
        flipped, x = yield from _absolute(protocol, x, scale, bits, f"{at}/sign")
    x = yield from clamped(protocol, x, bits, f"{at}/clamp")
    word = yield from packed(protocol, x, f"{at}/norm")
    # The power of two needs the more bits after the point the more the result has.
    extra = max(2 * scale - 26, 0)
    low = protocol.map(lambda a: a << np.uint64(64 - PACKED), word)
    m, power = yield from together(
        rounded(protocol, word, PACKED + TOP - 26, f"{at}/mantissa"),
        rounded(protocol, low, 64 - PACKED - extra, f"{at}/power"),
    )
    work = min(_WORK, 29 - extra)
    inverse = yield from _inverse(protocol, m, work, f"{at}/inverse")
    result = yield from product(
        protocol, power, inverse, extra + work + TOP - 2 * scale, f"{at}/scale"
    )
    if flipped is None:
        return result
    return (yield from _signed(protocol, flipped, result, f"{at}/back"))


def divide(
    protocol: Protocol, x: Share, y: Share, scale: int, bits: int, signed: bool, at: str
) -> Steps[Share]:
    """Return x / y, with NumPy broadcasting; y >= 0 unless ``signed``. f = ``scale``.

    Domain: 2^-f <= |y| < 2^(30-f) and |x| < 2^(30-f), |x / y| < 2^14. A larger quotient
    saturates: its magnitude is between 2^14 and 2^18, its sign right. 0 / 0 is 0.
    """
    if signed:
        flipped, y = yield from _absolute(protocol, y, scale, bits, f"{at}/sign")
        shape = np.broadcast_shapes(x.shape, y.shape)
        x = protocol.map(lambda a: np.broadcast_to(a, shape), x)
        wide = Bits(flipped.parts, flipped.shape)
        if y.shape != shape:
            unit = yield from protocol.select(flipped, ones(protocol, y.shape), f"{at}/unit")
            sign = constant_minus(protocol, 1.0, add(protocol, unit, unit), 0)
            x = yield from protocol.reshare(protocol.product(multiply, x, sign), f"{at}/numerator")
        else:
            x = yield from _signed(protocol, wide, x, f"{at}/numerator")
    y = yield from clamped(protocol, y, bits, f"{at}/clamp")
    m, power = yield from normalised(
        protocol, y, STEPS, ones(protocol, y.shape), factor(protocol), f"{at}/norm"
    )
    m = yield from rounded(protocol, m, TOP - 26, f"{at}/mantissa")
    inverse = yield from _inverse(protocol, m, _WORK, f"{at}/inverse")
    # x power = q m 2^30 units for the quotient q: kept to 2^-20 of q m.
    raw = yield from product(protocol, x, power, TOP - 20, f"{at}/raise")
    raw = yield from _clip(protocol, raw, 1 << (QUOTIENT_LOG2 + 20), f"{at}/clip")
    return (yield from product(protocol, raw, inverse, _WORK + 20 - scale, f"{at}/join"))


def _absolute(
    protocol: Protocol, x: Share, scale: int, bits: int, at: str
) -> Steps[tuple[Bits, Share]]:
    sign = yield from protocol.negative(x, 0, min(max(bits, 8), RANGE_BITS), f"{at}/compare")
    return sign, (yield from _signed(protocol, sign, x, f"{at}/apply"))


def _signed(protocol: Protocol, sign: Bits, x: Share, at: str) -> Steps[Share]:
    """Return -x where ``sign`` is 1, else x."""
    change = protocol.map(lambda a: np.negative(a + a), x)
    return add(protocol, x, (yield from protocol.select(sign, change, at)))


def _clip(protocol: Protocol, x: Share, most: int, at: str) -> Steps[Share]:
    """Return x between -most and most units, but for 1 / 64 more."""
    bits = RANGE_BITS - 1
    shift = most.bit_length() - 7
    under, inside = yield from together(
        coarse(protocol, x, -float(most), 0, bits, shift, f"{at}/low"),
        coarse(protocol, x, float(most), 0, bits, shift, f"{at}/high"),
    )
    low, high = yield from together(
        protocol.select(under, constant_minus(protocol, -float(most), x, 0), f"{at}/raise"),
        protocol.select(
            protocol.bit_not(inside), constant_minus(protocol, float(most), x, 0), f"{at}/lower"
        ),
    )
    return add(protocol, x, add(protocol, low, high))


def _inverse(protocol: Protocol, m: Share, work: int, at: str) -> Steps[Share]:
    """Return 1 / m with ``work`` fractional bits, for m in [1/4, 1) with 26."""
    square = yield from product(protocol, m, m, 52 - 24, f"{at}/square")
    upper = polynomial(protocol, (0.0, *RECIPROCAL[3:]), ((m, 26), (square, 24)), 34)
    lower = polynomial(protocol, RECIPROCAL[:3], ((m, 26), (square, 24)), 58)
    start = yield from rounded(
        protocol,
        product_plus(protocol, upper, square, lower),
        58 - 26,
        f"{at}/start",
    )
    # y (1 + e) = (1 - e^2) / m: half of the largest e^2 more puts the error on both sides.
    rest = protocol.add_public(
        protocol.map(np.negative, protocol.product(multiply, m, start)),
        np.asarray(ring_constant(1 + _START_ERROR**2 / 2, 52)),
    )
    error = yield from rounded(protocol, rest, 52 - 26, f"{at}/error")
    change = yield from product(protocol, start, error, 26, f"{at}/change")
    return (yield from rounded(protocol, add(protocol, start, change), 26 - work, f"{at}/work"))


def reciprocal_above_one(
    protocol: Protocol, x: Share, scale: int, highest: float, at: str
) -> Steps[Share]:
    """Return 1 / x with ``scale`` fractional bits, for 1 - 2^-10 <= x <= ``highest``.

    x is scaled into [1/2, 1) by comparing it with the powers of two up to ``highest``, then
    Goldschmidt's iteration runs three steps (Goldschmidt 1964; error 0.0858^8 = 3e-9).
    Error: rounding below 16 units of the last place, relative to a result of at most 1.
    """
    powers: list[int] = []
    while 2.0 ** (len(powers) + 1) <= highest:
        powers.append(len(powers) + 1)
    factor = fill(protocol, 0.5, scale, x.shape)
    if powers:
        width = scale + len(powers) + 3
        below = yield from together(
            *(
                protocol.negative(
                    add_constant(protocol, x, -(2.0**j), scale), 0, width, f"{at}/cmp/{j}"
                )
                for j in powers
            )
        )
        steps = yield from together(
            *(
                protocol.select(
                    protocol.bit_not(b),
                    fill(protocol, 2.0 ** -(j + 1), scale, x.shape),
                    f"{at}/step/{j}",
                )
                for j, b in zip(powers, below, strict=True)
            )
        )
        for step in steps:
            factor = cast("Share", subtract(protocol, factor, step))
    c = yield from times(protocol, x, factor, scale, f"{at}/normalise")
    y = add_constant(protocol, protocol.map(lambda a: a * ring_constant(-2.0, 0), c), _START, scale)
    error = constant_minus(
        protocol, 1.0, (yield from times(protocol, c, y, scale, f"{at}/error")), scale
    )
    for step_number in range(3):
        grow = add_constant(protocol, error, 1.0, scale)
        if step_number == 2:
            y = yield from times(protocol, y, grow, scale, f"{at}/grow/{step_number}")
        else:
            y, error = yield from together(
                times(protocol, y, grow, scale, f"{at}/grow/{step_number}"),
                times(protocol, error, error, scale, f"{at}/square/{step_number}"),
            )
    return (yield from times(protocol, y, factor, scale, f"{at}/rescale"))
