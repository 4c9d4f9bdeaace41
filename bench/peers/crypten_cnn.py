"""The post's CNN with CrypTen, two parties on loopback; run in CrypTen's own environment.

    python -m bench.peers.crypten_cnn WORK.npz

Party 0 owns the images and learns the logits, party 1 owns the weights. CrypTen's default provider
lets party 0 deal the multiplication triples. Nothing is encrypted on the wire.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from bench.peers.common import BATCHES, WARM_UP, load, measure, report
from bench.peers.crypten_parties import channels_first, run_parties, share, start_crypten


def forward(x: Any, w: dict[str, Any]) -> Any:
    """Return the logits of (n, 1, 28, 28) encrypted images."""
    for layer in ("conv0", "conv1", "conv2"):
        x = x.conv2d(w[f"{layer}_kernel"]) + w[f"{layer}_bias"]
        x = x.avg_pool2d(2).relu()
    return x.flatten(start_dim=1).matmul(w["dense_kernel"]) + w["dense_bias"]


def party(rank: int, rendezvous: str, path: str, answers: Any) -> None:
    """Run one party."""
    crypten = start_crypten(rank, rendezvous)
    weights, images, logits = load(path)
    shared = {n: share(crypten, rank, 1, channels_first(n, v)) for n, v in weights.items()}

    def predict(x: np.ndarray) -> tuple[np.ndarray, float]:
        crypten.communicator.get().reset_communication_stats()
        with crypten.no_grad():
            secret = share(crypten, rank, 0, x.transpose(0, 3, 1, 2))
            started = time.perf_counter()
            y = forward(secret, shared)
            computed = time.perf_counter() - started
            answer = y.get_plain_text(dst=0)  # nothing for the other party
            return (answer.numpy() if rank == 0 else x), computed

    if rank == 0:
        communicator = crypten.communicator.get()
        answers.put(measure(predict, images, logits, lambda: communicator.comm_rounds))
    else:
        for count, repeats in BATCHES:
            for _ in range(WARM_UP + repeats):
                predict(images[:count])


if __name__ == "__main__":
    report(run_parties(party, sys.argv[1]))
