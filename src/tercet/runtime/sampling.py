"""Which rows a step takes: a public shuffle or public sampling, equal at all workers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import seed_words
from tercet.program.private import PrivateSum


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


class Poisson:
    """Takes each row with the same probability, by itself, and fills a step up to its size.

    Args:
        seed: 32 public bytes, fresh for each training.
        privacy: rows in all, and with what probability.
        size: rows of a step. If more are sampled, which the choice of ``size`` makes improbable,
            those with the smallest random numbers are taken.
    """

    def __init__(self, seed: bytes, privacy: PrivateSum, size: int) -> None:
        self._seed = seed
        self._rows = privacy.rows
        self._most = np.uint64(min(int(privacy.rate * 2.0**64), 2**64 - 1))
        self._size = size

    def count(self, step: int) -> int:
        """Return how many rows a step samples, be it more than ``size``."""
        return int(np.count_nonzero(self._words(step) <= self._most))

    def sampled(self, step: int) -> NDArray[np.int64]:
        """Return the numbers of the rows of a step, ``size`` at most."""
        words = self._words(step)
        picked = np.flatnonzero(words <= self._most)
        order = np.argsort(words[picked], kind="stable")
        return picked[order[: self._size]].astype(np.int64)

    def _words(self, step: int) -> NDArray[np.uint64]:
        return seed_words(self._seed, f"sample {step}", self._rows)

    def rows(self, step: int) -> NDArray[np.int64]:
        """Return ``size`` rows: those sampled, then the first one as often as is left."""
        picked = self.sampled(step)
        return np.pad(picked, (0, self._size - len(picked)))
