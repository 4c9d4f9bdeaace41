"""Softmax over one axis."""

from __future__ import annotations

import numpy as np

from tercet.function.exponential import WORK_SCALE, exp_negative
from tercet.function.fixed import times
from tercet.function.maximum import reduce_max
from tercet.function.reciprocal import reciprocal_above_one
from tercet.protocol.base import Protocol, Share, Words, subtract
from tercet.protocol.rounds import Steps


def softmax(
    protocol: Protocol, x: Share, axis: int, scale: int, bits: int, at: str
) -> Steps[Share]:
    """Return exp(x - max x) / sum over ``axis``, with a max tree and one reciprocal a row.

    Domain: differences within an axis below 2^(bits-1) units. Absolute error below 2^-16 + 3e-6
    for up to 4,096 classes.
    """
    classes = x.shape[axis]
    top = yield from reduce_max(protocol, x, (axis,), bits, f"{at}/max")

    def widen(a: Words) -> Words:
        return np.expand_dims(a, axis)

    difference = subtract(protocol, x, protocol.map(widen, top))
    assert isinstance(difference, Share)
    exponential = yield from exp_negative(protocol, difference, scale, bits, f"{at}/exp")
    total = protocol.map(lambda a: np.sum(a, axis, dtype=np.uint64), exponential)
    inverse = yield from reciprocal_above_one(
        protocol, total, WORK_SCALE, float(classes) * 1.001, f"{at}/reciprocal"
    )
    return (
        yield from times(
            protocol,
            exponential,
            protocol.map(widen, inverse),
            2 * WORK_SCALE - scale,
            f"{at}/divide",
        )
    )
