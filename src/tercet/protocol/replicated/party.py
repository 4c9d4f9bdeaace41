"""What a worker brings to every step: its index and the streams that it shares with the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import Streams
from tercet.errors import SecurityError

Words: TypeAlias = NDArray[np.uint64]


class Drawn(NamedTuple):
    """What a pair draws in one go: so many words, and which of them belong to each label."""

    total: int
    places: Mapping[str, slice]


#: For the pairs (0, 1), (1, 2) and (2, 0).
Layout: TypeAlias = tuple[Drawn, Drawn, Drawn]


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
        self._drawn_next: dict[tuple[str, str], Words] = {}
        self._drawn_prev: dict[tuple[str, str], Words] = {}

    def draw_ahead(self, at: str, layout: Layout) -> None:
        """Draw what an operation on few elements will ask for, with one call for each pair.

        What is asked for at ``at`` later under a label of the layout is a part of it, and only
        once; the two ends of a pair lay it out alike, as the layout follows from sizes alone.
        """
        for streams, drawn, (total, places) in (
            (self._following, self._drawn_next, layout[self.index]),
            (self._preceding, self._drawn_prev, layout[(self.index - 1) % 3]),
        ):
            words = streams.words("ahead", at, self._piece, total)
            for label, place in places.items():
                drawn[label, at] = words[place]

    def with_next(self, label: str, at: str, count: int) -> Words:
        """Return ``count`` uniform words that the next worker draws as well."""
        drawn = self._drawn_next.pop((label, at), None)
        if drawn is None:
            return self._following.words(label, at, self._piece, count)
        return _sized(drawn, label, count)

    def with_prev(self, label: str, at: str, count: int) -> Words:
        """Return ``count`` uniform words that the previous worker draws as well."""
        drawn = self._drawn_prev.pop((label, at), None)
        if drawn is None:
            return self._preceding.words(label, at, self._piece, count)
        return _sized(drawn, label, count)

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


def _sized(words: Words, label: str, count: int) -> Words:
    if words.size != count:
        raise SecurityError(
            f"{count} words are asked for as {label!r} where {words.size} were drawn",
            "Report this fault",
        )
    return words
