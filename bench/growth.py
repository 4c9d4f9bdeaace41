"""How time, bytes and memory grow with the number of images: the post's CNN, 32 to 2,048 images.

    python -m bench.growth [--json FILE]

Memory is the peak (VmHWM) of the data-plane process that needs most; it never falls, and the sizes
are run in rising order.
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
    worker_peaks,
)

SIZES = {32: 9, 128: 7, 512: 5, 2048: 3}


def run() -> Part:
    """Run the benchmark."""
    part = Part("growth", "the post's CNN, more and more images")
    model, digits = trained_digits()
    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "digits", sample=digits.x_train[:256])
        tercet.serve("digits", cluster)
        with tercet.connect(cluster) as client:
            for count, repeats in SIZES.items():
                answers: list[np.ndarray] = []
                x = np.resize(digits.x_test, (count, *digits.x_test.shape[1:]))

                def ask(x: np.ndarray = x, answers: list[np.ndarray] = answers) -> None:
                    answers[:] = [client.predict("digits", x)]

                private = times(ask, repeats, warm=1)
                cost = client.last_cost
                assert cost is not None
                plane, worker = worker_peaks(cluster.pids)
                plain = keras_seconds(model, x, repeats)
                error = float(np.abs(answers[-1] - np.asarray(model(x))).max())
                middle = statistics.median(private)
                row = {"images": count} | spread(private)
                row |= {
                    "ms_an_image": middle / count * 1e3,
                    "kilobytes_an_image": cost.bytes / count / 1e3,
                    "rounds_of_a_slice": cost.rounds,
                    "data_plane_peak_MB": plane / 1e6,
                    "worker_peak_MB": worker / 1e6,
                    "max_logit_error": error,
                    "ratio_to_keras": middle / plain,
                }
                part.rows.append(row)
    by_size = {row["images"]: row for row in part.rows}
    first, last = by_size[32], by_size[2048]
    for what, key, bound in (
        ("bytes an image, 2,048 images over 32", "kilobytes_an_image", 1.05),
        ("time an image, 2,048 images over 32", "ms_an_image", 1.25),
    ):
        part.targets.append(Target(what, last[key] / first[key], bound, "x"))
    peaks = last["data_plane_peak_MB"] / by_size[512]["data_plane_peak_MB"]
    part.targets.append(Target("peak memory, 2,048 images over 512", peaks, 1.5, "x"))
    worst = max(row["max_logit_error"] for row in part.rows)
    part.targets.append(Target("largest error of a logit", worst, ERROR_BOUND, ""))
    return part


if __name__ == "__main__":
    main(run, __doc__)
