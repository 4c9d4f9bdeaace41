"""The post's CNN with SPU, ABY3 among three parties on loopback; run in SPU's own environment.

    python -m bench.peers.spu_cnn WORK.npz

The client shares the images, hands each party its share, and puts the logits together. Weights are
shared and programs compiled beforehand. Nothing is encrypted on the wire.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import spu
from spu.utils import frontend

from bench.peers.common import BATCHES, load, measure, report

PARTIES = 3
PATIENCE = 60


def config() -> Any:
    """Return SPU's defaults for ABY3 on 64 bits."""
    return spu.RuntimeConfig(protocol=spu.ProtocolKind.ABY3, field=spu.FieldType.FM64)


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
        x = jnp.maximum(pool(x), 0)
    return x.reshape(x.shape[0], -1) @ weights["dense_kernel"] + weights["dense_bias"]


def party(rank: int, ports: list[int], programs: dict[int, bytes], pipe: Any) -> None:
    """Run one party: it keeps what it is handed and runs what it is asked for."""
    link = spu.link.Desc()
    for number, port in enumerate(ports):
        link.add_party(f"party{number}", f"127.0.0.1:{port}")
    runtime = spu.Runtime(spu.link.create_brpc(link, rank), config())
    executables = {}
    for count, program in programs.items():
        executables[count] = spu.Executable()
        executables[count].ParseFromString(program)
    while True:
        count, values = pipe.recv()
        for name, share in values.items():
            runtime.set_var(name, share)
        if not count:
            pipe.send(None)
            continue
        started = time.perf_counter()
        runtime.run(executables[count])
        computed = time.perf_counter() - started
        pipe.send((runtime.get_var("logits"), computed))


def compiled(weights: dict[str, Any], images: np.ndarray, count: int) -> bytes:
    """Return SPU's program for one batch size."""
    executable, _ = frontend.compile(
        frontend.Kind.JAX,
        logits_of,
        (weights, images[:count]),
        {},
        [*sorted(weights), "images"],
        [spu.Visibility.VIS_SECRET] * (len(weights) + 1),
        lambda _: ["logits"],
    )
    return executable.SerializeToString()


def free_ports() -> list[int]:
    """Return ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(PARTIES)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def main() -> None:
    """Run client and parties and print the report."""
    weights, images, logits = load(sys.argv[1])
    programs = {count: compiled(weights, images, count) for count, _ in BATCHES}
    context = multiprocessing.get_context("spawn")
    ports, io = free_ports(), spu.Io(PARTIES, config())
    pipes, parties = [], []
    for rank in range(PARTIES):
        here, there = context.Pipe()
        pipes.append(here)
        parties.append(
            context.Process(target=party, args=(rank, ports, programs, there), daemon=True)
        )
        parties[-1].start()

    def ask(count: int, values: dict[str, np.ndarray]) -> list[Any]:
        shares = {n: io.make_shares(v, spu.Visibility.VIS_SECRET) for n, v in values.items()}
        for rank, pipe in enumerate(pipes):
            pipe.send((count, {name: share[rank] for name, share in shares.items()}))
        for pipe in pipes:
            if not pipe.poll(PATIENCE):
                raise TimeoutError("A party of SPU does not answer")
        return [pipe.recv() for pipe in pipes]

    def predict(x: np.ndarray) -> tuple[np.ndarray, float]:
        answers = ask(len(x), {"images": x})
        return io.reconstruct([share for share, _ in answers]), max(t for _, t in answers)

    try:
        ask(0, weights)
        report(measure(predict, images, logits))
    finally:
        for process in parties:
            process.kill()
            process.join(5)


if __name__ == "__main__":
    main()
