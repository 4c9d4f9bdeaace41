"""Local, linear array operations over Z_2^64: what each worker does to its own summands."""

from __future__ import annotations

from collections.abc import Sequence

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
    """Return the sums over sliding windows; padding counts as zero.

    One axis after the other: a window of h x w costs h + w additions, not h * w.
    """
    if any(low) or any(high):
        a = pad(a, low, high, (0,) * a.ndim)
    for axis, (width, stride) in enumerate(zip(window, strides, strict=True)):
        if width == 1 and stride == 1:
            continue
        count = (a.shape[axis] - width) // stride + 1
        before = (slice(None),) * axis
        parts = [a[(*before, slice(o, o + (count - 1) * stride + 1, stride))] for o in range(width)]
        total = parts[0] + parts[1] if width > 1 else parts[0]
        for part in parts[2:]:
            total += part
        a = total
    return a
