"""Private prediction with the post's CNN: client to client, three workers over TLS, one machine.

    python -m bench.predict [--json FILE]

Prints medians and spreads for 1, 32 and 128 images, the payload between the workers, rounds, the
largest error against plaintext Keras, and the ratio to plaintext Keras in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from rich.console import Console
from rich.table import Table

import tercet
from tercet.data import load_digits
from tercet.frontend.digits import train_digits


def times(function: Callable[[], Any], repeats: int) -> list[float]:
    """Return the seconds of each of ``repeats`` calls, after two that do not count."""
    for _ in range(2):
        function()
    result = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        result.append(time.perf_counter() - started)
    return result


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    digits = load_digits()
    model = train_digits(digits.x_train, digits.y_train)
    rows = []
    with tercet.LocalCluster() as cluster:
        tercet.share(model, cluster, "digits", sample=digits.x_train[:256])
        tercet.serve("digits", cluster)
        with tercet.connect(cluster) as client:
            for count, repeats in ((1, 50), (32, 15), (128, 9)):
                x = digits.x_test[:count]
                private = times(lambda x=x: client.predict("digits", x), repeats)  # type: ignore[misc]
                forward = []
                for _ in range(repeats):
                    client.predict("digits", x)
                    assert client.last_cost is not None
                    forward.append(client.last_cost.compute_seconds)
                cost = client.last_cost
                assert cost is not None
                plain = times(lambda x=x: np.asarray(model(x)), repeats)  # type: ignore[misc]
                error = np.abs(client.predict("digits", x) - np.asarray(model(x))).max()
                rows.append(
                    {
                        "images": count,
                        "median_ms": statistics.median(private) * 1e3,
                        "p10_ms": float(np.quantile(private, 0.1)) * 1e3,
                        "p90_ms": float(np.quantile(private, 0.9)) * 1e3,
                        "forward_ms": statistics.median(forward) * 1e3,
                        "kilobytes": cost.bytes / 1e3,
                        "rounds": cost.rounds,
                        "max_logit_error": float(error),
                        "ratio_to_keras": statistics.median(private) / statistics.median(plain),
                    }
                )
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{v:.4g}" for v in row.values()))
    Console().print(table)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
