"""A per-user folder and three ports for each test, and a small Keras model."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tercet.errors import TransportError
from tercet.net.sockets import bind
from tercet.syft import TFECluster, TFEWorker

os.environ.setdefault("KERAS_BACKEND", "jax")


def _three_ports() -> list[int]:
    """Ports that are free, and their neighbours for protocol messages too."""
    # Below those that the system gives out, and away from those of another process of tests.
    base = 21_000 + os.getpid() % 300 * 30
    while True:
        base += 3
        with contextlib.suppress(TransportError), contextlib.ExitStack() as stack:
            for port in range(base, base + 3):
                stack.enter_context(bind("127.0.0.1", port))
                stack.enter_context(bind("127.0.0.1", port + 1000))
            return list(range(base, base + 3))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "home"
    monkeypatch.setenv("TERCET_HOME", str(path))
    return path


@pytest.fixture
def hosts(home: Path) -> list[str]:
    return [f"localhost:{port}" for port in _three_ports()]


def cluster_of(hosts: list[str], auto_managed: bool = True) -> TFECluster:
    return TFECluster(*(TFEWorker(h, auto_managed) for h in hosts))


@pytest.fixture
def cluster(hosts: list[str]) -> Iterator[TFECluster]:
    cluster = cluster_of(hosts)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def keras():
    import keras

    from tercet.syft import KerasHook

    KerasHook(keras)
    return keras


@pytest.fixture
def model(keras):
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(6, activation="relu"), keras.layers.Dense(3)]
    )


class Serving:
    """``model.serve`` in a thread of its own."""

    def __init__(self, model, num_requests: float | None) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(model, num_requests))
        self._thread.start()

    def _run(self, model, num_requests: float | None) -> None:
        try:
            model.serve(num_requests)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()


def python(script: Path, *arguments: object, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", str(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
