"""Workers and coordinators that are killed while a training runs: it goes on to the same end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tercet.service.cluster import LocalCluster
from tercet.service.parties import Agreement
from tests.service.processes import NAMES, children, eventually, ready
from tests.training import linear
from tests.training.killing import killed
from tests.training.linear import (
    PARTIES,
    approve,
    contribute,
    data,
    in_the_clear,
    initial,
    party,
    terms,
)

#: Each of some thousand roundings moves a weight by 2^-16 at most, and the next steps pull it back.
CLOSE = 2e-3

RUN = """
import sys, time
from tercet.service.cluster import Cluster
from tercet.service.training_party import TrainingParty
cluster = Cluster.load(sys.argv[1], "coordinator")
with TrainingParty(cluster.config, cluster.owner) as party:
    party.run(party.find(sys.argv[2]))
    print("runs", flush=True)
    time.sleep(60)
"""


def noisy(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = data(rows, seed)
    return x, y + np.random.default_rng(seed).normal(0, 0.3, y.shape)


def begin(cluster: LocalCluster, name: str, steps: int) -> tuple[Agreement, np.ndarray]:
    """Agree on a training, let a process of its own run it and be killed; return what must come."""
    a, b = noisy(200, 1), noisy(120, 2)
    told = [
        contribute(cluster.as_party(f"hospital-{h}"), name, *d)
        for h, d in zip("ab", (a, b), strict=True)
    ]
    start = initial(cluster.as_party("coordinator"), name)
    with party(cluster, "coordinator") as one:
        agreement = one.propose(
            terms(cluster, name, start, told, epochs=steps // 40, checkpoint=25)
        )
        one.attach(agreement, linear.package())
        approve(cluster, agreement)
    x, y = (np.concatenate(both) for both in zip(a, b, strict=True))
    command = [sys.executable, "-c", RUN, str(cluster.directory / "cluster.toml"), agreement.id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as coordinator:
        assert coordinator.stdout is not None
        assert coordinator.stdout.readline() == "runs\n"
        coordinator.kill()
    return agreement, in_the_clear(agreement.terms, x, y)


def kills(steps: int, victims: list[int]) -> None:
    with LocalCluster(quiet=True, parties=PARTIES) as cluster:
        agreement, wanted = begin(cluster, "line", steps)
        with party(cluster, "coordinator") as one, killed(cluster, one, agreement, victims):
            eventually(lambda: one.progress(agreement).status == "done", 200)
            assert one.progress(agreement).step == steps
            np.testing.assert_allclose(one.fetch(agreement)["w"], wanted, atol=CLOSE)
            told = one.progress(agreement).metrics["loss"]
            assert [s for s, _ in told] == sorted({s for s, _ in told})
            assert told[-1][0] == steps
            eventually(lambda: ready(cluster), 60)
            folders = [Path(cluster.directory / f"{n}-state" / "trainings") for n in NAMES]
            # What the receiver may fetch; leavings of a kill go within two minutes.
            eventually(lambda: [len(list(f.iterdir())) for f in folders] == [1, 1, 1], 120)


def test_each_worker_is_killed_once() -> None:
    kills(1200, [1, 0, 2])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_thirty_kills() -> None:
    kills(3000, [n % 3 for n in range(30)])


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=PARTIES) as cluster:
        yield cluster


def test_a_data_plane_dies_alone(three: LocalCluster) -> None:
    agreement, wanted = begin(three, "plane", 800)
    with party(three, "coordinator") as one:
        eventually(lambda: one.progress(agreement).checkpoint > 0, 60)
        (below,) = children(three.pids[2])
        os.kill(below, signal.SIGKILL)
        eventually(lambda: one.progress(agreement).status == "done", 200)
        np.testing.assert_allclose(one.fetch(agreement)["w"], wanted, atol=CLOSE)


def test_cancelled_and_resumed(three: LocalCluster) -> None:
    agreement, wanted = begin(three, "cancelled", 800)
    with party(three, "hospital-a") as a, party(three, "coordinator") as one:
        eventually(lambda: one.progress(agreement).checkpoint > 0, 60)
        a.cancel(agreement)
        told = one.progress(agreement)
        assert (told.status, told.message) == ("cancelled", "cancelled by hospital-a")
        time.sleep(1)
        assert one.progress(agreement).checkpoint <= told.checkpoint + 25
        one.run(agreement)
        eventually(lambda: one.progress(agreement).status == "done", 200)
        np.testing.assert_allclose(one.fetch(agreement)["w"], wanted, atol=CLOSE)
