"""What a worker knows of the rounds that are under way. Nothing of it outlives the process."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tercet.errors import TercetError
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.agreement import Nonces
from tercet.service.arena import Block
from tercet.service.sum_messages import AskSum

Key = tuple[bytes, int]


class Entry:
    """A contribution, from its head's arrival until it is in the sum or refused."""

    def __init__(
        self, id: bytes, participant: str, round: Round, seeds: tuple[bytes, bytes]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.id = id
        self.participant = participant
        self.round = round
        self.seeds = seeds
        self.block: Block | None = None
        self.nonces: Nonces = (b"", b"", b"")
        self.digests: dict[int, bytes] = {}
        self.ready = False
        self.folding = False
        self.turn: asyncio.Future[None] = loop.create_future()
        self.verdict: asyncio.Future[bool] = loop.create_future()

    @property
    def body_id(self) -> bytes:
        """The id under which the workers compare what was contributed."""
        return hashlib.sha256(b"tercet body v1\0" + self.id).digest()[:16]

    def fail(self, error: TercetError) -> None:
        """End it, if it has not ended."""
        for future in (self.turn, self.verdict):
            fail(future, error)


class Asked:
    """The server's question for a round.

    ``settled`` is set once it is known that no sum is stored; ``closed`` is done once one is.
    """

    def __init__(self, request: AskSum, nonces: Nonces) -> None:
        self.request = request
        self.nonces = nonces
        self.settled = asyncio.Event()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class Round:
    """An attempt at a round.

    Attributes:
        key: digest of the agreement, and number.
        terms: the agreement.
        epoch: worker 0's name for this attempt; empty until it announces something.
        position: number of its next announcement.
        entries: contributions under way, by participant.
        verdicts: whether the contributions of those who are done are in the sum.
        chains: for each peer a running digest of the summands in common with it.
        folds: jobs under way.
        late: whether contributions come too late.
        closing: whether worker 0 has announced its end.
        asked: the server's question, if it has come.
    """

    key: Key
    terms: AggregationTerms
    peers: Iterable[int]
    epoch: bytes = b""
    position: int = 0
    entries: dict[str, Entry] = field(default_factory=dict)
    verdicts: dict[str, bool] = field(default_factory=dict)
    folds: set[asyncio.Task[None]] = field(default_factory=set)
    late: bool = False
    closing: bool = False
    asked: Asked | None = None
    born: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.chains = {peer: hashlib.sha256(b"tercet summands v1\0") for peer in self.peers}

    @property
    def over(self) -> bool:
        """Whether its deadline has passed."""
        return time.monotonic() > self.born + self.terms.deadline

    @property
    def abandoned(self) -> bool:
        """Whether its server has not asked for it long after its deadline."""
        return self.asked is None and time.monotonic() > self.born + 2 * self.terms.deadline + 60

    @property
    def complete(self) -> bool:
        """Whether all for whom the server waits have contributed, or were dropped."""
        return self.asked is not None and all(
            p in self.verdicts for p in self.asked.request.awaited
        )


def fail(future: asyncio.Future[Any], error: TercetError) -> None:
    """Set an exception, unless there is a result, that nobody has to look at."""
    if not future.done():
        future.set_exception(error)
        future.exception()
