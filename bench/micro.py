"""Single operations among three processes over TLS on this machine.

    python -m bench.micro [--json FILE]

ReLU on 10^6 elements, a matrix product 1024 x 1024 x 1024 with its truncation, softmax on
(128, 10), sigmoid, reciprocal, exp and GELU on 10^5; comparisons on a window of 28 bits. Prints
medians, payload bytes an element and rounds. A repetition takes as long as at its slowest worker.
The bound of the matrix product is five such products at the kernel's rate of the same run over two
cores.
"""

from __future__ import annotations

import hashlib
import logging
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.common import Part, Target, main, spread, times
from bench.parties import run_parties, slowest
from tercet.function.exponential import exp
from tercet.function.gates import gelu
from tercet.function.odd import sigmoid
from tercet.function.reciprocal import reciprocal
from tercet.function.softmax import softmax
from tercet.net.link import TlsTransport
from tercet.protocol.base import Protocol, Share
from tercet.protocol.replicated.sharing import deal, expand
from tercet.protocol.rounds import Steps
from tercet.ring import fixed, kernels
from tercet.runtime.session import Session

_DIGEST = hashlib.sha256(b"benchmark").hexdigest()

Operation = Callable[..., Steps[Share]]

#: Seconds to reach.
LIMITS = {
    "softmax (128, 10)": 0.015,
    "sigmoid 10^5": 0.130,
    "reciprocal 10^5": 0.120,
    "exp 10^5": 0.090,
    "GELU 10^5": 0.150,
}


def relu(protocol: Protocol, x: Share) -> Steps[Share]:
    """ReLU on a window of 28 bits."""
    return protocol.relu(x, 0, 28, "relu")


def matmul(protocol: Protocol, x: Share, y: Share) -> Steps[Share]:
    """Matrix product and truncation."""
    return protocol.truncate(protocol.product(kernels.matmul, x, y), 16, "matmul")


def probabilities(protocol: Protocol, x: Share) -> Steps[Share]:
    """Softmax over the last axis."""
    return softmax(protocol, x, 1, 16, 28, "softmax")


def elementwise(function: Callable[..., Steps[Share]]) -> Operation:
    """Return a function with a contract on a window of 28 bits."""

    def operation(protocol: Protocol, x: Share) -> Steps[Share]:
        return function(protocol, x, 16, 28, "f")

    return operation


def positive(protocol: Protocol, x: Share, scale: int, bits: int, at: str) -> Steps[Share]:
    """Reciprocal of what is known to be positive, as a sum of exponentials is."""
    return reciprocal(protocol, x, scale, bits, False, at)


def measure(operation: Operation, values: list[np.ndarray], repeats: int) -> dict[str, Any]:
    """Run an operation ``repeats`` times among three processes; worker 0 reports."""
    dealt = deal({str(n): v for n, v in enumerate(values)})

    def party(transport: TlsTransport, index: int) -> dict[str, Any]:
        shares = [expand(dealt[index], str(n), v.shape) for n, v in enumerate(values)]
        return _party(transport, operation, shares, repeats)

    return slowest(run_parties(party))


def _party(
    transport: TlsTransport, operation: Operation, shares: list[Share], repeats: int
) -> dict[str, Any]:
    seconds, bytes_sent, rounds = [], 0, 0
    for number in range(repeats + 1):
        nonces = [hashlib.sha256(f"{w} {number}".encode()).digest() for w in range(3)]
        session = Session(transport, (nonces[0], nonces[1], nonces[2]), _DIGEST)
        _, took = session.run([operation(session.protocol(0), *shares)], 60)
        session.close()
        if number:  # the first one warms up
            seconds.append(took.seconds)
        bytes_sent, rounds = took.bytes_sent, took.rounds
    logging.disable()  # what follows is the end of the links
    return {"seconds": seconds, "bytes": bytes_sent, "rounds": rounds}


def run() -> Part:
    """Run the benchmark."""
    part = Part("micro", "single operations among three processes over TLS")
    rng = np.random.default_rng(0)
    million = fixed.encode(rng.uniform(-100, 100, 1_000_000), 16)
    square = [fixed.encode(rng.normal(0, 1, (1024, 1024)), 16) for _ in range(2)]
    scores = fixed.encode(rng.normal(0, 3, (128, 10)), 16)
    spread_out = fixed.encode(rng.uniform(-8, 8, 100_000), 16)
    above_zero = fixed.encode(np.exp(rng.uniform(-4, 6, 100_000)), 16)
    one = statistics.median(times(lambda: kernels.matmul(square[0], square[1]), 5, warm=1))
    medians, bytes_an_element = {}, {}
    for name, operation, values, repeats, size in (
        ("relu 10^6", relu, [million], 7, 1_000_000),
        ("matmul 1024^3", matmul, square, 15, 1024 * 1024),
        ("softmax (128, 10)", probabilities, [scores], 15, 1280),
        ("sigmoid 10^5", elementwise(sigmoid), [spread_out], 9, 100_000),
        ("reciprocal 10^5", elementwise(positive), [above_zero], 9, 100_000),
        ("exp 10^5", elementwise(exp), [spread_out], 9, 100_000),
        ("GELU 10^5", elementwise(gelu), [spread_out], 9, 100_000),
    ):
        took = measure(operation, values, repeats)
        medians[name] = statistics.median(took["seconds"])
        bytes_an_element[name] = took["bytes"] / size
        row = {"operation": name} | spread(took["seconds"])
        row |= {"bytes_an_element": bytes_an_element[name], "rounds": took["rounds"]}
        part.rows.append(row)
    bound = one * 5 / 2
    part.targets += [
        Target("relu 10^6", medians["relu 10^6"], 0.15, "s"),
        Target("relu 10^6, bytes an element", bytes_an_element["relu 10^6"], 75, "B"),
        Target("matmul 1024^3", medians["matmul 1024^3"], 1.4 * bound, "s"),
        *(Target(name, medians[name], limit, "s") for name, limit in LIMITS.items()),
    ]
    part.notes.append(
        f"a product at the kernel's rate takes {one * 1e3:.0f} ms on one core, "
        f"five of them on two cores {bound * 1e3:.0f} ms"
    )
    part.notes.append("the peers: softmax (128, 10) 18 ms in MP-SPDZ, 125 ms in SPU")
    part.notes.append(
        "SPU, 10^5: sigmoid 1.0 s, reciprocal 0.69 s, exp 0.16 s at 9 % error; CrypTen with two "
        "parties 0.39, 0.63 and 0.07 s at 16 to 24 %"
    )
    return part


if __name__ == "__main__":
    main(run, __doc__)
