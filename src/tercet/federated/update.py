"""Models and updates as vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError

Arrays: TypeAlias = Sequence[NDArray[Any]]
"""Weights in the order of the model, as ``keras.Model.get_weights`` returns them."""

Vector: TypeAlias = NDArray[np.float64]


def flatten(arrays: Arrays) -> Vector:
    """Return all numbers of ``arrays``, one array after the other."""
    parts = [np.asarray(a, np.float64).reshape(-1) for a in arrays]
    return np.concatenate(parts) if parts else np.zeros(0)


def unflatten(vector: Vector, like: Arrays) -> list[NDArray[Any]]:
    """Return ``vector`` in the shapes and types of ``like``.

    Raises:
        InputError: it has another length.
    """
    sizes = [a.size for a in like]
    if len(vector) != sum(sizes):
        raise InputError(
            f"{len(vector)} numbers for a model of {sum(sizes)}", "Use the same model everywhere"
        )
    parts = np.split(vector, np.cumsum(sizes)[:-1])
    return [p.reshape(a.shape).astype(a.dtype) for p, a in zip(parts, like, strict=True)]


def change(before: Arrays, after: Arrays) -> Vector:
    """Return what training changed.

    Raises:
        InputError: the shapes differ, or training ended in numbers that are not finite.
    """
    shapes = [[a.shape for a in arrays] for arrays in (before, after)]
    if shapes[0] != shapes[1]:
        raise InputError(
            "training returned weights of other shapes than it was given",
            "Return them in the order and shapes of the model's own",
        )
    update = flatten(after) - flatten(before)
    if not np.isfinite(update).all():
        raise InputError(
            "training ended in weights that are not finite", "Use a smaller learning rate"
        )
    return update
