"""A worker's end of a caller's socket, with a caller who sends and never reads."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace

import aiohttp
import msgspec
import pytest

from tercet.service import calls
from tercet.service.calls import SOCKETS, Call, answer_calls
from tercet.service.messages import encode


class Deaf:
    """Calls without end on a connection whose buffer is full."""

    closed = False

    def __init__(self, **_: object) -> None:
        self.sent = 0

    async def prepare(self, request: object) -> None:
        pass

    async def __aiter__(self) -> AsyncIterator[object]:
        for self.sent in range(1, 1001):
            data = encode(Call(self.sent, msgspec.Raw(encode(self.sent))))
            yield SimpleNamespace(type=aiohttp.WSMsgType.BINARY, data=data)
            await asyncio.sleep(0)

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.Event().wait()


def test_who_sends_and_does_not_read_is_not_read_from(monkeypatch: pytest.MonkeyPatch) -> None:
    sockets: set[Deaf] = set()
    seen: list[weakref.ref[Call]] = []

    class Watched(Call, frozen=True, weakref=True):
        def __post_init__(self) -> None:
            seen.append(weakref.ref(self))

    async def answer(body: bytes) -> None:
        return None

    async def main() -> None:
        request = SimpleNamespace(app={SOCKETS: sockets})
        serving = asyncio.create_task(answer_calls(request, answer, 1 << 20))  # type: ignore[arg-type]
        for _ in range(5000):
            await asyncio.sleep(0)
        (socket,) = sockets
        assert socket.sent == calls._MAX_RUNNING + 1
        gc.collect()
        assert sum(call() is not None for call in seen) <= 2, "answered calls are kept"
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    monkeypatch.setattr(calls.web, "WebSocketResponse", Deaf)
    monkeypatch.setattr(calls, "Call", Watched)
    asyncio.run(main())
