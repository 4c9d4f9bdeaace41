"""What the three workers tell each other of a round before anything of it is opened."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import IntegrityError, TercetError, WorkerError
from tercet.service.messages import PeerMessage
from tercet.service.round_state import fail
from tercet.service.round_store import Record, Stored
from tercet.service.sum_messages import Holding, Signed

#: Seconds to wait for what a peer tells.
TIMEOUT = 30.0
PURPOSE = "aggregation record"
_MAX_WAITING = 1000

_Place = tuple[bytes, int, int]


class Records:
    """This worker's exchange of records.

    Args:
        index: this worker.
        identity: its key.
        workers: the three workers' identities, in order.
        send: passes a message to a peer; raises TransportError if it is not connected.
    """

    def __init__(
        self,
        index: int,
        identity: Identity,
        workers: Sequence[PublicIdentity],
        send: Callable[[int, PeerMessage], None],
    ) -> None:
        self._index = index
        self._identity = identity
        self._workers = workers
        self._peers = [p for p in range(len(workers)) if p != index]
        self._send = send
        self._told: dict[_Place, asyncio.Future[Signed | Holding]] = {}

    async def sign(self, record: Record, summands: Mapping[int, bytes]) -> dict[int, bytes]:
        """Exchange signatures of a record and return all three.

        Args:
            record: what this worker would open.
            summands: for each peer the digest of all summands in common with it.

        Raises:
            IntegrityError: if a peer's record or summands are others.
            TransportError, WorkerError: if a peer does not sign.
        """
        digest = record.digest()
        signatures = {}
        for peer in self._peers:
            signature = self._identity.sign(PURPOSE, _statement(digest, summands[peer]))
            self._send(peer, Signed(record.epoch, digest, summands[peer], signature))
            signatures[self._index] = signature
        for peer in self._peers:
            told = await self._await((record.epoch, 0, peer))
            assert isinstance(told, Signed)
            if told.record != digest or told.summands != summands[peer]:
                raise IntegrityError(
                    f"{self._workers[peer].name} and {self._identity.name} hold different "
                    f"contributions to round {record.round}",
                    "Nothing was opened: contribute again",
                )
            self._workers[peer].verify(PURPOSE, _statement(digest, summands[peer]), told.signature)
            signatures[peer] = told.signature
        return signatures

    async def stand(self, request: bytes, stage: int, stored: Stored | None) -> bool:
        """Tell the peers what is stored here; return whether all three have stored the same sum.

        If not, none of them has opened it, as each first hears this from both others.

        Raises:
            IntegrityError: if a sum that was opened is not what all three hold.
            TransportError, WorkerError: if a peer does not tell.
        """
        record = b"" if stored is None else stored.record.digest()
        opened = stored is not None and stored.opened
        for peer in self._peers:
            summand = b"" if stored is None else _common(self._index, peer, stored)
            self._send(peer, Holding(request, stage, record, summand, opened))
        same = bool(record)
        for peer in self._peers:
            told = await self._await((request, 1 + stage, peer))
            assert isinstance(told, Holding)
            opened |= told.opened
            same &= told.record == record
            if stored is not None and told.record == record:
                same &= told.summand == _common(self._index, peer, stored)
        if opened and not same:
            raise IntegrityError(
                "a worker does not hold any more what was opened of this round",
                "It cannot be opened again: go on with the next one",
            )
        return same

    def received(self, peer: int, message: Signed | Holding) -> None:
        """Take what a peer tells; it may come before it is waited for."""
        if isinstance(message, Signed):
            place = message.epoch, 0, peer
        else:
            place = message.id, 1 + message.stage, peer
        future = self._future(place)
        if not future.done():
            future.set_result(message)

    def fail(self, error: TercetError) -> None:
        """End all waiting: a worker was lost."""
        for future in self._told.values():
            fail(future, error)
        self._told.clear()

    async def _await(self, place: _Place) -> Signed | Holding:
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._future(place)
        except TimeoutError:
            raise WorkerError(
                f"{self._workers[place[2]].name} did not tell what it holds of the round",
                "AskSum again",
            ) from None
        finally:
            self._told.pop(place, None)

    def _future(self, place: _Place) -> asyncio.Future[Signed | Holding]:
        if place not in self._told:
            if len(self._told) >= _MAX_WAITING:  # told by a peer, and never waited for
                self._told.pop(next(iter(self._told)))
            self._told[place] = asyncio.get_running_loop().create_future()
        return self._told[place]


def _statement(record: bytes, summands: bytes) -> bytes:
    return record + summands


def _common(index: int, peer: int, stored: Stored) -> bytes:
    """Return the digest of the summand that two workers both hold."""
    return stored.digests.second if peer == (index + 1) % 3 else stored.digests.first
