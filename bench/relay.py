"""A slower network in user space: TCP relays that delay bytes and limit their rate.

    python -m bench.relay ROUTES      (started by bench.nodes; ends when standard input does)

ROUTES is JSON: ``{"delay": seconds, "rate": bytes a second, "routes": [{"fd", "port", "here",
"there"}]}``. Each route is an inherited listening socket; what connects to it is joined to ``port``
of this machine. ``here`` and ``there`` name the two nodes: all connections between the same two
share one link of the given rate in each direction, as on a wire. Bytes are passed on as they are,
so TLS between the ends is untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import socket
import sys
from collections import deque

#: Bytes that leave the link in one piece; a shorter message leaves at once.
PIECE = 4096
#: Bytes under way on a connection from which its sender has to wait.
UNDER_WAY = 4 << 20


class Link:
    """One direction between two nodes: when would bytes that are handed over now have arrived?"""

    def __init__(self, delay: float, rate: float) -> None:
        self._delay = delay
        self._rate = rate
        self._free = 0.0

    def arrival(self, now: float, size: int) -> float:
        """Take ``size`` bytes; return when the last of them is there."""
        self._free = max(now, self._free) + size / self._rate
        return self._free + self._delay


class End(asyncio.Protocol):
    """One end of a relayed connection: what it receives, the other end sends later."""

    def __init__(self, link: Link) -> None:
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._last = 0.0
        self._waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note the connection."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Put bytes on the link."""
        now = self._loop.time()
        for start in range(0, len(data), PIECE):
            piece = data[start : start + PIECE]
            self._last = self._link.arrival(now, len(piece))
            self._pieces.append((self._last, piece))
        self._size += len(data)
        if self._size > UNDER_WAY and self.transport is not None:
            self.transport.pause_reading()
        self._pass_on()

    def eof_received(self) -> bool:
        """Close the other end when all bytes are there."""
        self._loop.call_at(max(self._last, self._loop.time()), self._close_other)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """Close the other end too."""
        self._loop.call_at(max(self._last, self._loop.time()) + 1e-3, self._close_other)

    def _close_other(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    def _pass_on(self) -> None:
        if self._waiting or not self._pieces:
            return
        self._waiting = True
        self._loop.call_at(self._pieces[0][0], self._arrived)

    def _arrived(self) -> None:
        self._waiting = False
        now = self._loop.time()
        ready = []
        while self._pieces and self._pieces[0][0] <= now:
            ready.append(self._pieces.popleft()[1])
        if ready and self.other is not None and self.other.transport is not None:
            data = b"".join(ready)
            self.other.transport.write(data)
            self._size -= len(data)
            if (
                self._size <= UNDER_WAY
                and self.transport is not None
                and not self.transport.is_closing()
            ):
                self.transport.resume_reading()
        self._pass_on()


async def relay(delay: float, rate: float, routes: list[dict[str, int | str]]) -> None:
    """Serve until standard input ends."""
    loop = asyncio.get_running_loop()
    links: dict[tuple[str, str], Link] = {}

    def link(source: str, target: str) -> Link:
        return links.setdefault((source, target), Link(delay, rate))

    async def join(near: End, there: str, here: str, port: int) -> None:
        assert near.transport is not None
        near.transport.pause_reading()
        try:
            _, far = await loop.create_connection(lambda: End(link(there, here)), "127.0.0.1", port)
        except OSError:
            near.transport.close()
            return
        near.other, far.other = far, near
        near.transport.resume_reading()

    servers, tasks = [], set()
    for route in routes:
        here, there, port = str(route["here"]), str(route["there"]), int(route["port"])

        class Near(End):
            """The end that was connected to."""

            def __init__(self, here: str = here, there: str = there, port: int = port) -> None:
                super().__init__(link(here, there))
                self._join = (there, here, port)

            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                """Open the other end."""
                super().connection_made(transport)
                task = loop.create_task(join(self, *self._join))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        listener = socket.socket(fileno=int(route["fd"]))
        servers.append(await loop.create_server(Near, sock=listener))
    ended = loop.create_future()

    def watch() -> None:
        if not os.read(sys.stdin.fileno(), 1) and not ended.done():
            ended.set_result(None)

    loop.add_reader(sys.stdin.fileno(), watch)
    await ended


def main() -> None:
    """Run the relays."""
    given = json.loads(sys.argv[1])
    # select() waits to the microsecond, epoll only to the millisecond.
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(
            loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())
        ) as runner,
    ):
        runner.run(relay(given["delay"], given["rate"], given["routes"]))


if __name__ == "__main__":
    main()
