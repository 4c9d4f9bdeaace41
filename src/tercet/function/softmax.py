"""Softmax and its logarithm over one axis."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np

from tercet.function.exponential import WORK_SCALE, exp_negative
from tercet.function.fixed import product, rounded
from tercet.function.logarithm import log
from tercet.function.maximum import reduce_max
from tercet.function.normalise import TOP
from tercet.function.reciprocal import reciprocal_above_one
from tercet.protocol.base import Protocol, Share, Words, subtract
from tercet.protocol.rounds import Steps


def softmax(
    protocol: Protocol, x: Share, axis: int, scale: int, bits: int, at: str
) -> Steps[Share]:
    """Return exp(x - max x) / sum over ``axis``, with a max tree and one reciprocal a row.

    Domain: differences within an axis below 2^(bits-1) units. Absolute error below 2^-f + 1e-5
    for up to 4,096 classes, f = ``scale``.
    """
    classes, widen = x.shape[axis], _widen(axis)
    difference = yield from _below_maximum(protocol, x, axis, bits, at)
    exponential = yield from exp_negative(protocol, difference, scale, bits, f"{at}/exp")
    total = protocol.map(lambda a: np.sum(a, axis, dtype=np.uint64), exponential)
    inverse = yield from reciprocal_above_one(
        protocol, total, WORK_SCALE, float(classes) * 1.001, f"{at}/reciprocal"
    )
    return (
        yield from product(
            protocol,
            exponential,
            protocol.map(widen, inverse),
            2 * WORK_SCALE - scale,
            f"{at}/divide",
        )
    )


def log_softmax(
    protocol: Protocol, x: Share, axis: int, scale: int, bits: int, at: str
) -> Steps[Share]:
    """Return x - max x - log sum exp(x - max x) over ``axis``.

    Domain: differences within an axis below 2^(bits-1) units. Absolute error below 2^-f + 2e-5
    for up to 4,096 classes, f = ``scale``.
    """
    difference = yield from _below_maximum(protocol, x, axis, bits, at)
    exponential = yield from exp_negative(protocol, difference, scale, bits, f"{at}/exp")
    total = protocol.map(lambda a: np.sum(a, axis, dtype=np.uint64), exponential)
    # log takes numbers below 2^30 units.
    kept = min(WORK_SCALE, TOP - 1 - x.shape[axis].bit_length())
    total = yield from rounded(protocol, total, WORK_SCALE - kept, f"{at}/total")
    logarithm = yield from log(protocol, total, kept, TOP + 1, f"{at}/log", scale)
    return cast("Share", subtract(protocol, difference, protocol.map(_widen(axis), logarithm)))


def _widen(axis: int) -> Callable[[Words], Words]:
    return lambda a: np.expand_dims(a, axis)


def _below_maximum(protocol: Protocol, x: Share, axis: int, bits: int, at: str) -> Steps[Share]:
    top = yield from reduce_max(protocol, x, (axis,), bits, f"{at}/max")
    return cast("Share", subtract(protocol, x, protocol.map(_widen(axis), top)))
