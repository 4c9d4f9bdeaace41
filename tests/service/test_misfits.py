"""What does not fit together, over real processes: versions, programs, clusters, state, callers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import tercet
from tercet import __version__
from tercet.api import Lowered
from tercet.crypto.identity import Identity
from tercet.errors import IntegrityError, NotFoundError, TransportError
from tercet.program.builder import Builder
from tercet.program.passes import lower
from tercet.program.program import Role, encode
from tercet.service.client import Client
from tercet.service.cluster import LocalCluster
from tercet.service.config import write_toml
from tercet.service.doctor import examine
from tests.service.conftest import dense_model, reference
from tests.service.processes import (
    PATIENCE,
    alive,
    await_ready,
    children,
    end,
    eventually,
    metrics,
    restart,
    rewrite,
)


@pytest.fixture(scope="module")
def running(model: Lowered) -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "dense")
        tercet.serve("dense", cluster)
        yield cluster


class Again:
    """greg, who is killed and started again, as he is or as ``environment`` makes him."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        pid = self._process.pid if self._process is not None else self._cluster.pids[1]
        below = children(pid)
        os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            end(self._process)
        eventually(lambda: not any(map(alive, (pid, *below))))

    def start(self, **environment: str) -> None:
        self._process = restart(self._cluster, "greg", **environment)

    def close(self) -> None:
        if self._process is not None:
            end(self._process)


@pytest.fixture(scope="module")
def greg(running: LocalCluster) -> Iterator[Again]:
    again = Again(running)
    yield again
    again.close()


def asks(cluster: LocalCluster, model: Lowered, name: str = "dense") -> None:
    x = np.random.default_rng(3).normal(0, 1, (4, 8))
    with tercet.connect(cluster) as client:
        np.testing.assert_allclose(client.predict(name, x), reference(model, x), atol=2e-3)


def test_a_client_that_vanishes_mid_request(running: LocalCluster, model: Lowered) -> None:
    """Its request is finished and counted once; the next client gets its own answers."""
    tercet.serve("dense", running, max_requests=50)
    script = (
        "import numpy, tercet\n"
        f"cluster = tercet.Cluster.load({str(running.directory / 'cluster.toml')!r})\n"
        "with tercet.connect(cluster) as client:\n"
        "    while True: client.predict('dense', numpy.ones((4000, 8)))\n"
    )
    client = subprocess.Popen([sys.executable, "-c", script])
    try:
        eventually(lambda: "tercet_requests_under_way 1.0" in metrics(running), PATIENCE)
    finally:
        client.kill()
        client.wait()
    eventually(lambda: "tercet_requests_under_way 0.0" in metrics(running), PATIENCE)
    asks(running, model)
    counts = {(m.used_requests, m.used_rows) for s in running.status() for m in s.models}
    ((requests, rows),) = counts
    assert rows == 4000 * (requests - 1) + 4


def test_two_clusters_on_one_machine(running: LocalCluster, model: Lowered) -> None:
    """The same names, and none takes the other's callers or answers for it."""
    other_model = dense_model(4)
    with LocalCluster(quiet=True) as other:
        tercet.share(other_model, other, "dense")
        tercet.serve("dense", other)
        asks(running, model)
        asks(other, other_model)
        with (
            Client(other.config, running.client) as stranger,
            pytest.raises(TransportError, match="may not have our certificate on its list"),
        ):
            stranger.describe("dense")
        mixed = msgspec.structs.replace(
            running.config, worker=[*running.config.worker[:2], other.config.worker[2]]
        )
        with Client(mixed, running.client) as client, pytest.raises(TransportError, match="me at"):
            client.predict("dense", np.zeros((1, 8)))


def test_a_worker_on_the_state_of_another(running: LocalCluster, tmp_path: Path) -> None:
    """A second julia, on ports of her own, finds the first one's folder in use."""
    workers = [
        msgspec.structs.replace(w, address=f"127.0.0.1:{21000 + i}", data_address=f"127.0.0.1:{i}")
        for i, w in enumerate(running.config.worker, 1)
    ]
    write_toml(tmp_path / "cluster.toml", msgspec.structs.replace(running.config, worker=workers))
    text = (running.directory / "julia.toml").read_text()
    for name in ("julia.crt", "julia.key", "julia-state", "owner.crt", "client.crt"):
        text = text.replace(f'"{name}"', json.dumps(str(running.directory / name)))
    (tmp_path / "julia.toml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "tercet.cli", "worker", "--config", str(tmp_path / "julia.toml")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "julia-state is the state of a worker that runs. Give each worker" in done.stderr
    assert "Traceback" not in done.stderr


def test_owners_have_names_of_their_own(running: LocalCluster, model: Lowered) -> None:
    second, third = Identity.generate("second"), dense_model(6)
    second.save(running.directory)
    rewrite(running, owners=["owner.crt", "second.crt"])
    theirs = tercet.Cluster(running.config, second, running.client)
    tercet.serve("dense", running)

    def shared() -> bool:
        try:
            tercet.share(third, theirs, "dense")
        except TransportError:
            return False  # not all three have read their lists yet
        return True

    eventually(shared)
    tercet.serve("dense", theirs)
    with (
        tercet.connect(running) as client,
        pytest.raises(NotFoundError, match="Name one of owner/dense, second/dense"),
    ):
        client.predict("dense", np.zeros((1, 8)))
    asks(running, model, "owner/dense")
    asks(running, third, "second/dense")
    for action in (tercet.serve, tercet.stop, tercet.remove):
        with pytest.raises(NotFoundError, match="no model 'owner/dense'"):
            action("owner/dense", theirs)
    tercet.remove("dense", theirs)  # one's own
    asks(running, model)
    rewrite(running, owners=["owner.crt"])


def test_a_worker_of_another_version(
    running: LocalCluster, greg: Again, model: Lowered, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import tercet, tercet.net.hello\n"
        "tercet.__version__ = '9.9'\n"
        "tercet.net.hello.VERSION = 2\n"
    )
    greg.kill()
    greg.start(PYTHONPATH=str(tmp_path))
    log = running.directory / "julia.log"
    told = "the peer speaks version 2 of the worker protocol, not 1; trying on"
    eventually(lambda: told in log.read_text(), PATIENCE)
    checks = {(c.worker, c.what): c for c in examine(running.config, running.owner)}
    assert checks["greg", "version"].told == f"9.9, and {__version__} here"
    assert checks["greg", "version"].remedy == "Install the same version of Tercet everywhere"
    assert not checks["julia", "links"].ok
    started = time.monotonic()
    with tercet.connect(running) as client, pytest.raises(TransportError, match="waits for"):
        client.predict("dense", np.zeros((1, 8)))
    assert time.monotonic() - started < PATIENCE
    greg.kill()
    greg.start()
    await_ready(running, PATIENCE)
    asks(running, model)


def other_program() -> bytes:
    """Of the same shapes and names, without the activation."""
    builder = Builder(16)
    value = builder.input("input", Role.INPUT, (-1, 8))
    arrays = {}
    for name, shape in (("hidden", (8, 16)), ("output", (16, 3))):
        w = builder.input(f"{name}/kernel", Role.WEIGHT, shape)
        b = builder.input(f"{name}/bias", Role.WEIGHT, shape[1:])
        value = builder.emit("truncate", builder.emit("matmul", value, w), shift=16)
        value = builder.emit("add", value, b)
        arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = np.zeros(shape), np.zeros(shape[1:])
    return encode(lower(builder.finish(value), arrays)[0])


def test_a_worker_with_another_program(running: LocalCluster, greg: Again, model: Lowered) -> None:
    """Its disk says that the model computes something else."""
    path = running.directory / "greg-state" / "registry.db"

    def write(program: bytes) -> None:
        greg.kill()
        with sqlite3.connect(path) as db:
            db.execute("UPDATE models SET program = ?", (program,))
        db.close()
        greg.start()

    with sqlite3.connect(path) as db:
        ((right,),) = db.execute("SELECT program FROM models").fetchall()
    db.close()
    with tercet.connect(running) as knows, tercet.connect(running) as new:
        knows.describe("dense")
        write(other_program())
        different = [f"{n} to hold the same of dense@1" for n in ("julia", "me")]
        eventually(
            lambda: getattr(running.status()[1], "waiting_for", [])[-2:] == different, PATIENCE
        )
        started = time.monotonic()
        with pytest.raises(IntegrityError, match="hold different models under 'dense'"):
            new.predict("dense", np.zeros((1, 8)))
        with pytest.raises(IntegrityError, match=r"another program|different models"):
            knows.predict("dense", np.zeros((1, 8)))
        assert time.monotonic() - started < PATIENCE
    checks = [c for c in examine(running.config, running.owner) if not c.ok]
    assert {c.what for c in checks} == {"ready", "models"}
    assert all(c.remedy for c in checks)
    write(right)
    await_ready(running, PATIENCE)
    asks(running, model)
