"""How fast the lines to the peers are, measured over the control links when somebody asks."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Sequence

from tercet.errors import TransportError
from tercet.service.messages import Line, PeerMessage, Ping, Pong

#: Bytes of the messages by which bandwidth is measured: well below what a peer takes at once.
LOAD = 512 << 10
#: Seconds for which a measurement is given again, so that asking often costs the lines nothing.
FRESH_SECONDS = 10.0
_PINGS = 5
_TIMEOUT = 10.0


class Lines:
    """This worker's part.

    Args:
        names: names of the three workers.
        peers: indices of the two others.
        send: passes a message to a peer; raises TransportError if it is not connected.
    """

    def __init__(
        self,
        names: Sequence[str],
        peers: Sequence[int],
        send: Callable[[int, PeerMessage], None],
    ) -> None:
        self._names = names
        self._peers = peers
        self._send = send
        self._numbers = itertools.count()
        self._waiting: dict[tuple[int, int], asyncio.Future[None]] = {}
        self._measuring = asyncio.Lock()
        self._measured: tuple[float, list[Line]] | None = None

    async def measure(self) -> list[Line]:
        """Return the lines to the peers that answer, one after the other, at most 10 s old."""
        async with self._measuring:
            now = time.monotonic()
            if self._measured is None or now - self._measured[0] > FRESH_SECONDS:
                lines = [await self._line(peer) for peer in self._peers]
                self._measured = now, [line for line in lines if line is not None]
            return self._measured[1]

    def received(self, peer: int, message: Ping | Pong) -> None:
        """Answer a peer, or take its answer."""
        if isinstance(message, Ping):
            self._send(peer, Pong(message.number))
            return
        waiting = self._waiting.get((peer, message.number))
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _line(self, peer: int) -> Line | None:
        try:
            latency = statistics.median([await self._ping(peer, b"") for _ in range(_PINGS)])
            await self._ping(peer, bytes(LOAD))  # lets the connection find its pace
            seconds = max(await self._ping(peer, bytes(LOAD)) - latency, 1e-6)
        except (TransportError, TimeoutError):
            return None
        return Line(self._names[peer], latency, LOAD / seconds)

    async def _ping(self, peer: int, load: bytes) -> float:
        """Return the seconds until a peer that was sent ``load`` has answered."""
        number = next(self._numbers)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[peer, number] = answered
        started = time.perf_counter()
        try:
            self._send(peer, Ping(number, load))
            async with asyncio.timeout(_TIMEOUT):
                await answered
        finally:
            del self._waiting[peer, number]
        return time.perf_counter() - started
