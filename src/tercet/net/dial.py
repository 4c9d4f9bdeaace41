"""Both ends of setting up links: ``Dialer`` opens them, ``PeerListener`` accepts them."""

from __future__ import annotations

import hmac
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.crypto.prg import fresh
from tercet.crypto.schedule import LINK_ID_BYTES, RANDOM_BYTES, pair_key
from tercet.errors import SecurityError, TercetError, TransportError
from tercet.net import hello, sockets
from tercet.net.hello import Hello
from tercet.net.log import LOG, refused
from tercet.net.stream import TlsStream
from tercet.net.text import printable
from tercet.net.tls import client_context, explain, peer_identity, server_context
from tercet.net.transport import PairLink

CONNECT_TIMEOUT: Final = 3.0
"""Seconds for reaching a peer, and again for each handshake."""

_FIRST_WAIT: Final = 0.1  # seconds between attempts, doubled up to the longest
_LONGEST_WAIT: Final = 1.0
_MAX_HANDSHAKES: Final = 16
_TICK: Final = 0.25
_HALF_OPEN: Final = 10.0  # seconds that a first connection waits for the second


@dataclass(frozen=True)
class Established:
    """A link just made, and its connections as seen from this worker."""

    peer: int
    link: PairLink
    incoming: TlsStream
    outgoing: TlsStream


class Dialer:
    """Keeps a link to one worker with a higher index, however often it breaks.

    Args:
        index: this worker.
        identity: this worker's key and certificate.
        peer: the other worker.
        host: where it listens for links.
        port: the port there.
        expected: who it is.
        established: is given each new link, and owns its connections.
    """

    def __init__(
        self,
        *,
        index: int,
        identity: Identity,
        peer: int,
        host: str,
        port: int,
        expected: PublicIdentity,
        established: Callable[[Established], None],
    ) -> None:
        self.problem: str | None = None
        self._index = index
        self._identity = identity
        self._peer = peer
        self._host = host
        self._port = port
        self._expected = expected
        self._context = client_context(identity, expected)
        self._established = established
        self._needed = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"tercet-dial-{peer}", daemon=True)

    def start(self) -> None:
        """Begin to connect."""
        self._needed.set()
        self._thread.start()

    def redial(self) -> None:
        """Connect again; the link was lost."""
        self._needed.set()

    def close(self) -> None:
        """Stop, and wait for the thread."""
        self._closed.set()
        self._needed.set()
        if self._thread.is_alive():
            self._thread.join(3 * CONNECT_TIMEOUT)

    def _run(self) -> None:
        wait = _FIRST_WAIT
        while True:
            self._needed.wait()
            if self._closed.is_set():
                return
            self._needed.clear()
            try:
                made = self._connect()
            except (TercetError, OSError) as error:
                self._report(error)
                self._needed.set()
                self._closed.wait(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
                continue
            self.problem = None
            self._established(made)
            # Not at once: a peer that takes every link and drops it would keep both busy.
            self._closed.wait(_FIRST_WAIT)
            wait = _FIRST_WAIT

    def _report(self, error: TercetError | OSError) -> None:
        """Log a problem when it is a new one, not at every attempt."""
        problem = printable(error.message if isinstance(error, TercetError) else explain(error))
        if problem != self.problem and not self._closed.is_set():
            where = sockets.address(self._host, self._port)
            LOG.warning(
                "cannot link to worker %d at %s: %s; trying on",
                self._peer,
                where,
                problem,
                extra={"peer": where, "reason": problem},
            )
        self.problem = problem

    def _connect(self) -> Established:
        link_id, random = fresh(LINK_ID_BYTES), fresh(RANDOM_BYTES)
        forward = self._open()
        try:
            answer = hello.ask(
                forward,
                Hello(hello.REQUEST, hello.FORWARD, self._index, self._peer, link_id, random),
            )
            backward = self._open()
            try:
                hello.ask(
                    backward,
                    Hello(hello.REQUEST, hello.BACKWARD, self._index, self._peer, link_id),
                )
            except BaseException:
                backward.close()
                raise
        except BaseException:
            forward.close()
            raise
        key = pair_key(
            random,
            answer.random,
            link_id,
            self._identity.fingerprint,
            self._expected.fingerprint,
        )
        return Established(self._peer, PairLink(link_id, key), backward, forward)

    def _open(self) -> TlsStream:
        plain = sockets.connect(self._host, self._port, CONNECT_TIMEOUT)
        try:
            connection = TlsStream.handshake(plain, self._context)
            peer_identity(connection.tls, [self._expected])
        except BaseException:
            plain.close()
            raise
        return connection


@dataclass
class _HalfOpen:
    """A link of which the first connection stands."""

    link: PairLink
    incoming: TlsStream
    since: float


class PeerListener:
    """Accepts the links that workers with a lower index open.

    Args:
        index: this worker.
        identity: this worker's key and certificate.
        peers: the two other workers.
        listener: a listening socket; owned from now on.
        established: is given each new link, and owns its connections.
    """

    def __init__(
        self,
        index: int,
        identity: Identity,
        peers: Mapping[int, PublicIdentity],
        listener: socket.socket,
        established: Callable[[Established], None],
    ) -> None:
        self._index = index
        self._identity = identity
        self._peers = dict(peers)
        self._context = server_context(identity, list(peers.values()))
        self._listener = listener
        self._established = established
        self._half_open: dict[int, _HalfOpen] = {}
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(_MAX_HANDSHAKES)
        self._closed = threading.Event()
        # Not shutdown() of the listener, which another process may hold as well.
        self._woken, self._wake = socket.socketpair()
        self._handshakes: set[threading.Thread] = set()
        self._thread = threading.Thread(target=self._run, name="tercet-accept", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and wait for the threads."""
        self._closed.set()
        self._wake.close()
        if self._thread.is_alive():
            self._thread.join()
        self._woken.close()
        for thread in list(self._handshakes):
            thread.join(3 * CONNECT_TIMEOUT)
        self._listener.close()
        self._sweep(older_than=0.0)

    def _run(self) -> None:
        self._listener.setblocking(False)
        ready = select.poll()
        ready.register(self._listener, select.POLLIN)
        ready.register(self._woken, select.POLLIN)
        while not self._closed.is_set():
            self._sweep(_HALF_OPEN)
            if not ready.poll(1000 * _HALF_OPEN) or self._closed.is_set():
                continue
            if not self._slots.acquire(timeout=_TICK):
                continue
            try:
                connection, where = self._listener.accept()
            except OSError as error:
                self._slots.release()
                if not isinstance(error, BlockingIOError):
                    LOG.warning("cannot accept connections: %s", error.strerror)
                    self._closed.wait(_LONGEST_WAIT)
                continue
            thread = threading.Thread(
                target=self._handshake,
                args=(connection, sockets.address(*where[:2])),
                name="tercet-handshake",
                daemon=True,
            )
            self._handshakes.add(thread)
            thread.start()

    def _handshake(self, plain: socket.socket, where: str) -> None:
        kept = False
        try:
            plain.settimeout(CONNECT_TIMEOUT)
            sockets.tune(plain)
            connection = TlsStream.handshake(plain, self._context, server_side=True)
            who = peer_identity(connection.tls, list(self._peers.values()))
            kept = self._greet(connection, who)
        except TercetError as error:
            refused(where, error.message)
        except OSError as error:
            if not self._closed.is_set():
                refused(where, explain(error))
        finally:
            if not kept:
                plain.close()
            self._slots.release()
            self._handshakes.discard(threading.current_thread())

    def _greet(self, connection: TlsStream, who: PublicIdentity) -> bool:
        """Answer the hello; True if the connection is part of a link now."""
        try:
            request = hello.read(connection)
        except hello.WrongVersion:
            hello.refuse_version(connection)
            raise
        peer = request.sender
        claimed = self._peers.get(peer)
        if claimed is None or claimed != who or request.receiver != self._index:
            hello.write(connection, request.reply(hello.WRONG_WORKER))
            raise SecurityError(
                f"{who} says that it is worker {peer} and that this is worker {request.receiver}",
                "Give all three workers the same cluster.toml",
            )
        if peer > self._index:
            hello.write(connection, request.reply(hello.WRONG_WORKER))
            raise TransportError(
                f"worker {peer} opens a link although its index is the higher one",
                "Give all three workers the same cluster.toml",
            )
        if request.direction == hello.FORWARD:
            self._greet_first(connection, request)
        else:
            self._greet_second(connection, request)
        return True

    def _greet_first(self, connection: TlsStream, request: Hello) -> None:
        random = fresh(RANDOM_BYTES)
        key = pair_key(
            request.random,
            random,
            request.link_id,
            self._peers[request.sender].fingerprint,
            self._identity.fingerprint,
        )
        half = _HalfOpen(PairLink(request.link_id, key), connection, time.monotonic())
        # Before the reply, for the second connection may come as soon as that is out.
        with self._lock:
            old = self._half_open.get(request.sender)
            self._half_open[request.sender] = half
        if old is not None:
            old.incoming.close()
        try:
            hello.write(connection, request.reply(hello.ACCEPTED, random))
        except BaseException:
            with self._lock:
                if self._half_open.get(request.sender) is half:
                    del self._half_open[request.sender]
            raise

    def _greet_second(self, connection: TlsStream, request: Hello) -> None:
        with self._lock:
            half = self._half_open.get(request.sender)
            known = half is not None and hmac.compare_digest(half.link.id, request.link_id)
            if known:
                del self._half_open[request.sender]
        if half is None or not known:
            hello.write(connection, request.reply(hello.WRONG_LINK))
            raise TransportError(
                f"worker {request.sender} continues a link that it did not begin",
                "It will try again",
            )
        try:
            hello.write(connection, request.reply(hello.ACCEPTED))
        except BaseException:
            half.incoming.close()
            raise
        self._established(Established(request.sender, half.link, half.incoming, connection))

    def _sweep(self, older_than: float) -> None:
        """Close first connections that have waited too long for the second."""
        now = time.monotonic()
        with self._lock:
            old = [p for p, half in self._half_open.items() if now - half.since >= older_than]
            closing = [self._half_open.pop(peer).incoming for peer in old]
        for connection in closing:
            connection.close()
