"""Federated training on three real workers, with participants here and in their own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
import pytest

from tercet.errors import InputError, RefusedError, TransportError
from tercet.federated import (
    Coordinator,
    KerasTrainer,
    Participant,
    PrivateKerasTrainer,
    UserLevel,
    participate,
    train,
)
from tercet.federated.training import run_rounds
from tercet.federated.update import flatten
from tercet.privacy import Account, Budget, GaussianSum, Ledger
from tercet.service.cluster import LocalCluster
from tests.federated.plain import Book, Plain, terms_for

NAMES = ("ward-0", "ward-1", "ward-2")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    with LocalCluster(directory=folder, quiet=True, parties=NAMES) as cluster:
        yield cluster


def network() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)], name="small")
    model.compile(
        optimizer=keras.optimizers.SGD(0.5, momentum=0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def records() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)).astype(np.float32)
    return x, (x @ rng.normal(size=(8, 3))).argmax(1)


def whole_batches(model, x, y, **more):
    """Local training without chance: all rows in one batch."""
    return KerasTrainer(model, x, y, batch_size=len(x), **more)


def test_hospitals_and_a_laptop(cluster: LocalCluster) -> None:
    x, y = records()
    model = network()
    start = model.get_weights()
    participants = [
        Participant(cluster.as_party(n).owner, whole_batches(model, x[i::3], y[i::3], epochs=3))
        for i, n in enumerate(NAMES)
    ]
    history = train(
        model, participants, cluster, rounds=5, clip_norm=4.0, validation=(x, y), quiet=True
    )
    assert [r.contributors for r in history.rounds] == [NAMES] * 5
    assert history.rounds[-1].accuracy > 0.85 > history.rounds[0].accuracy - 0.1
    secure = model.get_weights()
    # The same in the clear: equal but for the last of 40 fractional bits.
    terms = terms_for([p.identity for p in participants], 27, bound=4 << 22, scale=22, rounds=5)
    book = Book(terms)
    plain, _ = run_rounds(start, Plain(participants, book), book, quiet=True)
    assert np.abs(flatten(plain) - flatten(secure)).max() < 1e-5


def test_all_together(cluster: LocalCluster, tmp_path: Path) -> None:
    """Secure sums, user-level noise, example-level DP-SGD, and ledgers for both."""
    x, y = records()
    model, participants, ledgers = network(), [], []
    for i, name in enumerate(NAMES):
        ledger = Ledger(tmp_path / f"{name}.db")
        ledger.allow(name, "small", Budget(8.0, 1e-3))
        ledger.allow(name, "small/examples", Budget(1.0, 1e-3))
        trainer = PrivateKerasTrainer(
            model, x[i::3], y[i::3], epsilon=1.0, delta=1e-3, rounds=2, batch_size=20,
            clip_norm=1.0, account=Account(ledger, name, "small/examples"),
        )  # fmt: skip
        account = Account(ledger, name, "small")
        participants.append(
            Participant(cluster.as_party(name).owner, trainer, account=account, minimum=3)
        )
        ledgers.append(ledger)
    history = train(
        model, participants, cluster, rounds=2, clip_norm=0.5, minimum=3,
        privacy=UserLevel(8.0, 1e-3), validation=(x, y), quiet=True,
    )  # fmt: skip
    assert [len(r.contributors) for r in history.rounds] == [3, 3]
    for name, ledger in zip(NAMES, ledgers, strict=True):
        assert 7.9 < ledger.spent(name, "small").epsilon <= 8.0
        assert 0.98 < ledger.spent(name, "small/examples").epsilon <= 1.0
        assert all(isinstance(e, GaussianSum) for e in ledger.events(name, "small/examples"))
    assert history.rounds[-1].guarantee.epsilon == ledgers[0].spent(NAMES[0], "small").epsilon
    for suffix in ("png", "html"):
        history.plot(tmp_path / f"plot.{suffix}")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "plot.html").read_text()
    assert "data:image/png;base64," in page
    assert "sampling: none, add-or-remove-one" in page
    with pytest.raises(InputError, match="neither"):
        history.plot(tmp_path / "plot.pdf")
    # A second run is beyond all budgets: nobody contributes, three rounds in a row.
    with pytest.raises(RefusedError, match="0 contributed to round 3"):
        train(
            model, participants, cluster, rounds=3, clip_norm=0.5, minimum=3,
            privacy=UserLevel(8.0, 1e-3), quiet=True,
        )  # fmt: skip


def test_arguments_that_do_not_belong_together(cluster: LocalCluster) -> None:
    model = network()
    one = Participant(cluster.as_party("ward-0").owner, lambda w, n: w)
    for participants in ([], [one], [one, one]):
        with pytest.raises(InputError, match="Two different"):
            train(model, participants, cluster, rounds=1, clip_norm=1.0, quiet=True)


class Wards:
    """Participants in processes of their own."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder, self._address = folder, address
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, name: str, **more: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.federated.ward", str(self._folder), name]
        self._processes[name] = subprocess.Popen(
            [*command, self._address, json.dumps(more)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        return self._processes[name]

    def said(self, name: str) -> list[str]:
        return self._processes[name].communicate(timeout=60)[0].splitlines()

    def __enter__(self) -> Wards:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes.values():
            process.kill()
            process.communicate()


class Model:
    name = "vector"

    def __init__(self) -> None:
        self.weights = [np.zeros((2, 3), np.float32)]

    def get_weights(self):
        return self.weights

    def set_weights(self, weights) -> None:
        self.weights = weights


@pytest.fixture
def coordinator(cluster: LocalCluster) -> Iterator[Coordinator]:
    members = [cluster.as_party(n).owner.public for n in NAMES]
    with Coordinator(cluster.owner, members, timeout=6, patience=30) as coordinator:
        yield coordinator


def test_participants_in_processes_of_their_own(
    cluster: LocalCluster, coordinator: Coordinator
) -> None:
    """One of them is killed in the second round, and one is over its budget in the third."""
    model = Model()
    with Wards(cluster.directory, coordinator.address) as wards:
        wards.start("ward-0", linger=3)
        wards.start("ward-1", budget=4.6)
        victim = wards.start("ward-2", sleep=60, sleep_from=2)

        def kill() -> None:
            assert victim.stdout is not None
            for line in victim.stdout:
                if line == "round 2\n":
                    victim.kill()
                    return

        killer = threading.Thread(target=kill)
        killer.start()
        history = train(
            model, coordinator, cluster, rounds=3, clip_norm=1.0,
            privacy=UserLevel(5.0, 1e-3), quiet=True,
        )  # fmt: skip
        killer.join()
        coordinator.close()
        assert [r.contributors for r in history.rounds[:2]] == [NAMES, NAMES[:2]]
        assert history.rounds[1].absent == {"ward-2": "it was not done in time"}
        assert history.rounds[2].contributors == ()
        assert set(history.rounds[2].absent) == {"ward-1", "ward-2"}
        assert "would bring" in history.rounds[2].absent["ward-1"]
        assert history.rounds[2].seconds < 5  # nobody waits again for who was absent
        assert json.loads(wards.said("ward-0")[-1]) == {"1": None, "2": None, "3": None}
        told = json.loads(wards.said("ward-1")[-1])
        assert (told["1"], told["2"]) == (None, None)
        assert "would bring" in told["3"]


def test_who_contributed_and_did_not_say_so_is_in_the_sum(
    cluster: LocalCluster, coordinator: Coordinator
) -> None:
    with Wards(cluster.directory, coordinator.address) as wards:
        wards.start("ward-0")
        wards.start("ward-1", dumb=1)
        wards.start("ward-2")
        model = Model()
        history = train(model, coordinator, cluster, rounds=2, clip_norm=1.0, quiet=True)
        assert [r.contributors for r in history.rounds] == [NAMES, ("ward-0", "ward-2")]
        assert history.rounds[0].absent == {}
        assert np.abs(model.weights[0] - 0.5).max() < 1e-5


def test_who_does_not_accept_the_agreement_is_named(
    cluster: LocalCluster, coordinator: Coordinator
) -> None:
    with Wards(cluster.directory, coordinator.address) as wards:
        wards.start("ward-0")
        wards.start("ward-1", minimum=3)
        wards.start("ward-2")
        with pytest.raises(RefusedError, match=r"not signed by ward-1 \(.*asks for 3"):
            train(Model(), coordinator, cluster, rounds=1, clip_norm=1.0, quiet=True)
        coordinator.close()
        assert wards.said("ward-1")[-1].startswith("error: ")


def test_strangers_and_a_coordinator_that_is_gone(
    cluster: LocalCluster, coordinator: Coordinator
) -> None:
    stranger = Participant(cluster.client, lambda w, n: w)
    with pytest.raises(TransportError, match="cannot be reached"):
        participate(stranger, cluster, cluster.owner.public, coordinator.address, patience=0)
    coordinator.close()
    known = Participant(cluster.as_party("ward-0").owner, lambda w, n: w)
    with pytest.raises(TransportError, match="cannot be reached"):
        participate(known, cluster, cluster.owner.public, coordinator.address, patience=0)
