"""The command line against a running local cluster, as a user types it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tercet.data import Digits

TERCET = [sys.executable, "-m", "tercet.cli"]


def tercet(*arguments: object, cluster: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, TERCET_CLUSTER=str(cluster)) if cluster else None
    return subprocess.run(
        [*TERCET, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("local") / "cluster"
    process = subprocess.Popen(
        [*TERCET, "local", "--directory", str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert process.stdout.readline().startswith("Ready")
    yield Path(re.fullmatch(r"export TERCET_CLUSTER=(.*)\n", line)[1])
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()


def test_share_serve_predict(
    cluster: Path, saved: Path, digits: Digits, trained, tmp_path: Path
) -> None:
    np.save(tmp_path / "sample.npy", digits.x_train[:64])
    np.save(tmp_path / "x.npy", digits.x_test[:5])
    done = tercet(
        "share", saved, "--name", "digits", "--sample", tmp_path / "sample.npy", cluster=cluster
    )
    assert done.returncode == 0, done.stderr
    assert "owner/digits@1 is shared" in done.stdout
    done = tercet("serve", "digits", "--max-requests", 2, cluster=cluster)
    assert "served for 2 requests" in done.stdout
    out = tmp_path / "y.npy"
    done = tercet("predict", "digits", tmp_path / "x.npy", "--output", out, cluster=cluster)
    assert done.returncode == 0, done.stderr
    assert re.search(r"5 rows in .* ms, .* KB between the workers, 13 rounds", done.stderr)
    np.testing.assert_allclose(
        np.load(out), trained.predict(digits.x_test[:5], verbose=0), atol=2e-3
    )
    done = tercet("predict", "digits", tmp_path / "x.npy", cluster=cluster)
    assert len(done.stdout.splitlines()) == 5
    done = tercet("predict", "digits", tmp_path / "x.npy", cluster=cluster)
    assert done.returncode == 1
    assert "error: " in done.stderr
    assert "answered its 2 requests" in done.stderr
    done = tercet("status", "--json", cluster=cluster)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert told["ready"]
    assert told["workers"][2]["models"][0]["used_requests"] == 2
    assert "julia" in tercet("status", cluster=cluster).stdout
    assert tercet("stop", "digits", cluster=cluster).returncode == 0
    assert tercet("remove", "digits", cluster=cluster).returncode == 0
    done = tercet("stop", "digits", cluster=cluster)
    assert "no model 'digits' is shared" in done.stderr


def test_a_policy_as_it_is_typed(
    cluster: Path, saved: Path, digits: Digits, trained, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", digits.x_test[:4])
    done = tercet("share", saved, "--name", "terms", cluster=cluster)
    assert "owner/terms@1 is shared" in done.stdout, done.stderr
    done = tercet(
        "serve", "terms@1", "--output", "top_k", "--top", 2, "--decimals", 1, "--expires", 3600,
        "--clamp", 0, 1, "--max-rate", 30, "--client", cluster.parent / "client.crt",
        "--max-rows", 9, cluster=cluster,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = done.stdout
    for part in ("for 9 rows", "until 2", "to 1 named client,", "at 30 requests a minute",
                 "as top_k of 2", "with 1 decimals", "with inputs from 0 to 1"):  # fmt: skip
        assert part in words
    done = tercet("predict", "terms", tmp_path / "x.npy", cluster=cluster)
    assert done.returncode == 0, done.stderr
    table = np.array([line.split() for line in done.stdout.splitlines()], float)
    scores = trained.predict(digits.x_test[:4], verbose=0)
    np.testing.assert_array_equal(table[:, 0], scores.argmax(1))
    np.testing.assert_allclose(table[:, 1], scores.max(1), atol=0.2)
    told = tercet("status", "--json", cluster=cluster)
    (model,) = json.loads(told.stdout)["workers"][1]["models"]
    assert model["policy"]["release"] == {
        "mode": "top_k", "top": 2, "decimals": 1, "clamp": [0.0, 1.0]
    }  # fmt: skip
    assert model["version"] == 1
    done = tercet("audit-log", "--verify", "--config", cluster.parent / "greg.toml")
    assert "all in order; head " in done.stdout, done.stderr
    assert "tercet_ready 1.0" in tercet("metrics", "julia", cluster=cluster).stdout
    assert "no worker 'jul'" in tercet("metrics", "jul", cluster=cluster).stderr
    assert tercet("remove", "terms", cluster=cluster).returncode == 0


def test_check(saved: Path) -> None:
    done = tercet("check", saved, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["supported"]
    assert told["rounds"] == 11
    assert [layer["kind"] for layer in told["layers"]][:3] == [
        "Conv2D", "AveragePooling2D", "ReLU",
    ]  # fmt: skip
    assert sum(layer["bytes"] for layer in told["layers"]) == told["bytes"]
    table = tercet("check", saved).stdout
    assert "conv2d" in table
    assert "total" in table


def test_check_names_what_is_not_supported(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(4, name="first"),
            keras.layers.Embedding(9, 2, name="last"),
        ]
    )
    model.save(tmp_path / "lookup.keras")
    done = tercet("check", tmp_path / "lookup.keras", "--json")
    assert done.returncode == 1
    layers = {layer["name"]: layer for layer in json.loads(done.stdout)["layers"]}
    assert layers["first"]["verdict"] == "supported"
    assert layers["last"]["verdict"] == "not supported"
    assert layers["last"]["remedy"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("check", "none.keras"), "none.keras"),
        (("status", "--cluster", "none.toml"), "cannot read none.toml"),
        (("predict", "a", "none.npy", "--cluster", "none.toml"), "cannot read none.npy"),
        (("worker", "--config", "none.toml"), "cannot read none.toml"),
    ],
)
def test_errors_are_one_line(arguments: tuple[str, ...], words: str) -> None:
    done = tercet(*arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_keygen(tmp_path: Path) -> None:
    done = tercet("keygen", "greg", "--directory", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "greg.key").stat().st_mode & 0o777 == 0o600
    again = tercet("keygen", "greg", "--directory", tmp_path)
    assert again.returncode == 1
    assert "greg" in again.stderr


def test_the_demo_tells_its_story() -> None:
    done = tercet("demo")
    assert done.returncode == 0, done.stderr
    for line in (
        "Actual: 7, predicted: 7",
        "Actual: 2, predicted: 2",
        "Actual: 1, predicted: 1",
        "julia, greg, me",
        "what one worker got of it",
        "11 rounds",
    ):
        assert line in done.stdout
    assert "for trial only" in done.stderr
