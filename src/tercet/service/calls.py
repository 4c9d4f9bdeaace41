"""Predictions over one WebSocket a worker: many calls at a time, each answered under its number.

A POST costs either side about a millisecond of processor time, most of a small prediction's share
of the control plane; a message on a standing WebSocket costs a tenth of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from tercet.errors import RefusedError, TercetError, TransportError
from tercet.service.failures import to_error, to_failure
from tercet.service.messages import Failure, decode, encode

_log = logging.getLogger("tercet.worker")

T = TypeVar("T")

PATH = "/v1/calls"
_HEARTBEAT = 20.0
#: Answers are small: a row of scores for each row asked.
_MAX_ANSWER = 1 << 30
#: Calls of one socket that may wait, for their answers or for a caller who does not read them.
_MAX_RUNNING = 128
#: The sockets that stand.
SOCKETS: web.AppKey[set[web.WebSocketResponse]] = web.AppKey("calls", set)


class Call(msgspec.Struct, frozen=True):
    """A caller's message, to be answered under the same number."""

    number: int
    body: msgspec.Raw


class Reply(msgspec.Struct, frozen=True):
    """The answer to a call, or why there is none."""

    number: int
    body: msgspec.Raw = msgspec.Raw(encode(None))
    failure: Failure | None = None


async def answer_calls(
    request: web.Request, answer: Callable[[bytes], Awaitable[object]], limit: int
) -> web.WebSocketResponse:
    """Serve one caller's socket until it closes.

    Calls that run when the caller goes are finished: the other workers count on that.

    Args:
        request: the request to upgrade.
        answer: takes the encoded body of a call and returns a structure, or raises.
        limit: bytes of the largest call.
    """
    socket = web.WebSocketResponse(
        heartbeat=_HEARTBEAT, max_msg_size=limit, compress=False, writer_limit=1 << 20
    )
    await upgrade(socket, request)
    request.app[SOCKETS].add(socket)
    running: set[asyncio.Task[None]] = set()
    slots = asyncio.Semaphore(_MAX_RUNNING)

    def over(task: asyncio.Task[None]) -> None:
        running.discard(task)
        slots.release()

    try:
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                break
            call = decode(message.data, Call)
            await slots.acquire()  # who sends and does not read is not read from either
            task = asyncio.create_task(_answer(socket, call, answer))
            running.add(task)
            task.add_done_callback(over)
    except TercetError as error:
        _log.warning("a caller's socket: %s", error.message)
    finally:
        request.app[SOCKETS].discard(socket)
    await socket.close()
    return socket


async def upgrade(socket: web.WebSocketResponse, request: web.Request) -> None:
    """Answer a caller's handshake.

    Raises:
        RefusedError: if its key is malformed, which aiohttp leaves to base64 to find.
        TransportError: if it has gone.
    """
    try:
        await socket.prepare(request)
    except ValueError:
        raise RefusedError("a malformed handshake", "Use Tercet's own client") from None
    except ConnectionError:
        raise TransportError("the caller went during the handshake", "Connect again") from None


async def _answer(
    socket: web.WebSocketResponse, call: Call, answer: Callable[[bytes], Awaitable[object]]
) -> None:
    try:
        reply = Reply(call.number, msgspec.Raw(encode(await answer(bytes(call.body)))))
    except TercetError as error:
        _log.info("refused a prediction: %s", error.message)
        reply = Reply(call.number, failure=to_failure(error))
    except Exception as error:  # whatever it is, the caller must get an answer
        _log.exception("error in a prediction")
        reply = Reply(call.number, failure=to_failure(error))
    del call  # it may be large, and its caller slow to read
    if not socket.closed:
        try:
            await socket.send_bytes(encode(reply))
        except ConnectionError:
            return  # the caller has gone


async def close_calls(app: web.Application) -> None:
    """Close the sockets of all callers, when the worker stops."""
    sockets = app[SOCKETS]
    for socket in list(sockets):
        await socket.close(code=aiohttp.WSCloseCode.GOING_AWAY)


class AbortableSocket(aiohttp.ClientWebSocketResponse):
    """A WebSocket whose TLS connection can be ended without waiting for the peer to agree.

    asyncio would wait up to 30 s for that, and the caller's loop for nobody.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        connection = self._response.connection
        self._transport = connection.transport if connection is not None else None

    async def end(self) -> None:
        """Close the WebSocket, then the connection."""
        await self.close()
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()


class CallSocket:
    """A caller's socket to one worker, dialled when it is needed. Belongs to one event loop.

    Args:
        session: where to dial, with the TLS context that pins the worker's certificate and
            ``AbortableSocket`` for its sockets.
        name: the worker's.
    """

    def __init__(self, session: aiohttp.ClientSession, name: str) -> None:
        self._session = session
        self._name = name
        self._socket: AbortableSocket | None = None
        self._reader: asyncio.Task[None] | None = None
        self._dialling = asyncio.Lock()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._number = 0

    async def call(self, body: bytes, kind: type[T]) -> T:
        """Send the encoded body of a call and return its answer.

        Raises:
            TercetError: what the worker answered.
                aiohttp.ClientError, OSError: if it cannot be reached.
            TransportError: if the connection ends before the answer has come.
        """
        socket = await self._dial()
        self._number += 1
        number = self._number
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            await socket.send_bytes(encode(Call(number, msgspec.Raw(body))))
            answered = await reply
        finally:
            del self._waiting[number]
        if answered.failure is not None:
            raise to_error(answered.failure)
        return decode(bytes(answered.body), kind)

    async def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            await self._socket.end()
        if self._reader is not None:
            await self._reader

    async def _dial(self) -> AbortableSocket:
        async with self._dialling:
            if self._socket is not None and not self._socket.closed:
                return self._socket
            socket = await self._session.ws_connect(
                PATH, heartbeat=_HEARTBEAT, max_msg_size=_MAX_ANSWER
            )
            assert isinstance(socket, AbortableSocket)
            self._socket = socket
            self._reader = asyncio.create_task(self._read(socket))
            return socket

    async def _read(self, socket: AbortableSocket) -> None:
        reason = "closed the connection before it answered"
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    break
                reply = decode(message.data, Reply)
                waiting = self._waiting.get(reply.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except TercetError as error:
            reason = f"sent nonsense ({error.message})"
        await socket.end()
        if self._socket is socket:
            self._socket = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(
                    TransportError(
                        f"worker {self._name} {reason}",
                        "See `tercet status` and that worker's log, then ask again",
                    )
                )
