"""Three live workers that are sent what no honest client, owner or worker sends.

Afterwards the processes are the same, hold no more memory, told no traceback and answer rightly.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import msgspec
import numpy as np
import pytest
from aiohttp import web

import tercet
from tercet.api import Lowered
from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.errors import RefusedError
from tercet.net.listener import Listener, bind
from tercet.net.tls import server_context
from tercet.program.builder import Builder
from tercet.program.passes import lower
from tercet.program.program import Program, Role
from tercet.program.program import encode as program_bytes
from tercet.program.serving import Mode, Release
from tercet.protocol.replicated.sharing import Summand, deal
from tercet.ring.fixed import encode as ring
from tercet.service.calls import PATH as CALLS
from tercet.service.calls import Call
from tercet.service.cluster import LocalCluster
from tercet.service.config import WorkerEntry
from tercet.service.messages import (
    Accepted,
    Answer,
    Change,
    Commit,
    Contribution,
    Counted,
    CountedRequest,
    Deposit,
    Describe,
    Description,
    Discard,
    Failure,
    Farewell,
    Held,
    Inventory,
    Leave,
    Offer,
    Ping,
    Policy,
    Pong,
    Predict,
    Prepare,
    Propose,
    Run,
    Show,
    Sign,
    TagKey,
    Withdraw,
    encode,
)
from tercet.service.peers import PATH as PEER
from tercet.service.peers import PeerLinks
from tercet.service.training_messages import (
    Ask,
    Attach,
    FinishTraining,
    Position,
    Standing,
    Tensor,
    TrainSteps,
)
from tercet.service.training_terms import Reference, TrainingTerms
from tests.fuzz.callers import Caller, ask, send_all
from tests.fuzz.mutations import mutate
from tests.service.conftest import dense_model, reference
from tests.service.processes import alive, children, eventually, ready

#: Bytes that a process may hold at the end beyond what it held after a third.
GROWTH = 16 << 20
#: Which worker dials which on the control link.
LINKS = ((0, 1), (0, 2), (1, 2))
#: Of each hundred cases: calls, posts, bytes that are not HTTP; the rest goes over control links.
SHARES = (35, 35, 5)


def _summands(rng: Random, rows: int) -> tuple[Summand, Summand]:
    seed = Summand(seed=rng.randbytes(32))
    good = deal({"input": ring(np.ones((max(1, min(rows, 4)), 8)), 16)})
    odd = Summand(arrays={"input": rng.randbytes(8), "é" * 50: b""})
    return rng.choice(((seed, seed), good[0], good[1], good[2], (Summand(), seed), (odd, seed)))


def _call(rng: Random, model: Description) -> bytes:
    rows = rng.choice((1, 1, 1, 2, 3, 0, -1, 65_537, (1 << 63) - 1))
    name = rng.randbytes(rng.choice((16,) * 9 + (0, 15, 1000)))
    body = Predict(name, model.id, model.program_digest, rows, _summands(rng, rows))
    data = encode(body)
    data = mutate(rng, data) if rng.random() < 0.3 else data
    return encode(Call(rng.choice((0, 1, -1, 1 << 62)), msgspec.Raw(data)))


def _post(rng: Random, model: Lowered) -> tuple[str, bytes]:
    name, text = rng.randbytes(16), rng.choice((*["victim"] * 5, "victim@1", "", "/", "x" * 101))
    weights = deal({
        v.name: np.zeros(v.type.shape, np.uint64) for _, v in model.program.named(Role.WEIGHT)
    })  # fmt: skip
    seed = Summand(seed=rng.randbytes(32))
    program = program_bytes(model.program)
    release = Release(rng.choice(tuple(Mode)), rng.choice((0, 1, 200)), rng.choice((None, 2, 400)))
    limit = rng.choice((None, 1, 0, 1 << 53, -1))
    policy = Policy(True, limit, None, rng.choice((None, 1e9, float("nan"))), release=release)
    routes: tuple[tuple[str, object], ...] = (
        ("share/prepare", Prepare(
            name, text, rng.choice((1, 2, 0, -1, 1 << 31, (1 << 63) - 1)),
            mutate(rng, program) if rng.random() < 0.6 else program,
            rng.choice(((seed, seed), weights[1])), {"é": b"1"} if rng.random() < 0.2 else {},
        )),
        ("share/version", Describe(text)),
        ("share/commit", Commit(name)),
        ("change", Change(name, text, rng.choice((None, policy)))),
        ("describe", Describe(text)),
        ("status", None),
        *_training_posts(rng, name, text, seed),
    )  # fmt: skip
    path, body = rng.choice(routes)
    return f"/v1/{path}", encode(body)


def _training_posts(
    rng: Random, name: bytes, text: str, seed: Summand
) -> tuple[tuple[str, object], ...]:
    rows, digest = rng.choice((0, 1, -1, 1 << 62)), rng.randbytes(32)
    shape = rng.choice(((1, 2), (rows, 2), (), (1,) * 9))
    given = Contribution(name, text, {"x": Tensor(shape, rng.choice((16, 0, 99)))}, rows)
    workers, who = ("0" * 64,) * 3, rng.choice(("1" * 64, "x"))
    terms = TrainingTerms(
        name=text, workers=workers, signers=(who,), program="0" * 64,
        states=Reference(name, digest, who, "s"), data=(Reference(digest[:16], digest, who, "d"),),
        epochs=1, steps=rows, batch_size=1, seed=digest, checkpoint=1, owner=who,
    )  # fmt: skip
    document = encode(terms)
    return (
        ("sharings", None),
        ("sharings/prepare", Deposit(given, (seed, seed))),
        ("sharings/commit", Commit(name)),
        ("sharings/remove", Discard(text)),
        ("agreements", Show(rng.choice((b"", digest)))),
        ("agreements/propose", Propose(mutate(rng, document) if rows else document)),
        ("agreements/sign", Sign(digest, rng.randbytes(70), rng.random() < 0.5)),
        ("training/attach", Attach(digest, rng.randbytes(100))),
        (f"training/{rng.choice(('run', 'cancel', 'progress', 'fetch'))}", Ask(digest, rows)),
    )


def _gossip(rng: Random, model: Description) -> bytes:
    """A message of a worker to a worker."""

    def name() -> bytes:
        return rng.randbytes(rng.choice((16, 16, 16, 0, 15)))

    count = rng.choice((0, 1, 3, 3000))
    number = rng.choice((0, 1, -1, 1 << 40, (1 << 63) - 1))
    digest = rng.randbytes(32)
    failure = Failure(rng.choice(("BusyError", "RefusedError", "TercetError", "x")), "a", "b")
    held = Held(model.id, rng.random() < 0.5, "0" * 64, digest[:16], number, number)
    messages = (
        Offer(name(), digest, digest, digest, digest),
        TagKey(digest),
        Withdraw(name(), failure),
        Run(number, [name() for _ in range(count)]),
        Accepted(number, [name() for _ in range(count)]),
        TrainSteps(name(), digest, Position(number, name()), number),
        FinishTraining(name(), digest, Position(number, name()), number),
        Standing(digest, "running", [Position(number, name()) for _ in range(count)]),
        Inventory([held] * min(count, 3)),
        Counted(model.id, digest[:16], [CountedRequest(name(), "x" * 100, number)]),
        Ping(number, digest * min(count, 3)),
        Pong(number),
        Leave(),
        Farewell(),
    )
    return encode([rng.choice(messages) for _ in range(rng.choice((1, 1, 2)))])


class Attack:
    """What is sent, and by whom."""

    def __init__(self, cluster: LocalCluster, seed: int, dense: Lowered, kept: Description) -> None:
        self.rng = Random(seed)
        self._cluster = cluster
        self._model = dense
        self._kept = kept

    def _mutated(self, data: bytes) -> bytes:
        return mutate(self.rng, data) if self.rng.random() < 0.35 else data

    def run(self, count: int) -> int:
        """Send some ``count`` messages and return how many went."""
        return asyncio.run(self._run(count))

    async def _run(self, count: int) -> int:
        calls, posts, raw = (count * share // 100 for share in SHARES)
        sent = await self._calls(calls)
        sent += await self._posts(posts)
        sent += await self._raw(raw)
        return sent + await self._peers(count - calls - posts - raw)

    async def _callers(self, stack: AsyncExitStack, who: Identity) -> list[Caller]:
        workers = self._cluster.config.worker
        return [await stack.enter_async_context(Caller(who, w)) for w in workers]

    async def _calls(self, count: int) -> int:
        """Send each case to all three, as a lonely one only waits for the others."""
        sent = 0
        async with AsyncExitStack() as stack:
            callers = await self._callers(stack, self._cluster.client)
            while sent < count:
                async with AsyncExitStack() as sockets:
                    three = [await sockets.enter_async_context(c.socket(CALLS)) for c in callers]
                    answered = [True]
                    while all(answered) and sent < count:
                        message = self._mutated(_call(self.rng, self._kept))
                        answered = await asyncio.gather(*(ask(s, message) for s in three))
                        sent += len(three)
        return sent

    async def _posts(self, count: int) -> int:
        sent = 0
        async with AsyncExitStack() as stack:
            callers = await self._callers(stack, self._cluster.owner)
            while sent < count:
                path, body = _post(self.rng, self._model)
                body = self._mutated(body)
                statuses = await asyncio.gather(*(c.post(path, body) for c in callers))
                assert set(statuses) <= {200, 400, 403, 404, 409, 503}, statuses
                sent += len(callers)
        return sent

    async def _raw(self, count: int) -> int:
        """Bytes that are nearly HTTP, and nearly WebSocket frames."""
        head = (
            b"POST /v1/status HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n\xc0"
            b"GET /v1/calls HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        async with AsyncExitStack() as stack:
            callers = await self._callers(stack, self._cluster.client)
            for _ in range(count):
                frames = mutate(self.rng, b"\x82\x84\x00\x00\x00\x00abcd\x89\x80\x00\x00\x00\x00")
                await self.rng.choice(callers).raw(self._mutated(head) + frames)
        return count

    async def _peers(self, count: int) -> int:
        """As a worker, until the real one is back, which puts its own link in this one's place."""
        sent = 0
        folder = self._cluster.directory
        entries = self._cluster.config.worker
        while sent < count:
            low, high = self.rng.choice(LINKS)
            name = entries[low].name
            who = Identity.load(folder / f"{name}.crt", folder / f"{name}.key")
            messages = [_gossip(self.rng, self._kept) for _ in range(self.rng.choice((1, 3, 30)))]
            messages[-1] = self._mutated(messages[-1])  # a malformed one ends the link
            async with Caller(who, entries[high]) as caller, caller.socket(PEER) as socket:
                sent += await send_all(socket, messages)
        return sent


def processes(cluster: LocalCluster) -> list[int]:
    return sorted(p for pid in cluster.pids for p in (pid, *children(pid)))


def resident(pids: Sequence[int]) -> dict[int, int]:
    """Return the bytes of memory that each process holds."""

    def one(pid: int) -> int:
        status = Path(f"/proc/{pid}/status").read_text()
        return 1024 * int(status.split("VmRSS:")[1].split()[0])

    return {pid: one(pid) for pid in pids}


def check(seed: int, count: int) -> None:
    model = dense_model()
    rows = np.random.default_rng(seed).normal(0, 2, (5, 8))
    with LocalCluster(quiet=True) as cluster:
        for name in ("kept", "victim"):
            tercet.share(model, cluster, name)
            tercet.serve(name, cluster)
        before = processes(cluster)

        def answers() -> None:
            eventually(lambda: ready(cluster), 60)
            with tercet.connect(cluster) as client:
                y = client.predict("kept", rows)
            np.testing.assert_allclose(y, reference(model, rows), atol=2e-3)

        with tercet.connect(cluster) as client:
            attack = Attack(cluster, seed, model, client.describe("kept"))
        sent, held = 0, [resident(before)]
        for _ in range(3):
            sent += attack.run(count // 3)
            answers()
            held.append(resident(before))
        assert sent >= count // 3 * 3
        assert processes(cluster) == before
        assert all(map(alive, before))
        grown = {pid: held[3][pid] - held[1][pid] for pid in before}
        assert max(grown.values()) < GROWTH, grown
        for entry in cluster.config.worker:
            log = (cluster.directory / f"{entry.name}.log").read_text()
            assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:3000]


def test_workers_that_are_sent_nonsense() -> None:
    check(1, 2_000)


@pytest.mark.slow
def test_workers_that_are_sent_much_nonsense() -> None:
    check(2, 12_000)


def test_batches_that_nobody_asked_for_are_void_with_their_link(
    cluster: LocalCluster, model: Lowered, rows: np.ndarray
) -> None:
    """Worker 0, or who has its key, announces thousands; the real one is served right after."""
    entries = cluster.config.worker
    julia = Identity.load(cluster.directory / "julia.crt", cluster.directory / "julia.key")
    tercet.share(model, cluster, "void")
    tercet.serve("void", cluster)
    nonsense = [encode([Run(n, [fresh(16) for _ in range(1000)])]) for n in range(50)]

    async def announce() -> None:
        async with Caller(julia, entries[1]) as caller, caller.socket(PEER) as socket:
            await send_all(socket, nonsense)

    asyncio.run(announce())
    started = time.monotonic()
    eventually(lambda: ready(cluster))
    with tercet.connect(cluster) as client:
        y = client.predict("void", rows)
    assert time.monotonic() - started < 15
    np.testing.assert_allclose(y, reference(model, rows), atol=2e-3)
    tercet.remove("void", cluster)


def test_seeds_count_as_what_they_become(cluster: LocalCluster) -> None:
    """A client that deals seeds alone sends little, and would have workers expand gigabytes."""
    wide = Lowered(*lower(_row_sums(4096), {}))
    tercet.share(wide, cluster, "wide")
    tercet.serve("wide", cluster)
    same = Summand(seed=fresh(32))
    with tercet.connect(cluster) as client:
        known = client.describe("wide")
        bodies = {
            rows: Predict(fresh(16), known.id, known.program_digest, rows, (same, same))
            for rows in (1, 8193)
        }
        client._connection.call_all([bodies[1]] * 3, Answer, 20)
        with pytest.raises(RefusedError, match="8193 rows, whose inputs have 268468224 bytes"):
            client._connection.call_all([bodies[8193]] * 3, Answer, 20)
    tercet.remove("wide", cluster)


def _row_sums(width: int) -> Program:
    builder = Builder(16)
    x = builder.input("input", Role.INPUT, (-1, width))
    return builder.finish(builder.emit("reshape", builder.emit("sum", x, axes=(1,)), shape=(-1, 1)))


def test_a_worker_that_dials_goes_on_dialling_whatever_it_is_told() -> None:
    rng = Random(5)
    text = encode([Withdraw(bytes(16), Failure("WorkerError", "ab", ""))])
    told = [text.replace(b"ab", b"\xff\xfe"), b"\x91" * 10_000, rng.randbytes(100), b""]
    assert asyncio.run(_dialled(told)) > len(told)


async def _dialled(told: list[bytes]) -> int:
    """Tell a worker that dials these messages, one a link; return the links it made."""
    julia, greg = (Identity.generate(name) for name in ("julia", "greg"))
    links = 0

    async def peer(request: web.Request) -> web.WebSocketResponse:
        nonlocal links
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if links < len(told):
            await socket.send_bytes(told[links])
        links += 1
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get(PEER, peer)
    runner = web.AppRunner(app)
    await runner.setup()
    assert runner.server is not None
    context = server_context(greg, [julia.public])
    listener = Listener(bind("127.0.0.1", 0), lambda: context, runner.server)
    await listener.start()
    host, port = listener.address
    entries = [
        WorkerEntry(i.public.name, f"{host}:{port}", "", i.certificate_pem.decode())
        for i in (julia, greg)
    ]
    dialler = PeerLinks(0, julia, entries, lambda *_: None, lambda *_: None)
    dialler.start()
    deadline = time.monotonic() + 10
    while links <= len(told) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    await dialler.stop()
    await listener.close()
    await runner.cleanup()
    return links
