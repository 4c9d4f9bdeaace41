"""Which rows have numbers so small that nothing of their norms wraps around, whatever they are.

A ring has no large numbers: the square of one may be anything, so that a norm computed of it says
nothing, and a row with such numbers would move the sum by as much as it likes. So each row is
checked before its norm is believed:

1. Inputs a and cotangents d of all layers leave a rounding by ``_LEAST`` bits or more, which makes
   numbers below 2^(65 - 12), whatever it takes.
2. Of v, all a (times their layer's ``gain``) and all d of a row, ``_PROJECTIONS`` sums with random
   signs must lie between -B and B modulo 2^62. A |v_i| of B or more makes each sum fail with
   probability 1/2 and more, since the two signs of v_i put it at places 2 |v_i| apart. Without one,
   sums do not wrap; one exceeds |v| / 4 with probability (15/16)^2 / 3 and more (Paley and Zygmund,
   with the fourth moment 3 |v|^4 of such a sum). So |v| >= 4 B passes with probability
   0.707^128 < 2^-64 at most. So it is for every v that does not depend on the signs: the workers
   draw them together, and only when the state and the rows of a step are fixed.
3. Within that, the product of |q|^2 and |d|^2 at few fractional bits does not wrap; below
   2^``_COARSE`` in all, neither does a norm that it bounds.

Rows of honest size (|v| below B / 6) fail with a probability of 4e-6 at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tercet.errors import UnsupportedOperation
from tercet.frontend.private_layers import PrivateLayer
from tercet.frontend.row_operands import (
    COARSE_SCALE,
    COTANGENT_SCALE,
    INPUT_SCALE,
    added,
    indicator,
    raw,
)
from tercet.frontend.step import StepLowering
from tercet.frontend.values import Secret
from tercet.program.checks import RANGE_BITS
from tercet.program.training import MAX_STEP_ELEMENTS, Kind, StepInput

#: Sums with random signs, and the logarithm of what they must stay below.
_PROJECTIONS, _BOUND = 128, 28
#: Fewest bits that are rounded off, and the largest factor of a layer's inputs that leaves room.
_LEAST, _MOST_GAIN = 12, 64
#: Logarithm of the limit of the sum of (|q|^2 + b^2) |d|^2.
_COARSE = 26


def bounded(low: StepLowering, x: Secret, scale: int) -> Secret:
    """Return ``x`` rounded to ``scale`` bits, below 2^(65 - ``_LEAST``) whatever ``x`` is."""
    if x.handle >= 0 and low.scale_of(x) == scale:
        made = low.builder.instruction(x.handle)
        if made.op in ("round", "gate") and int(str(made.attrs["shift"])) >= _LEAST:
            return x
    missing = _LEAST - (low.scale_of(x) - scale)
    if missing > 0:
        x = raw(low, "shift_left", x.handle, bits=missing)
    return low.to_scale(x, scale)


def gain(layer: PrivateLayer) -> int:
    """Return more than half of what |q| may be of |a|: with |v| < 4 B, |q| is below 2^31."""
    if layer.places is None:
        return 1
    fold = layer.places.fold
    overlap = math.prod(-(-w // s) for w, s in zip(fold.window, fold.steps, strict=True))
    square = math.prod(layer.places.taps) * layer.places.pooled * overlap
    return math.isqrt(square) // 2 + 1


def small_enough(
    low: StepLowering,
    layers: Sequence[PrivateLayer],
    inputs: Sequence[Secret],
    cotangents: Sequence[Secret],
    coarse: Sequence[Secret],
) -> Secret:
    """Return the bit of each row that it passed, (rows, 1).

    Args:
        low: the lowering.
        layers: the layers.
        inputs: of each layer, with ``INPUT_SCALE`` bits, from ``bounded``.
        cotangents: of each layer, with ``COTANGENT_SCALE`` bits, from ``bounded``.
        coarse: the products of 3., (rows,).
    """
    rows = inputs[0].shape[0]
    parts = []
    for layer, a, d in zip(layers, inputs, cotangents, strict=True):
        times = gain(layer)
        if times > _MOST_GAIN:
            raise UnsupportedOperation(
                f"Layer {layer.product.source!r} sums up windows too large for clipping",
                "Use a smaller kernel or a smaller pool",
            )
        wider = raw(low, "scale", a.handle, multiplier=times, bits=COTANGENT_SCALE - INPUT_SCALE)
        parts += [low.reshape(v, (rows, math.prod(v.shape[1:]))) for v in (wider, d)]
    width = sum(p.shape[1] for p in parts)
    if width * _PROJECTIONS > MAX_STEP_ELEMENTS:
        raise UnsupportedOperation(
            f"The model has {width} inputs of layers and outputs for each row, more than clipping "
            f"can check ({MAX_STEP_ELEMENTS // _PROJECTIONS})",
            "Use a smaller model or larger pools",
        )
    whole = raw(low, "concat", *(p.handle for p in parts), axis=1)
    # Numbers 0 and 2: their sums are those with signs, and that of all.
    drawn = StepInput("projections", Kind.SIGNS)
    twice = low.step_input(drawn, (width, _PROJECTIONS), 0)
    alone = low.reshape(raw(low, "sum", whole.handle, axes=(1,)), (rows, 1))
    signed = raw(low, "sub", raw(low, "matmul", whole.handle, twice.handle).handle, alone.handle)
    above = raw(low, "add_const", signed.handle, value=1 << _BOUND)
    minus = raw(low, "neg", signed.handle)
    below = raw(low, "add_const", minus.handle, value=(1 << _BOUND) - 1)
    sides = raw(low, "concat", above.handle, below.handle, axis=1)
    outside = indicator(low, raw(low, "negative", sides.handle, shift=0, bits=RANGE_BITS))
    count = low.reshape(raw(low, "sum", outside.handle, axes=(1,)), (rows, 1))
    none = raw(low, "add_const", count.handle, value=-(1 << (low.scale_of(count) - 1)))
    product = low.reshape(added(low, coarse), (rows, 1))
    few = raw(low, "add_const", product.handle, value=-(1 << (_COARSE + COARSE_SCALE)))
    bits = [raw(low, "negative", v.handle, shift=0, bits=RANGE_BITS) for v in (none, few)]
    return raw(low, "bit_and", *(b.handle for b in bits))
