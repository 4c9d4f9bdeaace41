"""Those who are on a worker's lists and send it what they like, over TLS and as fast as it goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from typing import Self

import aiohttp

from tercet.crypto.identity import Identity
from tercet.net.tls import client_context
from tercet.service.config import WorkerEntry, split_address

#: Seconds within which a worker must answer or hang up.
PATIENCE = 30.0
_MOMENT = 0.05


class Caller:
    """One identity and its connections to one worker."""

    def __init__(self, identity: Identity, worker: WorkerEntry) -> None:
        self._context = client_context(identity, worker.identity)
        self._host, self._port = split_address(worker.address)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            f"https://{self._host}:{self._port}",
            connector=aiohttp.TCPConnector(ssl=self._context),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
            trust_env=False,
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()
        await asyncio.sleep(0.05)  # closed transports let go of their sockets

    async def post(self, path: str, body: bytes) -> int:
        """Post and return the status."""
        async with self._session.post(path, data=body) as response:
            await response.read()
            return response.status

    @contextlib.asynccontextmanager
    async def socket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """Open a WebSocket; on leaving, all that was sent has been read or refused."""
        socket = await self._session.ws_connect(
            path, max_msg_size=1 << 24, timeout=aiohttp.ClientWSTimeout(ws_close=PATIENCE)
        )
        connection = socket._response.connection
        assert connection is not None
        transport = connection.transport
        try:
            yield socket
        finally:
            await socket.close()
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()

    async def raw(self, data: bytes) -> None:
        """Send bytes instead of HTTP, look for an answer for a moment, and go."""
        reader, writer = await asyncio.open_connection(
            self._host, self._port, ssl=self._context, server_hostname=""
        )
        try:
            with contextlib.suppress(ConnectionError, TimeoutError):
                writer.write(data)
                async with asyncio.timeout(_MOMENT):
                    await reader.read(1 << 16)
        finally:
            writer.transport.abort()


async def send_all(socket: aiohttp.ClientWebSocketResponse, messages: Iterable[bytes]) -> int:
    """Send messages as long as the socket stands; return how many went."""
    sent = 0
    with contextlib.suppress(ConnectionError, aiohttp.ClientError):
        for message in messages:
            if socket.closed:
                break
            await socket.send_bytes(message)
            sent += 1
    return sent


async def ask(socket: aiohttp.ClientWebSocketResponse, message: bytes) -> bool:
    """Send one message and wait for an answer to it; False if the worker hangs up instead."""
    try:
        await socket.send_bytes(message)
        answer = await socket.receive(PATIENCE)
    except (ConnectionError, aiohttp.ClientError):
        return False
    return answer.type is aiohttp.WSMsgType.BINARY
