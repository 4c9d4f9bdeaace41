"""Workers that die, ports that are taken, addresses where nobody is: errors, never a hang."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

import tercet
from tercet.api import Lowered
from tercet.errors import ConfigError, TercetError, TransportError, WorkerError
from tercet.net.sockets import bind
from tercet.service import messages, sum_messages
from tercet.service.cluster import CLUSTER_FILE, LocalCluster
from tercet.service.config import load_cluster, load_worker
from tercet.service.http import application
from tests.service.conftest import reference
from tests.service.processes import PATIENCE, alive, children, end, eventually, ready, restart


@pytest.fixture
def own_cluster(model: Lowered):
    with LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "dense")
        tercet.serve("dense", cluster)
        yield cluster


def test_a_killed_worker_is_named_and_comes_back(
    own_cluster: LocalCluster, model: Lowered, rows: np.ndarray
) -> None:
    tercet.serve("dense", own_cluster, max_requests=3)
    with tercet.connect(own_cluster) as client:
        client.predict("dense", rows)
        victim = own_cluster.pids[1]
        data_plane = children(victim)
        os.kill(victim, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(TransportError, match="greg"):
            client.predict("dense", rows)
        assert time.monotonic() - started < PATIENCE
        eventually(lambda: not any(alive(p) for p in data_plane))
        process = restart(own_cluster, "greg")
        try:
            eventually(lambda: ready(own_cluster))
            # The model, its policy and its count are still there, at all three.
            np.testing.assert_allclose(
                client.predict("dense", rows), reference(model, rows), atol=2e-3
            )
            assert {s.models[0].used_requests for s in own_cluster.status()} == {2}
        finally:
            end(process)


@pytest.mark.parametrize("which", ["control", "data plane"])
@pytest.mark.parametrize("worker", range(3))
def test_a_worker_killed_during_a_request(
    own_cluster: LocalCluster, which: str, worker: int
) -> None:
    control = own_cluster.pids[worker]
    victim = control if which == "control" else children(control)[0]
    outcome: list[object] = []

    def ask() -> None:
        with tercet.connect(own_cluster) as client:
            try:
                for _ in range(500):
                    client.predict("dense", np.zeros((2000, 8)))
                outcome.append("finished")
            except TercetError as error:
                outcome.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(1.0)
    os.kill(victim, signal.SIGKILL)
    thread.join(PATIENCE)
    assert not thread.is_alive(), "the caller hangs"
    assert isinstance(outcome[0], TransportError | WorkerError), outcome
    assert "Traceback" not in str(outcome[0])
    if which == "data plane":  # the worker puts it up again by itself
        eventually(lambda: ready(own_cluster))
        with tercet.connect(own_cluster) as client:
            assert client.predict("dense", np.zeros((1, 8))).shape == (1, 3)


def test_a_data_plane_that_waits_goes_with_its_control_process(own_cluster: LocalCluster) -> None:
    """It waits for a peer that says nothing, and would hold the port that its successor needs."""
    (silent,) = children(own_cluster.pids[0])
    (waiting,) = children(own_cluster.pids[1])
    os.kill(silent, signal.SIGSTOP)
    try:
        with tercet.connect(own_cluster) as client:
            asking = threading.Thread(target=_ask_in_vain, args=(client,))
            asking.start()
            time.sleep(1.0)
            os.kill(own_cluster.pids[1], signal.SIGKILL)
            eventually(lambda: not alive(waiting), 3)
            asking.join(PATIENCE)
    finally:
        os.kill(silent, signal.SIGCONT)


def _ask_in_vain(client: tercet.Client) -> None:
    with pytest.raises(TercetError):
        client.predict("dense", np.zeros((1, 8)))


def test_no_process_outlives_the_cluster() -> None:
    cluster = LocalCluster(quiet=True).start()
    pids = [*cluster.pids, *(c for p in cluster.pids for c in children(p))]
    assert len(pids) == 6
    folder = cluster.directory
    assert folder.stat().st_mode & 0o777 == 0o700
    cluster.stop()
    cluster.stop()
    assert not any(alive(p) for p in pids)
    assert not folder.exists()
    with pytest.raises(WorkerError, match="not started"):
        _ = cluster.config


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = (
        "import os, signal, tercet\n"
        f"cluster = tercet.LocalCluster(directory={str(tmp_path)!r}, quiet=True).start()\n"
        "print(*cluster.pids, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=False
    )
    pids = [int(p) for p in done.stdout.split()]
    assert len(pids) == 3
    eventually(lambda: not any(alive(p) for p in pids))


def test_nobody_there(own_cluster: LocalCluster, rows: np.ndarray) -> None:
    config = own_cluster.config
    dead = bind("127.0.0.1", 0)
    address = f"127.0.0.1:{dead.getsockname()[1]}"
    dead.close()
    workers = [*config.worker[:2], msgspec.structs.replace(config.worker[2], address=address)]
    elsewhere = tercet.Cluster(
        msgspec.structs.replace(config, worker=workers), own_cluster.owner, own_cluster.client
    )
    started = time.monotonic()
    with tercet.connect(elsewhere) as client, pytest.raises(TransportError, match=address):
        client.predict("dense", rows)
    assert time.monotonic() - started < 30


def test_another_certificate_under_a_known_name(own_cluster: LocalCluster) -> None:
    config = own_cluster.config
    first, second, third = config.worker
    workers = [
        msgspec.structs.replace(first, certificate=second.certificate),
        msgspec.structs.replace(second, certificate=first.certificate),
        third,
    ]
    wrong = tercet.Cluster(
        msgspec.structs.replace(config, worker=workers), own_cluster.owner, own_cluster.client
    )
    with tercet.connect(wrong) as client, pytest.raises(TransportError, match="not on the list"):
        client.describe("dense")


def test_a_port_in_use_ends_the_worker_with_one_line(own_cluster: LocalCluster) -> None:
    config = str(own_cluster.directory / "julia.toml")
    process = subprocess.run(
        [sys.executable, "-m", "tercet.cli", "worker", "--config", config],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert process.returncode == 1
    assert "port is in use" in process.stderr
    assert own_cluster.config.worker[0].address in process.stderr
    assert "Traceback" not in process.stderr


def test_configuration_errors(own_cluster: LocalCluster, tmp_path: Path) -> None:
    text = (own_cluster.directory / CLUSTER_FILE).read_text()
    parts = text.split("[[worker]]")
    path = tmp_path / "cluster.toml"
    for content, words in (
        ("[[worker]]".join(parts[:3]), "names 2 workers"),
        ("[[worker]]".join([*parts, parts[1]]), "names 4 workers"),
        ("[[worker]]".join([*parts[:3], parts[1]]), "same name twice"),
        (text.replace("name =", "nome =", 1), "unknown field `nome`"),
        (text + "\nworker = 3", "cluster.toml"),
        (text.replace("BEGIN CERT", "BEGIN KERT", 1), "ertificate"),
    ):
        path.write_text(content)
        with pytest.raises(ConfigError, match=words):
            load_cluster(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_cluster(tmp_path / "none.toml")
    worker = tmp_path / "julia.toml"
    worker.write_text((own_cluster.directory / "julia.toml").read_text() + '\ncolour = "red"\n')
    with pytest.raises(ConfigError, match="unknown field `colour`"):
        load_worker(worker)


def test_no_route_returns_shares(own_cluster: LocalCluster) -> None:
    """What a worker answers holds a share in one place only: its part of an answer."""
    import inspect

    source = inspect.getsource(application)
    replies = {"Status", "Description", "Answer", "Line", "NoneType", "Failure"}
    assert source.count("async def ") == 29
    kinds = [getattr(messages, name) for name in replies - {"NoneType"}]
    kinds += [sum_messages.Told, messages.Agreed, messages.Deposited]
    for kind in kinds:
        fields = {f.name: f.type for f in msgspec.structs.fields(kind)}
        holders = [n for n, t in fields.items() if "Summand" in str(t) or "OutputPart" in str(t)]
        assert holders == (["part"] if kind in (messages.Answer, sum_messages.Told) else [])
