"""Fixed-point helpers on the abstract protocol: scaled products and public constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from tercet.protocol.base import Protocol, Share, Words
from tercet.protocol.rounds import Steps


def ring_constant(value: float, scale: int) -> np.uint64:
    """Return the ring element of a public real constant."""
    return np.uint64(round(value * (1 << scale)) & ((1 << 64) - 1))


def multiply(a: Words, b: Words) -> Words:
    """Multiply elementwise modulo 2^64 (the kernel of ``mul``)."""
    return a * b


def times(protocol: Protocol, x: Share, y: Share, shift: int, at: str) -> Steps[Share]:
    """Return x * y >> shift. Two rounds."""
    return protocol.truncate(protocol.product(multiply, x, y), shift, at)


def add(protocol: Protocol, x: Share, y: Share) -> Share:
    """Return x + y of two shares."""
    return cast("Share", protocol.add(x, y))


def add_constant(protocol: Protocol, x: Share, value: float, scale: int) -> Share:
    """Return x + value."""
    return protocol.add_public(x, np.asarray(ring_constant(value, scale)))


def constant_minus(protocol: Protocol, value: float, x: Share, scale: int) -> Share:
    """Return value - x."""
    return add_constant(protocol, protocol.map(np.negative, x), value, scale)


def scaled(protocol: Protocol, x: Share, factor: float, bits: int) -> Share:
    """Return x * factor with ``bits`` more fractional bits, local."""
    word = ring_constant(factor, bits)
    return protocol.map(lambda a: a * word, x)


def weighted_sum(protocol: Protocol, terms: Sequence[tuple[float, Share]], bits: int) -> Share:
    """Return the sum of factor * x over ``terms`` with ``bits`` more fractional bits, local."""
    total = scaled(protocol, terms[0][1], terms[0][0], bits)
    for factor, x in terms[1:]:
        total = add(protocol, total, scaled(protocol, x, factor, bits))
    return total


def fill(protocol: Protocol, value: float, scale: int, shape: tuple[int, ...]) -> Share:
    """Return the trivial sharing of a constant array."""
    return protocol.constant(np.full(shape, ring_constant(value, scale)))
