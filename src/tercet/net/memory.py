"""Three workers in one process: the transport of tests.

Same meaning and same errors as the TLS transport, without sockets. Whoever runs it sees everything
that the three know, so that nothing but tests and counting may use it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from tercet.crypto.prg import fresh
from tercet.crypto.schedule import LINK_ID_BYTES, RANDOM_BYTES, SessionGuard, pair_key
from tercet.errors import PeerLost, TransportError
from tercet.net.mailbox import EndedSessions, Ledger, Mailbox
from tercet.net.text import printable
from tercet.net.transport import (
    DEFAULT_TIMEOUT,
    WORKERS,
    Buffer,
    PairLink,
    Tag,
    Transport,
    allocate,
    as_bytes,
    check_size,
    check_tag,
    payload_size,
    peers_of,
    sent_twice,
    timed_out,
)


class MemoryTransport(Transport):
    """One of three workers that share a process. Made by ``trio``."""

    def __init__(self, index: int, lock: threading.Lock, links: dict[int, PairLink]) -> None:
        self.index = index
        self._links = links
        self._lock = lock  # one for all three: simple, and fast enough for tests
        self._arrived = threading.Condition(lock)
        self._ended = {peer: EndedSessions() for peer in peers_of(index)}
        self._inbox = {peer: Mailbox(peer, self._ended[peer]) for peer in peers_of(index)}
        self._sent = {peer: Ledger() for peer in peers_of(index)}
        self._guards = {peer: SessionGuard() for peer in peers_of(index)}
        self._peers: dict[int, MemoryTransport] = {}
        self._over: str | None = None

    @classmethod
    def trio(cls) -> tuple[MemoryTransport, MemoryTransport, MemoryTransport]:
        """Return workers 0, 1 and 2, connected to each other."""
        lock = threading.Lock()
        links: dict[frozenset[int], PairLink] = {}
        for low in range(WORKERS):
            for high in range(low + 1, WORKERS):
                link_id = fresh(LINK_ID_BYTES)
                names = (f"{low:064x}", f"{high:064x}")  # stand-ins for public keys
                key = pair_key(fresh(RANDOM_BYTES), fresh(RANDOM_BYTES), link_id, *names)
                links[frozenset((low, high))] = PairLink(link_id, key)
        a, b, c = (
            cls(i, lock, {peer: links[frozenset((i, peer))] for peer in peers_of(i)})
            for i in range(WORKERS)
        )
        for worker in (a, b, c):
            worker._peers = {other.index: other for other in (a, b, c) if other is not worker}
        return a, b, c

    def open_session(self, session: bytes) -> dict[int, PairLink]:
        """See ``Transport.open_session``."""
        with self._lock:
            for peer in self._links:
                self._check(peer)
            for guard in self._guards.values():
                guard.admit(session)
            return dict(self._links)

    def send(self, peer: int, tag: Tag, buffers: Sequence[Buffer]) -> int:
        """See ``Transport.send``."""
        check_tag(tag)
        size = payload_size(buffers)
        payload = allocate(size)
        start = 0
        for view in map(as_bytes, buffers):
            payload[start : start + len(view)] = view
            start += len(view)
        with self._lock:
            self._ended[peer].check(tag.session)
            other = self._check(peer)
            if not self._sent[peer].use(tag):
                raise sent_twice(peer, tag)
            other._inbox[self.index].put(tag, payload)
            other._arrived.notify_all()
        return size

    def recv(self, peer: int, tag: Tag, size: int, timeout: float = DEFAULT_TIMEOUT) -> memoryview:
        """See ``Transport.recv``."""
        deadline = time.monotonic() + timeout
        with self._lock:
            while True:
                payload = self._inbox[peer].take(tag)
                if payload is not None:
                    return check_size(peer, tag, size, payload)
                self._ended[peer].check(tag.session)
                self._check(peer)
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise timed_out(peer, tag, timeout)
                self._arrived.wait(remaining)

    def discard(self, session: bytes) -> None:
        """See ``Transport.discard``."""
        with self._lock:
            self._end(session, "the session has ended here")

    def abort(self, reason: str, session: bytes | None = None) -> None:
        """See ``Transport.abort``."""
        if session is None:
            self._leave(reason)
            return
        with self._lock:
            told = f"worker {self.index} aborted the session: {printable(reason)}"
            self._end(session, reason)
            for other in self._peers.values():
                if other._over is None:
                    other._end(session, told)

    def close(self) -> None:
        """See ``Transport.close``."""
        self._leave("the transport is closed")

    def connected(self) -> set[int]:
        """See ``Transport.connected``."""
        with self._lock:
            if self._over is not None:
                return set()
            return {peer for peer, other in self._peers.items() if other._over is None}

    def link(self, peer: int) -> PairLink:
        """See ``Transport.link``."""
        with self._lock:
            self._check(peer)
            return self._links[peer]

    def _check(self, peer: int) -> MemoryTransport:
        if self._over is not None:
            raise TransportError(self._over, "Start the worker again")
        other = self._peers[peer]
        if other._over is not None:
            raise PeerLost(f"worker {peer} is not connected", "Start it again and repeat the run")
        return other

    def _end(self, session: bytes, reason: str) -> None:
        for peer in self._inbox:
            self._ended[peer].end(session, TransportError, reason)
            self._inbox[peer].drop(session)
            self._sent[peer].forget(session)
        self._arrived.notify_all()

    def _leave(self, reason: str) -> None:
        with self._lock:
            if self._over is not None:
                return
            self._over = reason
            self._arrived.notify_all()
            for other in self._peers.values():
                other._arrived.notify_all()
