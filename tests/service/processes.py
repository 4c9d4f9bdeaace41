"""Worker processes under test: who lives, starting one again, waiting for something to happen."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tercet.service.cluster import LocalCluster

PATIENCE = 15.0


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)


def ready(cluster: LocalCluster) -> bool:
    return all(getattr(s, "ready", False) for s in cluster.status())


def await_ready(cluster: LocalCluster, seconds: float) -> None:
    """Wait until all three are ready; if they are not in time, say what each waits for."""
    try:
        eventually(lambda: ready(cluster), seconds)
    except AssertionError:
        told = [getattr(s, "waiting_for", s) for s in cluster.status()]
        raise AssertionError(f"not ready within {seconds:g} s: {told}") from None


def restart(cluster: LocalCluster, name: str) -> subprocess.Popen[bytes]:
    """Start a worker that is gone again, as its operator would."""
    command = [sys.executable, "-m", "tercet.cli", "worker", "--config"]
    with (cluster.directory / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, str(cluster.directory / f"{name}.toml"), "--with-parent"],
            stdin=subprocess.PIPE,
            stderr=log,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """End a worker that ``restart`` started: it goes with the pipe of its parent."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
