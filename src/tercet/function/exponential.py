"""exp on the negative half line.

2^-s for s >= 0 splits as 2^-n 2^-z with n the integer bits of s and z in [0, 1): the integer bits
select among constants, 2^-z is a polynomial of degree 5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

from tercet.function.fixed import (
    add_constant,
    constant_minus,
    fill,
    scaled,
    times,
    weighted_sum,
)
from tercet.protocol.base import Protocol, Share, subtract
from tercet.protocol.rounds import Steps, together

#: Fractional bits inside the function and of its result.
WORK_SCALE = 24
#: Integer bits of s; beyond 2^-31 the result is 0 in any scale offered.
INTEGER_BITS = 5

# Chebyshev interpolation of 2^-z on [0, 1] in degree 5, powers ascending; error below 6e-8.
_EXP2 = (
    0.999999943887,
    -0.693143134641,
    0.240178956278,
    -0.055298119676,
    0.009209180357,
    -0.000946877029,
)


def exp_negative(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return exp(x) with ``WORK_SCALE`` fractional bits, for x <= 0 with ``scale`` bits.

    Domain: x <= 0, above -2^(bits-1) and -2^37 units of the last place. Below -21.4 the result
    is 0 within its error.
    Absolute error: approximation 6e-8, rounding below 16 units of 2^-24 (1e-6).
    """
    f = WORK_SCALE
    s = yield from protocol.truncate(
        scaled(protocol, x, -math.log2(math.e), f), scale, f"{at}/log2e"
    )
    # The truncation may be one unit low: one unit more keeps s from falling below 0.
    s = add_constant(protocol, s, 2.0**-f, f)
    top = float((1 << INTEGER_BITS) - 1)
    room = yield from protocol.relu(
        constant_minus(protocol, top, s, f), 0, max(8, min(bits + f - scale + 1, 62)), f"{at}/clamp"
    )
    s = constant_minus(protocol, top, room, f)  # min(s, top)
    planes = yield from together(
        *(protocol.bit(s, f + j, f"{at}/bit/{j}") for j in range(INTEGER_BITS))
    )
    units = yield from together(
        *(
            protocol.select(b, fill(protocol, 2.0**-f, f, x.shape), f"{at}/number/{j}")
            for j, b in enumerate(planes)
        )
    )
    weights = [(float(1 << j), b) for j, b in enumerate(units)]
    fraction = cast("Share", subtract(protocol, s, weighted_sum(protocol, weights, f)))
    power, polynomial = cast(
        "tuple[Share, Share]",
        (
            yield from together(
                _negative_power(protocol, units, f"{at}/power"),
                _polynomial(protocol, fraction, f"{at}/polynomial"),
            )
        ),
    )
    return (yield from times(protocol, power, polynomial, f, f"{at}/join"))


def _negative_power(protocol: Protocol, units: Sequence[Share], at: str) -> Steps[Share]:
    """Return 2^-n from the bits of n (0 or 1, no scale): the product of 1 - n_j (1 - 2^-2^j)."""
    f = WORK_SCALE
    factors = [
        constant_minus(protocol, 1.0, scaled(protocol, bit, 1 - 2.0 ** -(1 << j), f), f)
        for j, bit in enumerate(units)
    ]
    level = 0
    while len(factors) > 1:
        products = yield from together(
            *(
                times(protocol, a, b, f, f"{at}/{level}/{n}")
                for n, (a, b) in enumerate(zip(factors[0::2], factors[1::2], strict=False))
            )
        )
        factors = [*products, *factors[len(factors) // 2 * 2 :]]
        level += 1
    return factors[0]


def _polynomial(protocol: Protocol, z: Share, at: str) -> Steps[Share]:
    """Return 2^-z on [0, 1) from powers of z: eight rounds."""
    f = WORK_SCALE
    z2 = yield from times(protocol, z, z, f, f"{at}/2")
    z3, z4 = yield from together(
        times(protocol, z2, z, f, f"{at}/3"), times(protocol, z2, z2, f, f"{at}/4")
    )
    z5 = yield from times(protocol, z4, z, f, f"{at}/5")
    terms = list(zip(_EXP2[1:], (z, z2, z3, z4, z5), strict=True))
    total = yield from protocol.truncate(weighted_sum(protocol, terms, f), f, f"{at}/sum")
    return add_constant(protocol, total, _EXP2[0], f)
