"""The control links between workers: one WebSocket a pair, inside mutual TLS.

The lower index dials and keeps dialling. Messages on one link stay in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp
import msgspec
from aiohttp import web

from tercet.crypto.identity import Identity
from tercet.errors import SecurityError, TercetError, TransportError
from tercet.net.tls import client_context, explain, peer_identity
from tercet.program.program import MALFORMED
from tercet.service.calls import upgrade
from tercet.service.config import WorkerEntry, split_address
from tercet.service.messages import PeerMessage, decode_peer_messages, encode

_log = logging.getLogger("tercet.worker")

PATH = "/v1/peer"
# A dead process is noticed at once by its closed connection; this is for a dead machine. Long
# enough that hashing a large model does not look like death.
_HEARTBEAT = 20.0
_MAX_MESSAGE = 1 << 20
_PAUSE = 0.2
#: Bytes from which nothing more is gathered into one message. An offer has about 150, a batch's ids
#: 20 a request, the largest inventory two thirds of ``_MAX_MESSAGE``, beyond which a peer hangs up.
_MAX_GATHERED = 64 << 10

Socket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


class PeerLinks:
    """This worker's control links.

    Args:
        index: this worker.
        identity: its key.
        entries: all three workers.
        received: called with each message, in order of arrival from one peer.
        changed: called when a link comes (True) or goes (False).
    """

    def __init__(
        self,
        index: int,
        identity: Identity,
        entries: list[WorkerEntry],
        received: Callable[[int, PeerMessage], None],
        changed: Callable[[int, bool], None],
    ) -> None:
        self._index = index
        self._identity = identity
        self._entries = entries
        self._received = received
        self._changed = changed
        self._sockets: dict[int, Socket] = {}
        self._outbox: dict[int, asyncio.Queue[PeerMessage]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def connected(self) -> set[int]:
        """The peers with a standing link."""
        return set(self._sockets)

    def start(self) -> None:
        """Begin to dial the workers of higher index."""
        for peer in range(self._index + 1, len(self._entries)):
            self._tasks.append(asyncio.create_task(self._dial(peer)))

    async def stop(self) -> None:
        """Close all links."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for socket in list(self._sockets.values()):
            await socket.close()

    def send(self, peer: int, message: PeerMessage) -> None:
        """Queue a message.

        Raises:
            TransportError: if the peer is not connected.
        """
        if peer not in self._sockets:
            entry = self._entries[peer]
            raise TransportError(
                f"worker {entry.name} ({entry.address}) is not connected",
                "Try again when it is back (`tercet status`)",
            )
        self._outbox[peer].put_nowait(message)

    async def accept(self, peer: int, request: web.Request) -> web.WebSocketResponse:
        """Serve the link that a worker of lower index has dialled."""
        socket = web.WebSocketResponse(
            heartbeat=_HEARTBEAT, max_msg_size=_MAX_MESSAGE, compress=False
        )
        await upgrade(socket, request)
        await self._run(peer, socket)
        return socket

    async def _dial(self, peer: int) -> None:
        entry = self._entries[peer]
        host, port = split_address(entry.address)
        host = f"[{host}]" if ":" in host else host
        context = client_context(self._identity, entry.identity)
        told = ""
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context), trust_env=False
        ) as session:
            while True:
                try:
                    socket = await session.ws_connect(
                        f"https://{host}:{port}{PATH}",
                        heartbeat=_HEARTBEAT,
                        max_msg_size=_MAX_MESSAGE,
                    )
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
                    if (reason := explain(cause)) != told:
                        _log.warning("no link to %s (%s): %s", entry.name, entry.address, reason)
                        told = reason
                else:
                    told = ""
                    # Nothing is said before it is sure who listens: a redirect changes nothing.
                    try:
                        peer_identity(socket.get_extra_info("ssl_object"), [entry.identity])
                    except SecurityError as error:
                        _log.error("no link to %s: %s", entry.name, error.message)
                        await socket.close()
                    else:
                        await self._run(peer, socket)
                await asyncio.sleep(_PAUSE)

    async def _run(self, peer: int, socket: Socket) -> None:
        old = self._sockets.get(peer)
        if old is not None:
            self._changed(peer, False)  # what came over the old link and is not done is void
        self._sockets[peer] = socket
        self._outbox[peer] = asyncio.Queue()
        writer = asyncio.create_task(self._write(socket, self._outbox[peer]))
        _log.info("control link to %s stands", self._entries[peer].name)
        self._changed(peer, True)
        try:
            if old is not None:
                await old.close()
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                try:
                    decoded = decode_peer_messages(message.data)
                except MALFORMED as error:
                    _log.error("malformed message of %s: %s", self._entries[peer].name, error)
                    break
                for one in decoded:
                    self._take(peer, one)
        finally:
            writer.cancel()
            if self._sockets.get(peer) is socket:
                del self._sockets[peer]
                _log.warning("control link to %s is gone", self._entries[peer].name)
                self._changed(peer, False)
            await socket.close()

    def _take(self, peer: int, message: PeerMessage) -> None:
        try:
            self._received(peer, message)
        except TercetError as error:
            _log.warning("message of %s: %s", self._entries[peer].name, error.message)
        except Exception:  # whatever it is, the link must stand
            _log.exception("message of %s", self._entries[peer].name)

    @staticmethod
    async def _write(socket: Socket, outbox: asyncio.Queue[PeerMessage]) -> None:
        """Send what is queued; what has gathered meanwhile goes as one message."""
        try:
            while True:
                messages = [msgspec.Raw(encode(await outbox.get()))]
                size = len(messages[0])
                await asyncio.sleep(0)  # what the same event makes others say goes along
                while not outbox.empty() and size < _MAX_GATHERED:
                    messages.append(msgspec.Raw(encode(outbox.get_nowait())))
                    size += len(messages[-1])
                await socket.send_bytes(encode(messages))
        except (ConnectionError, aiohttp.ClientError, RuntimeError):
            await socket.close()
