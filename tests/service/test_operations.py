"""What an operator meets: full disks, damaged files, lists that change, stops, health, metrics."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import tercet
from tercet.api import Lowered
from tercet.crypto.identity import Identity
from tercet.errors import (
    BusyError,
    RefusedError,
    StorageError,
    TercetError,
    TransportError,
    WorkerError,
)
from tercet.service.client import Client
from tercet.service.cluster import LocalCluster
from tests.service.conftest import dense_model, reference
from tests.service.processes import (
    NAMES,
    PATIENCE,
    alive,
    children,
    end,
    eventually,
    get,
    ready,
    restart,
    rewrite,
)

ONE = np.zeros((1, 8))


@pytest.fixture
def running(model: Lowered) -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "dense")
        tercet.serve("dense", cluster)
        yield cluster


@pytest.fixture(scope="module")
def steady(model: Lowered) -> Iterator[LocalCluster]:
    """For tests that leave the three workers as they found them."""
    with LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "dense")
        yield cluster


def used(cluster: LocalCluster) -> set[tuple[int, int]]:
    states = cluster.status()
    return {(m.used_requests, m.used_rows) for s in states for m in s.models if m.name == "dense"}


def kill(cluster: LocalCluster, worker: int) -> None:
    """End a worker without notice, and wait until its data plane has gone as well."""
    pid = cluster.pids[worker]
    below = children(pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not any(Path(f"/proc/{p}").exists() for p in below))


@pytest.mark.parametrize("worker", range(3))
def test_a_full_disk_refuses_at_once_and_recovers(steady: LocalCluster, worker: int) -> None:
    tercet.serve("dense", steady, max_requests=50)  # counts start at 0
    with tercet.connect(steady) as client:
        client.predict("dense", ONE)
        pid = steady.pids[worker]
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
        started = time.monotonic()
        with pytest.raises(StorageError, match="disk refuses to write"):
            client.predict("dense", ONE)
        assert time.monotonic() - started < 15, "a worker waited for one that could not count"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        for _ in range(3):
            client.predict("dense", ONE)
    # What the others had counted is counted here too by now.
    eventually(lambda: used(steady) == {(5, 5)})
    _, text = get(steady, "/metrics", steady.owner, worker)
    assert "tercet_disk_refusals_total 0.0" not in text


def test_a_model_that_the_disk_refuses_is_on_none(steady: LocalCluster) -> None:
    pid = steady.pids[1]
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    with pytest.raises(StorageError, match="disk refuses"):
        tercet.share(dense_model(1), steady, "second")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert all(m.name != "second" for s in steady.status() for m in s.models)
    assert tercet.share(dense_model(1), steady, "second").version in {1, 2}
    tercet.remove("second", steady)


def test_a_damaged_file_is_a_fault_of_that_model_alone(
    running: LocalCluster, model: Lowered, rows: np.ndarray
) -> None:
    folder = running.directory / "greg-state" / "models"
    damages = ("flipped", "half", "gone", "another's")
    paths = []
    for damage in damages:
        shared = tercet.share(dense_model(1), running, damage)
        tercet.serve(damage, running)
        paths.append(folder / f"{shared.id.hex()}.safetensors")
    kill(running, 1)
    data = bytearray(paths[0].read_bytes())
    data[-3] ^= 4
    paths[0].write_bytes(data)
    paths[1].write_bytes(data[: len(data) // 2])
    paths[2].unlink()
    other = next(p for p in folder.iterdir() if p not in paths)
    paths[3].write_bytes(other.read_bytes())
    process = restart(running, "greg")
    try:
        broken = {f"the shares of {damage}@1" for damage in damages}
        eventually(lambda: set(getattr(running.status()[1], "waiting_for", [])) == broken)
        faults = {m.name: m.fault for m in running.status()[1].models}
        assert faults.pop("dense") == ""
        assert all(faults.values())
        with tercet.connect(running) as client:
            np.testing.assert_allclose(
                client.predict("dense", rows), reference(model, rows), atol=2e-3
            )
            for damage in damages:
                with pytest.raises(WorkerError, match="greg cannot use model"):
                    client.predict(damage, rows)
                with pytest.raises(WorkerError, match="greg cannot use model"):
                    tercet.serve(damage, running, max_rows=3)
                tercet.remove(damage, running)
        eventually(lambda: ready(running))
    finally:
        end(process)


def may_ask(cluster: LocalCluster, identity: Identity) -> bool:
    try:
        with Client(cluster.config, identity) as client:
            client.predict("dense", ONE)
    except TransportError as error:
        assert "cannot be reached" in str(error), error
        return False
    return True


def test_clients_come_and_go_without_a_restart(steady: LocalCluster) -> None:
    tercet.serve("dense", steady)
    folder = steady.directory / "clients"
    folder.mkdir()
    new = Identity.generate("new")
    assert not may_ask(steady, new)
    (folder / "client.crt").write_bytes((steady.directory / "client.crt").read_bytes())
    rewrite(steady, clients=["clients"])
    new.save(folder)
    time.sleep(2.5)  # all three look every second; a request that two of them take waits in vain
    assert may_ask(steady, new)
    with tercet.connect(steady) as client, Client(steady.config, new) as other:
        client.predict("dense", ONE)
        other.predict("dense", ONE)
        (folder / "new.crt").unlink()
        time.sleep(2.5)
        with pytest.raises(RefusedError, match="not on the list"):  # on a connection that stands
            other.predict("dense", ONE)
        # Nonsense changes nothing, and is told.
        (folder / "bad.crt").write_text("no certificate")
        log = steady.directory / "julia.log"
        eventually(lambda: "the lists of identities stay as they were" in log.read_text(), 5)
        client.predict("dense", ONE)
        (folder / "bad.crt").unlink()
        os.utime(folder / "client.crt", (1, 1))
        for pid in steady.pids:
            os.kill(pid, signal.SIGHUP)
        time.sleep(0.3)
        client.predict("dense", ONE)


def test_health_and_metrics(running: LocalCluster) -> None:
    operator = Identity.generate("operator")
    operator.save(running.directory)
    rewrite(running, operators=["operator.crt"])
    with tercet.connect(running) as client:
        for _ in range(3):
            client.predict("dense", np.zeros((2, 8)))
        tercet.stop("dense", running)
        with pytest.raises(TercetError):
            client.predict("dense", ONE)

    def reachable() -> bool:
        try:
            return get(running, "/healthz", operator) == (200, "ok\n")
        except OSError:
            return False

    eventually(reachable, 5)
    assert get(running, "/readyz", operator) == (200, "ready\n")
    status, text = get(running, "/metrics", operator)
    assert status == 200
    for line in (
        'tercet_requests_total{outcome="answered"} 3.0',
        'tercet_requests_total{outcome="refused"} 1.0',
        'tercet_refusals_total{reason="not_served"} 1.0',
        "tercet_rows_total 6.0",
        "tercet_request_seconds_count 3.0",
        "tercet_requests_under_way 0.0",
        "tercet_ready 1.0",
        'tercet_models{state="shared"} 1.0',
        'tercet_models{state="served"} 0.0',
    ):
        assert line in text
    assert float(re.search(r"(?m)^tercet_protocol_rounds_total (\S+)$", text)[1]) >= 3
    assert get(running, "/metrics", running.client)[0] == 403
    command = [sys.executable, "-m", "tercet.cli", "metrics", "greg", "--identity", "operator"]
    path = running.directory / "cluster.toml"
    done = subprocess.run(
        [*command, "--cluster", str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert "tercet_ready 1.0" in done.stdout, done.stderr
    kill(running, 2)
    eventually(lambda: get(running, "/readyz", operator) == (503, "waits for me\n"))


def test_a_busy_worker_says_so_and_serves_on(running: LocalCluster, model: Lowered) -> None:
    """A queue of one: most of the racing requests are told to come again, the rest is right."""
    for index, name in enumerate(NAMES):
        path = running.directory / f"{name}.toml"
        path.write_text(path.read_text().replace("max_queue = 512", "max_queue = 1"))
        kill(running, index)
    processes = [restart(running, name) for name in NAMES]
    outcomes: list[object] = []

    def ask() -> None:
        with tercet.connect(running) as client:
            for _ in range(5):
                try:
                    outcomes.append(client.predict("dense", np.ones((500, 8))))
                except TercetError as error:
                    outcomes.append(error)

    try:
        eventually(lambda: ready(running))
        threads = [threading.Thread(target=ask) for _ in range(4)]
        started = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert time.monotonic() - started < 60
        busy = [o for o in outcomes if isinstance(o, BusyError)]
        right = [o for o in outcomes if isinstance(o, np.ndarray)]
        assert busy
        assert right
        assert len(busy) + len(right) == 20, outcomes
        assert re.search(r"1 requests under way.*try again in \d+ s", str(busy[0]))
        exact = reference(model, np.ones((500, 8)))
        assert all(np.abs(r - exact).max() < 2e-3 for r in right)
    finally:
        for process in processes:
            end(process)


@pytest.mark.parametrize("stopped", [(0, 1, 2), (1,)])
def test_a_stop_finishes_what_runs(
    running: LocalCluster, model: Lowered, stopped: tuple[int, ...]
) -> None:
    """Whatever was counted when workers are told to stop is answered, by all three."""
    answers: list[np.ndarray] = []
    refusals: list[TercetError] = []
    x = np.ones((500, 8))

    def ask() -> None:
        with tercet.connect(running) as client:
            try:
                while True:
                    answers.append(client.predict("dense", x))
            except TercetError as error:
                refusals.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(answers) > 5, PATIENCE)
    for worker in stopped:
        os.kill(running.pids[worker], signal.SIGTERM)
    for thread in threads:
        thread.join(PATIENCE)
    assert len(refusals) == 3
    assert all(e.remedy for e in refusals)
    eventually(lambda: not any(alive(running.pids[worker]) for worker in stopped), PATIENCE)
    exact = reference(model, x)
    assert all(np.abs(answer - exact).max() < 2e-3 for answer in answers)
    told = {"counted": len(answers), "answered": len(answers)}

    def outcomes(name: str) -> Counter[str]:
        with contextlib.closing(
            sqlite3.connect(running.directory / f"{name}-state" / "registry.db")
        ) as db:
            entries = [json.loads(entry) for (entry,) in db.execute("SELECT entry FROM audit")]
        return Counter(e["outcome"] for e in entries if e["action"] == "predict")

    # Workers that go on write what became of a request within a second.
    eventually(lambda: all(outcomes(name) == told for name in NAMES), PATIENCE)


def test_the_audit_log_of_a_worker(steady: LocalCluster) -> None:
    def log(*options: str) -> subprocess.CompletedProcess[str]:
        config = str(steady.directory / "greg.toml")
        command = [sys.executable, "-m", "tercet.cli", "audit-log", "--config", config]
        return subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=30, check=False
        )

    before = len(log().stdout.splitlines())
    tercet.share(dense_model(2), steady, "told")
    tercet.serve("told", steady, max_requests=2, output="argmax")
    with tercet.connect(steady) as client:
        for _ in range(2):
            client.predict("told", np.zeros((3, 8)))
        with pytest.raises(TercetError):
            client.predict("told", ONE)
    tercet.stop("told", steady)
    time.sleep(1.2)  # outcomes are written once a second
    lines = log().stdout.splitlines()
    entries = [json.loads(line) for line in lines[before:]]
    assert [(e["action"], e["outcome"]) for e in entries if e["action"] != "predict"] == [
        ("share", "done"), ("serve", "done"), ("stop", "done"),
    ]  # fmt: skip
    asked = [e for e in entries if e["action"] == "predict"]
    assert sorted(e["outcome"] for e in asked) == ["answered"] * 2 + ["counted"] * 2
    assert {(e["who"], e["key"], e["rows"]) for e in asked} == {
        ("client", steady.client.fingerprint, 3)
    }
    assert '"mode":"argmax"' in next(e for e in entries if e["action"] == "serve")["detail"]
    assert entries[0]["name"] == "told@1"
    done = log("--verify")
    assert done.returncode == 0
    assert f"{len(lines)} entries, all in order" in done.stdout
    tercet.remove("told", steady)


def test_log_lines_as_json(running: LocalCluster) -> None:
    kill(running, 2)
    path = running.directory / "me.toml"
    path.write_text(path.read_text().replace('log = "text"', 'log = "json"'))
    log = running.directory / "me.log"
    log.write_text("")
    process = restart(running, "me")
    try:
        eventually(lambda: ready(running))
        with tercet.connect(running) as client:
            client.predict("dense", ONE)
        eventually(lambda: "answered" in log.read_text())
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert all({"time", "level", "logger", "worker", "message"} <= set(x) for x in lines)
        assert {x["logger"] for x in lines} >= {"tercet.worker", "tercet.net"}
        assert {x["worker"] for x in lines} == {"me"}
    finally:
        end(process)
