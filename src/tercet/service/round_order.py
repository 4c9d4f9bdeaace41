"""Worker 0's decisions in secure aggregation: whose turn it is, what is folded, when a round ends.

Bodies are taken in only as many at a time as memory has been set aside for, so that what a worker
holds does not grow with the number of participants. All three workers do what is announced here,
in this order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tercet.crypto.prg import fresh
from tercet.errors import RefusedError
from tercet.service.round_state import Entry, Round
from tercet.service.sum_messages import Close, Fold, Turn

#: Bytes of contributions that a worker may hold, and of those that are folded in one go.
MEMORY = 96 << 20
FOLD_MEMORY = 32 << 20
#: Contributions at a time, and those folded in one go, whatever their size.
MAX_TURNS = 64
MAX_FOLD = 32
#: Jobs at a time: the data plane finds the next one waiting.
_DEPTH = 2
EPOCH_BYTES = 16
#: The workers that must hold a contribution.
_ALL = frozenset((0, 1, 2))

TOO_LATE = "the round is closed"
NEXT_ROUND = "Contribute to the next one"


class Order:
    """What worker 0 announces.

    Args:
        announce: passes a message to both peers and obeys it here; returns whether it did.
    """

    def __init__(self, announce: Callable[[Turn | Fold | Close], bool]) -> None:
        self._announce = announce
        self._pending: deque[Entry] = deque()
        self._granted: dict[bytes, int] = {}
        self._holders: dict[bytes, set[int]] = {}
        self._ready: dict[Round, deque[Entry]] = {}
        self._folding = 0

    def add(self, entry: Entry) -> None:
        """Queue a contribution that has been announced to all three workers."""
        self._pending.append(entry)
        self.pump()

    def ready(self, entry: Entry, worker: int) -> None:
        """Note that a worker holds a contribution."""
        holders = self._holders.setdefault(entry.id, set())
        holders.add(worker)
        if holders == _ALL and not entry.verdict.done():
            self._ready.setdefault(entry.round, deque()).append(entry)
            self.pump()

    def ended(self, entry: Entry) -> None:
        """Let go of a contribution that is in the sum, or refused."""
        self._granted.pop(entry.id, None)
        self._holders.pop(entry.id, None)
        self.pump()

    def folded(self) -> None:
        """A fold has ended here."""
        self._folding -= 1
        self.pump()

    def drop(self, round: Round) -> None:
        """Forget what waits of a round."""
        self._ready.pop(round, None)

    def pump(self) -> None:
        """Announce what can be."""
        while self._pending:
            entry = self._pending[0]
            size = 8 * entry.round.terms.words
            full = sum(self._granted.values()) + size > MEMORY or len(self._granted) >= MAX_TURNS
            if self._granted and full and not entry.verdict.done():
                break
            self._pending.popleft()
            if not entry.verdict.done():
                self._granted[entry.id] = size
                self._announce(Turn(entry.id))
        while self._folding < _DEPTH and (batch := self._next()):
            round = batch[0].round
            fold = Fold(*round.key, self._epoch(round), round.position, [e.id for e in batch])
            self._folding += self._announce(fold)

    def close_if_due(self, round: Round) -> None:
        """Announce the end of a round that is complete, or past its deadline."""
        if round.asked is None or not (round.complete or round.over):
            return
        round.late = True
        for entry in list(round.entries.values()):
            if self._holders.get(entry.id, set()) != _ALL:
                entry.fail(RefusedError(TOO_LATE, NEXT_ROUND, "late"))
        if self._ready.get(round) or round.folds:
            return  # what is complete at all three workers still counts
        request = round.asked.request.id
        self._announce(Close(*round.key, self._epoch(round), round.position, request))

    def _next(self) -> list[Entry]:
        """Return the next contributions to fold, of one round."""
        for round, waiting in list(self._ready.items()):
            most = max(1, min(MAX_FOLD, FOLD_MEMORY // (8 * round.terms.words)))
            batch: list[Entry] = []
            while waiting and len(batch) < most:
                entry = waiting.popleft()
                if not entry.verdict.done():
                    batch.append(entry)
            if not waiting:
                del self._ready[round]
            if batch:
                return batch
        return []

    @staticmethod
    def _epoch(round: Round) -> bytes:
        if not round.epoch:
            round.epoch = fresh(EPOCH_BYTES)
        return round.epoch
