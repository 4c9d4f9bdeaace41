"""Fixed-point helpers on the abstract protocol: scaled products and public constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from tercet.protocol.base import Bits, Number, Partial, Protocol, Share, Words
from tercet.protocol.rounds import Steps

#: |x| < 2^62 is what truncations and comparisons take.
RANGE_BITS = 62


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


def rounded(protocol: Protocol, x: Number, shift: int, at: str) -> Steps[Share]:
    """Return x >> shift with an error of at most one unit of the last place to either side.

    A truncation is up to two units low; one unit is added first. A negative shift is exact.
    """
    if shift <= 0:
        exact = x if isinstance(x, Share) else (yield from protocol.reshare(x, at))
        return lifted(protocol, exact, -shift)
    moved = protocol.add_public(x, np.asarray(np.uint64(1) << np.uint64(shift)))
    return (yield from protocol.truncate(moved, shift, at))


def product(protocol: Protocol, x: Share, y: Share, shift: int, at: str) -> Steps[Share]:
    """Return x * y >> shift, rounded as ``rounded`` does. Two rounds."""
    return rounded(protocol, protocol.product(multiply, x, y), shift, at)


def product_plus(protocol: Protocol, x: Share, y: Share, z: Share) -> Partial:
    """Return x * y + z, local; z has the fractional bits of the product."""
    return cast("Partial", protocol.add(protocol.product(multiply, x, y), z))


def lifted(protocol: Protocol, x: Number, bits: int) -> Number:
    """Return x with ``bits`` more fractional bits, local."""
    return protocol.map(lambda a: a << np.uint64(bits), x) if bits else x


def polynomial(
    protocol: Protocol, coefficients: Sequence[float], powers: Sequence[tuple[Share, int]], to: int
) -> Share:
    """Return c0 + sum of c_j u_j with ``to`` fractional bits, local.

    ``powers`` are shares with their fractional bits; a coefficient gets what is left of ``to``.
    """
    factors = [
        ring_constant(c, to - scale) for c, (_, scale) in zip(coefficients[1:], powers, strict=True)
    ]
    total = protocol.combine(factors, [u for u, _ in powers])
    return add_constant(protocol, total, coefficients[0], to)


def coarse(
    protocol: Protocol, x: Share, value: float, scale: int, bits: int, shift: int, at: str
) -> Steps[Bits]:
    """Return [x < value], where x within 2^shift units above ``value`` may count as below.

    |x| and |value| are below 2^(bits-1) units.
    """
    moved = add_constant(protocol, x, -value, scale)
    width = max(8, min(bits + 1, RANGE_BITS) - shift)
    return protocol.negative(moved, shift, width, at)


def replaced(
    protocol: Protocol, bit: Bits, x: Share, value: float, scale: int, at: str
) -> Steps[Share]:
    """Return ``value`` where ``bit`` is 1, else x. Whatever x is there, it cancels exactly."""
    change = yield from protocol.select(bit, constant_minus(protocol, value, x, scale), at)
    return add(protocol, x, change)
