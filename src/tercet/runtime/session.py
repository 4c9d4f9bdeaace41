"""A session: one run of one program on one batch, between the three workers.

Its keys come from the links' pair keys, a nonce of each worker and the program's digest, so that
no two sessions share a stream; what a worker draws alone has a fresh key. A batch may run in
slices, each with streams and messages of its own; the slices take turns, so that one computes
while another's messages are under way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tercet.crypto.prg import SECRET_BYTES, Streams, fresh
from tercet.crypto.schedule import session_key
from tercet.net.transport import SESSION_BYTES, Tag, Transport, peers_of
from tercet.protocol.base import Protocol
from tercet.protocol.replicated.protocol import Replicated
from tercet.protocol.rounds import NOTHING, Received, Round, Steps

#: Slices under way at a time: enough that one computes while others wait for messages.
IN_FLIGHT = 3


@dataclass(frozen=True, slots=True)
class Measure:
    """What a session took at this worker: seconds, payload bytes sent, rounds of a slice."""

    seconds: float
    bytes_sent: int
    rounds: int


class Session:
    """This worker's end of one session; used for one run, then closed.

    Args:
        transport: the links to the two other workers.
        nonces: 32 fresh bytes from each worker, in order of index; equal at all three.
        digest: hex digest of the program.

    Raises:
        PeerLost: if a worker is not connected.
        SecurityError: if the session was seen before.
    """

    def __init__(
        self, transport: Transport, nonces: tuple[bytes, bytes, bytes], digest: str
    ) -> None:
        program = bytes.fromhex(digest)
        content = b"tercet session v1\0" + b"".join(nonces) + program
        self.id = hashlib.sha256(content).digest()[:SESSION_BYTES]
        self._transport = transport
        self._next, self._prev = peers_of(transport.index)
        links = transport.open_session(self.id)
        self._following = Streams(session_key(links[self._next].key, nonces, program))
        self._preceding = Streams(session_key(links[self._prev].key, nonces, program))
        self._own = Streams(fresh(SECRET_BYTES))

    @property
    def index(self) -> int:
        """This worker, 0, 1 or 2."""
        return self._transport.index

    def protocol(self, piece: int) -> Protocol:
        """Return this worker's side of the protocol for one slice."""
        return Replicated(self.index, self._following, self._preceding, self._own, piece)

    def run(self, slices: Iterable[Steps[Any]], timeout: float) -> tuple[list[Any], Measure]:
        """Drive the operations, one a slice, to their ends; return their results in order.

        At most ``IN_FLIGHT`` slices are under way; an operation begins when its turn comes. All
        three workers take the same steps in the same order, hence none waits for another in vain.

        Args:
            slices: operations on ``protocol(0)``, ``protocol(1)``, ...
            timeout: seconds to wait for any single message.

        Raises:
            TransportError: if a message does not come.
        """
        started = time.perf_counter()
        results: dict[int, Any] = {}
        waiting: dict[int, tuple[Steps[Any], Tag, Round]] = {}
        coming = enumerate(slices)
        rounds = sent = 0

        def advance(piece: int, operation: Steps[Any], step: int, got: Received | None) -> None:
            nonlocal rounds, sent
            try:
                wanted = next(operation) if got is None else operation.send(got)
            except StopIteration as stop:
                results[piece] = stop.value
                waiting.pop(piece, None)
                rounds = max(rounds, step)
                return
            tag = Tag(self.id, step, piece)
            if wanted.to_next:
                sent += self._transport.send(self._next, tag, wanted.to_next)
            if wanted.to_prev:
                sent += self._transport.send(self._prev, tag, wanted.to_prev)
            waiting[piece] = (operation, tag, wanted)

        while True:
            while len(waiting) < IN_FLIGHT and (following := next(coming, None)) is not None:
                advance(*following, 0, None)
            if not waiting:
                break
            for piece, (operation, tag, wanted) in list(waiting.items()):
                got = self._collect(tag, wanted, timeout)
                advance(piece, operation, tag.step + 1, got)
        ordered = [results[piece] for piece in sorted(results)]
        return ordered, Measure(time.perf_counter() - started, sent, rounds)

    def _collect(self, tag: Tag, wanted: Round, timeout: float) -> Received:
        receive = self._transport.recv
        return Received(
            receive(self._next, tag, wanted.from_next, timeout) if wanted.from_next else NOTHING,
            receive(self._prev, tag, wanted.from_prev, timeout) if wanted.from_prev else NOTHING,
        )

    def close(self) -> None:
        """End the session: late messages are dropped."""
        self._transport.discard(self.id)

    def abort(self, reason: str) -> None:
        """End the session here and at the peers; ``reason`` must hold no secret."""
        self._transport.abort(reason, self.id)
