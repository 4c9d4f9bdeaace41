"""A caller's connections to the three workers: mutual TLS, each pinned to one certificate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, TypeAlias, TypeVar

import aiohttp
import msgspec

from tercet.crypto.identity import Identity
from tercet.errors import TercetError, TransportError, WorkerError
from tercet.net.tls import client_context, explain
from tercet.program.program import MALFORMED
from tercet.service.calls import AbortableSocket, CallSocket
from tercet.service.config import ClusterConfig, WorkerEntry, split_address
from tercet.service.failures import to_error
from tercet.service.messages import Failure, decode, encode
from tercet.service.portal import Portal

T = TypeVar("T")

CONNECT_TIMEOUT = 5.0
#: Seconds that a connection is kept for the next request; a worker keeps it longer.
_IDLE = 60.0
_LARGE = 1 << 20
_PIECE = 1 << 18

#: An encoded body, in parts.
Body: TypeAlias = Sequence[bytes | memoryview]


class Connection:
    """Connections of one identity to one cluster. Close it, or use it in a ``with`` statement."""

    def __init__(self, cluster: ClusterConfig, identity: Identity) -> None:
        self.cluster = cluster
        self.identity = identity
        self._portal = Portal()
        self._sessions: list[aiohttp.ClientSession] = []
        self._calls: list[CallSocket] = []
        self._owner: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        if self._sessions and not self._portal.forked:
            self._portal.call(self._close())
        self._sessions = []
        self._portal.close()

    def ask_all(
        self, path: str, bodies: Sequence[object], kind: type[T], timeout: float
    ) -> list[T]:
        """Post one body to each worker at the same time and return their answers in order.

        Args:
            path: route on the workers.
            bodies: a structure for each worker.
            kind: type of the answers.
            timeout: seconds in all.

        Raises:
            TransportError: if a worker cannot be reached; names its address.
            TercetError: what a worker answered, the most telling one if several did.
        """
        return self.send_all(path, [[encode(body)] for body in bodies], kind, timeout)

    def send_all(self, path: str, bodies: Sequence[Body], kind: type[T], timeout: float) -> list[T]:
        """Do the same as ``ask_all`` with bodies that are encoded already, in one or more parts."""
        return _all(self._portal.call(self._ask_all(path, bodies, kind, timeout)))

    def ask_each(
        self, path: str, bodies: Sequence[object], kind: type[T], timeout: float
    ) -> list[T | BaseException]:
        """Do the same as ``ask_all`` but return errors in the places of their workers."""
        encoded = [[encode(body)] for body in bodies]
        return self._portal.call(self._ask_all(path, encoded, kind, timeout))

    def call_all(self, bodies: Sequence[object], kind: type[T], timeout: float) -> list[T]:
        """Call each worker at the same time over its standing socket: for predictions.

        Args and errors as for ``ask_all``.
        """
        return _all(self.call_each(bodies, kind, timeout))

    def call_each(
        self, bodies: Sequence[object], kind: type[T], timeout: float
    ) -> list[T | BaseException]:
        """Do the same as ``call_all`` but return errors in the places of their workers."""
        return self._portal.call(self._call_all(bodies, kind, timeout))

    async def _call_all(
        self, bodies: Sequence[object], kind: type[T], timeout: float
    ) -> list[T | BaseException]:
        await self._open()
        calls = [
            asyncio.create_task(self._call(i, encode(body), kind)) for i, body in enumerate(bodies)
        ]
        try:
            _, late = await asyncio.wait(calls, timeout=timeout)
        finally:
            for call in calls:
                call.cancel()  # those that have ended are left as they are
        return [
            _silent(entry, "answer in time") if call in late else call.exception() or call.result()
            for entry, call in zip(self.cluster.worker, calls, strict=True)
        ]

    async def _call(self, index: int, body: bytes, kind: type[T]) -> T:
        entry = self.cluster.worker[index]
        try:
            return await self._calls[index].call(body, kind)
        except TimeoutError:
            raise _silent(entry, "accept a connection") from None
        except aiohttp.WSServerHandshakeError as error:
            raise _odd_status(entry, error.status) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(entry, error) from None

    async def _ask_all(
        self, path: str, bodies: Sequence[Body], kind: type[T], timeout: float
    ) -> list[T | BaseException]:
        await self._open()
        asks: list[Coroutine[Any, Any, T]] = [
            self._ask(i, path, body, kind, timeout) for i, body in enumerate(bodies)
        ]
        return await asyncio.gather(*asks, return_exceptions=True)

    async def _ask(self, index: int, path: str, body: Body, kind: type[T], timeout: float) -> T:
        entry = self.cluster.worker[index]
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=CONNECT_TIMEOUT)
        try:
            async with self._sessions[index].post(
                path, data=_payload(body), headers=_length(body), timeout=limits
            ) as response:
                answer = await response.read()
        except TimeoutError as error:
            dialling = isinstance(error, aiohttp.ConnectionTimeoutError)
            raise _silent(entry, "accept a connection" if dialling else "answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _unreachable(entry, error) from None
        if response.status == 200:
            return decode(answer, kind)
        try:
            failure = msgspec.msgpack.decode(answer, type=Failure)
        except MALFORMED:
            raise _odd_status(entry, response.status) from None
        raise to_error(failure)

    async def _open(self) -> None:
        if self._sessions and not self._sessions[0].closed and self._owner is _loop():
            return
        self._owner = _loop()
        self._sessions = []
        no_redirects = aiohttp.TraceConfig()
        no_redirects.on_request_redirect.append(_refuse_redirect)
        for entry in self.cluster.worker:
            host, port = split_address(entry.address)
            host = f"[{host}]" if ":" in host else host
            self._sessions.append(
                aiohttp.ClientSession(
                    f"https://{host}:{port}",
                    connector=aiohttp.TCPConnector(
                        ssl=client_context(self.identity, entry.identity),
                        keepalive_timeout=_IDLE,
                    ),
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT),
                    trace_configs=[no_redirects],
                    ws_response_class=AbortableSocket,
                    trust_env=False,
                )
            )
        self._calls = [
            CallSocket(session, entry.name)
            for session, entry in zip(self._sessions, self.cluster.worker, strict=True)
        ]

    async def _close(self) -> None:
        await asyncio.gather(*(c.close() for c in self._calls))
        await asyncio.gather(*(s.close() for s in self._sessions))
        await asyncio.sleep(0)  # closed transports let go of their sockets in the next turn


def _all(results: Sequence[T | BaseException]) -> list[T]:
    errors = [r for r in results if isinstance(r, BaseException)]
    if errors:
        raise most_telling(errors)
    return [r for r in results if not isinstance(r, BaseException)]


def most_telling(errors: Sequence[BaseException]) -> BaseException:
    """Return the error that says most about the cause.

    A worker that is gone makes the others complain of it; a refusal beats what follows from it.
    """

    def rank(error: BaseException) -> int:
        if not isinstance(error, TercetError):
            return 0
        return 2 if type(error) in (TransportError, WorkerError) else 1

    return min(errors, key=rank)


class _Redirected(aiohttp.ClientConnectionError):
    """The worker points elsewhere, where nothing is sent."""


async def _refuse_redirect(
    session: aiohttp.ClientSession,
    context: object,
    parameters: aiohttp.TraceRequestRedirectParams,
) -> None:
    raise _Redirected


async def _pieces(body: Body) -> AsyncIterator[bytes | memoryview]:
    """Yield a large body so that sending it copies little and leaves the loop to others."""
    for part in body:
        for start in range(0, len(part), _PIECE):
            yield memoryview(part)[start : start + _PIECE]


def _payload(body: Body) -> bytes | AsyncIterator[bytes | memoryview]:
    if len(body) == 1 and len(body[0]) < _LARGE:
        return bytes(body[0])
    return _pieces(body)


def _length(body: Body) -> dict[str, str]:
    return {"Content-Length": str(sum(map(len, body)))}


def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.get_running_loop()


def _silent(entry: WorkerEntry, what: str) -> TransportError:
    return TransportError(
        f"worker {entry.name} at {entry.address} did not {what}",
        "See `tercet status` and that worker's log",
    )


def _odd_status(entry: WorkerEntry, status: int) -> WorkerError:
    return WorkerError(
        f"worker {entry.name} answered with HTTP status {status}",
        "Use the same version of Tercet on both sides",
    )


def _unreachable(entry: WorkerEntry, error: BaseException) -> TransportError:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if isinstance(error, aiohttp.ClientConnectorError):
        cause = error.os_error
    reason = explain(cause)
    if isinstance(cause, ConnectionRefusedError):
        reason = "connection refused"
    if isinstance(error, _Redirected):
        reason = "it points elsewhere, where nothing is sent"
    reset = isinstance(cause, ConnectionResetError) and not isinstance(
        error, aiohttp.ClientConnectorError
    )
    if reset or isinstance(error, aiohttp.ServerDisconnectedError):
        # TLS 1.3 lets a client begin to speak before the server has judged its certificate.
        reason = "it closed the connection; it may not have our certificate on its list"
    return TransportError(
        f"worker {entry.name} at {entry.address} cannot be reached: {reason}",
        "Start it, or check its address and certificate in cluster.toml",
    )
