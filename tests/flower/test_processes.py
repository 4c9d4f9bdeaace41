"""The example app in Flower's simulation and in its deployment, with three real workers."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tercet.privacy import Budget, Ledger
from tercet.service.cluster import LocalCluster
from tests.flower.processes import APP, deployment, simulation

NODES = 3


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    names = [f"hospital-{i}" for i in range(NODES)]
    with LocalCluster(directory=folder, quiet=True, parties=names) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def task():
    """The app's own task, without Flower."""
    sys.path.insert(0, str(APP))
    try:
        from hospitals import task

        yield task
    finally:
        sys.path.remove(str(APP))
        for name in [n for n in sys.modules if n.split(".")[0] == "hospitals"]:
            del sys.modules[name]


def in_the_clear(task, nodes: int, rounds: int, proximal: float = 0.0):
    """Federated averaging of clients that count alike."""
    model = task.initial()
    data = [task.hospital(i, nodes) for i in range(nodes)]
    for _ in range(rounds):
        trained = [task.train(model, *rows, proximal=proximal) for rows in data]
        model = {name: np.mean([t[name] for t in trained], 0) for name in model}
    return model


def accuracies(log: str) -> list[float]:
    return [float(x) for x in re.findall(r"MetricRecord: \{'accuracy': ([0-9.]+)\}", log)]


@pytest.mark.timeout(600)
def test_simulation(cluster: LocalCluster, task, tmp_path: Path) -> None:
    with simulation(tmp_path) as flower:
        log = flower.run(
            "--federation-config", f"num-supernodes={NODES} client-resources-num-cpus=1",
            tercet_directory=str(cluster.directory), nodes=NODES, num_server_rounds=2,
            clip_norm=20.0, strategy="fedprox", save=str(tmp_path / "model.npz"),
        )  # fmt: skip
    made = np.load(tmp_path / "model.npz")
    expected = in_the_clear(task, NODES, 2, proximal=0.1)
    for name, array in expected.items():
        assert np.abs(made[name] - array).max() < 1e-3, log
    assert accuracies(log)[-1] == pytest.approx(task.accuracy(expected), abs=0.01)
    assert "of 2 clients or more" in log


@pytest.mark.timeout(600)
def test_deployment(cluster: LocalCluster, tmp_path: Path) -> None:
    """Two SuperNodes; one of them keeps a ledger, which the third round would exceed."""
    folder = cluster.directory
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.allow("hospital-1", "digits", Budget(7.0, 1e-3))
    configs = [
        f'partition-id={i} tercet-cluster="{folder / "cluster.toml"}" '
        f'tercet-identity="{folder / f"hospital-{i}"}"'
        for i in range(2)
    ]
    configs[1] += (
        f' tercet-ledger="{tmp_path / "ledger.db"}" tercet-owner="hospital-1" tercet-model="digits"'
    )
    with deployment(tmp_path, configs) as flower:
        log = flower.run(
            tercet_directory=str(folder), nodes=2, num_server_rounds=3, epsilon=8.0, clip_norm=20.0,
            strategy="fedadam", save=str(tmp_path / "model.npz"),
        )  # fmt: skip
    told = [float(x) for x in re.findall(r"a client's data: epsilon ([0-9.]+)", log)]
    assert len(told) == 2, log
    assert told[0] < told[1] < 7.0
    assert "round 3 changes nothing" in log
    assert "would bring" in log
    # The third round left the model as the second had made it.
    assert accuracies(log)[-1] == accuracies(log)[-2]
    assert set(np.load(tmp_path / "model.npz")) == {"kernel", "bias"}
    assert len(ledger.events("hospital-1", "digits")) == 2
    ledger.close()
