"""A slower network: 20 ms one way and 100 Mbit/s on each link, the client's links included.

    python -m bench.slow [--json FILE]

The kernel may lack netem, so relays in user space (bench/relay.py) stand in for the wire. The
first row measures the relays themselves: round trip of one byte, and the rate of 4 MB one way.
"""

from __future__ import annotations

import socket
import statistics
import threading
import time

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
)
from bench.nodes import Nodes

DELAY = 0.020
RATE = 100e6 / 8
SIZES = {1: 10, 32: 4, 128: 2}


def measure_link(nodes: Nodes) -> tuple[list[float], float]:
    """Return round trips through a relay in seconds, and its rate one way in bytes a second."""
    size = 4_000_000
    listener = nodes.echo_listener
    assert listener is not None

    def serve() -> None:
        with listener, listener.accept()[0] as other:
            for _ in range(11):
                other.sendall(other.recv(1))
            left = size
            while left:
                left -= len(other.recv(1 << 16))
            other.sendall(b"x")

    threading.Thread(target=serve, daemon=True).start()
    with socket.create_connection(("127.0.0.1", nodes.echo_port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ping() -> None:
            connection.sendall(b"x")
            connection.recv(1)

        trips = times(ping, 10, warm=1)
        started = time.perf_counter()
        connection.sendall(bytes(size))
        connection.recv(1)
        taken = time.perf_counter() - started - statistics.median(trips)
    return trips, size / taken


def run() -> Part:
    """Run the benchmark."""
    part = Part("slow", f"{DELAY * 1e3:g} ms one way, {RATE * 8 / 1e6:g} Mbit/s on each link")
    model, digits = trained_digits()
    with Nodes(DELAY, RATE) as nodes:
        trips, rate = measure_link(nodes)
        part.notes.append(
            f"a link as measured: round trip {statistics.median(trips) * 1e3:.1f} ms, "
            f"{rate * 8 / 1e6:.0f} Mbit/s one way"
        )
        tercet.share(model, nodes.owner_side, "digits", sample=digits.x_train[:256])
        tercet.serve("digits", nodes.owner_side)
        with tercet.connect(nodes.client_side) as client:
            for count, repeats in SIZES.items():
                x = digits.x_test[:count]
                private = times(lambda x=x: client.predict("digits", x), repeats, warm=1)  # type: ignore[misc]
                cost = client.last_cost
                assert cost is not None
                plain = keras_seconds(model, x, repeats)
                error = float(np.abs(client.predict("digits", x) - np.asarray(model(x))).max())
                row = {"images": count} | spread(private)
                row |= {
                    "forward_ms": cost.compute_seconds * 1e3,
                    "kilobytes": cost.bytes / 1e3,
                    "upload_kilobytes": cost.upload_bytes / 1e3,
                    "rounds": cost.rounds,
                    "max_logit_error": error,
                    "ratio_to_keras": statistics.median(private) / plain,
                }
                part.rows.append(row)
    part.targets += [
        Target("1 image", part.rows[0]["median_ms"] / 1e3, 0.75, "s"),
        Target(
            "largest error of a logit",
            max(row["max_logit_error"] for row in part.rows),
            ERROR_BOUND,
            "",
        ),
    ]
    return part


if __name__ == "__main__":
    main(run, __doc__)
