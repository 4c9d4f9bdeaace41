"""Natural logarithms: log x = log m - k log 2 + a constant, x brought into [1/2, 1)."""

from __future__ import annotations

import math

import numpy as np

from tercet.function.fixed import (
    add,
    add_constant,
    fill,
    polynomial,
    product,
    product_plus,
    ring_constant,
    rounded,
    scaled,
)
from tercet.function.normalise import STEPS, TOP, normalised, positive
from tercet.function.tables import LOG
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps


def log(
    protocol: Protocol, x: Share, scale: int, bits: int, at: str, result: int | None = None
) -> Steps[Share]:
    """Return log x with ``result`` fractional bits (``scale`` unless given).

    Domain: 2^-f <= x < 2^(30-f), f = ``scale``. Above, the result is that of 2^(30-f); for x <= 0
    it is that of 2^-f, -11.09 at f = 16.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 55 rounds, 632 bytes an element (bits = 62).
    """
    to = scale if result is None else result
    # max(x, 1 unit)
    moved = protocol.add_public(x, np.asarray(ring_constant(-1.0, 0)))
    kept = yield from positive(protocol, moved, bits, f"{at}/clamp")
    x = protocol.add_public(kept, np.asarray(ring_constant(1.0, 0)))

    def count(k_total: Share, k: int) -> Share:
        return fill(protocol, float(k), 0, k_total.shape)

    m, shifts = yield from normalised(
        protocol, x, (*STEPS, 1), fill(protocol, 0.0, 0, x.shape), count, f"{at}/norm"
    )
    m = yield from rounded(protocol, m, TOP - 26, f"{at}/mantissa")
    u = add_constant(protocol, m, -0.75, 26)
    u2 = yield from product(protocol, u, u, 52 - 24, f"{at}/2")
    u3 = yield from product(protocol, u2, u, 26, f"{at}/3")
    low = ((u, 26), (u2, 24))
    # The upper coefficients keep few bits: they count by u^3 < 2^-6 only.
    upper = polynomial(protocol, LOG[3:], (*low, (u3, 24)), 36)
    lower = polynomial(protocol, LOG[:3], low, 60)
    total = product_plus(protocol, upper, u3, lower)
    mantissa = yield from rounded(protocol, total, 60 - 40, f"{at}/sum")
    exponent = scaled(protocol, shifts, -math.log(2), 40)
    value = add_constant(
        protocol, add(protocol, mantissa, exponent), (TOP - scale) * math.log(2), 40
    )
    return (yield from rounded(protocol, value, 40 - to, f"{at}/round"))


def log1p(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Return log(1 + x): ``log`` of 1 + x, which is exact. Domain: x > -1.

    Error: 1e-4 of the result or, if larger, 2^-15 at f <= 16, 1.2e-5 above (2 units at f < 16).
    Cost: 55 rounds, 632 bytes an element (bits = 62).
    """
    moved = add_constant(protocol, x, 1.0, scale)
    return (yield from log(protocol, moved, scale, max(bits, scale + 3), at))
