"""Functions of |x| by polynomials on pieces.

All pieces have the same powers. The sum of pieces telescopes: with P_k the constant beyond the
last bound, p = P_k + sum of [z < t_i] (P_i - P_(i+1)), each difference a public combination of
shared powers, chosen by one shared bit before anything is truncated. Beyond the last bound all
bits are 0 and p is the constant exactly, whatever the powers have become there: nothing wraps
into a result.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np

from tercet.function.fixed import (
    add,
    coarse,
    fill,
    lifted,
    product,
    ring_constant,
    rounded,
)
from tercet.protocol.base import Bits, Protocol, Share, Words, subtract
from tercet.protocol.rounds import Steps, together

#: Fractional bits of powers, and of sums before their truncation.
POWER_SCALE, SUM_SCALE = 28, 54
#: Bounds are compared to 2^-5; the polynomials hold that far beyond theirs.
RESOLUTION = 5
#: Width of a comparison below the last bound (less than 16) at that resolution.
_INNER_BITS = 11


@dataclass(frozen=True, slots=True)
class Pieces:
    """Polynomials in z / 2^unit on [0, bounds[0]), [bounds[0], bounds[1]), ...

    ``left``, where there is one, holds the polynomials for x < 0; ``right`` serves both otherwise.
    """

    unit: int
    bounds: tuple[float, ...]
    tail: float
    right: tuple[tuple[float, ...], ...]
    left: tuple[tuple[float, ...], ...] | None = None


class Folded(NamedTuple):
    """p(|x|), the bit x < 0 and max(x, 0), with the fractional bits of x."""

    value: Share
    negative: Bits
    positive: Share


def folded(
    protocol: Protocol, x: Share, scale: int, bits: int, pieces: Pieces, at: str
) -> Steps[Folded]:
    """Return p(|x|) for ``pieces``; |x| < 2^(bits-1) units.

    Rounding: one unit of the last place and 2^-26 times the sum of the coefficients.
    """
    shift = scale - RESOLUTION
    bits = max(bits, scale + 5)
    minus = protocol.map(np.negative, x)
    # So close above 0 that it counts as below, x takes the branch of x < 0, which is smooth there.
    sign = yield from coarse(protocol, x, 0.0, scale, bits, shift, f"{at}/sign")
    drop = yield from protocol.select(sign, minus, f"{at}/fold")
    positive = add(protocol, x, drop)
    z = add(protocol, positive, drop)
    below, powers = cast(
        "tuple[list[Bits], list[Share]]",
        (
            yield from together(
                _below(protocol, z, scale, bits, pieces, f"{at}/below"),
                _powers(protocol, z, scale, pieces, f"{at}/power"),
            )
        ),
    )
    total = yield from _sum(protocol, pieces.right, pieces.tail, below, powers, f"{at}/right")
    if pieces.left is not None:
        other = yield from _sum(protocol, pieces.left, pieces.tail, below, powers, f"{at}/left")
        change = cast("Share", subtract(protocol, other, total))
        total = add(protocol, total, (yield from protocol.select(sign, change, f"{at}/side")))
    value = yield from rounded(protocol, total, SUM_SCALE - scale, f"{at}/sum")
    return Folded(value, sign, positive)


def _below(
    protocol: Protocol, z: Share, scale: int, bits: int, pieces: Pieces, at: str
) -> Steps[list[Bits]]:
    """Return [z < t] for each bound: only the last one is compared over the whole range."""
    shift = scale - RESOLUTION
    *inner, last = pieces.bounds
    inside, *rest = yield from together(
        coarse(protocol, z, last, scale, bits, shift, f"{at}/last"),
        *(
            coarse(protocol, z, t, scale, shift + _INNER_BITS - 1, shift, f"{at}/{i}")
            for i, t in enumerate(inner)
        ),
    )
    both = yield from together(
        *(protocol.bit_and(b, inside, f"{at}/and/{i}") for i, b in enumerate(rest))
    )
    return [*both, inside]


def _powers(
    protocol: Protocol, z: Share, scale: int, pieces: Pieces, at: str
) -> Steps[list[Share]]:
    """Return u, u^2, ... for u = z / 2^unit, with POWER_SCALE fractional bits."""
    low = scale + pieces.unit
    powers: dict[int, Share] = {}

    def of(a: Share, b: Share, shift: int, n: int) -> Steps[Share]:
        return product(protocol, a, b, shift, f"{at}/{n}")

    degree = len(pieces.right[0]) - 1
    powers[1] = lifted(protocol, z, POWER_SCALE - low)
    powers[2] = yield from of(z, z, 2 * low - POWER_SCALE, 2)
    known = 2
    while known < degree:
        new = range(known + 1, min(2 * known, degree) + 1)
        made = yield from together(
            *(
                of(powers[known], z, low, n)
                if n == known + 1
                else of(powers[known], powers[n - known], POWER_SCALE, n)
                for n in new
            )
        )
        powers.update(zip(new, made, strict=True))
        known = new[-1]
    return [powers[n] for n in range(1, degree + 1)]


def _constants(row: tuple[float, ...]) -> list[np.uint64]:
    """Return a polynomial's coefficients as ring elements, such that all terms have SUM_SCALE."""
    return [
        ring_constant(c, SUM_SCALE - POWER_SCALE if n else SUM_SCALE) for n, c in enumerate(row)
    ]


def _combination(protocol: Protocol, row: Words, powers: list[Share]) -> Share:
    total = protocol.combine(list(row[1:]), powers)
    return protocol.add_public(total, np.asarray(row[0]))


def _sum(
    protocol: Protocol,
    rows: tuple[tuple[float, ...], ...],
    tail: float,
    below: list[Bits],
    powers: list[Share],
    at: str,
) -> Steps[Share]:
    beyond = (tail, *(0.0 for _ in powers))
    words = np.array([_constants(row) for row in (*rows, beyond)])
    steps = [_combination(protocol, row, powers) for row in words[:-1] - words[1:]]
    chosen = yield from together(
        *(
            protocol.select(bit, step, f"{at}/{i}")
            for i, (bit, step) in enumerate(zip(below, steps, strict=True))
        )
    )
    total = fill(protocol, tail, SUM_SCALE, powers[0].shape)
    for part in chosen:
        total = add(protocol, total, part)
    return total
