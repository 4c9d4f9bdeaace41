"""Which rows a step takes: a public shuffle, equal at all workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import seed_words


class Shuffle:
    """Goes through all rows once an epoch, in an order of its own each time.

    What is left at the end of an epoch, fewer rows than a step takes, is left out of that epoch.

    Args:
        seed: 32 public bytes, fresh for each training.
        rows: rows in all.
        batch: rows of a step; at most ``rows``.
    """

    def __init__(self, seed: bytes, rows: int, batch: int) -> None:
        self._seed = seed
        self._rows = rows
        self._batch = batch
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return self._rows // self._batch

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of a step, counted over all epochs from 0."""
        epoch, place = divmod(step, self.steps)
        if epoch != self._epoch:
            keys = seed_words(self._seed, f"shuffle {epoch}", self._rows)
            self._order, self._epoch = np.argsort(keys, kind="stable"), epoch
        return self._order[place * self._batch : (place + 1) * self._batch]
