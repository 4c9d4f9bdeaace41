"""Private prediction with the post's CNN: client to client, three workers over TLS, one machine.

    python -m bench.predict [--json FILE]

Prints medians and spreads for 1, 32 and 128 images, the payload between the workers, rounds, the
largest error against plaintext Keras, and the ratio to plaintext Keras in the same run.
"""

from __future__ import annotations

import statistics

import numpy as np

import tercet
from bench.common import (
    ERROR_BOUND,
    Part,
    Target,
    keras_seconds,
    main,
    spread,
    times,
    trained_digits,
)

#: Images of a request: how often it is repeated, and the milliseconds to reach.
SIZES = {1: (200, 8), 32: (30, 50), 128: (15, 150)}


def run() -> Part:
    """Run the benchmark."""
    part = Part("predict", "the post's CNN, client to client")
    model, digits = trained_digits()
    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "digits", sample=digits.x_train[:256])
        tercet.serve("digits", cluster)
        with tercet.connect(cluster) as client:
            for count, (repeats, reach) in SIZES.items():
                x = digits.x_test[:count]
                forward: list[float] = []

                def ask(x: np.ndarray = x, forward: list[float] = forward) -> None:
                    client.predict("digits", x)
                    assert client.last_cost is not None
                    forward.append(client.last_cost.compute_seconds)

                private = times(ask, repeats, warm=10)
                forward = forward[-repeats:]
                cost = client.last_cost
                assert cost is not None
                plain = keras_seconds(model, x, repeats)
                error = float(np.abs(client.predict("digits", x) - np.asarray(model(x))).max())
                row = {"images": count} | spread(private)
                row |= {
                    "forward_ms": statistics.median(forward) * 1e3,
                    "kilobytes": cost.bytes / 1e3,
                    "rounds": cost.rounds,
                    "max_logit_error": error,
                    "keras_ms": plain * 1e3,
                    "ratio_to_keras": statistics.median(private) / plain,
                }
                part.rows.append(row)
                images = "1 image" if count == 1 else f"{count} images"
                part.targets.append(Target(images, row["median_ms"], reach, "ms"))
                if count == 1:
                    part.targets += [
                        Target("1 image, forward pass alone", row["forward_ms"], 6, "ms"),
                        Target("1 image, between the workers", row["kilobytes"], 380, "KB"),
                        Target("1 image, rounds", cost.rounds, 30, "rounds"),
                    ]
    worst = max(row["max_logit_error"] for row in part.rows)
    part.targets.append(Target("largest error of a logit", worst, ERROR_BOUND, ""))
    return part


if __name__ == "__main__":
    main(run, __doc__)
