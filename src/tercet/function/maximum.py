"""Maxima: of two values, over axes, over sliding windows. Exact.

Differences of the values compared must fit the width of the comparison:
|x - y| < 2^(bits - 1) in units of the last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import cast

import numpy as np

from tercet.protocol.base import Protocol, Share, Words, subtract
from tercet.protocol.rounds import Steps


def maximum(protocol: Protocol, x: Share, y: Share, bits: int, at: str) -> Steps[Share]:
    """Return max(x, y) = y + relu(x - y), NumPy broadcasting. The rounds of one ReLU."""
    above = yield from protocol.relu(subtract(protocol, x, y), 0, bits, at)
    return cast("Share", protocol.add(y, above))


def absolute(protocol: Protocol, x: Share, bits: int, at: str) -> Steps[Share]:
    """Return |x| = 2 max(x, 0) - x for |x| < 2^(bits-1) units. Exact; the rounds of one ReLU.

    Cost: 6 rounds, 77 bytes an element (bits = 62).
    """
    above = yield from protocol.relu(x, 0, bits, at)
    return cast("Share", subtract(protocol, protocol.map(lambda a: a + a, above), x))


def maximum_over_first(protocol: Protocol, x: Share, bits: int, at: str) -> Steps[Share]:
    """Return the maximum over axis 0 by a tournament: ceil(log2 n) ReLUs deep."""
    level = 0
    while x.shape[0] > 1:
        half, odd = divmod(x.shape[0], 2)
        low = protocol.map(lambda a, h=half: a[:h], x)  # type: ignore[misc]
        high = protocol.map(lambda a, h=half: a[h : 2 * h], x)  # type: ignore[misc]
        winners = yield from maximum(protocol, low, high, bits, f"{at}/{level}")
        if odd:
            winners = Share(
                tuple(
                    np.concatenate((w, p[-1:])) for w, p in zip(winners.parts, x.parts, strict=True)
                )
            )
        x, level = winners, level + 1
    return protocol.map(lambda a: a[0], x)


def reduce_max(
    protocol: Protocol, x: Share, axes: Sequence[int], bits: int, at: str
) -> Steps[Share]:
    """Return the maximum over ``axes``, which disappear."""
    kept = [i for i in range(len(x.shape)) if i not in axes]
    rest = tuple(x.shape[i] for i in kept)

    def arrange(a: Words) -> Words:
        return a.transpose((*axes, *kept)).reshape((-1, *rest))

    return (yield from maximum_over_first(protocol, protocol.map(arrange, x), bits, at))


def max_pool(
    protocol: Protocol,
    x: Share,
    window: Sequence[int],
    strides: Sequence[int],
    low: Sequence[int],
    high: Sequence[int],
    bits: int,
    at: str,
) -> Steps[Share]:
    """Return the maximum over sliding windows (a stride and a padding for each axis).

    Padding counts as -2^(bits-2), hence |x| < 2^(bits-2) where there is any.
    """
    padding = list(zip(low, high, strict=True))
    if any(p != (0, 0) for p in padding):
        outside = np.pad(
            np.zeros(x.shape, np.uint64),
            padding,
            constant_values=np.uint64((1 << 64) - (1 << (bits - 2))),
        )
        x = protocol.add_public(protocol.map(lambda a: np.pad(a, padding), x), outside)
    counts = [(d - w) // s + 1 for d, w, s in zip(x.shape, window, strides, strict=True)]

    def stack(a: Words) -> Words:
        return np.stack(
            [
                a[
                    tuple(
                        slice(o, o + (n - 1) * s + 1, s)
                        for o, n, s in zip(offsets, counts, strides, strict=True)
                    )
                ]
                for offsets in product(*(range(w) for w in window))
            ]
        )

    return (yield from maximum_over_first(protocol, protocol.map(stack, x), bits, at))
