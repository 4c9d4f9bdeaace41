"""SGD steps with CrypTen, two parties on loopback; run in CrypTen's own environment.

    python -m bench.peers.crypten_training WORK.npz

Party 0 owns the rows, party 1 the weights; both are shared beforehand. The gradient is CrypTen's
own, from the cotangent of the logits (softmax less labels), which is faster than from its
cross-entropy: that also computes the loss. It is that of the sum over rows, divided at the end, so
that its small numbers survive 16 fractional bits. Nothing is encrypted on the wire.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from bench.peers.common import Weights, report
from bench.peers.crypten_cnn import forward
from bench.peers.crypten_parties import channels_first, run_parties, share, start_crypten
from bench.peers.work import RATE, REPEATS, Work, load_works, measure_step


def dense(x: Any, w: dict[str, Any]) -> Any:
    """Return the logits of (n, 784) encrypted rows."""
    for layer in ("dense0", "dense1"):
        x = (x.matmul(w[f"{layer}_kernel"]) + w[f"{layer}_bias"]).relu()
    return x.matmul(w["dense2_kernel"]) + w["dense2_bias"]


def party(rank: int, rendezvous: str, path: str, answers: Any) -> None:
    """Run one party."""
    crypten = start_crypten(rank, rendezvous)
    rows = [run(crypten, rank, work) for work in load_works(path)]
    if rank == 0:
        answers.put(rows)


def run(crypten: Any, rank: int, work: Work) -> dict[str, Any] | None:
    """Time a step; party 0 returns the report of it."""
    communicator = crypten.communicator.get()
    images = work.x.transpose(0, 3, 1, 2) if work.x.ndim == 4 else work.x
    x, y = (share(crypten, rank, 0, a) for a in (images, work.y))
    weights = {}
    for name, value in work.weights.items():
        weights[name] = share(crypten, rank, 1, channels_first(name, value))
        weights[name].requires_grad = True
    network = forward if work.name == "cnn" else dense
    moved: dict[str, Any] = {}

    def step() -> float:
        communicator.reset_communication_stats()
        started = time.perf_counter()
        z = network(x, weights)
        with crypten.no_grad():
            slope = z.softmax(1) - y
        z.backward(slope)
        with crypten.no_grad():
            for name, weight in weights.items():
                moved[name] = weight - weight.grad.div(len(work.y)) * RATE
                weight.grad = None
        return time.perf_counter() - started

    def opened() -> Weights:
        plain = {n: m.get_plain_text(dst=0) for n, m in moved.items()}
        if rank:
            return {}  # party 0 alone gets them
        return {n: keras_layout(v.numpy(), work.weights[n]) for n, v in plain.items()}

    if rank == 0:
        return measure_step(work, step, opened, lambda: communicator.comm_rounds)
    for _ in range(1 + REPEATS[work.name]):
        step()
        opened()
    return None


def keras_layout(value: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return a weight of PyTorch's layout in that of ``like``."""
    return value.transpose(2, 3, 1, 0) if like.ndim == 4 else value.reshape(like.shape)


if __name__ == "__main__":
    report(run_parties(party, sys.argv[1]))
