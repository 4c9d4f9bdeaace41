"""The post's CNN with Tercet: the work for every system, and the time that Tercet takes for it.

    python -m bench.peers.tercet_cnn WORK.npz --export    # train, save weights, images and logits
    python -m bench.peers.tercet_cnn WORK.npz [--plain-windows]

Client to client through ``tercet.LocalCluster``: three workers, TLS, queue and result included.
With ``--plain-windows`` the model is shared without a calibration sample, so every comparison runs
at its full width.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np

import tercet
from bench.peers.common import BATCHES, load, measure, report
from tercet.data import load_digits
from tercet.frontend.digits import digits_model, train_digits

LAYERS = ("conv0", "conv1", "conv2", "dense")
NAMES = [f"{layer}_{part}" for layer in LAYERS for part in ("kernel", "bias")]


def export(path: str) -> None:
    """Train the model and save the work that every system does."""
    digits = load_digits()
    model = train_digits(digits.x_train, digits.y_train)
    images = digits.x_test[: max(count for count, _ in BATCHES)]
    weights = dict(zip(NAMES, model.get_weights(), strict=True))
    np.savez(path, images=images, logits=np.asarray(model(images)), **weights)


def run(path: str, calibrate: bool) -> None:
    """Measure Tercet and print the report."""
    weights, images, logits = load(path)
    model = digits_model()
    model.set_weights([weights[name] for name in NAMES])
    sample = load_digits().x_train[:256] if calibrate else None
    with tercet.LocalCluster() as cluster:
        tercet.share(model, cluster, "digits", sample=sample)
        tercet.serve("digits", cluster)
        with tercet.connect(cluster) as client:

            def predict(x: np.ndarray) -> tuple[np.ndarray, float]:
                answer = client.predict("digits", x)
                assert client.last_cost is not None
                return answer, client.last_cost.compute_seconds

            def rounds() -> int | None:
                return client.last_cost.rounds if client.last_cost else None

            report(measure(predict, images, logits, rounds))


def main() -> None:
    """Export the work or measure Tercet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--plain-windows", action="store_true")
    arguments = parser.parse_args()
    if arguments.export:
        export(arguments.path)
    else:
        run(arguments.path, not arguments.plain_windows)


if __name__ == "__main__":
    main()
