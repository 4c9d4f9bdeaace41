"""Noise that one worker knows: what it adds to a sum, before a resend masks it."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.discrete_gaussian import discrete_gaussian
from tercet.crypto.prg import fresh_stream

_Noise: TypeAlias = NDArray[np.int64]


class NoiseAhead:
    """Noise drawn before it is needed, so that the time it takes tells nothing of it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._lock = threading.Lock()
        self._next: tuple[tuple[int, int], Future[_Noise]] | None = None

    def draw(self, words: int, variance: int) -> None:
        """Begin to draw noise of this kind, if it is not there."""
        with self._lock:
            if variance and (self._next is None or self._next[0] != (words, variance)):
                self._next = (words, variance), self._submit(words, variance)

    def take(self, words: int, variance: int) -> _Noise:
        """Return noise that is used for nothing else, and begin to draw the next."""
        with self._lock:
            known, future = self._next or ((0, 0), None)
            if future is None or known != (words, variance):
                future = self._submit(words, variance)
            self._next = (words, variance), self._submit(words, variance)
        return future.result()

    def _submit(self, words: int, variance: int) -> Future[_Noise]:
        return self._thread.submit(discrete_gaussian, words, variance, fresh_stream().words)
