"""The control plane's acceptor: finishes TLS itself, so that every refusal leaves a log line."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable

from tercet.net.tls import explain

_log = logging.getLogger("tercet.net")

HANDSHAKE_TIMEOUT = 5.0
MAX_HANDSHAKES = 64


class Listener:
    """Accepts connections on a listening socket and hands them to ``factory`` after TLS.

    Args:
        listener: a listening socket, owned by this object from now on.
        context: returns the context of the moment, so that lists change without a restart.
        factory: makes the protocol of each connection, such as aiohttp's ``web.Server``.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: Callable[[], ssl.SSLContext],
        factory: Callable[[], asyncio.BaseProtocol],
    ) -> None:
        self._listener = listener
        self._context = context
        self._factory = factory
        self._slots = asyncio.Semaphore(MAX_HANDSHAKES)
        self._accepting: asyncio.Task[None] | None = None
        self._handshakes: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begin to accept."""
        self._listener.setblocking(False)
        self._accepting = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Stop accepting; connections that stand are the factory's to close."""
        tasks = [t for t in (self._accepting, *self._handshakes) if t is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                self._slots.release()
                _log.error("cannot accept: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.create_task(self._handshake(connection, f"{address[0]}:{address[1]}"))
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    async def _handshake(self, connection: socket.socket, where: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(
                self._factory,
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT,
            )
        except (OSError, TimeoutError) as error:
            _log.warning("refused %s: %s", where, explain(error))
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise
        finally:
            self._slots.release()
