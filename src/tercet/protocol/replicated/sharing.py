"""Dealing a sharing from outside, and putting an output together.

Whoever deals draws two seeds, from which the holders expand summands 0 and 1, and sends summand 2
as arrays. Worker 0 gets the two seeds, worker 1 seed 1 and the arrays, worker 2 the arrays and
seed 0. Seeds are fresh for every sharing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from math import prod

import msgspec
import numpy as np

from tercet.crypto.prg import SECRET_BYTES, fresh, seed_words
from tercet.errors import IntegrityError
from tercet.protocol.base import Share, Words

WORKERS = 3


class Summand(msgspec.Struct, frozen=True):
    """One summand of a set of named tensors: a seed, or arrays (uint64, little-endian bytes)."""

    seed: bytes = b""
    arrays: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"Summand(<secret>, {'arrays' if self.arrays else 'seed'})"

    def digest(self) -> bytes:
        """Return the SHA-256 by which its two holders compare it."""
        state = hashlib.sha256(b"tercet summand v1\0")
        for part in (
            self.seed,
            *(b for k in sorted(self.arrays) for b in (k.encode(), self.arrays[k])),
        ):
            state.update(len(part).to_bytes(8, "little"))
            state.update(part)
        return state.digest()

    def check(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """Refuse anything but a seed or arrays of exactly these names and shapes.

        Raises:
            IntegrityError: naming the tensor at fault.
        """
        if self.seed and not self.arrays and len(self.seed) == SECRET_BYTES:
            return
        sizes = {name: len(data) for name, data in self.arrays.items()}
        wanted = {name: 8 * prod(shape) for name, shape in shapes.items()}
        if self.seed or sizes != wanted:
            wrong = sorted(sizes.items() ^ wanted.items())
            raise IntegrityError(
                f"a summand is not a seed of {SECRET_BYTES} bytes nor the arrays that the program "
                f"takes ({', '.join(f'{n[:40]!r}: {b} bytes' for n, b in wrong[:4])})",
                "Use Tercet's own client",
            )

    def expand(self, name: str, shape: Sequence[int]) -> Words:
        """Return the summand of tensor ``name``.

        Raises:
            IntegrityError: if there is no such tensor of that size.
        """
        size = prod(shape)
        if self.seed:
            if len(self.seed) != SECRET_BYTES or self.arrays:
                raise IntegrityError("a dealt seed is malformed", "Use Tercet's own client")
            return seed_words(self.seed, name, size).reshape(shape)
        data = self.arrays.get(name, b"")
        if len(data) != 8 * size:
            raise IntegrityError(
                f"shares of {name!r} have {len(data)} bytes, not {8 * size}",
                "Use Tercet's own client",
            )
        return np.frombuffer(data, dtype="<u8").reshape(shape).astype(np.uint64, copy=False)


def deal(tensors: Mapping[str, Words]) -> tuple[tuple[Summand, Summand], ...]:
    """Return what each of the three workers gets of the named tensors: its summand pair."""
    seeds = [Summand(seed=fresh(SECRET_BYTES)) for _ in range(2)]
    arrays = {
        name: np.ascontiguousarray(
            value - seeds[0].expand(name, value.shape) - seeds[1].expand(name, value.shape)
        )
        .astype("<u8", copy=False)
        .tobytes()
        for name, value in tensors.items()
    }
    summands = (*seeds, Summand(arrays=arrays))
    return tuple((summands[i], summands[(i + 1) % WORKERS]) for i in range(WORKERS))


def expand(pair: tuple[Summand, Summand], name: str, shape: Sequence[int]) -> Share:
    """Return the share that a worker's summand pair holds of tensor ``name``."""
    return Share((pair[0].expand(name, shape), pair[1].expand(name, shape)))


class OutputPart(msgspec.Struct, frozen=True):
    """What one worker releases: its first summand, and the digest of its second."""

    summand: bytes
    other_digest: bytes

    def __repr__(self) -> str:
        return "OutputPart(<secret>)"


def output_part(share: Share) -> OutputPart:
    """Return what the holder of ``share`` releases to the receiver."""
    first, second = (
        np.ascontiguousarray(p).astype("<u8", copy=False).tobytes() for p in share.parts
    )
    return OutputPart(first, _output_digest(second))


def combine(parts: Sequence[OutputPart], shape: Sequence[int]) -> Words:
    """Return the value that the three workers released, after the cross-check.

    Raises:
        IntegrityError: if a worker's summand is not what the other holder says; names both.
    """
    size = prod(shape)
    total = np.zeros(size, dtype=np.uint64)
    for index, part in enumerate(parts):
        holder = (index - 1) % WORKERS
        same = parts[holder].other_digest == _output_digest(part.summand)
        if len(part.summand) != 8 * size or not same:
            raise IntegrityError(
                f"workers {holder} and {index} released different output shares",
                "One of them is faulty or cheats: do not use the result, tell both operators",
            )
        total += np.frombuffer(part.summand, dtype="<u8").astype(np.uint64, copy=False)
    return total.reshape(shape)


def _output_digest(summand: bytes) -> bytes:
    return hashlib.sha256(b"tercet output v1\0" + summand).digest()
