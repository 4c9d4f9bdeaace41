"""Sorting along an axis: Batcher's odd-even merge sort (Batcher 1968). Exact.

Which places are compared depends on their number alone. A comparison is one ReLU:
max(x, y) = y + relu(x - y), min(x, y) = x - relu(x - y).
"""

from __future__ import annotations

from typing import cast

import numpy as np

from tercet.protocol.base import Protocol, Share, Words, subtract
from tercet.protocol.rounds import Steps


def sort(protocol: Protocol, x: Share, axis: int, bits: int, at: str) -> Steps[Share]:
    """Return x in ascending order along ``axis``; differences are below 2^(bits-1) units."""
    x = protocol.map(lambda a: np.moveaxis(a, axis, 0), x)
    for number, (low, high) in enumerate(stages(x.shape[0])):
        smaller = protocol.map(lambda a, i=low: a[i], x)  # type: ignore[misc]
        larger = protocol.map(lambda a, i=high: a[i], x)  # type: ignore[misc]
        excess = yield from protocol.relu(
            subtract(protocol, smaller, larger), 0, bits, f"{at}/{number}"
        )
        x = _exchange(protocol, x, excess, low, high)
    return protocol.map(lambda a: np.moveaxis(a, 0, axis), x)


def _exchange(
    protocol: Protocol, x: Share, excess: Share, low: list[int], high: list[int]
) -> Share:
    def spread(a: Words) -> Words:
        moved = np.zeros(x.shape, np.uint64)
        moved[high] = a
        moved[low] = np.negative(a)
        return moved

    return cast("Share", protocol.add(x, protocol.map(spread, excess)))


def stages(count: int) -> list[tuple[list[int], list[int]]]:
    """Return the places that each of about log2(n)^2 / 2 stages compares and exchanges."""
    result = []
    size = 1 << max(count - 1, 0).bit_length()
    width = 1
    while width < size:
        step = width
        while step >= 1:
            pairs = [
                (i + j, i + j + step)
                for j in range(step % width, size - step, 2 * step)
                for i in range(step)
                if (i + j) // (2 * width) == (i + j + step) // (2 * width)
            ]
            kept = [(a, b) for a, b in pairs if b < count]
            if kept:
                result.append(([a for a, _ in kept], [b for _, b in kept]))
            step //= 2
        width *= 2
    return result
