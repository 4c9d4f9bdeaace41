"""The rounds under way at a worker, and what all who work on them share."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tercet.errors import BusyError, RefusedError, TercetError, TransportError, WorkerError
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.agreements import Agreements
from tercet.service.dataprocess import DataProcess
from tercet.service.messages import PeerMessage
from tercet.service.round_state import Asked, Entry, Key, Round, fail
from tercet.service.sum_messages import DrawNoise, DropSum, Restart

_log = logging.getLogger("tercet.worker")

#: Rounds of one agreement that may be under way at a time.
MAX_OPEN = 4


class Table:
    """Rounds by agreement and number, contributions by id, questions by round.

    Args:
        index: this worker.
        names: names of the three workers.
        agreements: what was signed.
        send: passes a message to a peer; raises TransportError if it is not connected.
        plane: returns the data plane.
    """

    def __init__(
        self,
        index: int,
        names: Sequence[str],
        agreements: Agreements,
        send: Callable[[int, PeerMessage], None],
        plane: Callable[[], DataProcess],
    ) -> None:
        self.index = index
        self.name = names[index]
        self.peers = [p for p in range(len(names)) if p != index]
        self.send = send
        self.plane = plane
        self.rounds: dict[Key, Round] = {}
        self.entries: dict[bytes, Entry] = {}
        self.asked: dict[Key, Asked | None] = {}
        self.dropped: Callable[[Round], None] = lambda _: None
        self._agreements = agreements
        self._terms: dict[bytes, AggregationTerms] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def require(self, agreement: bytes) -> AggregationTerms:
        """Return the terms of an agreement that all have signed and that holds."""
        terms = self._agreements.require(agreement)
        if not isinstance(terms, AggregationTerms):
            raise RefusedError("an agreement on something else", "Name one on an aggregation")
        self._terms[agreement] = terms
        return terms

    def known(self, agreement: bytes) -> AggregationTerms:
        """Return terms whose signatures were verified when the round was opened."""
        return self._terms[agreement]

    def open(self, key: Key, terms: AggregationTerms) -> Round:
        """Return the attempt at a round that is under way, or begin one.

        Raises:
            BusyError: if too many rounds of the agreement are under way.
        """
        if key not in self.rounds:
            if sum(k[0] == key[0] for k in self.rounds) >= MAX_OPEN:
                raise BusyError(
                    f"{MAX_OPEN} rounds of {terms.name!r} are under way", "Close one first"
                )
            self.rounds[key] = Round(key, terms, self.peers)
            with contextlib.suppress(WorkerError):  # then drawn when it is needed
                self.plane().send(DrawNoise(terms.words, terms.variance))
        return self.rounds[key]

    def out_of_step(self, round: Round | None, epoch: bytes) -> None:
        """Make a round start anew at all three, after an announcement that does not fit."""
        _log.warning("%s is out of step with worker 0: the round starts anew", self.name)
        if round is not None:
            round.epoch = epoch
            self.restart(round, lost("the workers were out of step"), tell=True)
        else:
            self.tell(Restart(epoch))

    def restart(self, round: Round, error: TercetError, tell: bool) -> None:
        """Let go of an attempt at a round: nothing of it is opened."""
        if self.rounds.get(round.key) is round:
            del self.rounds[round.key]
        self.dropped(round)
        for entry in [e for e in self.entries.values() if e.round is round]:
            entry.fail(error)
        asked = round.asked or self.asked.get(round.key)
        if asked is not None:
            fail(asked.closed, error)
        if round.epoch:
            with contextlib.suppress(WorkerError):  # the process has gone, and the sum with it
                self.plane().send(DropSum(round.epoch))
            if tell:
                self.tell(Restart(round.epoch))

    def tell(self, message: Restart) -> None:
        """Tell both peers, if they are there."""
        for peer in self.peers:
            try:
                self.send(peer, message)
            except TransportError:
                continue

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something in the background."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def lost(message: str) -> WorkerError:
    """Return the error of an attempt at a round that is given up."""
    return WorkerError(message, "Nothing was opened: contribute again, the round starts anew")


def session_digest(agreement: bytes) -> str:
    """Return what stands for the program in the keys of an agreement's sessions."""
    return hashlib.sha256(b"tercet aggregation v1\0" + agreement).hexdigest()


def check_number(terms: AggregationTerms, number: int) -> None:
    """Refuse a round that the agreement does not have."""
    if not 0 <= number < terms.rounds:
        raise RefusedError(
            f"round {number} of {terms.rounds}", f"Rounds are 0 to {terms.rounds - 1}"
        )
