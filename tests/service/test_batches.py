"""Common membership of batches, at one worker with two scripted peers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tercet.crypto.prg import fresh
from tercet.errors import RefusedError, TercetError, TransportError
from tercet.protocol.replicated.sharing import OutputPart, Summand
from tercet.service.agreement import Nonces
from tercet.service.batches import Batches, Waiting
from tercet.service.messages import Accepted, Done, PeerMessage, Predict, Run

MODEL = bytes(16)


class Script:
    """Worker 1 with its peers 0 and 2 played by the test."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, PeerMessage]] = []
        self.counted: list[bytes] = []
        self.jobs: list[list[Waiting]] = []
        self.batches = Batches(
            1,
            lambda peer, message: self.sent.append((peer, message)),
            lambda waiting, ahead: None,
            lambda batch: self.counted.extend(w.request.id for w in batch),
            self._submit,
            lambda batch, done: done.parts,
        )
        self.batches.start()

    def _submit(self, batch: Sequence[Waiting], nonces: Nonces) -> asyncio.Future[Done]:
        self.jobs.append(list(batch))
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        parts = [OutputPart(b"", b"") for _ in batch]
        future.set_result(Done(1, parts, 0.0, 0, 1))
        return future

    def ask(self) -> tuple[bytes, asyncio.Task[object]]:
        name, seed = fresh(16), Summand(seed=fresh(32))
        nonces = (fresh(32), fresh(32), fresh(32))
        waiting = Waiting(Predict(name, MODEL, "00" * 32, 1, (seed, seed)), "client", nonces)
        return name, asyncio.create_task(self.batches.answer(waiting))


def run(test: Callable[[Script], Awaitable[None]]) -> None:
    async def main() -> None:
        script = Script()
        try:
            async with asyncio.timeout(4):  # less than any time-out within
                await test(script)
        finally:
            await script.batches.stop(TransportError("over"))

    asyncio.run(main())


def test_only_what_all_three_accept_is_counted_and_run() -> None:
    async def test(script: Script) -> None:
        (kept, good), (dropped, bad) = script.ask(), script.ask()
        await asyncio.sleep(0)
        script.batches.received(2, Accepted(7, [kept]))  # may come before the announcement
        script.batches.received(0, Run(7, [kept, dropped]))
        script.batches.received(0, Accepted(7, [kept, dropped]))
        await good
        with pytest.raises(RefusedError, match="another worker refused"):
            await bad
        assert script.counted == [kept]
        assert [len(job) for job in script.jobs] == [1]
        assert script.sent == [(p, Accepted(7, [kept, dropped])) for p in (0, 2)]

    run(test)


def test_only_worker_0_announces() -> None:
    async def test(script: Script) -> None:
        name, task = script.ask()
        await asyncio.sleep(0)
        script.batches.received(2, Run(1, [name]))
        await asyncio.sleep(0.05)
        assert not script.sent
        assert not task.done()
        script.batches.fail(TransportError("over"))
        with pytest.raises(TransportError):
            await task

    run(test)


def test_late_acceptances_are_not_kept() -> None:
    async def test(script: Script) -> None:
        name, task = script.ask()
        await asyncio.sleep(0)
        script.batches.received(0, Run(5, [name]))
        for peer in (0, 2):
            script.batches.received(peer, Accepted(5, [name]))
        await task
        for batch in range(6):
            script.batches.received(0, Accepted(batch, [name]))
        assert not script.batches._accepted

    run(test)


def test_batches_from_before_a_loss_are_void() -> None:
    async def test(script: Script) -> None:
        name, task = script.ask()
        await asyncio.sleep(0)
        script.batches.received(0, Run(5, [name]))
        script.batches.received(0, Run(6, [name]))
        await asyncio.sleep(0.05)  # batch 5 waits for the peers now
        script.batches.fail(TransportError("worker me was lost"))
        with pytest.raises(TercetError, match="lost"):
            await task
        # A worker 0 that started afresh counts from anywhere; nothing waits for batch 6.
        other, again = script.ask()
        await asyncio.sleep(0)
        script.batches.received(0, Run(2, [other]))
        for peer in (0, 2):
            script.batches.received(peer, Accepted(2, [other]))
        await again
        assert script.counted == [other]

    run(test)
