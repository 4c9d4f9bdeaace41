"""Three parties of a protocol in one thread: each round's messages are swapped in lockstep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tercet.crypto.prg import Streams, fresh
from tercet.protocol.base import Bits, Share
from tercet.protocol.replicated.protocol import Replicated
from tercet.protocol.rounds import Received, Round, Steps


@dataclass
class Traffic:
    """What a run sent: bytes of all parties, rounds, and every message by (sender, receiver)."""

    bytes: int = 0
    rounds: int = 0
    messages: list[tuple[int, int, bytes]] = field(default_factory=list)


def parties(keys: Sequence[bytes] | None = None, piece: int = 0) -> list[Replicated]:
    """Return the three sides of one session."""
    keys = keys or [fresh(32) for _ in range(6)]
    return [
        Replicated(i, Streams(keys[i]), Streams(keys[(i - 1) % 3]), Streams(keys[3 + i]), piece)
        for i in range(3)
    ]


def share(value: np.ndarray, rng: np.random.Generator) -> list[Share]:
    """Deal a random sharing of ring elements."""
    value = np.asarray(value, dtype=np.uint64)
    a, b = (rng.integers(0, 2**64, value.shape, dtype=np.uint64) for _ in range(2))
    summands = [a, b, value - a - b]
    return [Share((summands[i], summands[(i + 1) % 3])) for i in range(3)]


def reconstruct(shares: Sequence[Share]) -> np.ndarray:
    """Put a sharing together, checking that both holders of a summand agree."""
    for i in range(3):
        np.testing.assert_array_equal(shares[i].parts[1], shares[(i + 1) % 3].parts[0])
    return shares[0].parts[0] + shares[1].parts[0] + shares[2].parts[0]


def reconstruct_bits(bits: Sequence[Bits]) -> np.ndarray:
    """Put a boolean sharing together, one uint8 an element."""
    for i in range(3):
        np.testing.assert_array_equal(bits[i].parts[1], bits[(i + 1) % 3].parts[0])
    plane = bits[0].parts[0] ^ bits[1].parts[0] ^ bits[2].parts[0]
    size = int(np.prod(bits[0].shape))
    return np.unpackbits(plane.view(np.uint8), count=size, bitorder="little").reshape(bits[0].shape)


def drive(operations: Sequence[Steps[Any]]) -> tuple[list[Any], Traffic]:
    """Run one operation at each of three parties to its end."""
    traffic = Traffic()
    results: list[Any] = [None] * 3
    rounds: list[Round | None] = [None] * 3

    def advance(i: int, received: Received | None) -> None:
        try:
            rounds[i] = next(operations[i]) if received is None else operations[i].send(received)
        except StopIteration as stop:
            results[i], rounds[i] = stop.value, None

    for i in range(3):
        advance(i, None)
    while any(r is not None for r in rounds):
        assert all(r is not None for r in rounds), "parties disagree about the number of rounds"
        traffic.rounds += 1
        sent = [
            (
                b"".join(np.ascontiguousarray(b).tobytes() for b in r.to_next),
                b"".join(np.ascontiguousarray(b).tobytes() for b in r.to_prev),
            )
            for r in rounds
        ]
        incoming = []
        for i, r in enumerate(rounds):
            from_next, from_prev = sent[(i + 1) % 3][1], sent[(i - 1) % 3][0]
            assert (len(from_next), len(from_prev)) == (r.from_next, r.from_prev), i
            traffic.bytes += len(sent[i][0]) + len(sent[i][1])
            traffic.messages += [(i, (i + 1) % 3, sent[i][0]), (i, (i - 1) % 3, sent[i][1])]
            incoming.append(Received(memoryview(from_next), memoryview(from_prev)))
        for i in range(3):
            advance(i, incoming[i])
    return results, traffic


def run(method: Callable[[int], Steps[Any]]) -> tuple[list[Any], Traffic]:
    """Drive ``method(i)`` for i = 0, 1, 2."""
    return drive([method(i) for i in range(3)])
