"""Bringing a positive number into [1/4, 1) by powers of two, for roots, reciprocals, logarithms.

In step k (14, 8, 4, 2, perhaps 1 places) x is compared with 2^(30 - k) and shifted left where it
is smaller. What the shift means for the result (a factor, an exponent) is kept up beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tercet.function.fixed import RANGE_BITS, add, coarse, fill
from tercet.protocol.base import Bits, Protocol, Share
from tercet.protocol.rounds import Steps, together

#: Numbers end up in [2^28 (1 - 2^-6), 2^30) units; with a step of 1 place, above 2^29 (1 - 2^-6).
TOP = 30
STEPS = (14, 8, 4, 2)
#: The same for numbers below 2^46 units.
WIDE_TOP = 46
WIDE_STEPS = (24, 12, 6, 4, 2)
#: Where the number stands above the power of two in what ``packed`` returns.
PACKED = 31
#: Bits of x below its power of two that a comparison looks at.
_DETAIL = 7


def clamped(protocol: Protocol, x: Share, bits: int, at: str, top: int = TOP) -> Steps[Share]:
    """Return min(x, 2^top (1 - 2^-6)) for x >= 0 units below 2^(bits-1).

    Free if ``bits`` <= top + 1.
    """
    if bits <= top + 1:
        return x
    shift = top - _DETAIL
    most = float((1 << top) - (1 << shift + 1))  # what is little above may pass
    inside = yield from coarse(protocol, x, most, 0, bits, shift, f"{at}/compare")
    kept = yield from protocol.select(inside, _plus(protocol, x, -most), f"{at}/select")
    return _plus(protocol, kept, most)


def positive(protocol: Protocol, x: Share, bits: int, at: str, top: int = TOP) -> Steps[Share]:
    """Return max(x, 0), at most 2^top (1 - 2^-7), for |x| < 2^(bits-1) units."""
    x = yield from protocol.relu(x, 0, min(max(bits, 8), RANGE_BITS), f"{at}/low")
    return (yield from clamped(protocol, x, bits, f"{at}/high", top))


def normalised(
    protocol: Protocol,
    x: Share,
    steps: Sequence[int],
    kept: Share,
    change: Callable[[Share, int], Share],
    at: str,
    top: int = TOP,
) -> Steps[tuple[Share, Share]]:
    """Return x shifted to the top (units, see TOP) and what became of ``kept``.

    0 <= x < 2^top units. ``change(kept, k)`` is what a shift by k places adds to ``kept``. x = 0
    takes all steps and stays 0.
    """
    for k in steps:
        below = yield from _below(protocol, x, top - k, 0, top, f"{at}/{k}/compare")
        grown = protocol.map(lambda a, n=k: a * np.uint64((1 << n) - 1), x)  # type: ignore[misc]
        more, extra = yield from together(
            protocol.select(below, grown, f"{at}/{k}/shift"),
            protocol.select(below, change(kept, k), f"{at}/{k}/keep"),
        )
        x, kept = add(protocol, x, more), add(protocol, kept, extra)
    return x, kept


def packed(protocol: Protocol, x: Share, at: str) -> Steps[Share]:
    """Return x shifted to the top, times 2^31, plus the power of two it was multiplied by.

    0 <= x < 2^30 units. Both grow by the same factor, so that one selection does for both.
    """
    word = protocol.add_public(
        protocol.map(lambda a: a << np.uint64(PACKED), x), np.asarray(np.uint64(1))
    )
    for k in STEPS:
        below = yield from _below(protocol, word, TOP - k, PACKED, TOP, f"{at}/{k}/compare")
        grown = protocol.map(lambda a, n=k: a * np.uint64((1 << n) - 1), word)  # type: ignore[misc]
        word = add(protocol, word, (yield from protocol.select(below, grown, f"{at}/{k}/shift")))
    return word


def _below(protocol: Protocol, x: Share, edge: int, places: int, top: int, at: str) -> Steps[Bits]:
    """Return whether x / 2^places is below about 2^edge, 2^-6 of it less: it never overshoots."""
    shift = max(edge - _DETAIL, 0)
    value = float((1 << edge) - (1 << (edge - _DETAIL + 1)))
    return coarse(protocol, x, value * 2.0**places, 0, top + places + 1, shift + places, at)


def factor(protocol: Protocol, halves: bool = False) -> Callable[[Share, int], Share]:
    """Return the change of a factor 2^k (2^(k/2) with ``halves``)."""

    def change(kept: Share, k: int) -> Share:
        times = np.uint64((1 << (k // 2 if halves else k)) - 1)
        return protocol.map(lambda a: a * times, kept)

    return change


def ones(protocol: Protocol, shape: tuple[int, ...]) -> Share:
    """Return 1 in units."""
    return fill(protocol, 1.0, 0, shape)


def _plus(protocol: Protocol, x: Share, value: float) -> Share:
    return protocol.add_public(x, np.asarray(np.uint64(int(value) & ((1 << 64) - 1))))
