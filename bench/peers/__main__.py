"""Tercet beside SPU 0.9.5 and CrypTen 0.4.1: the same work, one after the other, in one run.

    python -m bench.peers [--json FILE] [--python PYTHON3.11]

The work: the post's CNN on 1, 32 and 128 images, weights and input secret, every party a process on
loopback, timed from the client's plaintext to the client's logits, after warm-up; the answers are
compared with plaintext Keras. Each peer runs in an environment of its own beside this file, made
on first use. Tercet is measured first and again last, so that a machine that changes its pace
shows; its figures are of both. Peers send in the clear, Tercet over TLS. Bytes are what crosses
the loopback device for a request, headers and the client's own traffic included: the same meter for
all. Rounds are what a system says of itself.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from bench.peers.common import MARK, row

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
INSTALL_SECONDS = 900
RUN_SECONDS = 150
# Two places of a logit: what a rounding error stays below and a wrong share does not.
TOLERANCE = 0.01


class Peer(NamedTuple):
    """A system, how to install it, and the module that runs it."""

    name: str
    module: str
    environment: str
    # One call of pip each.
    requirements: tuple[tuple[str, ...], ...]
    check: str
    notes: str


PEERS = (
    Peer(
        "CrypTen 0.4.1, 2 parties",
        "bench.peers.crypten_cnn",
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


def pooled(first: list[dict[str, Any]], last: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one report of two runs."""
    return [
        row(
            a["images"],
            a["seconds"] + b["seconds"],
            a["forward_seconds"] + b["forward_seconds"],
            a["wire_bytes"] + b["wire_bytes"],
            a["rounds"],
            max(a["max_logit_error"], b["max_logit_error"]),
            min(a["labels_agree"], b["labels_agree"]),
        )
        for a, b in zip(first, last, strict=True)
    ]


def show(systems: list[dict[str, Any]]) -> None:
    """Print the table: a line for each system, ratios to the first."""
    reference = systems[0]["results"]
    counts = [r["images"] for r in reference]
    table = Table(
        "system",
        *(f"{c} image{'s' * (c > 1)}: ms (ratio)" for c in counts),
        *(f"MB on loopback, {c}" for c in (counts[0], counts[-1])),
        "rounds",
        "max logit error",
        "labels as Keras",
        "notes",
    )
    for system in systems:
        if "error" in system:
            table.add_row(system["system"], *["-"] * (len(counts) + 5), system["error"])
            continue
        rows = system["results"]
        cells = [
            f"{r['median_seconds'] * 1e3:.4g} ({r['median_seconds'] / b['median_seconds']:.1f} x)"
            for r, b in zip(rows, reference, strict=True)
        ]
        for r in (rows[0], rows[-1]):
            wire = r["median_wire_bytes"]
            cells.append("-" if wire is None else f"{wire / 1e6:.4g}")
        cells.append(str(rows[0]["rounds"] or "not told"))
        error = max(r["max_logit_error"] for r in rows)
        verdict = "" if error <= TOLERANCE else f" (over {TOLERANCE})"
        agree = min(r["labels_agree"] for r in rows)
        table.add_row(
            system["system"], *cells, f"{error:.1e}{verdict}", f"{agree:.1%}", system["notes"]
        )
    Console(width=None if sys.stdout.isatty() else 150).print(table)


def main() -> None:
    """Install what is missing, run every system in turn, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", default="bench/results/peers.json", help="where the figures go")
    parser.add_argument(
        "--python", default=sys.executable, help="the Python 3.10 or 3.11 that SPU needs"
    )
    arguments = parser.parse_args()

    pythons: dict[str, str] = {}
    failures: dict[str, str] = {}
    for peer in PEERS:
        try:
            pythons[peer.name] = install(peer, arguments.python)
        except (PeerError, OSError) as error:
            failures[peer.name] = f"NOT INSTALLED: {error}"
            print(f"{peer.name}: {failures[peer.name]}; going on without it", flush=True)

    tercet = "bench.peers.tercet_cnn"
    systems: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = f"{folder}/work.npz"
        print("training the network ...", flush=True)
        command([sys.executable, "-m", tercet, work, "--export"], RUN_SECONDS, {})
        print("Tercet ...", flush=True)
        first = run(sys.executable, tercet, work)
        wide = run(sys.executable, tercet, work, "--plain-windows")
        peers: list[dict[str, Any]] = []
        for peer in PEERS:
            entry: dict[str, Any] = {"system": peer.name, "notes": peer.notes}
            if peer.name in pythons:
                print(f"{peer.name} ...", flush=True)
                try:
                    entry["results"] = run(pythons[peer.name], peer.module, work)
                except PeerError as error:
                    entry["error"] = f"FAILED: {error}"
                    print(f"{peer.name}: {entry['error']}; going on", flush=True)
            else:
                entry["error"] = failures[peer.name]
            peers.append(entry)
        print("Tercet again ...", flush=True)
        last = run(sys.executable, tercet, work)
    systems = [
        {
            "system": "Tercet, 3 workers",
            "notes": "TLS; windows calibrated",
            "results": pooled(first, last),
            "first": first,
            "last": last,
        },
        {
            "system": "Tercet, no calibration",
            "notes": "TLS; comparisons at full width",
            "results": wide,
        },
        *peers,
    ]
    show(systems)
    for a, b in zip(first, last, strict=True):
        print(
            f"Tercet on {a['images']}: {a['median_seconds'] * 1e3:.4g} ms before the peers, "
            f"{b['median_seconds'] * 1e3:.4g} ms after"
        )
    target = ROOT / arguments.json
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(systems, indent=1), encoding="utf-8")
    print(f"figures: {arguments.json}")


if __name__ == "__main__":
    main()
