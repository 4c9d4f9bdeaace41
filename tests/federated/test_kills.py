"""A worker that is killed in a round: the round is run again or its one sum is opened again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tercet.errors import TercetError, TransportError, WorkerError
from tercet.service.cluster import LocalCluster
from tests.federated.parties import NAMES, SERVER, Doing, Study, updates
from tests.service.processes import alive, end, eventually, ready, restart

WORKERS = ("julia", "greg", "me")


class Killer:
    """Kills workers of a cluster and starts them again."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.pids = dict(zip(WORKERS, cluster.pids, strict=True))
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def kill(self, name: str) -> None:
        os.kill(self.pids[name], signal.SIGKILL)
        if name in self.started:
            process = self.started.pop(name)
            process.wait(15)
            assert process.stdin is not None
            process.stdin.close()
        else:
            eventually(lambda: not alive(self.pids[name]))

    def revive(self, name: str) -> None:
        self.started[name] = restart(self.cluster, name)
        self.pids[name] = self.started[name].pid
        eventually(lambda: ready(self.cluster), 30)

    def close(self) -> None:
        for process in self.started.values():
            end(process)


@pytest.fixture
def killer() -> Iterator[Killer]:
    with LocalCluster(quiet=True, parties=(*NAMES, SERVER)) as cluster:
        killer = Killer(cluster)
        yield killer
        killer.close()


def persist(call, *arguments, seconds: float = 60):
    """Call again as long as a worker is missing: what a participant's loop does."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return call(*arguments)
        except (TransportError, WorkerError):
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.parametrize("victim", WORKERS)
def test_a_worker_killed_in_a_round(killer: Killer, victim: str) -> None:
    """Before the close the round starts anew; after it the same sum is opened, noise and all."""
    with Study(killer.cluster, noise=1.0) as study:
        given = updates(1)
        study.sessions[0].contribute(0, given[0])
        asked = Doing(study.server.aggregate, 0)
        killer.kill(victim)
        with pytest.raises(TercetError):
            asked.result()
        with pytest.raises(TercetError):
            study.sessions[1].contribute(0, given[1])
        killer.revive(victim)
        for session, update in zip(study.sessions, given, strict=True):
            persist(session.contribute, 0, update)
        first = study.server.aggregate(0)
        assert first.contributors == study.terms.participants
        assert np.abs(first.sum - study.words(given) * 2.0**-study.terms.scale).max() < 10
        killer.kill(victim)
        killer.revive(victim)
        again = persist(study.server.aggregate, 0)
        np.testing.assert_array_equal(first.sum, again.sum)
        with pytest.raises(TercetError, match="closed for another list"):
            study.server.aggregate(0, study.prints(0, 1))


@pytest.mark.slow
def test_kills_at_random_moments(killer: Killer) -> None:
    """Whatever was opened of a round is one sum, and it is right."""
    chance = random.Random(5)
    with Study(killer.cluster, rounds=40, deadline=10, noise=0.25) as study:
        opened: dict[int, np.ndarray] = {}
        for number in range(15):
            given = updates(number)

            def everybody(number: int = number, given: list[np.ndarray] = given) -> None:
                for session, update in zip(study.sessions, given, strict=True):
                    try:
                        session.contribute(number, update)
                    except TercetError:
                        continue

            doing = [Doing(everybody), Doing(study.server.aggregate, number)]
            time.sleep(chance.random() * 0.4)
            victim = chance.choice(WORKERS)
            killer.kill(victim)
            killer.revive(victim)
            for each in doing:
                try:
                    each.result()
                except TercetError:
                    continue
            if doing[1].value is not None:
                opened[number] = doing[1].value.sum
            for _ in range(20):
                everybody()
                try:
                    told = study.server.aggregate(number)
                except TercetError:
                    time.sleep(0.2)
                    continue
                first = opened.setdefault(number, told.sum)
                np.testing.assert_array_equal(first, told.sum)
                exact = study.words(
                    [u for u, p in zip(given, study.prints(0, 1, 2), strict=True)
                     if p in told.contributors]
                )  # fmt: skip
                error = told.sum - exact * 2.0**-study.terms.scale
                assert 0 < np.abs(error).max() < 0.25 * 1.3 * 7
                break
            else:
                pytest.fail(f"round {number} was never opened")
        for number, first in opened.items():
            if number >= 11:  # older sums are not kept
                again = persist(study.server.aggregate, number)
                np.testing.assert_array_equal(first, again.sum)
