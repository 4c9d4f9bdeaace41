"""What a worker brings to every step: its index and the streams that it shares with the others."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import Streams

Words: TypeAlias = NDArray[np.uint64]


class Party:
    """Worker ``index`` with its named streams of randomness."""

    def __init__(
        self, index: int, following: Streams, preceding: Streams, own: Streams, piece: int
    ) -> None:
        self.index = index
        self._following = following
        self._preceding = preceding
        self._own = own
        self._piece = piece

    def with_next(self, label: str, at: str, count: int) -> Words:
        """Return ``count`` uniform words that the next worker draws as well."""
        return self._following.words(label, at, self._piece, count)

    def with_prev(self, label: str, at: str, count: int) -> Words:
        """Return ``count`` uniform words that the previous worker draws as well."""
        return self._preceding.words(label, at, self._piece, count)

    def alone(self, label: str, at: str, count: int) -> Words:
        """Return ``count`` uniform words that no other worker can draw."""
        return self._own.words(label, at, self._piece, count)

    def zero_words(self, label: str, at: str, count: int) -> Words:
        """Return this worker's summand of a fresh additive sharing of zero."""
        mine = self.with_next(label, at, count)
        mine -= self.with_prev(label, at, count)
        return mine

    def zero_bits(self, label: str, at: str, count: int) -> Words:
        """Return this worker's summand of a fresh XOR sharing of zero."""
        mine = self.with_next(label, at, count)
        mine ^= self.with_prev(label, at, count)
        return mine

    def of_pair(self, label: str, at: str, count: int) -> Words:
        """Return words that workers 1 and 2 draw and worker 0 cannot."""
        return (self.with_next if self.index == 1 else self.with_prev)(label, at, count)

    def of_lender(self, label: str, at: str, count: int) -> Words:
        """Return words that workers 0 and 1 draw and worker 2 cannot: the masks of ``lend``."""
        return (self.with_next if self.index == 0 else self.with_prev)(label, at, count)
