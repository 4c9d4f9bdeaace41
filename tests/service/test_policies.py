"""What an owner allows, over three real workers: each limit is reached, and said."""

from __future__ import annotations

import datetime
import threading
import time

import numpy as np
import pytest

import tercet
from tercet.api import Lowered, TopK
from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.errors import BusyError, InputError, NotFoundError, RefusedError
from tercet.program.serving import Mode, Release
from tercet.service.client import Client
from tercet.service.cluster import LocalCluster
from tercet.service.connection import Connection
from tercet.service.messages import Change, Description, Policy
from tests.service.conftest import dense_model, reference

CLOSE = 2e-3
ONE = np.zeros((1, 8))


@pytest.fixture(scope="module")
def client(cluster: LocalCluster, model: Lowered):
    tercet.share(model, cluster, "terms")
    with tercet.connect(cluster) as connected:
        yield connected
    tercet.remove("terms", cluster)


def test_each_output_mode(
    cluster: LocalCluster, client: Client, model: Lowered, rows: np.ndarray
) -> None:
    """One client asks on while the owner changes what is released."""
    scores = reference(model, rows)
    tercet.serve("terms", cluster)
    plain = client.describe("terms")
    np.testing.assert_allclose(client.predict("terms", rows), scores, atol=CLOSE)

    tercet.serve("terms", cluster, output="argmax")
    got = client.predict("terms", rows)
    assert got.dtype == np.int64
    np.testing.assert_array_equal(got, scores.argmax(1))
    told = client.describe("terms")
    assert told.policy.release == Release(Mode.ARGMAX)
    assert told.output_shape == (-1,)
    assert told.program_digest != plain.program_digest
    assert told.id == plain.id

    tercet.serve("terms", cluster, output="top_k", top=2)
    top = client.predict("terms", rows)
    assert isinstance(top, TopK)
    order = np.argsort(-scores, 1)[:, :2]
    np.testing.assert_array_equal(top.indices, order)
    np.testing.assert_allclose(top.scores, np.take_along_axis(scores, order, 1), atol=CLOSE)

    tercet.serve("terms", cluster, output="softmax", decimals=1)
    exact = np.exp(scores - scores.max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)
    got = client.predict("terms", rows)
    np.testing.assert_allclose(got * 10, np.round(got * 10), atol=1e-5)
    np.testing.assert_allclose(got, exact, atol=0.15)

    tercet.serve("terms", cluster, clamp=(-0.5, 0.5))
    np.testing.assert_allclose(
        client.predict("terms", rows), reference(model, np.clip(rows, -0.5, 0.5)), atol=CLOSE
    )
    tercet.serve("terms", cluster)
    assert client.describe("terms").program_digest == plain.program_digest
    np.testing.assert_allclose(client.predict("terms", rows), scores, atol=CLOSE)


def test_who_asks_while_the_owner_changes_the_model(
    cluster: LocalCluster, client: Client, model: Lowered, rows: np.ndarray
) -> None:
    """The three workers change one after the other: nobody is told that they disagree."""
    tercet.serve("terms", cluster)
    over = threading.Event()

    def change() -> None:
        for number in range(20):
            tercet.serve("terms", cluster, max_rows=1000 + number, decimals=number % 2 or None)
        over.set()

    owner = threading.Thread(target=change)
    owner.start()
    try:
        asked = 0
        while not over.is_set():
            assert client.describe("terms").policy.serving
            asked += 1
    finally:
        owner.join(60)
    assert asked > 3


def test_an_expired_model(cluster: LocalCluster, client: Client) -> None:
    tercet.serve("terms", cluster, expires=1.0)
    client.predict("terms", ONE)
    time.sleep(1.1)
    with pytest.raises(RefusedError, match=r"was served until 20\d\d-"):
        client.predict("terms", ONE)
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    assert tercet.serve("terms", cluster, expires=later).policy.expires == later.timestamp()
    client.predict("terms", ONE)


def test_a_model_for_others(cluster: LocalCluster, client: Client) -> None:
    other, own = Identity.generate("other"), cluster.client.fingerprint
    tercet.serve("terms", cluster, clients=[other.fingerprint])
    with pytest.raises(RefusedError, match="not served to this client"):
        client.predict("terms", ONE)
    certificate = cluster.directory / "client.crt"
    served = tercet.serve("terms", cluster, clients=[certificate, other.fingerprint])
    assert set(served.policy.clients or ()) == {own, other.fingerprint}
    client.predict("terms", ONE)
    # A client is not told who else may ask.
    assert client.describe("terms").policy.clients == (own,)


def test_a_rate(cluster: LocalCluster, client: Client) -> None:
    tercet.serve("terms", cluster, max_rate=3)
    for _ in range(3):
        client.predict("terms", ONE)
    with pytest.raises(BusyError, match=r"3 requests a minute.*Try again in \d+ s"):
        client.predict("terms", ONE)
    told = client.describe("terms")
    assert told.used_requests == 3


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Policy(True, max_rate=0), "limit of 0"),
        (Policy(True, clients=()), "list of 0 clients"),
        (Policy(True, clients=("ann",)), "not a fingerprint"),
        (Policy(True, expires=float("nan")), "not a time"),
        (Policy(True, release=Release(Mode.TOP_K, 4)), "output of shape"),
        (Policy(True, release=Release(clamp=(1.0, 0.0))), "a clamp from"),
    ],
)
def test_policies_that_make_no_sense(
    cluster: LocalCluster, client: Client, policy: Policy, words: str
) -> None:
    tercet.serve("terms", cluster)
    before = client.describe("terms").policy
    change = Change(fresh(16), "terms", policy)
    started = time.monotonic()
    with (
        Connection(cluster.config, cluster.owner) as connection,
        pytest.raises((RefusedError, InputError), match=words),
    ):
        connection.ask_all("/v1/change", [change] * 3, Description, 20)
    assert time.monotonic() - started < 15
    assert client.describe("terms").policy == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"output": "all"}, "output 'all'"),
        ({"output": "top_k"}, "top 0"),
        ({"expires": -1}, "-1 s from now"),
        ({"expires": datetime.datetime(2030, 1, 1)}, "without a time zone"),
    ],
)
def test_arguments_that_make_no_sense(
    cluster: LocalCluster, client: Client, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        tercet.serve("terms", cluster, **arguments)


def test_sixteen_racing_clients_get_exactly_a_hundred_answers(
    cluster: LocalCluster, client: Client
) -> None:
    tercet.serve("terms", cluster, max_requests=100)
    answered: list[int] = []
    wrong: list[BaseException] = []

    def ask() -> None:
        with tercet.connect(cluster) as mine:
            while True:
                try:
                    mine.predict("terms", ONE)
                    answered.append(1)
                except RefusedError:
                    return
                except Exception as error:
                    wrong.append(error)
                    return

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not wrong
    assert len(answered) == 100
    used = {m.used_requests for s in cluster.status() for m in s.models if m.name == "terms"}
    assert used == {100}


def test_versions_beside_each_other(
    cluster: LocalCluster, model: Lowered, rows: np.ndarray
) -> None:
    newer = dense_model(5)
    old, new = reference(model, rows), reference(newer, rows)

    def says(client: Client, name: str, expected: np.ndarray) -> None:
        np.testing.assert_allclose(client.predict(name, rows), expected, atol=CLOSE)

    with tercet.connect(cluster) as client:
        assert tercet.share(model, cluster, "twice").version == 1
        tercet.serve("twice", cluster)
        assert tercet.share(newer, cluster, "twice").version == 2
        says(client, "twice", old)  # what is not served does not take over
        with pytest.raises(RefusedError, match="not being served"):
            client.predict("twice@2", rows)
        assert tercet.serve("twice", cluster).version == 2
        says(client, "twice@1", old)
        says(client, "owner/twice@2", new)
        with tercet.connect(cluster) as another:
            says(another, "twice", new)
        tercet.stop("twice@2", cluster)
        with tercet.connect(cluster) as another:
            says(another, "twice", old)
        tercet.remove("twice@1", cluster)
        with pytest.raises(NotFoundError, match="twice@1"):
            client.describe("twice@1")
        assert client.describe("twice").version == 2
        assert tercet.share(model, cluster, "twice").version == 3
        tercet.remove("twice", cluster)
        for name in ("twice", "twice@2", "twice@3"):
            with pytest.raises(NotFoundError):
                client.describe(name)
    assert tercet.share(model, cluster, "twice").version == 4
    tercet.remove("twice", cluster)
    with pytest.raises(RefusedError, match="not a model name"):
        tercet.share(model, cluster, "twice@1")
