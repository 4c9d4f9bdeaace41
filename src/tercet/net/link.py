"""The transport between three worker processes: mutually authenticated TLS 1.3.

Of each two workers the one with the lower index opens the link (``tercet.net.dial``); what runs
over it is ``tercet.net.channel``. A link that breaks is opened again until the transport is
closed; the new one has a new id, a new pair key and nothing of the old one's frames.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import PeerLost, TransportError
from tercet.net import sockets
from tercet.net.channel import Channel
from tercet.net.dial import Dialer, Established, PeerListener
from tercet.net.log import LOG
from tercet.net.mailbox import EndedSessions, lost_session
from tercet.net.text import printable
from tercet.net.transport import (
    DEFAULT_TIMEOUT,
    Buffer,
    PairLink,
    Tag,
    Transport,
    payload_size,
    peers_of,
)

#: Seconds for which a session outlives one of its links: a worker that has finished may go before
#: the other two have exchanged their last messages.
_GRACE: Final = 2.0


@dataclass
class _Peer:
    """What this worker knows of another one; outlives the links to it."""

    index: int
    host: str
    port: int
    identity: PublicIdentity
    channel: Channel | None = None
    ended: EndedSessions = field(default_factory=EndedSessions)

    def __str__(self) -> str:
        return f"worker {self.index} at {sockets.address(self.host, self.port)}"


class TlsTransport(Transport):
    """One worker's links to the two others.

    Args:
        index: this worker, 0, 1 or 2.
        identity: its key and certificate.
        peers: address of the data port (host, port) and identity of the two other workers.
        listen_socket: where workers with a lower index connect; owned by the transport from now
            on. Worker 0, which opens all its links, may do without.

    Raises:
        TransportError: workers 1 and 2 need a listening socket.
        IdentityError: TLS cannot use the identity.
    """

    def __init__(
        self,
        index: int,
        identity: Identity,
        peers: Mapping[int, tuple[str, int, PublicIdentity]],
        listen_socket: socket.socket | None,
    ) -> None:
        if set(peers) != set(peers_of(index)):
            raise ValueError(f"the peers of worker {index} are workers {peers_of(index)}")
        if listen_socket is None and index > 0:
            raise TransportError(
                f"worker {index} has no socket to listen on",
                "Workers with a lower index connect to it: give it an address for data",
            )
        self.index = index
        self._over: str | None = None
        self._changed = threading.Condition(threading.Lock())
        self._peers = {
            peer: _Peer(peer, host, port, who) for peer, (host, port, who) in peers.items()
        }
        self._dialers = {
            peer: Dialer(
                index=index,
                identity=identity,
                peer=peer,
                host=host,
                port=port,
                expected=who,
                established=self._establish,
            )
            for peer, (host, port, who) in peers.items()
            if peer > index
        }
        self._listener = None
        if listen_socket is not None:
            identities = {peer: who for peer, (_, _, who) in peers.items()}
            self._listener = PeerListener(
                index, identity, identities, listen_socket, self._establish
            )

    def start(self) -> None:
        """Begin to listen and to connect, in the background. Once."""
        if self._listener is not None:
            self._listener.start()
        for dialer in self._dialers.values():
            dialer.start()

    def wait_ready(self, timeout: float) -> None:
        """Wait until both links stand.

        Raises:
            TransportError: they do not within ``timeout`` seconds; says which, and why if known.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while missing := [p for p in self._peers.values() if not _alive(p)]:
                self._check_open()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise TransportError(
                        f"no link within {timeout:g} s: "
                        + "; ".join(self._describe(peer) for peer in missing),
                        "Start that worker, and check that its address and certificate are the "
                        "same in everybody's cluster.toml",
                    )
                self._changed.wait(remaining)

    def open_session(self, session: bytes) -> dict[int, PairLink]:
        """See ``Transport.open_session``."""
        # Under the lock: a link that is replaced meanwhile must find the session on its list, so
        # that it ends, instead of going on with the old link's key.
        with self._changed:
            channels = [self._channel(peer) for peer in self._peers]
            for channel in channels:
                channel.admit(session)
        return {channel.peer: channel.link for channel in channels}

    def send(self, peer: int, tag: Tag, buffers: Sequence[Buffer]) -> int:
        """See ``Transport.send``."""
        known = self._peers[peer]
        known.ended.check(tag.session)
        channel = known.channel
        if channel is None or not channel.alive:
            channel = self._channel(peer)
        size = payload_size(buffers)
        channel.send(tag, buffers, size)
        return size

    def recv(self, peer: int, tag: Tag, size: int, timeout: float = DEFAULT_TIMEOUT) -> memoryview:
        """See ``Transport.recv``."""
        # Also from a link that has failed: what had arrived before may be taken.
        channel = self._peers[peer].channel
        if channel is None:
            channel = self._channel(peer)
        return channel.recv(tag, size, timeout)

    def discard(self, session: bytes) -> None:
        """See ``Transport.discard``."""
        self._end(session, "the session has ended here")

    def abort(self, reason: str, session: bytes | None = None) -> None:
        """See ``Transport.abort``."""
        if session is None:
            self._close(reason, linger=False)
            return
        self._end(session, printable(reason))
        for peer in self._peers.values():
            try:
                self._channel(peer.index).send_abort(session, reason)
            except TransportError:
                continue  # a peer without a link notices that by itself

    def close(self) -> None:
        """See ``Transport.close``."""
        self._close("the transport is closed", linger=True)

    def connected(self) -> set[int]:
        """See ``Transport.connected``."""
        return {peer.index for peer in self._peers.values() if _alive(peer)}

    def link(self, peer: int) -> PairLink:
        """See ``Transport.link``."""
        return self._channel(peer).link

    def _channel(self, peer: int) -> Channel:
        self._check_open()
        known = self._peers[peer]
        channel = known.channel
        if channel is None or not channel.alive:
            raise PeerLost(
                self._describe(known), "Start that worker; the link comes back by itself"
            )
        return channel

    def _check_open(self) -> None:
        if self._over is not None:
            raise TransportError(self._over, "Start the worker again")

    def _describe(self, peer: _Peer) -> str:
        dialer = self._dialers.get(peer.index)
        if dialer is None:
            return f"{peer} has not connected"
        return f"{peer} is not reachable" + (f" ({dialer.problem})" if dialer.problem else "")

    def _establish(self, made: Established) -> None:
        """Put a new link in the place of the old one."""
        peer = self._peers[made.peer]
        channel = Channel(
            peer=made.peer,
            link=made.link,
            incoming=made.incoming,
            outgoing=made.outgoing,
            ended=peer.ended,
            on_abort=lambda session, reason: self._end(
                session, f"worker {made.peer} aborted the session: {reason}"
            ),
            on_lost=self._lost,
        )
        with self._changed:
            old = peer.channel
            if self._over is None:
                if old is not None:
                    for session in old.sessions():
                        peer.ended.end(session, *lost_session(made.peer))
                peer.channel = channel
            self._changed.notify_all()
        if self._over is not None:
            channel.fail(TransportError, self._over)
            return
        if old is not None:
            old.fail(PeerLost, f"worker {made.peer} has opened a new link")
        if not channel.alive:
            self._lost(channel)  # it failed before it was in place
        LOG.info("link to %s (%s) stands", peer, peer.identity)

    def _lost(self, channel: Channel) -> None:
        """Note that a link has failed; called by the link itself."""
        with self._changed:
            self._changed.notify_all()
            current = self._peers[channel.peer].channel is channel
            over = self._over is not None
        if not over and (sessions := channel.sessions()):
            timer = threading.Timer(_GRACE, self._end_lost, (channel.peer, sessions))
            timer.daemon = True
            timer.start()
        if current and not over:
            LOG.warning("lost the link to %s", self._peers[channel.peer])
            dialer = self._dialers.get(channel.peer)
            if dialer is not None:
                dialer.redial()

    def _end_lost(self, lost: int, sessions: set[bytes]) -> None:
        """End sessions that one of the three has left: the other one may never have begun them."""
        for peer in self._peers.values():
            for session in sessions:
                peer.ended.end(session, *lost_session(lost))
                if peer.channel is not None:
                    peer.channel.drop(session)

    def _end(self, session: bytes, reason: str) -> None:
        """End a session here; ``reason`` is printable."""
        for peer in self._peers.values():
            peer.ended.end(session, TransportError, reason)
            channel = peer.channel
            if channel is not None:
                channel.drop(session)

    def _close(self, reason: str, linger: bool) -> None:
        with self._changed:
            if self._over is not None:
                return
            self._over = reason
            channels = [peer.channel for peer in self._peers.values() if peer.channel is not None]
            self._changed.notify_all()
        if not linger:
            for channel in channels:
                channel.fail(TransportError, reason, "Start the worker again")
        for channel in channels:
            channel.close()
        for dialer in self._dialers.values():
            dialer.close()
        if self._listener is not None:
            self._listener.close()


def _alive(peer: _Peer) -> bool:
    return peer.channel is not None and peer.channel.alive
