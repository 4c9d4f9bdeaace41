"""What goes over the workers' control links."""

from __future__ import annotations

import asyncio

import msgspec

from tercet.service.messages import Accepted, PeerMessage
from tercet.service.peers import PeerLinks


def test_what_is_gathered_stays_below_what_a_peer_takes() -> None:
    """Large messages that wait for the same peer go one by one, small ones together."""
    sent: list[bytes] = []

    class Socket:
        async def send_bytes(self, data: bytes) -> None:
            sent.append(data)

    async def main() -> None:
        outbox: asyncio.Queue[PeerMessage] = asyncio.Queue()
        small = [Accepted(n, [bytes(16)]) for n in range(10)]
        large = [Accepted(n, [bytes(16)] * 20_000) for n in range(10, 15)]
        for message in [*small, *large]:
            outbox.put_nowait(message)
        writing = asyncio.create_task(PeerLinks._write(Socket(), outbox))  # type: ignore[arg-type]
        while not outbox.empty():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        writing.cancel()
        got = [msgspec.msgpack.decode(data, type=list[PeerMessage]) for data in sent]
        assert [m for messages in got for m in messages] == [*small, *large]
        assert len(got[0]) > len(small)
        assert max(map(len, sent)) < 1 << 20

    asyncio.run(main())
