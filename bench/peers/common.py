"""What the script of every system shares: the work, the clock and the report.

Runs in each system's own environment, so it needs nothing but NumPy.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Images a request, and how many requests are timed after those that warm up.
BATCHES = ((1, 20), (32, 7), (128, 5))
WARM_UP = 2

MARK = "bench-peers: "
LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")

Weights = dict[str, np.ndarray]
Predict = Callable[[np.ndarray], tuple[np.ndarray, float]]


def load(path: str | Path) -> tuple[Weights, np.ndarray, np.ndarray]:
    """Return the weights by name, the images (n, 28, 28, 1) and Keras' plaintext logits."""
    with np.load(path, allow_pickle=False) as file:
        weights = {name: file[name] for name in file.files if name not in {"images", "logits"}}
        return weights, file["images"], file["logits"]


def wire_bytes() -> int | None:
    """Return the bytes that have crossed the loopback device, headers included."""
    return int(LOOPBACK.read_text()) if LOOPBACK.exists() else None


def measure(
    predict: Predict,
    images: np.ndarray,
    logits: np.ndarray,
    rounds: Callable[[], int | None] = lambda: None,
) -> list[dict[str, Any]]:
    """Time ``predict`` for every batch size and compare each answer with the plaintext.

    Args:
        predict: returns the logits and the seconds that the computation on shares took.
        images: shape (n, 28, 28, 1).
        logits: Keras' own.
        rounds: returns the rounds of the latest request, where a system counts them.
    """
    rows = []
    for count, repeats in BATCHES:
        x, plain = images[:count], logits[:count]
        seconds, forward, wire, error, agree = [], [], [], 0.0, 1.0
        for number in range(WARM_UP + repeats):
            before = wire_bytes()
            started = time.perf_counter()
            answer, computed = predict(x)
            took = time.perf_counter() - started
            error = max(error, float(np.abs(answer - plain).max()))
            agree = min(agree, float(np.mean(answer.argmax(1) == plain.argmax(1))))
            if number >= WARM_UP:
                seconds.append(took)
                forward.append(computed)
                after = wire_bytes()
                if before is not None and after is not None:
                    wire.append(after - before)
        rows.append(row(count, seconds, forward, wire, rounds(), error, agree))
    return rows


def row(
    count: int,
    seconds: list[float],
    forward: list[float],
    wire: list[int],
    rounds: int | None,
    error: float,
    agree: float,
) -> dict[str, Any]:
    """Return what is reported of one batch size."""
    return {
        "images": count,
        "median_seconds": statistics.median(seconds),
        "forward_median_seconds": statistics.median(forward),
        "median_wire_bytes": statistics.median(wire) if wire else None,
        "rounds": rounds,
        "max_logit_error": error,
        "labels_agree": agree,
        "seconds": seconds,
        "forward_seconds": forward,
        "wire_bytes": wire,
    }


def report(rows: list[dict[str, Any]]) -> None:
    """Print the one line that the parent reads."""
    print(MARK + json.dumps(rows), flush=True)
