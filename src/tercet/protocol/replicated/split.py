"""The split x = u + v: u at worker 0, v at workers 1 and 2.

A replicated sharing is one already (u = x0 + x1, v = x2). An additive sharing becomes one when
workers 1 and 2 exchange their summands, masked by what each shares with worker 0: two elements
move instead of the three of a resend.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tercet.errors import SecurityError
from tercet.protocol.base import Partial, Share, Words
from tercet.protocol.replicated.party import Party
from tercet.protocol.rounds import Round, Steps, done, words


@dataclass(slots=True)
class Split:
    """``known``: u at worker 0, v at workers 1 and 2, flat.

    At workers 1 and 2 it is there after the first round. ``share`` is the replicated sharing that
    it was made from, if any.
    """

    size: int
    value: Words | None
    share: Share | None

    @property
    def known(self) -> Words:
        """Return u or v."""
        if self.value is None:
            raise SecurityError("a split was used before its first round", "Report this fault")
        return self.value


def split_share(party: Party, x: Share) -> tuple[Split, Steps[None]]:
    """Split a replicated sharing: local."""
    first, second = (np.ascontiguousarray(p).reshape(-1) for p in x.parts)
    known = (first + second, second, first)[party.index]
    return Split(x.size, known, Share((first, second))), done(None)


def raised(party: Party, split: Split, amount: int) -> Split:
    """Return the split of x + ``amount`` for a truncation: local, u + ``amount`` at worker 0."""
    if party.index:
        return split  # v, which may still be on its way
    return Split(split.size, split.known + np.uint64(amount), split.share)


def split_partial(party: Party, x: Partial, at: str) -> tuple[Split, Steps[None]]:
    """Split an additive sharing: one round, 16 bytes an element.

    Worker 1 sends x1 + a, worker 2 sends x2 + b, where a is shared by workers 0 and 1, b by
    workers 2 and 0; worker 0 keeps u = x0 - a - b. Each message is uniform to its receiver.
    """
    mine = x.parts[0].reshape(-1)
    size = mine.size
    if party.index == 0:
        u = mine - party.with_next("split", at, size)
        u -= party.with_prev("split", at, size)
        return Split(size, u, None), _pass_round()
    split = Split(size, None, None)
    return split, _exchange(party, split, mine, at)


def _pass_round() -> Steps[None]:
    yield Round()


def _exchange(party: Party, split: Split, mine: Words, at: str) -> Steps[None]:
    size = mine.size
    if party.index == 1:
        sent = mine + party.with_prev("split", at, size)
        received = yield Round(to_next=[sent], from_next=8 * size)
        split.value = sent + words(received.from_next, size)
    else:
        sent = mine + party.with_next("split", at, size)
        received = yield Round(to_prev=[sent], from_prev=8 * size)
        split.value = sent + words(received.from_prev, size)
