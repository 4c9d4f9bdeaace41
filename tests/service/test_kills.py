"""Workers killed at random moments, while others ask, share, serve and remove: nothing is lost.

After each restart, without an operator: ready again, the same models, policies and counts at all
three, at most as many answers as the policy allows, and every answer right. The slow test holds
ready to 10 s; on a machine that is busy with other tests a time would decide nothing.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from typing import Self

import numpy as np
import pytest

import tercet
from tercet.api import Lowered
from tercet.errors import TercetError
from tercet.service.cluster import LocalCluster
from tercet.service.messages import Status
from tests.service.conftest import dense_model, reference
from tests.service.processes import (
    NAMES,
    PATIENCE,
    alive,
    await_ready,
    children,
    end,
    eventually,
    restart,
)

LIMIT = 100_000
READY_SECONDS = 10.0


class Load:
    """Somebody who asks all the time, and somebody who shares, serves and removes."""

    def __init__(self, cluster: LocalCluster, model: Lowered, seed: int) -> None:
        self._cluster, self._model = cluster, model
        self._random = random.Random(seed)
        self._over = threading.Event()
        self.answered = 0
        self.committed: set[str] = set()
        self.wrong: list[object] = []
        self._threads = [threading.Thread(target=f) for f in (self._ask, self._own)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a caller hangs"

    def _ask(self) -> None:
        rng = np.random.default_rng(0)
        with tercet.connect(self._cluster) as client:
            while not self._over.is_set():
                x = rng.normal(0, 1, (int(rng.integers(1, 4)), 8))
                try:
                    error = np.abs(client.predict("kept", x) - reference(self._model, x)).max()
                    self.answered += 1
                    if error > 2e-3:
                        self.wrong.append(error)
                except TercetError:
                    time.sleep(0.05)
                except Exception as failure:
                    self.wrong.append(failure)

    def _own(self) -> None:
        other = dense_model(9)
        while not self._over.is_set():
            try:
                shared = tercet.share(other, self._cluster, "moving")
                tercet.serve("moving", self._cluster, max_rows=7, output="argmax")
                if self._random.random() < 0.5:
                    tercet.remove(f"moving@{shared.version}", self._cluster)
                else:
                    tercet.stop("moving", self._cluster)
            except TercetError:
                time.sleep(0.05)
            except Exception as failure:
                self.wrong.append(failure)


def held(state: Status) -> list[tuple[object, ...]]:
    return sorted(
        (m.name, m.version, m.id, m.program_digest, m.policy.serving, m.used_requests, m.used_rows)
        for m in state.models
    )


def kill_and_restart(model: Lowered, kills: int, seed: int, within: float) -> None:
    choose = random.Random(seed)
    with LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "kept")
        tercet.serve("kept", cluster, max_requests=LIMIT)
        running: list[subprocess.Popen[bytes] | None] = [None] * 3
        pids = list(cluster.pids)
        answered, slowest = 0, 0.0
        try:
            for kill in range(kills):
                with Load(cluster, model, seed + kill) as load:
                    time.sleep(choose.uniform(0.0, 0.6))
                    victim = kill % 3
                    below = children(pids[victim])
                    os.kill(pids[victim], signal.SIGKILL)
                    eventually(lambda gone=(pids[victim], *below): not any(map(alive, gone)))
                    if (dead := running[victim]) is not None:
                        end(dead)
                    started = time.monotonic()
                    running[victim] = restart(cluster, NAMES[victim])
                    pids[victim] = running[victim].pid
                    await_ready(cluster, within)
                    slowest = max(slowest, time.monotonic() - started)
                assert not load.wrong
                answered += load.answered
                await_ready(cluster, within)

                def equal() -> bool:
                    first, second, third = (held(s) for s in cluster.status())
                    return first == second == third

                eventually(equal)
                (kept,) = (m for m in cluster.status()[0].models if m.name == "kept")
                assert answered <= kept.used_requests <= LIMIT
            assert answered > 0
        finally:
            for process in running:
                if process is not None:
                    end(process)
    print(f"{kills} kills, {answered} answers, ready after {slowest:.1f} s at most")


def test_nine_kills(model: Lowered) -> None:
    kill_and_restart(model, 9, seed=1, within=PATIENCE)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_two_hundred_kills(model: Lowered) -> None:
    kill_and_restart(model, 200, seed=2, within=READY_SECONDS)
