"""Worker processes under test: who lives, starting one again, waiting for something to happen."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tercet.crypto.identity import Identity
from tercet.errors import TransportError
from tercet.net.sockets import bind
from tercet.net.tls import client_context
from tercet.service.cluster import LocalCluster
from tercet.service.config import split_address

NAMES = ("julia", "greg", "me")
#: For what takes a moment, on a machine that others keep busy; a hang is longer.
PATIENCE = 60.0


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


def get(cluster: LocalCluster, path: str, reader: Identity, worker: int = 0) -> tuple[int, str]:
    """Return status and text of what a worker shows at a path."""
    entry = cluster.config.worker[worker]
    context = client_context(reader, entry.identity)
    connection = http.client.HTTPSConnection(
        *split_address(entry.address), context=context, timeout=10
    )
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace")
    finally:
        connection.close()


def metrics(cluster: LocalCluster) -> str:
    return get(cluster, "/metrics", cluster.owner)[1]


def rewrite(cluster: LocalCluster, **lists: list[str]) -> None:
    """Change the lists in the three workers' files."""
    for name in NAMES:
        path = cluster.directory / f"{name}.toml"
        text = path.read_text()
        for key, values in lists.items():
            text = re.sub(f"(?m)^{key} = .*$", f"{key} = {json.dumps(values)}", text)
        path.write_text(text)


def free(address: str) -> bool:
    """Return whether an address of this machine can be listened on."""
    try:
        bind(*split_address(address)).close()
    except TransportError:
        return False
    return True


def restart(cluster: LocalCluster, name: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a worker that is gone again, as its operator would.

    Its ports are of those that the system gives out: a connection of somebody else's may have got
    one of them meanwhile, and holds it for a moment.
    """
    entry = next(w for w in cluster.config.worker if w.name == name)
    for address in (entry.address, entry.data_address):
        eventually(lambda address=address: free(address), PATIENCE)
    command = [sys.executable, "-m", "tercet.cli", "worker", "--config"]
    with (cluster.directory / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [*command, str(cluster.directory / f"{name}.toml"), "--with-parent"],
            stdin=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **environment},
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
