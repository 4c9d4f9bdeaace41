"""Predictions over three real worker processes: right answers, and refusals in plain words."""

from __future__ import annotations

import threading
import time

import msgspec
import numpy as np
import pytest

import tercet
from tercet.api import Lowered
from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.errors import (
    InputError,
    IntegrityError,
    NotFoundError,
    ProgramError,
    RefusedError,
    TransportError,
    WorkerError,
)
from tercet.program.builder import Builder
from tercet.program.passes import lower
from tercet.program.program import Role
from tercet.program.program import encode as program_bytes
from tercet.protocol.replicated.sharing import Summand, deal
from tercet.ring.fixed import encode
from tercet.service.client import Client
from tercet.service.cluster import LocalCluster
from tercet.service.connection import Connection
from tercet.service.messages import (
    Answer,
    Change,
    Describe,
    Description,
    Policy,
    Predict,
    Prepare,
    Status,
)
from tests.service.conftest import dense_model, reference

CLOSE = 2e-3


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, model: Lowered):
    tercet.share(model, cluster, "dense")
    tercet.serve("dense", cluster)
    with tercet.connect(cluster) as connected:
        yield connected
    tercet.remove("dense", cluster)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 300])
def test_any_number_of_rows(client: Client, model: Lowered, count: int) -> None:
    x = np.random.default_rng(count).normal(0, 2, (count, 8))
    y = client.predict("dense", x)
    assert y.shape == (count, 3)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, reference(model, x), atol=CLOSE)


def test_any_real_type_and_layout(client: Client, model: Lowered) -> None:
    whole = np.arange(16).reshape(2, 8) % 5 - 2
    exact = reference(model, whole.astype(float))
    wide = np.zeros((4, 16))
    wide[::2, ::2] = whole
    for x in (
        whole.astype(np.float32),
        whole.astype(np.int8),
        np.asfortranarray(whole.astype(float)),
        wide[::2, ::2],
        whole.tolist(),
        [[float(v) for v in row] for row in whole],
    ):
        np.testing.assert_allclose(client.predict("dense", x), exact, atol=CLOSE)
    mask = np.eye(2, 8, dtype=bool)
    np.testing.assert_allclose(
        client.predict("dense", mask), reference(model, mask.astype(float)), atol=CLOSE
    )


def test_a_request_of_many_rows_goes_as_several(client: Client, model: Lowered) -> None:
    x = np.random.default_rng(1).normal(0, 1, (5000, 8))
    np.testing.assert_allclose(client.predict("dense", x), reference(model, x), atol=CLOSE)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(8), r"shape \(8,\).*takes B x 8.*x\[None\]"),
        (np.zeros((2, 7)), r"shape \(2, 7\)"),
        (np.zeros((2, 8, 1)), r"shape \(2, 8, 1\)"),
        (np.zeros((0, 8)), "no rows"),
        (np.full((1, 8), "a"), "dtype <U1"),
        (np.zeros((1, 8), complex), "dtype complex128"),
        ([[1.0] * 8, [1.0]], "different shapes"),
        (np.where(np.arange(16).reshape(2, 8) == 11, np.nan, 1.0), r"\(1, 3\) is not a finite"),
        (np.where(np.arange(16).reshape(2, 8) == 3, -np.inf, 1.0), r"\(0, 3\) is not a finite"),
        (
            np.where(np.arange(16).reshape(2, 8) == 9, 2.0**14, 1.0),
            r"\(1, 1\) is out of range.*between -16384 and 16384",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(client: Client, x, words: str) -> None:
    used = client.describe("dense").used_requests
    with pytest.raises(InputError, match=words):
        client.predict("dense", x)
    assert client.describe("dense").used_requests == used


def test_names_that_are_not_there(cluster: LocalCluster, client: Client) -> None:
    with pytest.raises(NotFoundError, match="no model 'nothing'"):
        client.predict("nothing", np.zeros((1, 8)))
    for action in (tercet.serve, tercet.stop, tercet.remove):
        with pytest.raises(NotFoundError, match="no model 'nothing'"):
            action("nothing", cluster)


def test_life_of_a_model(cluster: LocalCluster, model: Lowered, rows: np.ndarray) -> None:
    description = tercet.share(model, cluster, "life")
    assert description.input_shape == (-1, 8)
    with tercet.connect(cluster) as client:
        with pytest.raises(RefusedError, match="not being served"):
            client.predict("life", rows)
        tercet.serve("life", cluster, max_requests=2)
        client.predict("life", rows)
        client.predict("owner/life", rows)
        with pytest.raises(RefusedError, match="answered its 2 requests"):
            client.predict("life", rows)
        tercet.serve("life", cluster, max_rows=7)
        client.predict("life", rows)
        with pytest.raises(RefusedError, match="2 of 7 rows left, not 5"):
            client.predict("life", rows)
        client.predict("life", rows[:2])
        tercet.stop("life", cluster)
        with pytest.raises(RefusedError, match="not being served"):
            client.predict("life", rows[:1])
        tercet.remove("life", cluster)
        with pytest.raises(NotFoundError):
            client.predict("life", rows)
        other = dense_model(3)
        tercet.share(other, cluster, "life")
        tercet.serve("life", cluster)
        np.testing.assert_allclose(client.predict("life", rows), reference(other, rows), atol=CLOSE)
    tercet.remove("life", cluster)
    with pytest.raises(RefusedError, match="not a model name"):
        tercet.share(model, cluster, "a/b")
    with pytest.raises(RefusedError, match="limit of 0"):
        tercet.share(model, cluster, "limits")
        tercet.serve("limits", cluster, max_requests=0)
    tercet.remove("limits", cluster)


def test_all_three_are_ready_when_the_owner_is_answered(
    cluster: LocalCluster, model: Lowered
) -> None:
    """Whoever asks next meets three workers that hold the same, loaded."""
    for _ in range(12):
        for change in (
            lambda: tercet.share(model, cluster, "settled"),
            lambda: tercet.serve("settled", cluster, output="argmax"),
            lambda: tercet.stop("settled", cluster),
            lambda: tercet.remove("settled", cluster),
        ):
            change()
            assert [s.waiting_for for s in cluster.status()] == [[], [], []]


@pytest.mark.parametrize(("clients", "requests"), [(1, 200), (8, 25)])
def test_each_client_gets_its_own_answers(
    cluster: LocalCluster, client: Client, model: Lowered, clients: int, requests: int
) -> None:
    """One after the other, and side by side in batches that are joined of several clients'."""
    before = client.describe("dense").used_requests
    wrong: list[object] = []

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with tercet.connect(cluster) as mine:
            for _ in range(requests):
                x = rng.normal(0, 2, (int(rng.integers(1, 4)), 8))
                try:
                    error = np.abs(mine.predict("dense", x) - reference(model, x)).max()
                    if error > CLOSE:
                        wrong.append(error)
                except Exception as failure:  # reported below, whatever it is
                    wrong.append(failure)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert client.describe("dense").used_requests == before + clients * requests


def test_racing_clients_are_never_served_beyond_the_limit(
    cluster: LocalCluster, client: Client
) -> None:
    tercet.serve("dense", cluster, max_requests=5)
    outcomes: list[str] = []

    def ask() -> None:
        with tercet.connect(cluster) as mine:
            for _ in range(3):
                try:
                    mine.predict("dense", np.zeros((1, 8)))
                    outcomes.append("answered")
                except RefusedError:
                    outcomes.append("refused")

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(outcomes) == ["answered"] * 5 + ["refused"] * 7
    tercet.serve("dense", cluster)


# A client of bad will.


def request(client: Client, pairs, **changes: object) -> list[Answer]:
    model = client.describe("dense")
    body = {
        "id": fresh(16), "model": model.id, "program_digest": model.program_digest, "rows": 1
    } | changes  # fmt: skip
    bodies = [Predict(shares=pair, **body) for pair in pairs]  # type: ignore[arg-type]
    return client._connection.call_all(bodies, Answer, 20)


def honest() -> tuple[tuple[Summand, Summand], ...]:
    return deal({"input": encode(np.ones((1, 8)), 16)})


@pytest.mark.parametrize("worker", range(3))
@pytest.mark.parametrize("position", range(2))
def test_an_inconsistent_sharing_is_refused(client: Client, worker: int, position: int) -> None:
    pairs = [list(p) for p in honest()]
    other = deal({"input": encode(np.zeros((1, 8)), 16)})
    pairs[worker][position] = other[worker][position]
    used = client.describe("dense").used_requests
    started = time.monotonic()
    with pytest.raises(IntegrityError, match="do not belong together"):
        request(client, [tuple(p) for p in pairs])
    assert time.monotonic() - started < 15, "a worker waited in vain"
    assert client.describe("dense").used_requests == used


def test_workers_that_are_asked_different_things_refuse(client: Client) -> None:
    model, pairs, name = client.describe("dense"), honest(), fresh(16)
    rows = [1, 1, 2]
    bodies = [
        Predict(name, model.id, model.program_digest, n, p)
        for n, p in zip(rows, pairs, strict=True)
    ]
    with pytest.raises(IntegrityError):
        client._connection.call_all(bodies, Answer, 20)


def test_another_program_digest_is_refused(client: Client) -> None:
    with pytest.raises(IntegrityError, match="another program"):
        request(client, honest(), program_digest="00" * 32)


def test_a_replayed_request_is_refused(client: Client) -> None:
    name, pairs = fresh(16), honest()
    request(client, pairs, id=name)
    with pytest.raises(RefusedError, match="already answered"):
        request(client, pairs, id=name)


def test_an_id_that_is_under_way_disturbs_nobody(client: Client, model: Lowered) -> None:
    """The same id sent to one worker again, while many requests run: all of these succeed."""
    known, pairs = client.describe("dense"), honest()
    stop = threading.Event()
    wrong: list[object] = []

    def attack() -> None:
        with Connection(client._connection.cluster, client._connection.identity) as connection:
            while not stop.is_set():
                name = fresh(16)
                body = Predict(name, known.id, known.program_digest, 1, pairs[1])
                late = Predict(fresh(5), known.id, known.program_digest, 1, pairs[1])
                huge = Predict(bytes(1 << 20), known.id, known.program_digest, 1, pairs[1])
                for bad in (late, huge):
                    connection.call_each([None, bad, None], Answer, 20)
                bodies = [msgspec.structs.replace(body, shares=p) for p in pairs]
                first = threading.Thread(
                    target=lambda b=bodies: connection.call_each(b, Answer, 20)
                )
                first.start()
                with Connection(connection.cluster, connection.identity) as second:
                    second.call_each([None, body, None], Answer, 20)
                first.join(20)

    attacker = threading.Thread(target=attack)
    attacker.start()
    started = time.monotonic()
    try:
        for seed in range(60):
            x = np.random.default_rng(seed).normal(0, 1, (1, 8))
            error = np.abs(client.predict("dense", x) - reference(model, x)).max()
            if error > CLOSE:
                wrong.append(error)
    finally:
        stop.set()
        attacker.join(60)
    assert not wrong
    assert time.monotonic() - started < 100
    states = client._connection.ask_all("/v1/status", [None] * 3, Status, 10)
    assert len({next(m for m in s.models if m.id == known.id).used_requests for s in states}) == 1


def test_large_bodies_are_refused(client: Client) -> None:
    answers = client._connection.ask_each("/v1/describe", [Describe("x" * 100_000)] * 3, Answer, 20)
    assert all("a body of" in str(a) for a in answers)


def test_a_refusal_of_any_length_cuts_no_link(cluster: LocalCluster, client: Client) -> None:
    """A refusal goes to the peers; one that quoted megabytes would end the workers' links."""

    def losses() -> int:
        logs = [cluster.directory / f"{n}.log" for n in ("julia", "greg", "me")]
        return sum(log.read_text().count("control link to") for log in logs)

    before = losses()
    long = Summand(arrays={"x" * (3 << 20): b""})
    with pytest.raises(IntegrityError, match=r"'x{40}': 0 bytes") as caught:
        request(client, [(long, long)] * 3)
    assert len(str(caught.value)) < 1000
    time.sleep(0.3)
    request(client, honest())
    assert losses() == before


def test_malformed_requests_are_refused(client: Client) -> None:
    with pytest.raises(RefusedError, match="malformed request id"):
        request(client, honest(), id=b"short")
    for rows in (0, -1, 10**9):
        with pytest.raises(RefusedError, match="rows"):
            request(client, honest(), rows=rows)
    with pytest.raises(IntegrityError, match="'input': 64 bytes, 'input': 128 bytes"):
        request(client, honest(), rows=2)
    with pytest.raises(IntegrityError, match="neither a seed of 32 bytes nor"):
        request(client, [(Summand(), Summand())] * 3)
    for answer in client._connection.call_each(["nonsense"] * 3, Answer, 20):
        assert isinstance(answer, WorkerError)
        assert "malformed Predict message" in str(answer)


def test_a_seed_may_not_stand_for_more_than_fits(cluster: LocalCluster, model: Lowered) -> None:
    """A request of a hundred bytes, all seeds, could ask each worker for any memory."""
    builder = Builder(16)
    wide = builder.input("input", Role.INPUT, (-1, 1 << 20))
    short = Lowered(*lower(builder.finish(builder.emit("sum", wide, axes=(1,))), {}))
    builder = Builder(16)
    thin = builder.emit("reshape", builder.input("input", Role.INPUT, (-1, 1)), shape=(-1, 1, 1))
    fill = builder.input("zeros", Role.PUBLIC, (1, 1 << 12))
    long = builder.emit("truncate", builder.emit("matmul", thin, fill), shift=16)
    tall = Lowered(*lower(builder.finish(long), {"zeros": np.zeros((1, 1 << 12))}))
    seeds = [Summand(seed=fresh(32)) for _ in range(3)]
    pairs = [(seeds[i], seeds[(i + 1) % 3]) for i in range(3)]
    with Connection(cluster.config, cluster.client) as connection:
        for shared, rows, words in ((short, 33, "inputs have"), (tall, 40_000, "outputs have")):
            tercet.share(shared, cluster, "large")
            tercet.serve("large", cluster)
            known = connection.ask_all("/v1/describe", [Describe("large")] * 3, Description, 20)[0]
            name = fresh(16)
            bodies = [Predict(name, known.id, known.program_digest, rows, p) for p in pairs]
            with pytest.raises(RefusedError, match=words):
                connection.call_all(bodies, Answer, 60)
            tercet.remove("large", cluster)


def test_a_seed_of_another_length_spoils_nothing_for_others(client: Client) -> None:
    short = Summand(seed=b"short")
    real = honest()[1][1]
    pairs = [(short, short), (short, real), (real, short)]
    used = client.describe("dense").used_requests
    with pytest.raises(IntegrityError, match="neither a seed of 32 bytes"):
        request(client, pairs)
    assert client.describe("dense").used_requests == used


def test_a_worker_that_tampers_with_the_output_is_noticed(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of greg, changed on its way out of greg."""
    call = client._connection.call_all

    def tampered(*arguments: object):
        answers = call(*arguments)
        part = answers[1].part
        forged = bytes([part.summand[0] ^ 1]) + part.summand[1:]
        part = msgspec.structs.replace(part, summand=forged)
        answers[1] = msgspec.structs.replace(answers[1], part=part)
        return answers

    monkeypatch.setattr(client._connection, "call_all", tampered)
    with pytest.raises(IntegrityError, match="workers 0 and 1 released different output shares"):
        client.predict("dense", np.ones((1, 8)))


# An owner of bad will.


def test_weights_that_do_not_belong_together_are_refused(
    cluster: LocalCluster, model: Lowered
) -> None:
    words = {
        g.name: encode(model.arrays[g.name], g.type.scale)
        for _, g in model.program.named(Role.WEIGHT)
    }
    pairs = [list(p) for p in deal(words)]
    pairs[2][0] = deal(words)[2][0]
    bodies = [
        Prepare(name, "bad", 1, program_bytes(model.program), (p[0], p[1]))
        for name, p in zip([fresh(16)] * 3, pairs, strict=True)
    ]
    with (
        Connection(cluster.config, cluster.owner) as connection,
        pytest.raises(IntegrityError, match="do not belong together"),
    ):
        connection.ask_all("/v1/share/prepare", bodies, type(None), 20)
    assert all(m.name != "bad" for s in cluster.status() for m in s.models)


def test_programs_that_must_not_run_are_refused(cluster: LocalCluster, model: Lowered) -> None:
    program, pairs = model.program, deal({"a": np.zeros(1, np.uint64)})
    *others, last = program.instructions
    assert last.op == "truncate_fresh"
    kept = msgspec.structs.replace(last, op="truncate")
    unmasked = msgspec.structs.replace(program, instructions=(*others, kept))
    first = msgspec.structs.replace(program.instructions[0], op="open")
    unknown = msgspec.structs.replace(program, instructions=(first, *program.instructions[1:]))
    with Connection(cluster.config, cluster.owner) as connection:
        for bad, words in ((unmasked, "does not end in a resend"), (unknown, "'open'")):
            name = fresh(16)
            bodies = [Prepare(name, "worse", 1, program_bytes(bad), p) for p in pairs]
            with pytest.raises(ProgramError, match=words):
                connection.ask_all("/v1/share/prepare", bodies, type(None), 20)


def test_an_owner_cannot_set_different_policies(cluster: LocalCluster, client: Client) -> None:
    name = fresh(16)
    bodies = [Change(name, "dense", Policy(True, limit)) for limit in (None, 3, None)]
    with (
        Connection(cluster.config, cluster.owner) as connection,
        pytest.raises(IntegrityError, match="do not belong together"),
    ):
        connection.ask_all("/v1/change", bodies, Description, 20)
    assert client.describe("dense").policy == Policy(True)


def test_a_request_sent_to_one_worker_alone_stalls_nothing(
    cluster: LocalCluster, client: Client, model: Lowered, rows: np.ndarray
) -> None:
    known, pairs = client.describe("dense"), honest()
    lonely = Predict(fresh(16), known.id, known.program_digest, 1, pairs[0])
    caught: list[BaseException] = []

    def ask() -> None:
        with Connection(cluster.config, cluster.client) as connection:
            bodies = [lonely, None, None]
            caught.extend(
                e for e in connection.call_each(bodies, Answer, 30) if isinstance(e, BaseException)
            )

    thread = threading.Thread(target=ask)
    thread.start()
    np.testing.assert_allclose(client.predict("dense", rows), reference(model, rows), atol=CLOSE)
    thread.join(30)
    assert any("not all three workers within 20 s" in str(e) for e in caught)


def test_who_may_ask_for_what(cluster: LocalCluster, model: Lowered) -> None:
    stranger = Identity.generate("stranger")
    with (
        Client(cluster.config, stranger) as client,
        pytest.raises(TransportError, match=r"julia at 127\.0\.0\.1:\d+ cannot be reached"),
    ):
        client.describe("dense")
    log = (cluster.directory / "julia.log").read_text()
    assert "certificate is not on the list" in log
    with (
        Client(cluster.config, cluster.owner) as client,
        pytest.raises(RefusedError, match=r"'owner' with key .* is not on the list"),
    ):
        request(client, honest())
    impostor = tercet.Cluster(cluster.config, cluster.client, cluster.client)
    with pytest.raises(RefusedError, match="not on the list"):
        tercet.share(model, impostor, "mine")


def test_status(cluster: LocalCluster, client: Client) -> None:
    states = cluster.status()
    assert [s.name for s in states] == ["julia", "greg", "me"]
    assert all(s.ready for s in states)
    assert any(m.name == "dense" for m in states[0].models)


def test_logs_hold_no_shares_and_no_tracebacks(cluster: LocalCluster, client: Client) -> None:
    pairs = honest()
    request(client, pairs)
    for name in ("julia", "greg", "me"):
        log = (cluster.directory / f"{name}.log").read_text()
        assert "Traceback" not in log
        for pair in pairs:
            for summand in pair:
                assert summand.seed == b"" or summand.seed.hex() not in log
                assert repr(summand.seed)[2:-1] not in log or summand.seed == b""
