"""The example of two hospitals, and the command line, as users run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tercet.service.cluster import CLUSTER_FILE, LocalCluster
from tests.training.linear import PARTIES, data

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_two_hospitals_reach_together_what_neither_reaches_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hospitals = example("two_hospitals")
    held, test = hospitals.records()
    monkeypatch.setattr(hospitals, "EPOCHS", 8)
    alone = [hospitals.alone(x, y, test) for x, y in held]
    with LocalCluster(quiet=True, parties=hospitals.HOSPITALS) as cluster:
        together = hospitals.together(cluster)
    assert together > 0.93
    assert together > max(alone) + 0.03


MODEL = """
import keras
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)], name="line")
model.compile(keras.optimizers.SGD(0.1), "mean_squared_error")
model.save("line.keras")
"""


def test_the_command_line(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        x, y = data(160, seed)
        np.savez(tmp_path / f"{name}.npz", x=x, y=y[:, 0])
    np.savez(tmp_path / "bad.npz", x=x, y=np.full(160, 7))
    np.save(tmp_path / "rows.npy", x[:4])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "COLUMNS": "200"}
    subprocess.run(
        [sys.executable, "-c", MODEL], cwd=tmp_path, env=environment, check=True, timeout=120
    )
    with LocalCluster(quiet=True, parties=PARTIES) as cluster:
        environment["TERCET_CLUSTER"] = str(cluster.directory / CLUSTER_FILE)

        def tercet(who: str, *arguments: str, code: int = 0) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "tercet.cli", *arguments, "--identity", who],
                cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
                check=False,
            )  # fmt: skip
            assert done.returncode == code, done.stderr
            return done.stdout + done.stderr

        assert "160 rows" in tercet("hospital-a", "contribute", "a", "a.npz")
        tercet("hospital-b", "contribute", "b", "b.npz")
        told = tercet("hospital-b", "contribute", "bad", "bad.npz", "--classes", "3", code=1)
        assert "label of row 0 is not a class from 0 to 2" in told
        assert "hospital-a/a" in tercet("hospital-b", "contributions")
        told = tercet(
            "coordinator", "propose", "line.keras", "--name", "line", "--data", "hospital-a/a",
            "--data", "b", "--epochs", "2", "--batch-size", "16", "--release", "model",
            "--metric", "loss",
        )  # fmt: skip
        assert "the model is opened to coordinator" in told
        agreement = told.rsplit("tercet approve ", 1)[1].split()[0]
        told = tercet("coordinator", "train", agreement, code=1)
        assert "is not signed by" in told
        assert "1 have still to sign" in tercet("hospital-a", "approve", agreement, "--yes")
        assert "all have signed" in tercet("hospital-b", "approve", "line", "--yes")
        assert "3 of 3" in tercet("hospital-b", "agreements")
        assert "40 steps done" in tercet("coordinator", "train", agreement)
        tercet("coordinator", "fetch", agreement, "line.keras", "--output", "trained.keras")
        assert (tmp_path / "trained.keras").exists()
        told = tercet("hospital-a", "fetch", agreement, "line.keras", "--output", "x.keras", code=1)
        assert "opens no model to hospital-a" in told
        tercet("coordinator", "serve", "line", "--max-rows", "10")
        assert len(tercet("hospital-b", "predict", "coordinator/line", "rows.npy").split()) > 4
        tercet("hospital-a", "contributions", "--remove", "a")
        assert "hospital-a/a" not in tercet("hospital-b", "contributions")
        assert "withdrawn" in tercet("hospital-b", "withdraw", agreement)
        told = tercet("hospital-b", "predict", "coordinator/line", "rows.npy", code=1)
        assert "has withdrawn" in told
