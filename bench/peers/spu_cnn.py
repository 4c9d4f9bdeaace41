"""The post's CNN with SPU, ABY3 among three parties on loopback; run in SPU's own environment.

    python -m bench.peers.spu_cnn WORK.npz

The client shares the images, hands each party its share, and puts the logits together. Weights are
shared and programs compiled beforehand. Nothing is encrypted on the wire.
"""

from __future__ import annotations

import sys
from typing import Any

import jax
import numpy as np

from bench.peers.common import BATCHES, load, measure, report
from bench.peers.spu_parties import Parties, Program


def pool(x: Any) -> Any:
    """Return the average of every 2 x 2 pixels, in the spelling that SPU runs fastest.

    ``reduce_window`` takes about five times as long for the whole network at 32 images.
    """
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    x = x[:, : 2 * height, : 2 * width].reshape(n, height, 2, width, 2, channels)
    return x.sum((2, 4)) * 0.25


def logits_of(weights: dict[str, Any], x: Any) -> Any:
    """Return the logits of (n, 28, 28, 1) images."""
    for layer in ("conv0", "conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x,
            weights[f"{layer}_kernel"],
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = x + weights[f"{layer}_bias"]
        x = jax.nn.relu(pool(x))
    return x.reshape(x.shape[0], -1) @ weights["dense_kernel"] + weights["dense_bias"]


def main() -> None:
    """Run client and parties and print the report."""
    weights, images, logits = load(sys.argv[1])
    inputs = [*sorted(weights), "images"]
    parties = Parties(
        {
            count: Program(logits_of, (weights, images[:count]), inputs, ["logits"])
            for count, _ in BATCHES
        }
    )

    def predict(x: np.ndarray) -> tuple[np.ndarray, float]:
        (answer,), computed = parties.ask(len(x), {"images": x})
        return answer, computed

    try:
        parties.ask(None, weights)
        report(measure(predict, images, logits))
    finally:
        parties.close()


if __name__ == "__main__":
    main()
