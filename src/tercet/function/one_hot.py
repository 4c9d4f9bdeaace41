"""The one-hot vector of a secret index: its bits, then the AND of each combination."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tercet.function.fixed import constant_minus, fill
from tercet.protocol.base import Bits, Protocol, Share
from tercet.protocol.rounds import Steps, together


def one_hot(
    protocol: Protocol, x: Share, classes: int, scale: int, bits: int, at: str
) -> Steps[Share]:
    """Return integers (no scale), 1 at the index and 0 elsewhere, along a new last axis.

    Domain: |x| < 2^(bits-1) units. x is rounded to a whole number; below 0 it counts as 0, above
    ``classes`` - 1 as the last index. Exact.
    """
    x = yield from protocol.relu(x, 0, bits, f"{at}/low")
    top = float(classes - 1)
    room = yield from protocol.relu(constant_minus(protocol, top, x, scale), 0, bits, f"{at}/high")
    x = constant_minus(protocol, top + 0.5, room, scale)
    width = (classes - 1).bit_length()
    digits = yield from together(
        *(protocol.bit(x, scale + j, f"{at}/bit/{j}") for j in reversed(range(width)))
    )
    planes = yield from _combinations(protocol, digits, classes, f"{at}/and")
    one = fill(protocol, 1.0, 0, x.shape)
    if not planes:
        return protocol.map(lambda a: a[..., None], one)
    chosen = yield from together(
        *(protocol.select(p, one, f"{at}/select/{j}") for j, p in enumerate(planes))
    )
    columns = zip(*(c.parts for c in chosen), strict=True)
    return Share(tuple(np.stack(c, axis=-1) for c in columns))


def _combinations(
    protocol: Protocol, digits: Sequence[Bits], classes: int, at: str
) -> Steps[list[Bits]]:
    """Return for each index below ``classes`` whether the digits (highest first) spell it."""
    planes: list[Bits] = []
    for level, digit in enumerate(digits):
        both = (protocol.bit_not(digit), digit)
        if not planes:
            planes = list(both)
            continue
        needed = -(-classes // (1 << (len(digits) - 1 - level)))
        pairs = [(p, b) for p in planes for b in both][:needed]
        planes = list(
            (
                yield from together(
                    *(protocol.bit_and(p, b, f"{at}/{level}/{n}") for n, (p, b) in enumerate(pairs))
                )
            )
        )
    return planes
