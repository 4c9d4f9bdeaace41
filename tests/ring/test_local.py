"""Local array operations against plain loops."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from tercet.ring.local import pad, window_sum


@pytest.mark.parametrize(
    ("window", "strides", "low", "high"),
    [
        ((1, 2, 2, 1), (1, 2, 2, 1), (0, 0, 0, 0), (0, 0, 0, 0)),
        ((1, 3, 2, 1), (1, 1, 2, 1), (0, 1, 0, 0), (0, 1, 1, 0)),
        ((1, 1, 3, 2), (1, 2, 3, 1), (0, 0, 2, 0), (0, 0, 0, 1)),
        ((1, 5, 6, 1), (1, 1, 1, 1), (0, 0, 0, 0), (0, 0, 0, 0)),
        ((1, 1, 1, 1), (1, 1, 1, 1), (0, 0, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_window_sum(window, strides, low, high) -> None:
    a = np.random.default_rng(0).integers(0, 2**64, (2, 5, 6, 3), dtype=np.uint64)
    before = a.copy()
    got = window_sum(a, window, strides, low, high)
    padded = np.pad(a, list(zip(low, high, strict=True)))
    counts = [(d - w) // s + 1 for d, w, s in zip(padded.shape, window, strides, strict=True)]
    want = np.zeros(counts, np.uint64)
    for place in product(*map(range, counts)):
        corner = tuple(
            slice(p * s, p * s + w) for p, s, w in zip(place, strides, window, strict=True)
        )
        want[place] = padded[corner].sum(dtype=np.uint64)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(a, before)


def test_pad() -> None:
    a = np.arange(1, 4, dtype=np.uint64)
    np.testing.assert_array_equal(pad(a, (2,), (1,), (1,)), [0, 0, 1, 0, 2, 0, 3, 0])
    np.testing.assert_array_equal(pad(a[:0], (1,), (1,), (2,)), [0, 0])
