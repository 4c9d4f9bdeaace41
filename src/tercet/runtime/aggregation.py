"""Summing contributions under sharing: check each, fold it in, add noise that nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import seed_stream, seed_words
from tercet.protocol.base import Partial, Share, Words
from tercet.protocol.joint_seed import joint_seed
from tercet.protocol.norm import coefficient_blocks
from tercet.protocol.replicated.packed import Packed, packed_reshare
from tercet.protocol.replicated.protocol import Replicated
from tercet.protocol.replicated.verdict import verdicts
from tercet.protocol.rounds import Steps
from tercet.ring import kernels
from tercet.runtime.session import Session

#: Name under which a dealt seed expands to a contribution.
TENSOR = "update"

#: Bits of a sum with its noise, which stays below 2^38 (see ``service.aggregation_terms``), with
#: its sign, in whole bytes: all that is opened.
SUM_BITS = 40

#: Words of a contribution that are dealt with at a time: what is done to them stays in the cache.
_BLOCK = 1 << 15


class Checked(NamedTuple):
    """What a contribution must keep: ``bound`` as in ``protocol.norm``.

    ``words`` is its length; with ``heaviest`` the last word is a weight from 0 to that.
    """

    words: int
    bound: int
    heaviest: int = 0

    @property
    def length(self) -> int:
        """Words whose norm is bounded."""
        return self.words - bool(self.heaviest)


class Half(NamedTuple):
    """One summand of a contribution: a dealt seed, or its words."""

    seed: bytes
    data: bytes | memoryview

    def expand(self, words: int) -> Words:
        """Return the summand (words,)."""
        if self.seed:
            return seed_words(self.seed, TENSOR, words)
        return np.frombuffer(self.data, "<u8").astype(np.uint64, copy=False)

    def reader(self) -> Callable[[int], Words]:
        """Return what takes the summand's next words, so many, from its start to its end."""
        if self.seed:
            return seed_stream(self.seed, TENSOR).words
        whole, position = self.expand(0), 0

        def take(words: int) -> Words:
            nonlocal position
            position += words
            return whole[position - words : position]

        return take


class RunningSum:
    """This worker's two summands of the sum so far, (words,) each."""

    def __init__(self, words: int) -> None:
        self.parts = (np.zeros(words, np.uint64), np.zeros(words, np.uint64))

    def add(self, start: int, share: Share) -> None:
        """Add a block of a contribution, from word ``start`` on."""
        for total, part in zip(self.parts, share.parts, strict=True):
            place = total[start : start + part.size]
            np.add(place, part, out=place)

    def remove(self, share: Share) -> None:
        """Take a contribution off again."""
        for total, part in zip(self.parts, share.parts, strict=True):
            np.subtract(total, part, out=total)


def fold(
    session: Session,
    total: RunningSum,
    pairs: Sequence[tuple[Half, Half]],
    checked: Checked,
    context: bytes,
    timeout: float,
) -> list[bool]:
    """Check contributions whose digests all three workers have fixed, and add those that pass.

    If it raises, ``total`` is spoilt.

    Args:
        session: a fresh session.
        total: the sum so far.
        pairs: this worker's two summands of each contribution.
        checked: what they must keep.
        context: what is checked; equal at all three workers.
        timeout: seconds to wait for any single message.

    Returns:
        Whether each passed: equal at all three workers.

    Raises:
        IntegrityError: if a worker does not keep to its part of the public seed.
        TransportError: if a worker is lost.
    """

    def steps() -> Iterator[Steps[NDArray[np.bool_]]]:
        protocol = cast("Replicated", session.protocol(0))
        yield _check(protocol, total, pairs, checked, context)

    (passed,), _ = session.run(steps(), timeout)
    for pair, good in zip(pairs, passed, strict=True):
        if not good:
            total.remove(_expand(pair, checked.words))
    return [bool(p) for p in passed]


def _check(
    protocol: Replicated,
    total: RunningSum,
    pairs: Sequence[tuple[Half, Half]],
    checked: Checked,
    context: bytes,
) -> Steps[NDArray[np.bool_]]:
    length = checked.length
    seed = yield from joint_seed(protocol.party.index, context)
    rows = len(pairs)
    projections = np.zeros((rows, kernels.PROJECTIONS), np.uint64)
    products, weights = np.zeros((rows, 2), np.uint64), np.zeros(rows, np.uint64)
    readers = [(first.reader(), second.reader()) for first, second in pairs]
    for block, drawn in enumerate(coefficient_blocks(seed, length, _BLOCK)):
        start = block * _BLOCK
        size = min(_BLOCK, length - start)
        for row, (first, second) in enumerate(readers):
            share = Share((first(size), second(size)))
            total.add(start, share)  # while it is in the cache; a violator is taken off again
            projections[row] += drawn.project(share.parts[0])
            products[row] += _products(share)
    for row, (first, second) in enumerate(readers if checked.heaviest else ()):
        share = Share((first(1), second(1)))
        total.add(length, share)
        weights[row] = share.parts[0][0]
    squares = products[:, 0] + (products[:, 1] << np.uint64(1))
    return (
        yield from verdicts(
            protocol,
            Partial((projections,)),
            Partial((squares,)),
            Partial((weights,)) if checked.heaviest else None,
            checked.bound,
            checked.heaviest,
            "check",
        )
    )


def noisy_sum(
    session: Session, total: RunningSum, noise: NDArray[np.int64] | None, timeout: float
) -> Packed:
    """Return a fresh sharing, modulo 2^``SUM_BITS``, of the sum and of all three workers' noise.

    ``noise`` (words,) is this worker's own and enters as a summand that nobody else sees: what
    leaves is masked by a share of zero.

    Raises:
        TransportError: if a worker is lost.
    """
    mine = total.parts[0] if noise is None else total.parts[0] + noise.view(np.uint64)

    def steps() -> Iterator[Steps[Packed]]:
        protocol = cast("Replicated", session.protocol(0))
        yield packed_reshare(protocol, Partial((mine,)), SUM_BITS, "sum")

    (result,), _ = session.run(steps(), timeout)
    return cast("Packed", result)


def _expand(pair: tuple[Half, Half], words: int) -> Share:
    return Share((pair[0].expand(words), pair[1].expand(words)))


def _products(x: Share) -> Words:
    """Return the sums of x_i^2 and x_i x_{i+1}: the first and twice the second are a summand of
    the squared norm.
    """
    first, second = x.parts
    return np.array((np.dot(first, first), np.dot(first, second)), np.uint64)
