"""The environments of the peers, and processes in them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.peers.common import MARK

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
INSTALL_SECONDS = 900
RUN_SECONDS = 150


class Peer(NamedTuple):
    """A system, how to install it, and the modules that run it."""

    name: str
    prediction: str
    training: str
    environment: str
    # One call of pip each.
    requirements: tuple[tuple[str, ...], ...]
    check: str
    notes: str


PEERS = (
    Peer(
        "CrypTen 0.4.1, 2 parties",
        "bench.peers.crypten_cnn",
        "bench.peers.crypten_training",
        ".venv-crypten",
        # CrypTen also asks for `sklearn`, a name that no longer installs, and for ONNX and
        # TensorBoard, which only its importer of models uses.
        (("torch==2.13.0", "numpy", "pyyaml", "omegaconf"), ("--no-deps", "crypten==0.4.1")),
        "import torch, omegaconf, importlib.metadata as m; assert m.version('crypten') == '0.4.1'",
        "no TLS; party 0 deals the triples",
    ),
    Peer(
        "SPU 0.9.5, ABY3, 3 parties",
        "bench.peers.spu_cnn",
        "bench.peers.spu_training",
        ".venv-spu",
        (("spu==0.9.5",),),
        "import spu; assert spu.__version__ == '0.9.5'",
        "no TLS",
    ),
)


class PeerError(Exception):
    """A system could not be installed or did not finish."""


def command(arguments: list[str], seconds: float, environment: dict[str, str]) -> str:
    """Run a command in a process group of its own and return what it printed.

    Raises:
        PeerError: if it fails or takes longer than ``seconds``; nothing of it is left running.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            arguments,
            cwd=ROOT,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise PeerError(f"not done after {seconds:.0f} s") from None
            raise
        if process.returncode:
            errors.seek(0)
            lines = errors.read().strip().splitlines() or ["no message"]
            reason = next((line for line in reversed(lines) if "error" in line.lower()), lines[-1])
            raise PeerError(f"ended with {process.returncode}: {reason}")
        return output


def install(peer: Peer, interpreter: str) -> str:
    """Return the peer's Python, in an environment that is made if there is none that works."""
    folder = HERE / peer.environment
    python = str(folder / "bin" / "python")
    if Path(python).exists():
        try:
            command([python, "-c", peer.check], 120, {})
        except PeerError:
            pass
        else:
            return python
    print(f"installing {peer.name} in {folder.relative_to(ROOT)} ...", flush=True)
    command([interpreter, "-m", "venv", "--clear", str(folder)], 120, {})
    for requirements in peer.requirements:
        command([python, "-m", "pip", "install", "--quiet", *requirements], INSTALL_SECONDS, {})
    command([python, "-c", peer.check], 120, {})
    return python


def run(python: str, module: str, *arguments: str) -> list[dict[str, Any]]:
    """Run one system and return its report."""
    output = command([python, "-m", module, *arguments], RUN_SECONDS, {"PYTHONPATH": str(ROOT)})
    for line in output.splitlines():
        if line.startswith(MARK):
            return json.loads(line.removeprefix(MARK))
    raise PeerError("it printed no report")
