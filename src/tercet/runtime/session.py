"""A session: one run of one program on one batch, between the three workers.

Its keys come from the links' pair keys, a nonce of each worker and the program's digest, so that
no two sessions share a stream. A batch may run in slices, each with streams and messages of its
own; the slices take turns, so that one computes while another's messages are under way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tercet.crypto.prg import Streams
from tercet.crypto.schedule import local_key, session_key
from tercet.net.transport import SESSION_BYTES, Tag, Transport, peers_of
from tercet.protocol.base import Protocol
from tercet.protocol.replicated.protocol import Replicated
from tercet.protocol.rounds import Received, Round, Steps

_NOTHING = memoryview(b"")


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
        self.id = hashlib.sha256(b"tercet session v1\0" + b"".join(nonces) + program).digest()[
            :SESSION_BYTES
        ]
        self._transport = transport
        self._next, self._prev = peers_of(transport.index)
        links = transport.open_session(self.id)
        self._following = Streams(session_key(links[self._next].key, nonces, program))
        self._preceding = Streams(session_key(links[self._prev].key, nonces, program))
        self._own = Streams(local_key(nonces, program))

    def protocol(self, piece: int) -> Protocol:
        """Return this worker's side of the protocol for one slice."""
        return Replicated(self._transport.index, self._following, self._preceding, self._own, piece)

    def run(self, slices: Sequence[Steps[Any]], timeout: float) -> tuple[list[Any], Measure]:
        """Drive the operations, one a slice, to their ends; return their results in order.

        Args:
            slices: operations on ``protocol(0)``, ``protocol(1)``, ...
            timeout: seconds to wait for any single message.

        Raises:
            TransportError: if a message does not come.
        """
        started, before = time.perf_counter(), self._transport.counters
        results: list[Any] = [None] * len(slices)
        waiting: dict[int, tuple[int, Round]] = {}

        def advance(piece: int, step: int, received: Received | None) -> None:
            operation = slices[piece]
            try:
                wanted = next(operation) if received is None else operation.send(received)
            except StopIteration as stop:
                results[piece] = stop.value
                waiting.pop(piece, None)
                return
            tag = Tag(self.id, step, piece)
            if wanted.to_next:
                self._transport.send(self._next, tag, wanted.to_next)
            if wanted.to_prev:
                self._transport.send(self._prev, tag, wanted.to_prev)
            waiting[piece] = (step, wanted)

        for piece in range(len(slices)):
            advance(piece, 0, None)
        rounds = 0
        while waiting:
            rounds += 1
            for piece, (step, wanted) in list(waiting.items()):
                advance(piece, step + 1, self._collect(Tag(self.id, step, piece), wanted, timeout))
        sent = self._transport.counters - before
        return results, Measure(time.perf_counter() - started, sent.bytes, rounds)

    def _collect(self, tag: Tag, wanted: Round, timeout: float) -> Received:
        receive = self._transport.recv
        return Received(
            receive(self._next, tag, wanted.from_next, timeout) if wanted.from_next else _NOTHING,
            receive(self._prev, tag, wanted.from_prev, timeout) if wanted.from_prev else _NOTHING,
        )

    def close(self) -> None:
        """End the session: late messages are dropped."""
        self._transport.discard(self.id)

    def abort(self, reason: str) -> None:
        """End the session here and at the peers; ``reason`` must hold no secret."""
        self._transport.abort(reason, self.id)
