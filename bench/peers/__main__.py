"""Tercet beside SPU 0.9.5 and CrypTen 0.4.1: the same work, one after the other, in one run.

    python -m bench.peers [prediction] [training] [--results FOLDER] [--python PYTHON3.11]

Prediction: the post's CNN on 1, 32 and 128 images, weights and input secret, every party a process
on loopback, timed from the client's plaintext to its logits, after warm-up; the answers are
compared with plaintext Keras. Training: one SGD step of the post's CNN and of a dense network at
batch 128, on weights and rows that are shared already; the weights after it are compared with those
of the same step in float32. Each peer runs in an environment of its own beside this file, made
on first use. Tercet is measured first and again last, so that a machine that changes its pace
shows; its figures are of both. Peers send in the clear, Tercet over TLS. Bytes are what crosses the
loopback device, headers (and at prediction the client's own traffic) included: the same meter for
all. Rounds are what a system says of itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.peers.common import row
from bench.peers.environments import (
    PEERS,
    ROOT,
    RUN_SECONDS,
    Peer,
    PeerError,
    command,
    install,
    run,
)
from bench.peers.work import ROWS, TITLES, step_row

# Two places of a logit: what a rounding error stays below and a wrong share does not.
TOLERANCE = 0.01
# Of the change of a layer, in norm: what roundings and a few ReLUs at their kink stay below.
STEP_TOLERANCE = 0.05

System = dict[str, Any]
PARTS = ("prediction", "training")


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


def show_predictions(systems: list[System]) -> None:
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
        cells = times(rows, reference)
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


def times(rows: list[dict[str, Any]], reference: list[dict[str, Any]]) -> list[str]:
    """Return milliseconds, and how many times those of the reference they are."""
    return [
        f"{r['median_seconds'] * 1e3:.4g} ({r['median_seconds'] / b['median_seconds']:.1f} x)"
        for r, b in zip(rows, reference, strict=True)
    ]


def pooled_steps(first: list[dict[str, Any]], last: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one report of two runs."""
    return [
        step_row(
            a["step"],
            a["seconds"] + b["seconds"],
            a["wire_bytes"] + b["wire_bytes"],
            a["rounds"],
            a["errors"] + b["errors"],
        )
        for a, b in zip(first, last, strict=True)
    ]


def show_steps(systems: list[System]) -> None:
    """Print a table for each step: a line for each system, ratios to the first."""
    reference = systems[0]["results"]
    for number, step in enumerate(reference):
        table = Table(
            "system", "ms (ratio)", "MB on loopback", "rounds", "largest error", "in norm", "notes",
            title=f"One SGD step, {TITLES[step['step']]}, batch {ROWS}", title_justify="left",
        )  # fmt: skip
        for system in systems:
            if "error" in system:
                table.add_row(system["system"], *["-"] * 5, system["error"])
                continue
            told = system["results"][number]
            wire, norm = told["median_wire_bytes"], told["norm_error"]
            verdict = "" if norm <= STEP_TOLERANCE else f" (over {STEP_TOLERANCE})"
            table.add_row(
                system["system"],
                *times([told], [step]),
                "-" if wire is None else f"{wire / 1e6:.4g}",
                str(told["rounds"] or "not told"),
                f"{told['largest_error']:.1e}",
                f"{norm:.1e}{verdict}",
                system["notes"],
            )
        Console(width=None if sys.stdout.isatty() else 150).print(table)


def run_peers(
    work: str, pythons: dict[str, str], failures: dict[str, str], module: Callable[[Peer], str]
) -> list[System]:
    """Run every peer in turn; one that fails is told and left out."""
    peers: list[System] = []
    for peer in PEERS:
        entry: System = {"system": peer.name, "notes": peer.notes}
        peers.append(entry)
        if peer.name not in pythons:
            entry["error"] = failures[peer.name]
            continue
        print(f"{peer.name} ...", flush=True)
        try:
            entry["results"] = run(pythons[peer.name], module(peer), work)
        except PeerError as error:
            entry["error"] = f"FAILED: {error}"
            print(f"{peer.name}: {entry['error']}; going on", flush=True)
    return peers


def predictions(work: str, pythons: dict[str, str], failures: dict[str, str]) -> list[System]:
    """Measure predictions of all systems and print them."""
    tercet = "bench.peers.tercet_cnn"
    print("training the network ...", flush=True)
    command([sys.executable, "-m", tercet, work, "--export"], RUN_SECONDS, {})
    print("Tercet ...", flush=True)
    first = run(sys.executable, tercet, work)
    wide = run(sys.executable, tercet, work, "--plain-windows")
    peers = run_peers(work, pythons, failures, lambda p: p.prediction)
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
    show_predictions(systems)
    for a, b in zip(first, last, strict=True):
        tell_pace(f"Tercet on {a['images']}", a, b)
    return systems


def steps(work: str, pythons: dict[str, str], failures: dict[str, str]) -> list[System]:
    """Measure training steps of all systems and print them."""
    tercet = "bench.peers.tercet_training"
    print("the steps in float32 ...", flush=True)
    command([sys.executable, "-m", tercet, work, "--export"], RUN_SECONDS, {})
    print("Tercet ...", flush=True)
    first = run(sys.executable, tercet, work)
    peers = run_peers(work, pythons, failures, lambda p: p.training)
    print("Tercet again ...", flush=True)
    last = run(sys.executable, tercet, work)
    systems: list[System] = [
        {
            "system": "Tercet, 3 workers",
            "notes": "TLS",
            "results": pooled_steps(first, last),
            "first": first,
            "last": last,
        },
        *peers,
    ]
    show_steps(systems)
    for a, b in zip(first, last, strict=True):
        tell_pace(f"Tercet, {TITLES[a['step']]}", a, b)
    return systems


def tell_pace(what: str, first: dict[str, Any], last: dict[str, Any]) -> None:
    """Print Tercet's own figures before and after the peers."""
    print(
        f"{what}: {first['median_seconds'] * 1e3:.4g} ms before the peers, "
        f"{last['median_seconds'] * 1e3:.4g} ms after"
    )


def main() -> None:
    """Install what is missing, run every system in turn, print and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; both if none"
    )
    parser.add_argument("--results", default="bench/results", help="where the figures go")
    parser.add_argument(
        "--python", default=sys.executable, help="the Python 3.10 or 3.11 that SPU needs"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")

    pythons: dict[str, str] = {}
    failures: dict[str, str] = {}
    for peer in PEERS:
        try:
            pythons[peer.name] = install(peer, arguments.python)
        except (PeerError, OSError) as error:
            failures[peer.name] = f"NOT INSTALLED: {error}"
            print(f"{peer.name}: {failures[peer.name]}; going on without it", flush=True)

    target = ROOT / arguments.results
    target.mkdir(parents=True, exist_ok=True)
    for part, measure in zip(PARTS, (predictions, steps), strict=True):
        if arguments.parts and part not in arguments.parts:
            continue
        with tempfile.TemporaryDirectory() as folder:
            systems = measure(f"{folder}/work.npz", pythons, failures)
        path = target / f"peers_{part}.json"
        path.write_text(json.dumps(systems, indent=1), encoding="utf-8")
        print(f"figures: {path}")


if __name__ == "__main__":
    main()
