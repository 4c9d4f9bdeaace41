"""Keras ``ResNet50(weights=None)`` on one 224 x 224 image, model and image secret.

    python -m bench.resnet50 [--json FILE]

Memory is the peak (VmHWM) of the worker that needs most, storing the model included.
"""

from __future__ import annotations

import os
import statistics
import time

import numpy as np

import tercet
from bench.common import Part, Target, keras_seconds, main, spread, times, worker_peaks

REPEATS = 2


def run() -> Part:
    """Run the benchmark."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    part = Part("resnet50", "Keras ResNet50(weights=None), one 224 x 224 image")
    keras.utils.set_random_seed(1)
    model = keras.applications.ResNet50(weights=None, classifier_activation=None)
    rng = np.random.default_rng(1)
    sample = rng.normal(0, 1, (2, 224, 224, 3)).astype(np.float32)
    x = rng.normal(0, 1, (1, 224, 224, 3)).astype(np.float32)
    started = time.perf_counter()
    lowered = tercet.lower(model, sample=sample)
    lowering = time.perf_counter() - started
    with tercet.LocalCluster(quiet=True) as cluster:
        started = time.perf_counter()
        tercet.share(lowered, cluster, "resnet50")
        tercet.serve("resnet50", cluster)
        sharing = time.perf_counter() - started
        with tercet.connect(cluster) as client:
            private = times(lambda: client.predict("resnet50", x), REPEATS, warm=1)
            cost = client.last_cost
            assert cost is not None
            plane, worker = worker_peaks(cluster.pids)
            answer = client.predict("resnet50", x)
        plain = keras_seconds(model, x, REPEATS)
    expected = np.asarray(model(x))
    middle = statistics.median(private)
    row = {"lower_s": lowering, "share_s": sharing} | spread(private)
    row |= {
        "forward_ms": cost.compute_seconds * 1e3,
        "gigabytes": cost.bytes / 1e9,
        "rounds": cost.rounds,
        "data_plane_peak_GB": plane / 1e9,
        "worker_peak_GB": worker / 1e9,
        "max_logit_error": float(np.abs(answer - expected).max()),
        "largest_logit": float(np.abs(expected).max()),
        "ratio_to_keras": middle / plain,
    }
    part.rows.append(row)
    part.targets += [
        Target("one image", middle, 7, "s"),
        Target("between the workers", row["gigabytes"], 1.3, "GB"),
        Target("peak memory of a worker", row["worker_peak_GB"], 3, "GB"),
    ]
    part.notes.append("published: MP-SPDZ 134 s on one thread, TF Encrypted 19 s on 3 x 4 cores")
    return part


if __name__ == "__main__":
    main(run, __doc__)
