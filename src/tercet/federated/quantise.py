"""Clipping and rounding an update so that its integer norm provably stays within the bound."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.errors import InputError
from tercet.service.aggregation_terms import WEIGHT_SCALE, AggregationTerms

#: Elements that are dealt with at a time: what is done to them stays in the cache.
_BLOCK = 1 << 15


class Quantised(NamedTuple):
    """An update as it is contributed: ring elements (words,), its norm, and if it was clipped."""

    words: NDArray[np.uint64]
    norm: float
    clipped: bool


def quantise(update: ArrayLike, weight: float, terms: AggregationTerms) -> Quantised:
    """Return ``weight`` times the clipped update as integers whose norm is at most the bound.

    The update is scaled to norm ``bound`` if it exceeds it, multiplied by the weight and rounded
    to the nearest multiple of 2^-scale. Should rounding have carried the exact integer norm over
    the bound, it is scaled to bound - sqrt(length) / 2 instead, which rounding cannot undo.

    Raises:
        InputError: for NaN, infinity, another size, or a weight that does not fit.
    """
    if not 0 <= weight <= 1:
        raise InputError(f"a weight of {weight}", "Give 0 to 1: divide by the largest one")
    if weight != 1 and not terms.weighted:
        raise InputError(
            f"a weight of {weight} where contributions carry none",
            "Make the agreement with weighted=True",
        )
    values = np.asarray(update)
    if values.dtype.kind not in "fiub":
        raise InputError(f"an update of dtype {values.dtype}", "Give real numbers")
    if values.size != terms.length:
        raise InputError(
            f"an update of shape {values.shape}, {values.size} elements",
            f"The agreement is about {terms.length}",
        )
    flat = values.reshape(-1)
    # A norm that overflows, NaN and infinity all show in the sum of squares.
    norm = math.sqrt(sum(_square(reals) for _, reals in _blocks(flat)))
    if not math.isfinite(norm):
        wrong = np.flatnonzero(~np.isfinite(flat))
        where = f"at index {wrong[0]}" if wrong.size else "in its norm"
        raise InputError(
            f"the update has NaN, infinity or overflow {where}", "Check the local training"
        )
    unit = 2.0**terms.scale
    factor = min(unit, terms.bound / norm) if norm else unit
    clipped = factor < unit
    words = np.empty(terms.words, np.uint64)
    whole = words[: terms.length].view(np.int64)
    square = _round(flat, factor * weight, whole)
    if square > terms.bound**2:
        clipped = True
        room = (terms.bound - math.sqrt(terms.length) / 2) * (1 - 2.0**-40)
        square = _round(flat, room / norm * weight, whole)
    if terms.weighted:
        words[-1] = round(weight * 2**WEIGHT_SCALE)
    return Quantised(words, math.sqrt(square) / unit, clipped)


def _round(values: NDArray[Any], factor: float, out: NDArray[np.int64]) -> float:
    """Write ``factor`` times the values, rounded, and return the squared norm of what was written.

    It is a sum of integers below 2^53, hence exact in double precision.
    """
    square = 0.0
    for place, reals in _blocks(values):
        np.multiply(reals, factor, out=reals)
        np.rint(reals, out=reals)
        square += _square(reals)
        out[place] = reals
    return square


def _blocks(values: NDArray[Any]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    for start in range(0, len(values), _BLOCK):
        place = slice(start, start + _BLOCK)
        yield place, values[place].astype(np.float64)


def _square(values: NDArray[np.float64]) -> float:
    """Return the squared norm; not by BLAS, whose threads would wait for each other's share."""
    return float(np.einsum("i,i->", values, values))
