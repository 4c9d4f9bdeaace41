"""The post's CNN with CrypTen, two parties on loopback; run in CrypTen's own environment.

    python -m bench.peers.crypten_cnn WORK.npz

Party 0 owns the images and learns the logits, party 1 owns the weights. CrypTen's default provider
lets party 0 deal the multiplication triples. Nothing is encrypted on the wire.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import tempfile
import time
import types
from typing import Any

# CrypTen's launcher does the same: the parties share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from bench.peers.common import BATCHES, WARM_UP, load, measure, report

PARTIES = 2


def load_crypten() -> Any:
    """Return CrypTen without its ONNX and TensorBoard parts, which new PyTorch has no room for."""
    for name, names in (
        ("onnx_converter", ("from_onnx", "from_pytorch", "from_tensorflow", "TF_AND_TF2ONNX")),
        ("tensorboard", ("graph",)),
    ):
        stub = types.ModuleType(f"crypten.nn.{name}")
        for attribute in names:
            setattr(stub, attribute, None)
        sys.modules[stub.__name__] = stub
    import crypten

    return crypten


def forward(x: Any, w: dict[str, Any]) -> Any:
    """Return the logits of (n, 1, 28, 28) encrypted images."""
    for layer in ("conv0", "conv1", "conv2"):
        x = x.conv2d(w[f"{layer}_kernel"]) + w[f"{layer}_bias"]
        x = x.avg_pool2d(2).relu()
    return x.flatten(start_dim=1).matmul(w["dense_kernel"]) + w["dense_bias"]


def channels_first(name: str, value: np.ndarray) -> np.ndarray:
    """Return a weight in PyTorch's layout."""
    if value.ndim == 4:  # height, width, in, out
        return value.transpose(3, 2, 0, 1)
    return value.reshape(1, -1, 1, 1) if name.startswith("conv") else value


def party(rank: int, rendezvous: str, path: str, answers: Any) -> None:
    """Run one party."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(PARTIES),
        RENDEZVOUS=f"file://{rendezvous}",
        DISTRIBUTED_BACKEND="gloo",
        GLOO_SOCKET_IFNAME="lo",
    )
    crypten = load_crypten()
    import torch

    crypten.cfg.communicator.verbose = True  # counts rounds
    crypten.init()
    crypten.set_default_cryptensor_type("mpc")
    weights, images, logits = load(path)
    shared = {}
    for name, value in weights.items():
        plain = torch.from_numpy(np.ascontiguousarray(channels_first(name, value)))
        # Only the owner's value counts; the others need the shape.
        shared[name] = crypten.cryptensor(plain if rank == 1 else torch.zeros_like(plain), src=1)

    def predict(x: np.ndarray) -> tuple[np.ndarray, float]:
        plain = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        crypten.communicator.get().reset_communication_stats()
        with crypten.no_grad():
            secret = crypten.cryptensor(plain if rank == 0 else torch.zeros_like(plain), src=0)
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


def wait(answers: Any, parties: list[Any]) -> list[dict[str, Any]]:
    """Return what party 0 measured, or say that a party died."""
    while True:
        try:
            return answers.get(timeout=0.5)
        except queue.Empty:
            if any(process.exitcode for process in parties):
                raise RuntimeError("A party of CrypTen died; its own message says why") from None


def main() -> None:
    """Run both parties and print the report."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        parties = [
            context.Process(
                target=party, args=(r, f"{folder}/rendezvous", sys.argv[1], answers), daemon=True
            )
            for r in range(PARTIES)
        ]
        for process in parties:
            process.start()
        try:
            report(wait(answers, parties))
        finally:
            for process in parties:
                process.join(2)
                process.kill()


if __name__ == "__main__":
    main()
