"""Data that ships with Tercet: a small part of MNIST (see README.md here)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError

SMALL_MNIST = Path(__file__).with_name("mnist-small.npz")


class Digits(NamedTuple):
    """Images of shape (n, 28, 28, 1), float32 in [0, 1], and their labels (n,), int64."""

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def load_digits(path: str | Path | None = None) -> Digits:
    """Return MNIST from an ``mnist.npz`` in Keras' layout; the part that ships by default.

    Raises:
        InputError: if the file cannot be read or is something else.
    """
    path = Path(path or SMALL_MNIST)
    try:
        with np.load(path, allow_pickle=False) as data:
            x_train, y_train, x_test, y_test = (
                data[k] for k in ("x_train", "y_train", "x_test", "y_test")
            )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is not an mnist.npz: {error}", "Give a file in Keras' layout"
        ) from None
    return Digits(
        (x_train[..., None] / 255.0).astype(np.float32),
        y_train.astype(np.int64),
        (x_test[..., None] / 255.0).astype(np.float32),
        y_test.astype(np.int64),
    )
