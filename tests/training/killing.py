"""Workers that are killed, one after the other, while a training runs, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tercet.service.cluster import LocalCluster
from tercet.service.parties import Agreement
from tercet.service.training_party import TrainingParty
from tests.service.processes import NAMES, alive, children, end, eventually, ready, restart


@contextmanager
def killed(
    cluster: LocalCluster, party: TrainingParty, agreement: Agreement, victims: Sequence[int]
) -> Iterator[None]:
    """Kill each victim once another checkpoint is there, and start it again.

    The workers that were started last go at the end of the ``with`` statement.
    """
    running: list[subprocess.Popen[bytes] | None] = [None] * 3
    pids = list(cluster.pids)
    last = 0
    try:
        for victim in victims:
            eventually(lambda last=last: party.progress(agreement).checkpoint > last, 60)
            assert party.progress(agreement).status == "running"
            last = party.progress(agreement).checkpoint
            _kill(pids[victim])
            if (dead := running[victim]) is not None:
                end(dead)
            running[victim] = restarted = restart(cluster, NAMES[victim])
            pids[victim] = restarted.pid
            eventually(lambda: ready(cluster), 60)
            again = party.progress(agreement)
            assert again.checkpoint >= last  # from there, not from the beginning
        yield
    finally:
        for process in running:
            if process is not None:
                end(process)


def _kill(pid: int) -> None:
    below = children(pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(map(alive, (pid, *below))))
