"""Common membership of batches, at one worker with two scripted peers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from tercet.crypto.prg import fresh
from tercet.errors import RefusedError, TercetError, TransportError
from tercet.protocol.replicated.sharing import OutputPart, Summand
from tercet.service.agreement import Nonces, join_nonces
from tercet.service.batches import Batches, Waiting
from tercet.service.messages import Accepted, Done, PeerMessage, Predict, Run
from tercet.service.training_messages import Position, TrainSteps

MODEL = bytes(16)
DIGEST = "00" * 32
NONCES = (fresh(32), fresh(32), fresh(32))
ALONE = join_nonces([NONCES])


class Script:
    """Worker 1 with its peers 0 and 2 played by the test."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, PeerMessage]] = []
        self.counted: list[bytes] = []
        self.cancelled: list[tuple[str, Nonces, str]] = []
        self.jobs: list[list[Waiting]] = []
        self.refuse: TercetError | None = None
        self.batches = Batches(
            1,
            lambda peer, message: self.sent.append((peer, message)),
            self._admit,
            self._count,
            lambda *session: self.cancelled.append(session),
            self._submit,
            lambda batch, done: done.parts,
        )
        self.batches.start()

    def _admit(self, waiting: Waiting, ahead: Sequence[int]) -> None:
        if self.refuse is not None and waiting.request.rows == 1:
            raise self.refuse

    def _count(self, batch: Sequence[Waiting]) -> None:
        if self.refuse is not None:
            raise self.refuse
        self.counted.extend(w.request.id for w in batch)

    def _submit(self, batch: Sequence[Waiting], nonces: Nonces) -> asyncio.Future[Done]:
        self.jobs.append(list(batch))
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        parts = [OutputPart(b"", b"") for _ in batch]
        future.set_result(Done(1, parts, 0.0, 0, 1))
        return future

    def ask(self, rows: int = 1) -> tuple[bytes, asyncio.Task[object]]:
        name, seed = fresh(16), Summand(seed=fresh(32))
        waiting = Waiting(Predict(name, MODEL, DIGEST, rows, (seed, seed)), "client", NONCES)
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


def test_a_prediction_alone_is_not_compared_again() -> None:
    async def test(script: Script) -> None:
        name, task = script.ask()
        await asyncio.sleep(0)
        script.batches.received(2, Accepted(5, []))  # it will cancel the session
        script.batches.received(0, Run(5, [name]))
        await task
        assert script.counted == [name]
        assert not script.sent
        assert not script.cancelled
        assert not script.batches._accepted

    run(test)


def test_steps_of_a_training_are_compared() -> None:
    async def test(script: Script) -> None:
        steps = TrainSteps(fresh(16), MODEL, Position(bytes(16), 0), 3)
        task = asyncio.create_task(script.batches.answer(Waiting(steps, "", NONCES)))
        await asyncio.sleep(0)
        script.batches.received(0, Run(5, [steps.id]))
        await asyncio.sleep(0.05)
        assert script.sent == [(p, Accepted(5, [steps.id])) for p in (0, 2)]
        assert not task.done()
        for peer in (0, 2):
            script.batches.received(peer, Accepted(5, [steps.id]))
        await task

    run(test)


@pytest.mark.parametrize("rows", [1, 2])  # refused when it is admitted, or counted
def test_who_cannot_take_a_prediction_alone_cancels_it(rows: int) -> None:
    async def test(script: Script) -> None:
        name, task = script.ask(rows)
        await asyncio.sleep(0)
        script.refuse = RefusedError("the disk is full", "Tell the operator")
        script.batches.received(0, Run(5, [name]))
        with pytest.raises(RefusedError, match="disk"):
            await task
        await asyncio.sleep(0)
        assert [c[:2] for c in script.cancelled] == [(DIGEST, ALONE)]
        assert not script.jobs

    run(test)


def test_a_request_that_was_over_before_its_batch_came_is_cancelled() -> None:
    async def test(script: Script) -> None:
        name, task = script.ask()
        await asyncio.sleep(0)
        script.batches.withdraw(name, RefusedError("a peer refuses", "Ask again"))
        with pytest.raises(RefusedError):
            await task
        unknown = fresh(16)  # nobody agreed on it
        script.batches.close(unknown)
        for number, request in enumerate((name, unknown)):
            script.batches.received(0, Run(number, [request]))
        await asyncio.sleep(0.05)
        assert script.cancelled == [(DIGEST, ALONE, "the request is over")]
        assert not script.jobs

    run(test)


def test_a_batch_that_cannot_be_counted_is_cancelled() -> None:
    async def test(script: Script) -> None:
        (one, first), (two, second) = script.ask(2), script.ask(2)
        await asyncio.sleep(0)
        script.refuse = RefusedError("the disk is full", "Tell the operator")
        script.batches.received(0, Run(5, [one, two]))
        for peer in (0, 2):
            script.batches.received(peer, Accepted(5, [one, two]))
        for task in (first, second):
            with pytest.raises(RefusedError, match="disk"):
                await task
        joined = join_nonces([NONCES, NONCES])
        assert script.cancelled == [(DIGEST, joined, "the disk is full")]

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
        (name, task), (more, also) = script.ask(), script.ask()
        await asyncio.sleep(0)
        script.batches.received(0, Run(5, [name, more]))
        script.batches.received(0, Run(6, [name]))
        await asyncio.sleep(0.05)  # batch 5 waits for the peers now
        script.batches.fail(TransportError("worker me was lost"))
        for lost in (task, also):
            with pytest.raises(TercetError, match="lost"):
                await lost
        # A worker 0 that started afresh counts from anywhere; nothing waits for batch 6.
        other, again = script.ask()
        await asyncio.sleep(0)
        script.batches.received(0, Run(2, [other]))
        for peer in (0, 2):
            script.batches.received(peer, Accepted(2, [other]))
        await again
        assert script.counted == [other]

    run(test)
