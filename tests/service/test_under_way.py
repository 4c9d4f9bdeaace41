"""What comes while a request is under way, at one worker without its data plane."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.errors import BusyError, RefusedError, TransportError
from tercet.program.program import encode
from tercet.protocol.replicated.sharing import OutputPart, Summand
from tercet.service import predictions
from tercet.service.batches import Waiting
from tercet.service.config import ClusterConfig, WorkerEntry
from tercet.service.leaving import Leaving
from tercet.service.messages import (
    Answer,
    Change,
    Command,
    Failure,
    Farewell,
    Leave,
    Policy,
    Predict,
    ShareDigests,
)
from tercet.service.model import Model
from tercet.service.worker import Worker
from tests.service.conftest import dense_model

OWNER = ("owner", "aa" * 32)
NONCES = (bytes(32), bytes(32), bytes(32))


class Plane:
    """Takes the commands to the data plane."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.send = self.sent.append
        self.loaded: dict[bytes, Failure | None] = {}


class Lone:
    """Worker 0, not started, that holds one model."""

    def __init__(self, folder: Path) -> None:
        identities = [Identity.generate(name) for name in ("julia", "greg", "me")]
        entries = [
            WorkerEntry(i.name, f"127.0.0.1:{p}", f"127.0.0.1:{p + 1}", i.certificate_pem.decode())
            for p, i in zip((1, 3, 5), identities, strict=True)
        ]
        self.worker = Worker(0, identities[0], ClusterConfig(entries), folder, -1)
        self.worker._data = self.plane = Plane()  # type: ignore[assignment]
        self.client = Identity.generate("client").public
        self.id = fresh(16)
        program, digests = encode(dense_model().program), ShareDigests(b"1", b"2", b"3")
        self.worker.registry.prepare(self.id, "digits", 1, OWNER, program, digests)
        self.worker.registry.commit_too(self.id)

    @property
    def model(self) -> Model:
        return self.worker.registry.by_id(self.id)

    def serve(self, policy: Policy) -> None:
        asked, kept = Change(fresh(16), "digits", policy), self.worker.registry
        kept.propose(asked, kept.select(asked, OWNER[1]), OWNER)
        kept.apply(asked.id)

    def request(self) -> Predict:
        seed = Summand(seed=fresh(32))
        return Predict(fresh(16), self.id, self.model.digest, 1, (seed, seed))


@pytest.fixture
def lone(tmp_path: Path) -> Iterator[Lone]:
    lone = Lone(tmp_path)
    yield lone
    lone.worker.registry.close()


def test_a_batch_is_counted_under_the_policy_that_admitted_it(lone: Lone) -> None:
    """Between admission and count a worker awaits its peers: a new policy may come meanwhile."""

    async def main() -> None:
        lone.serve(Policy(True))
        batch = [Waiting(lone.request(), lone.client.fingerprint, NONCES) for _ in range(3)]
        for number, waiting in enumerate(batch):
            lone.worker._accept(waiting, [1] * number)
        lone.serve(Policy(True, max_requests=1))
        with pytest.raises(RefusedError, match="policy changed"):
            lone.worker._count(batch)
        assert lone.model.used_requests == 0
        lone.worker._accept(batch[0], [])
        lone.worker._count(batch[:1])
        assert lone.model.used_requests == 1

    asyncio.run(main())


def test_a_client_that_is_named_no_more_gets_no_answer(lone: Lone) -> None:
    async def main() -> None:
        lone.serve(Policy(True, clients=(lone.client.fingerprint,)))
        others = msgspec.structs.replace(lone.model.policy, clients=("bb" * 32,))

        async def answer(waiting: Waiting) -> Answer:
            lone.serve(others)
            return Answer(OutputPart(b"", b""), 0.0, 0, 1)

        lone.worker._batches.answer = answer  # type: ignore[method-assign]
        with pytest.raises(RefusedError, match="not served to this client"):
            await lone.worker.predictions._answer(lone.client, lone.request(), NONCES)

    asyncio.run(main())


def test_what_one_client_has_under_way_is_bounded_in_bytes(
    lone: Lone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests that reach this worker alone wait for their peers; their shares must fit."""

    async def main() -> None:
        lone.serve(Policy(True))
        reached = asyncio.Event()

        async def agree(*_: object) -> None:
            await reached.wait()
            raise TransportError("no peer")

        lone.worker._agreement.agree = agree  # type: ignore[assignment, method-assign]
        large = Summand(arrays={"input": bytes(64)})
        requests = [
            msgspec.structs.replace(lone.request(), shares=(large, large)) for _ in range(3)
        ]
        first = [
            asyncio.create_task(lone.worker.predictions.predict(lone.client, request))
            for request in requests[:2]
        ]
        await asyncio.sleep(0)
        with pytest.raises(BusyError, match="256 bytes of this client"):
            await lone.worker.predictions.predict(lone.client, requests[2])
        reached.set()
        results = await asyncio.gather(*first, return_exceptions=True)
        assert [type(r) for r in results] == [TransportError] * 2
        with pytest.raises(TransportError):
            await lone.worker.predictions.predict(lone.client, requests[2])

    monkeypatch.setattr(predictions, "MAX_HELD", 300)
    linked = replace(lone.worker.predictions._means, missing=list)
    monkeypatch.setattr(lone.worker.predictions, "_means", linked)
    asyncio.run(main())


def test_a_worker_that_stops_waits_for_what_its_peers_answer(lone: Lone) -> None:
    """Its link ends what they have under way with it: it goes when they need it no more."""
    sent: list[tuple[int, object]] = []
    links = {1, 2}
    leaving = Leaving(
        lambda *m: sent.append(m), lambda: links, lambda: not lone.worker.predictions.running
    )
    lone.worker._leaving = leaving

    async def main() -> None:
        lone.worker.predictions.running[b"1"] = lone.id
        lone.worker._received(2, Leave())
        assert not sent, "let go although a request is counted here"
        lone.worker.predictions.running.clear()
        leaving.check()
        assert sent == [(2, Farewell())]
        parting = asyncio.create_task(leaving.part(time.monotonic() + 60))
        await asyncio.sleep(0)
        assert sent[1:] == [(1, Leave()), (2, Leave())]
        lone.worker._received(1, Farewell())
        await asyncio.sleep(0.1)
        assert not parting.done()
        links.remove(2)  # or it is gone itself
        await asyncio.wait_for(parting, 60)
        links.add(2)
        await asyncio.wait_for(leaving.part(time.monotonic()), 60)  # time is up

    asyncio.run(main())
