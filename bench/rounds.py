"""Microseconds per round among three worker processes over TLS on this machine.

In a round each worker sends to its previous one and receives from its next one.

    python -m bench.rounds [--json FILE]
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import numpy as np

from bench.common import Part, main
from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.net.link import TlsTransport
from tercet.net.sockets import bind
from tercet.net.transport import Tag

SIZES = {64: 3000, 4096: 3000, 65536: 1000, 1 << 20: 200, 16 << 20: 20}
REPEATS = 5


def run() -> Part:
    """Start the workers and measure each payload size."""
    part = Part("rounds", "a round among three workers over TLS")
    identities = [Identity.generate(name) for name in ("julia", "greg", "me")]
    listeners = [bind("127.0.0.1", 0) for _ in range(3)]
    sessions = {(size, i): fresh(16) for size in SIZES for i in range(REPEATS)}
    context = multiprocessing.get_context("fork")
    pipes = []
    processes = []

    def work(index: int, pipe: Connection) -> None:
        peers = {
            i: ("127.0.0.1", listeners[i].getsockname()[1], identities[i].public)
            for i in range(3)
            if i != index
        }
        for i in peers:
            listeners[i].close()
        transport = TlsTransport(index, identities[index], peers, listeners[index])
        transport.start()
        transport.wait_ready(10)
        for (size, _), session in sessions.items():
            payload = bytes(size)
            to, source = (index - 1) % 3, (index + 1) % 3
            start = time.perf_counter()
            for step in range(SIZES[size]):
                transport.send(to, Tag(session, step), [payload])
                transport.recv(source, Tag(session, step), size)
            pipe.send((time.perf_counter() - start) / SIZES[size])
            transport.discard(session)
        transport.close()

    for index in range(3):
        here, there = context.Pipe()
        process = context.Process(target=work, args=(index, there))
        process.start()
        pipes.append(here)
        processes.append(process)
    for size in SIZES:
        seconds = [max(pipe.recv() for pipe in pipes) for _ in range(REPEATS)]
        middle = statistics.median(seconds)
        part.rows.append(
            {
                "payload_bytes": size,
                "median_us": middle * 1e6,
                "p10_us": float(np.quantile(seconds, 0.1)) * 1e6,
                "p90_us": float(np.quantile(seconds, 0.9)) * 1e6,
                "MB_a_second": size / middle / 1e6,
            }
        )
    for process in processes:
        process.join()
    for listener in listeners:
        listener.close()
    return part


if __name__ == "__main__":
    main(run, __doc__)
