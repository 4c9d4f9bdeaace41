"""Local, linear array operations over Z_2^64: what each worker does to its own summands."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray


def pad(
    a: NDArray[np.uint64], low: Sequence[int], high: Sequence[int], interior: Sequence[int]
) -> NDArray[np.uint64]:
    """Return ``a`` with zeros around and between its elements, a count for each axis."""
    shape = tuple(
        lo + hi + d + max(d - 1, 0) * inner
        for d, lo, hi, inner in zip(a.shape, low, high, interior, strict=True)
    )
    out = np.zeros(shape, dtype=np.uint64)
    place = tuple(
        slice(lo, lo + max(d - 1, 0) * (inner + 1) + 1 if d else lo, inner + 1)
        for d, lo, inner in zip(a.shape, low, interior, strict=True)
    )
    out[place] = a
    return out


def window_sum(
    a: NDArray[np.uint64],
    window: Sequence[int],
    strides: Sequence[int],
    low: Sequence[int],
    high: Sequence[int],
) -> NDArray[np.uint64]:
    """Return the sums over sliding windows; padding counts as zero."""
    if any(low) or any(high):
        a = pad(a, low, high, (0,) * a.ndim)
    counts = [(d - w) // s + 1 for d, w, s in zip(a.shape, window, strides, strict=True)]
    total: NDArray[np.uint64] | None = None
    for offsets in product(*(range(w) for w in window)):
        part = a[
            tuple(
                slice(o, o + (n - 1) * s + 1, s)
                for o, n, s in zip(offsets, counts, strides, strict=True)
            )
        ]
        if total is None:
            total = part.copy()
        else:
            total += part
    assert total is not None
    return total
