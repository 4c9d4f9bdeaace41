"""Sorting along an axis: Batcher's odd-even merge sort (Batcher 1968). Exact.

Which places are compared depends on their number alone. A comparison is one ReLU:
max(x, y) = y + relu(x - y), min(x, y) = x - relu(x - y). Where only the smallest are wanted, the
rest is dropped on the way: for a single one a tournament remains.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from tercet.protocol.base import Places, Protocol, Share, Words, subtract
from tercet.protocol.rounds import Steps


def sort(protocol: Protocol, x: Share, axis: int, bits: int, at: str) -> Steps[Share]:
    """Return x in ascending order along ``axis``; differences are below 2^(bits-1) units."""
    x = protocol.map(lambda a: np.moveaxis(a, axis, 0), x)
    x = yield from smallest(protocol, x, x.shape[0], bits, at)
    return protocol.map(lambda a: np.moveaxis(a, 0, axis), x)


def smallest(protocol: Protocol, x: Share, keep: int, bits: int, at: str) -> Steps[Share]:
    """Return the ``keep`` smallest along the first axis, in ascending order."""
    stages, places = network(x.shape[0], keep)
    for number, (low, high) in enumerate(stages):
        smaller = protocol.map(lambda a, i=low: a[i], x)  # type: ignore[misc]
        larger = protocol.map(lambda a, i=high: a[i], x)  # type: ignore[misc]
        excess = yield from protocol.relu(
            subtract(protocol, smaller, larger), 0, bits, f"{at}/{number}"
        )
        x = _exchange(protocol, x, excess, low, high)
    return protocol.map(lambda a: a[places], x)


def _exchange(protocol: Protocol, x: Share, excess: Share, low: Places, high: Places) -> Share:
    def spread(a: Words) -> Words:
        moved = np.zeros(x.shape, np.uint64)
        moved[high] = a
        moved[low] = np.negative(a)
        return moved

    return cast("Share", protocol.add(x, protocol.map(spread, excess)))


def network(count: int, keep: int) -> tuple[list[tuple[Places, Places]], Places]:
    """Return the places that each stage compares and exchanges, and where the smallest then are.

    For all of them there are about log2(count)^2 / 2 stages, for one log2(count). The network is
    that of the next power of two: what is not there, and what is too large to be kept wherever a
    part of it is in order, counts as infinite. It is compared with nothing.
    """
    size = 1 << max(count - 1, 0).bit_length()
    # Which number stands where; -1 is infinite.
    held = np.where(np.arange(size) < count, np.arange(size), -1)
    stages = []
    width = 1
    while width < size:
        step = width
        while step >= 1:
            low, high = _pairs(size, width, step)
            a, b = held[low], held[high]
            moved = (a < 0) & (b >= 0)
            held[low[moved]], held[high[moved]] = b[moved], -1
            stages.append((a[(a >= 0) & (b >= 0)], b[(a >= 0) & (b >= 0)]))
            step //= 2
        width *= 2
        held[np.arange(size) % width >= keep] = -1
    places = held[:keep]
    return _needed(stages, places, count), places


def _pairs(size: int, width: int, step: int) -> tuple[Places, Places]:
    """Return what one stage of the merge of sorted parts of ``width`` compares."""
    starts = np.arange(step % width, size - step, 2 * step)
    low = (starts[:, None] + np.arange(step)).reshape(-1)
    high = low + step
    kept = low // (2 * width) == high // (2 * width)
    return low[kept], high[kept]


def _needed(
    stages: list[tuple[Places, Places]], places: Places, count: int
) -> list[tuple[Places, Places]]:
    """Leave out the comparisons on which nothing at ``places`` depends."""
    wanted = np.isin(np.arange(count), places)
    result = []
    for low, high in reversed(stages):
        used = wanted[low] | wanted[high]
        if used.any():
            wanted[low[used]] = wanted[high[used]] = True
            result.append((low[used], high[used]))
    return result[::-1]
