"""The control plane's acceptor: TLS handshakes before a protocol such as HTTP takes over.

Not asyncio's own server, because a refused handshake would go unseen there and the list of
accepted identities could not change while it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from tercet.net import sockets
from tercet.net.log import LOG, refused
from tercet.net.sockets import bind, from_fd
from tercet.net.tls import explain

__all__ = ["Listener", "bind", "from_fd"]

MAX_HANDSHAKES: Final = 64
"""Handshakes that may run at a time; further connections wait in the kernel's queue."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds that a client has for its handshake."""

_SHUTDOWN_TIMEOUT: Final = 2.0
_PAUSE: Final = 0.5  # seconds without accepting after the system refused to

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Listener:
    """Accepts TLS connections and hands them to a protocol.

    Args:
        listener: a listening socket (``bind``, ``from_fd``); owned from now on.
        context: returns the TLS context for the next connection. Asked each time, so that the
            accepted identities may change without a restart.
        factory: makes the protocol of a connection; aiohttp's ``web.Server`` is one. The protocol
            hears of the connection after the handshake. Which identity is at the other end,
            ``tercet.net.tls.peer_identity`` says of the transport's ``ssl_object``; asked for
            each request, it notices an identity that was taken off the list meanwhile.
        handshake_timeout: seconds that a client has for its handshake.
        max_handshakes: how many handshakes may run at a time.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: Callable[[], ssl.SSLContext],
        factory: ProtocolFactory,
        *,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        max_handshakes: int = MAX_HANDSHAKES,
    ) -> None:
        self._listener = listener
        self._listener.setblocking(False)
        self._context = context
        self._factory = factory
        self._timeout = handshake_timeout
        self._slots = asyncio.Semaphore(max_handshakes)
        self._handshakes: set[asyncio.Task[None]] = set()
        self._accepting: asyncio.Task[None] | None = None
        self._address: tuple[str, int] = listener.getsockname()[:2]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port on which it listens."""
        return self._address

    async def start(self) -> None:
        """Begin to accept. Once."""
        self._accepting = asyncio.get_running_loop().create_task(self._accept())

    async def close(self) -> None:
        """Stop accepting and give up unfinished handshakes.

        Connections that stand belong to their protocols and go on.
        """
        tasks = [*self._handshakes]
        if self._accepting is not None:
            tasks.append(self._accepting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._slots.acquire()
            try:
                connection, where = await loop.sock_accept(self._listener)
            except OSError as error:
                self._slots.release()
                LOG.warning("cannot accept connections: %s", error.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            except BaseException:
                self._slots.release()
                raise
            task = loop.create_task(self._handshake(connection, sockets.address(*where[:2])))
            self._handshakes.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._handshakes.discard(task)
        self._slots.release()

    async def _handshake(self, connection: socket.socket, where: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                self._factory,
                connection,
                ssl=self._context(),
                ssl_handshake_timeout=self._timeout,
                ssl_shutdown_timeout=_SHUTDOWN_TIMEOUT,
            )
        except ConnectionAbortedError:  # how asyncio reports its own time-out
            refused(where, explain(TimeoutError()))
        except OSError as error:
            refused(where, explain(error))
        except asyncio.CancelledError:
            connection.close()
            raise
        except Exception:
            # A broken factory or context must not end the listener.
            connection.close()
            LOG.exception("could not serve %s", where, extra={"peer": where})
