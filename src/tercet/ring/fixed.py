"""Fixed-point encoding of real numbers in Z_2^64: x stands as round(x * 2^f), two's complement."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError

Words: TypeAlias = NDArray[np.uint64]

#: Inputs and weights lie below 2^14, and so should every value that a model computes: with up to
#: 48 fractional bits that keeps clear of the bound 2^62 of truncations and comparisons.
RANGE_LOG2 = 14
#: Whole numbers, which have no fractional bits, lie below this: places in a table.
WHOLE_LOG2 = 30


def encode(values: NDArray[np.floating[Any]], scale: int, what: str = "value") -> Words:
    """Return the ring elements of real ``values`` (any shape) with ``scale`` fractional bits.

    Raises:
        InputError: if a value is NaN, infinite or not below 2^14; with no fractional bits, if it is
            not whole or not below 2^30. Names the first index.
    """
    values = np.asarray(values, dtype=np.float64)
    limit = 2.0 ** (RANGE_LOG2 if scale else WHOLE_LOG2)
    bad = ~(np.abs(values) < limit)  # also true for NaN
    if not scale:
        bad |= values != np.rint(values)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        value = values[index]
        if not np.isfinite(value):
            kind = "not a finite number"
        else:
            kind = "out of range" if abs(value) >= limit else "not a whole number"
        raise InputError(
            f"{what} at index {index} is {kind}",
            f"Values must lie between -{limit:g} and {limit:g}: rescale them"
            if scale
            else f"The model takes whole numbers between -{limit:g} and {limit:g}",
        )
    words: Words = np.rint(values * float(1 << scale)).astype(np.int64).view(np.uint64)
    return words


def decode(words: Words, scale: int) -> NDArray[np.float64]:
    """Return the real numbers of ring elements (uint64, any shape) with ``scale`` bits."""
    return words.view(np.int64).astype(np.float64) / float(1 << scale)
