"""What bad input gets: one clear error each, and nothing left running."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import tercet
from tercet.errors import (
    ConfigError,
    IdentityError,
    InputError,
    NotFoundError,
    RefusedError,
    TransportError,
    WorkerError,
)
from tercet.net.sockets import bind
from tercet.service.config import split_address
from tercet.service.processes import lay_out
from tercet.syft import KerasHook, TFEClient, TFECluster, TFEWorker
from tercet.syft.home import canonical, cluster_folder
from tercet.syft.hook import MODEL
from tests.syft.conftest import Serving, cluster_of


@pytest.mark.parametrize("ports", [(4000, 4001), (4000, 4001, 4002, 4003), ()])
def test_three_workers_make_a_cluster(ports: tuple[int, ...]) -> None:
    workers = [TFEWorker(f"localhost:{p}") for p in ports]
    with pytest.raises(ConfigError, match=rf"{len(ports)} workers\. A cluster has exactly three"):
        TFECluster(*workers)


def test_the_same_worker_twice() -> None:
    hosts = ("localhost:4000", "localhost:4001", "127.0.0.1:4000")
    with pytest.raises(ConfigError, match="the same worker twice"):
        TFECluster(*map(TFEWorker, hosts))


def test_what_is_no_worker_address_or_cluster(model, hosts: list[str]) -> None:
    with pytest.raises(ConfigError, match="'localhost' is not an address"):
        TFEWorker("localhost")
    with pytest.raises(InputError, match="a str is not a worker"):
        TFECluster(*hosts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a str is not a cluster"):
        model.share("cluster.toml")
    with pytest.raises(InputError, match="a str is not a cluster"):
        TFEClient().connect_to_model((1, 8), (1, 3), "cluster.toml")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'numpy' is not Keras 3"):
        KerasHook(np)


def test_num_requests(cluster: TFECluster, model) -> None:
    model.share(cluster)
    for number in (0, -1.0, 2.5, True, "3", float("nan"), float("inf")):
        with pytest.raises(InputError, match="num_requests is"):
            model.serve(num_requests=number)


def test_the_order_of_calls(hosts: list[str], model, keras) -> None:
    with pytest.raises(WorkerError, match=r"serve: the model is not shared\. Call model.share"):
        model.serve(num_requests=3)
    with pytest.raises(WorkerError, match=r"stop: the model is not shared\. Call model.share"):
        model.stop()
    with pytest.raises(InputError, match=r"not connected to a model\. Call connect_to_model"):
        TFEClient().query_model(np.zeros((1, 8)))
    cluster = cluster_of(hosts)
    cluster.stop()  # harmless
    with pytest.raises(WorkerError, match=r"the cluster is not started\. Call cluster.start"):
        model.share(cluster)
    client = TFEClient()
    with pytest.raises(TransportError, match="connection refused"):
        client.connect_to_model((1, 8), (1, 3), cluster)
    cluster.start()
    try:
        with pytest.raises(WorkerError, match="started already"):
            cluster.start()
        with pytest.raises(NotFoundError, match="no model is shared on this cluster"):
            client.connect_to_model((1, 8), (1, 3), cluster)
        model.share(cluster)
        with pytest.raises(RefusedError, match="the model is shared already"):
            model.share(cluster)
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        with pytest.raises(RefusedError, match="another model is shared on this cluster"):
            other.share(cluster)
        client.connect_to_model((None, 8), (-1, 3), cluster)
        with pytest.raises(RefusedError, match="not being served"):
            client.query_model(np.zeros((1, 8)))
        for shapes, words in (
            (((1, 9), (1, 3)), "input shape is"),
            (((8,), (1, 3)), "input shape is"),
            ((8, (1, 3)), "input shape is 8"),
            (((1.5, 8), (1, 3)), "first extent of the input shape is 1.5"),
            (((1, 8), (1, 2)), r"output shape is \(1, 2\), but the model's is \(rows, 3\)"),
            (((1, None), (1, 3)), "an extent of the input shape is None"),
        ):
            with pytest.raises(InputError, match=words):
                TFEClient().connect_to_model(*shapes, cluster)
        # The client is still connected as it was.
        with pytest.raises(InputError, match="Add the batch axis"):
            client.query_model(np.zeros(8))
    finally:
        client.close()
        cluster.stop()
    model.stop()  # its workers are gone, and the shares with them
    with pytest.raises(WorkerError, match="stop: the model is not shared"):
        model.stop()


def test_removed_while_serving(cluster: TFECluster, model) -> None:
    model.share(cluster)
    serving = Serving(model, None)
    with tercet.connect(cluster.tercet) as client:
        while not client.describe(MODEL).policy.serving:
            time.sleep(0.05)
    tercet.remove(MODEL, cluster.tercet)
    serving.join()
    assert isinstance(serving.error, NotFoundError)
    assert "was removed from worker" in str(serving.error)
    model.stop()


def test_a_worker_that_dies_while_serving(cluster: TFECluster, model) -> None:
    model.share(cluster)
    serving = Serving(model, None)
    with tercet.connect(cluster.tercet) as client:
        while not client.describe(MODEL).policy.serving:
            time.sleep(0.05)
    assert cluster._processes is not None
    os.kill(cluster._processes.pids[1], signal.SIGKILL)
    serving.join()
    assert isinstance(serving.error, WorkerError)
    assert "worker bob ended with code -9" in str(serving.error)
    cluster.stop()
    model.stop()


def test_a_port_in_use(hosts: list[str]) -> None:
    with bind(*split_address(hosts[1])), pytest.raises(TransportError) as caught:
        cluster_of(hosts).start()
    assert "worker bob cannot be started" in str(caught.value)
    assert "The port is in use" in str(caught.value)
    cluster = cluster_of(hosts)  # nothing of the attempt is in the way
    cluster.start()
    cluster.stop()


def test_another_program_where_a_worker_should_be(hosts: list[str]) -> None:
    """Something that takes connections and is no worker."""
    stop = threading.Event()

    def answer(listener) -> None:
        listener.settimeout(0.1)
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.close()

    with bind(*split_address(hosts[0])) as listener:
        thread = threading.Thread(target=answer, args=(listener,))
        thread.start()
        try:
            with pytest.raises(WorkerError, match="cannot be reached: not TLS"):
                cluster_of(hosts, auto_managed=False).start()
        finally:
            stop.set()
            thread.join()


def test_unmanaged_workers(hosts: list[str], model, tmp_path: Path) -> None:
    """The error names the commands; run as printed, they are what was missing."""
    cluster = cluster_of(hosts, auto_managed=False)
    with pytest.raises(WorkerError, match="start each in a terminal of its own") as caught:
        cluster.start()
    commands = re.findall(r"^ {4}(tercet worker --config .*)$", str(caught.value), re.MULTILINE)
    assert len(commands) == 3
    environment = dict(os.environ, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    log = (tmp_path / "log").open("w")
    workers = [subprocess.Popen(shlex.split(c), stderr=log, env=environment) for c in commands]
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                cluster.start()
                break
            except WorkerError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        # Who means to start them anew is told that they are there.
        with pytest.raises(TransportError, match="auto_managed=False"):
            cluster_of(hosts).start()
        model.share(cluster)
        cluster.stop()
        assert all(w.poll() is None for w in workers)
        # The model is still there: another process would meet it.
        another = cluster_of(hosts, auto_managed=False)
        another.start()
        with tercet.connect(another.tercet) as client:
            assert client.describe(MODEL).output_shape == (-1, 3)
        model.stop()
    finally:
        for worker in workers:
            worker.terminate()
        assert [w.wait(20) for w in workers] == [0, 0, 0]
        log.close()


def test_workers_elsewhere(home: Path, tmp_path: Path) -> None:
    # 192.0.2.0/24 is for documentation: it is nobody's machine.
    hosts = [f"192.0.2.{n}:4000" for n in (1, 2, 3)]
    cluster = cluster_of(hosts, auto_managed=False)
    with pytest.raises(ConfigError, match="not on this machine, and its key is not known"):
        cluster.start()
    assert not home.exists()
    lay_out(tmp_path, [(f"w{n}", h, f"{h}1") for n, h in enumerate(hosts)])
    config = tmp_path / "cluster.toml"
    managed = TFECluster(*map(TFEWorker, hosts), config=config)
    with pytest.raises(ConfigError, match=r"is another machine\. Give it auto_managed=False"):
        managed.start()
    others = [TFEWorker(f"localhost:{p}") for p in (4000, 4001, 4002)]
    with pytest.raises(ConfigError, match=r"cluster.toml names the workers 192.0.2.1:4000"):
        TFECluster(*others, config=config).start()


def test_keys_open_to_others_are_refused(hosts: list[str], home: Path) -> None:
    addresses = [canonical(h) for h in hosts]
    folder = cluster_folder(addresses)
    assert folder.stat().st_mode & 0o777 == 0o700
    for path in (folder, home / "clusters", home):
        path.chmod(0o750)
        with pytest.raises(IdentityError, match=f"Run: chmod 700 {path}$"):
            cluster_of(hosts).start()
        path.chmod(0o700)
    key = folder / "owner.key"
    key.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        cluster_of(hosts).start()


def test_processes_that_come_at_once_get_the_same_keys(home: Path) -> None:
    addresses = ["127.0.0.1:4000", "127.0.0.1:5000", "127.0.0.1:5001"]
    code = (
        "import sys; from tercet.syft.home import cluster_folder\n"
        "sys.stdin.readline()\n"
        f"print((cluster_folder({addresses!r}) / 'cluster.toml').read_text())\n"
    )
    many = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    told = {process.communicate("go\n", timeout=60)[0] for process in many}
    assert len(told) == 1
    text = told.pop()
    ports = re.findall(r'address = "127.0.0.1:(\d+)"', text)
    assert len(set(ports)) == 6
    assert set(os.listdir(home / "clusters")) == {"lock", cluster_folder(addresses[::-1]).name}
