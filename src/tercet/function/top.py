"""Which values are largest: their places, and the values, without the order of the rest.

Every value carries its place in bits below its last one (-value * 2^w + place), so that all that
is compared is different and the first of equal values wins. The sorting network (``sort``) finds
the smallest; a truncation whose last unit is put right by one comparison takes apart what it finds.

Domain: |value| < 2^(60 - w) - 1 in units of the last place for n <= 2^w values, which leaves 2^32
at f = 16 and 4,096 values. Exact. Beyond the domain other values are found than the largest, since
a wrong comparison exchanges what it should not, or fails to.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from tercet.function.sort import smallest
from tercet.protocol.base import Protocol, Share, subtract
from tercet.protocol.rounds import Steps

#: Width of the comparisons.
_BITS = 62
#: Narrowest window of a comparison.
_LEAST_BITS = 8


def argmax(protocol: Protocol, x: Share, axis: int, scale: int, at: str) -> Steps[Share]:
    """Return the place of the largest value over ``axis``, which disappears, times 2^scale.

    A tournament, ceil(log2 n) ReLUs deep, of 77 bytes a value, then 7 or 8 rounds.
    """
    scores = protocol.map(lambda a: np.moveaxis(a, axis, 0), x)
    places, _ = yield from _leading(protocol, scores, 1, scale, at)
    return protocol.map(lambda a: a[0], places)


def top_k(protocol: Protocol, x: Share, k: int, scale: int, at: str) -> Steps[Share]:
    """Return the ``k`` largest values over the last axis, in falling order, and their places.

    Args:
        protocol: this party's side.
        x: shape (..., n) with n >= k.
        k: how many, at least 1.
        scale: fractional bits of ``x`` and of the result.
        at: place in the program.

    Returns:
        Shape (..., k, 2): ``[..., 0]`` is the place times 2^scale, ``[..., 1]`` the value.
    """
    scores = protocol.map(lambda a: np.moveaxis(a, -1, 0), x)
    found = yield from _leading(protocol, scores, k, scale, at)
    columns = zip(*(f.parts for f in found), strict=True)
    return Share(tuple(np.moveaxis(np.stack(c, -1), 0, -2) for c in columns))


def _leading(
    protocol: Protocol, scores: Share, k: int, scale: int, at: str
) -> Steps[tuple[Share, Share]]:
    """Return places (times 2^scale) and values of the ``k`` largest along the first axis."""
    count = scores.shape[0]
    width = (count - 1).bit_length()
    order = np.arange(count, dtype=np.uint64).reshape(-1, *(1 for _ in scores.shape[1:]))
    packed = protocol.map(lambda a: np.negative(a << np.uint64(width)), scores)
    packed = yield from smallest(protocol, protocol.add_public(packed, order), k, _BITS, at)
    places, lost = yield from _apart(protocol, packed, width, at)
    return (
        protocol.map(lambda a: a << np.uint64(scale), places),
        protocol.map(np.negative, lost),
    )


def _apart(protocol: Protocol, x: Share, width: int, at: str) -> Steps[tuple[Share, Share]]:
    """Return x mod 2^width and floor(x / 2^width), exactly."""
    if width == 0:
        return protocol.constant(np.zeros(x.shape, np.uint64)), x
    unit = np.uint64(1 << width)
    # The truncation is the floor or one unit less.
    high = yield from protocol.truncate(x, width, f"{at}/cut")
    low = cast("Share", subtract(protocol, x, protocol.map(lambda a: a * unit, high)))
    moved = protocol.add_public(low, np.negative(unit))
    fits = yield from protocol.negative(moved, 0, max(_LEAST_BITS, width + 2), f"{at}/fits")
    ones = protocol.constant(np.ones(x.shape, np.uint64))
    excess = yield from protocol.select(protocol.bit_not(fits), ones, f"{at}/excess")
    high = cast("Share", protocol.add(high, excess))
    low = cast("Share", subtract(protocol, low, protocol.map(lambda a: a * unit, excess)))
    return low, high
