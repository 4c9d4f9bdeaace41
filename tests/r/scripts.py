"""The three scripts of ``examples/r`` in R processes of their own. Run by ``make test-r``.

``RETICULATE_PYTHON`` names a Python that has Tercet and that the installed reticulate can use.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tercet.data import load_digits
from tercet.errors import TransportError
from tercet.net.sockets import bind

SCRIPTS = Path(__file__).parents[2] / "examples" / "r"
PRINTED = (4000, 4001, 4002)


def free(port: int) -> bool:
    with contextlib.suppress(TransportError):
        for number in (port, port + 1000):
            bind("127.0.0.1", number).close()
        return True
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts as written, or with other ports if theirs are busy here; and their model."""
    path = tmp_path_factory.mktemp("r")
    shift = 0
    while not all(free(port + shift) for port in PRINTED):
        shift += 10
    for script in SCRIPTS.glob("*.R"):
        text = script.read_text()
        if script.name != "create_model.R":
            assert all(f"localhost:{port}" in text for port in PRINTED)
        text = re.sub(r"localhost:(\d+)", lambda m: f"localhost:{int(m[1]) + shift}", text)
        (path / script.name).write_text(text)
    done = start(path, "create_model.R")
    out, err = done.communicate(timeout=180)
    assert done.returncode == 0, out + err
    return path


def start(folder: Path, script: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["Rscript", script],
        cwd=folder,
        env={**os.environ, "TERCET_HOME": str(folder / "home"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def serve(folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(folder, "serve.R")
    yield process
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    # Nobody is left of them, whatever happened.
    deadline = time.monotonic() + 15
    while subprocess.run(["pgrep", "-f", str(folder / "home")], check=False).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def served(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    while line and not line.startswith("Serving"):
        line = process.stdout.readline()
    assert line == "Serving 3 requests.\n", process.stderr and process.stderr.read()


def test_three_images_in_two_processes(folder: Path, serve: subprocess.Popen[str]) -> None:
    served(serve)
    bare = folder / "bare"  # a Python that has no framework
    bare.mkdir()
    for name in ("jax", "keras", "h5py", "torch"):
        (bare / f"{name}.py").write_text(f"raise ImportError('a client imports {name}')\n")
    client = start(folder, "client.R", PYTHONPATH=str(bare))
    out, err = client.communicate(timeout=60)
    assert client.returncode == 0, err
    labels = [int(n) for n in load_digits().y_test[:3]]
    assert labels == [7, 2, 1]
    assert [line.rstrip() for line in out.splitlines()] == [
        f"Actual:  {n} , predicted:  {n}" for n in labels
    ]
    out, err = serve.communicate(timeout=60)
    assert serve.returncode == 0, err
    assert out.splitlines() == [f"Served encrypted prediction {i} to client." for i in (1, 2, 3)]
    assert "Error" not in err
    # Everything is used up and gone.
    client = start(folder, "client.R")
    _, err = client.communicate(timeout=60)
    assert client.returncode == 1
    assert re.search(r"TransportError: worker \w+ at .* cannot be reached: connection refused", err)


def test_an_interrupt_gets_through(folder: Path, serve: subprocess.Popen[str]) -> None:
    served(serve)
    serve.send_signal(signal.SIGINT)
    # Rscript ends on an interrupt, and the workers that it started with it: see the fixture.
    _, err = serve.communicate(timeout=30)
    assert "Traceback" not in err


INTERRUPTED = """
library(tercet)
workers <- local_cluster(quiet = TRUE)
workers |> share_model("model.keras") |> serve_model()
client <- connect_to_model(workers)
x <- array(0, dim = c(1, 28, 28, 1))
expected <- predict(client, x)
second <- reticulate::py_to_r(workers$py$pids)[2]
tools::pskill(second, tools::SIGSTOP) # whoever asks now waits
cat("asking\n")
cat(tryCatch({ predict(client, x); "answered" }, interrupt = function(e) "interrupted"), "\n")
tools::pskill(second, tools::SIGCONT)
cat("equal:", max(abs(predict(client, x) - expected)) < 1e-3, "\n")
stop_cluster(workers)
"""


def test_an_interrupt_reaches_a_prediction(folder: Path) -> None:
    """R's own interrupt, within a moment; client and cluster can be used on."""
    (folder / "interrupted.R").write_text(INTERRUPTED)
    python = Path(os.environ["RETICULATE_PYTHON"])
    checked = python.parents[1] / "tercet.Rcheck"  # where R CMD check has installed the package
    process = start(folder, "interrupted.R", R_LIBS=str(checked), KERAS_BACKEND="jax")
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n", process.stderr and process.stderr.read()
        time.sleep(1)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted \n"
        assert time.monotonic() - sent < 20  # a worker that says nothing is waited for much longer
        out, err = process.communicate(timeout=120)
        assert out == "equal: TRUE \n", err
        assert process.returncode == 0, err
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_killed_worker_is_named(folder: Path, serve: subprocess.Popen[str]) -> None:
    served(serve)
    found = subprocess.run(
        ["pgrep", "-f", rf"worker --config {folder}/home/.*bob.toml"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    _, err = serve.communicate(timeout=30)
    assert serve.returncode == 1
    assert "WorkerError: worker bob ended with code -9" in err


def test_r_is_here() -> None:
    assert shutil.which("Rscript"), "install R and reticulate; see .ci/run"
    assert os.environ.get("RETICULATE_PYTHON")
