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


def start(folder: Path, script: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["Rscript", script],
        cwd=folder,
        env=dict(os.environ, TERCET_HOME=str(folder / "home")),
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
    client = start(folder, "client.R")
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
