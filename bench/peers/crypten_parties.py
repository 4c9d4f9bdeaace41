"""CrypTen's two parties on loopback, for the scripts that run in CrypTen's own environment."""

from __future__ import annotations

import multiprocessing
import os
import queue
import sys
import tempfile
import types
from collections.abc import Callable
from typing import Any

# CrypTen's launcher does the same: the parties share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

PARTIES = 2


def start_crypten(rank: int, rendezvous: str) -> Any:
    """Return CrypTen, joined to the other party."""
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(PARTIES),
        RENDEZVOUS=f"file://{rendezvous}",
        DISTRIBUTED_BACKEND="gloo",
        GLOO_SOCKET_IFNAME="lo",
    )
    crypten = load_crypten()
    crypten.cfg.communicator.verbose = True  # counts rounds
    crypten.init()
    crypten.set_default_cryptensor_type("mpc")
    return crypten


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


def share(crypten: Any, rank: int, owner: int, value: np.ndarray) -> Any:
    """Return the share of a value: only the owner's counts, the others need the shape."""
    import torch

    plain = torch.from_numpy(np.ascontiguousarray(value))
    return crypten.cryptensor(plain if rank == owner else torch.zeros_like(plain), src=owner)


def channels_first(name: str, value: np.ndarray) -> np.ndarray:
    """Return a weight in PyTorch's layout."""
    if value.ndim == 4:  # height, width, in, out
        return value.transpose(3, 2, 0, 1)
    return value.reshape(1, -1, 1, 1) if name.startswith("conv") else value


def run_parties(party: Callable[[int, str, str, Any], None], path: str) -> list[dict[str, Any]]:
    """Run ``party(rank, rendezvous, path, answers)`` twice; return what party 0 answers."""
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        parties = [
            context.Process(
                target=party, args=(r, f"{folder}/rendezvous", path, answers), daemon=True
            )
            for r in range(PARTIES)
        ]
        for process in parties:
            process.start()
        try:
            return _wait(answers, parties)
        finally:
            for process in parties:
                process.join(2)
                process.kill()


def _wait(answers: Any, parties: list[Any]) -> list[dict[str, Any]]:
    """Return what party 0 measured, or say that a party died."""
    while True:
        try:
            return answers.get(timeout=0.5)
        except queue.Empty:
            if any(process.exitcode for process in parties):
                raise RuntimeError("A party of CrypTen died; its own message says why") from None
