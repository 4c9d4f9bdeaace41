"""Which classes score highest: their indices, and their scores, without the order of the rest.

Every score carries its index in bits below its last place (score * 2^w + n - 1 - index), so that
all values compared are different and the first of equal scores wins. The maximum of a tournament
is then equal to one value alone: one comparison with each gives a one-hot vector, and linear
operations do the rest. For more than one winner, each is pushed below all others before the next
tournament.

Domain: |score| < 2^(57 - w) in units of the last place for n <= 2^w classes, which leaves 2^29
at f = 16 and 4,096 classes. Exact. Beyond the domain the result means nothing.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from tercet.function.maximum import maximum_over_first
from tercet.protocol.base import Protocol, Share, Words, subtract
from tercet.protocol.rounds import Steps

#: Width of the comparisons.
_BITS = 62
#: What a winner loses before the next tournament: more than the distance of any two scores.
_PENALTY = np.uint64(1 << 59)


def argmax(protocol: Protocol, x: Share, axis: int, scale: int, at: str) -> Steps[Share]:
    """Return the index of the largest value over ``axis``, which disappears, times 2^scale.

    ceil(log2 n) ReLUs, one comparison and one selection deep.
    """
    scores = protocol.map(lambda a: np.moveaxis(a, axis, 0), x)
    hot = yield from _winner(protocol, _packed(protocol, scores), at)
    return _index(protocol, hot, scale)


def top_k(protocol: Protocol, x: Share, k: int, scale: int, at: str) -> Steps[Share]:
    """Return the ``k`` largest values over the last axis, in falling order.

    Args:
        protocol: this party's side.
        x: shape (..., n) with n >= k.
        k: how many, at least 1.
        scale: fractional bits of ``x`` and of the result.
        at: place in the program.

    Returns:
        Shape (..., k, 2): ``[..., 0]`` is the index times 2^scale, ``[..., 1]`` the score.
    """
    scores = protocol.map(lambda a: np.moveaxis(a, -1, 0), x)
    packed = _packed(protocol, scores)
    columns: list[Share] = []
    for place in range(k):
        hot = yield from _winner(protocol, packed, f"{at}/{place}")
        score = yield from protocol.reshare(
            protocol.product(_dot, hot, scores), f"{at}/{place}/score"
        )
        columns += [_index(protocol, hot, scale), score]
        penalty = protocol.map(lambda a: a * _PENALTY, hot)
        packed = cast("Share", subtract(protocol, packed, penalty))
    stacked = zip(*(c.parts for c in columns), strict=True)
    return Share(tuple(np.stack(c, -1).reshape(*c[0].shape, k, 2) for c in stacked))


def _packed(protocol: Protocol, scores: Share) -> Share:
    """Return score * 2^w + n - 1 - index of scores along the first axis."""
    count = scores.shape[0]
    width = np.uint64((count - 1).bit_length())
    order = np.arange(count, dtype=np.uint64)[::-1].reshape(-1, *(1 for _ in scores.shape[1:]))
    return protocol.add_public(protocol.map(lambda a: a << width, scores), order)


def _winner(protocol: Protocol, packed: Share, at: str) -> Steps[Share]:
    """Return 1 where the largest of different values along the first axis stands, else 0."""
    top = yield from maximum_over_first(protocol, packed, _BITS, f"{at}/max")
    distance = subtract(protocol, packed, protocol.map(lambda a: a[None], top))
    below = yield from protocol.negative(distance, 0, _BITS, f"{at}/equal")
    ones = protocol.constant(np.ones(packed.shape, np.uint64))
    return (yield from protocol.select(protocol.bit_not(below), ones, f"{at}/hot"))


def _index(protocol: Protocol, hot: Share, scale: int) -> Share:
    """Return the position of the one along the first axis, times 2^scale."""
    weights = np.arange(hot.shape[0], dtype=np.uint64) << np.uint64(scale)
    return protocol.map(lambda a: np.tensordot(weights, a, 1), hot)


def _dot(a: Words, b: Words) -> Words:
    """Return the sum of products over the first axis (the kernel of one released score)."""
    total: Words = np.sum(a * b, axis=0, dtype=np.uint64)
    return total
