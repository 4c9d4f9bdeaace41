"""What a layer's part of a row's gradient is made of: what it sees at each place, and cotangents.

All instructions that clipping needs are appended as they stand, with the scales that are stated
here: the bounds of docs/private-training.md are those of these integers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tercet.errors import UnsupportedOperation
from tercet.frontend.differentiable import kernel_axes
from tercet.frontend.lowering import Lowering
from tercet.frontend.private_layers import PrivateLayer
from tercet.frontend.step import StepLowering
from tercet.frontend.values import Secret, derive, public
from tercet.program.checks import MAX_ELEMENTS
from tercet.program.private import GRID
from tercet.program.program import Attribute

#: Fractional bits of inputs, of cotangents (in units of 2^p, the unit of clipping), of c.
INPUT_SCALE, COTANGENT_SCALE, FACTOR_SCALE = 16, 18, 23
#: Fractional bits of c d for an input of ``INPUT_SCALE``, and of a row's gradient.
CLIPPED_SCALE, ROW_SCALE = GRID - INPUT_SCALE, GRID - FACTOR_SCALE
#: Fractional bits of products of two q, of products of two d, hence of a squared norm.
INPUTS_SCALE, COTANGENTS_SCALE = 10, 24
SQUARE_SCALE = 2 * ROW_SCALE
assert SQUARE_SCALE == INPUTS_SCALE + COTANGENTS_SCALE
#: Rounding c d moves a row's gradient by 2^-24 root of r at most; r 2^-19 counts beside n. With r
#: up to 2^20 times what is known of the inputs, neither that nor the sum over layers wraps.
REACH, REACH_SCALE, _MOST_REACH = 19, 26, 20
#: The mean over a pool is one but for powers of 2 up to this: b^2 then has ``INPUTS_SCALE`` bits.
_MOST_HALVINGS = INPUTS_SCALE // 2
#: Fractional bits of the product of |q|^2 and |d|^2 that is taken first: it never wraps.
COARSE_SCALE = 6


def halvings(layer: PrivateLayer) -> int:
    """Return k such that 2^-k of the sum over a pool's window is about its mean.

    The cotangents of a layer are those of 2^-k of its outputs' sums: they keep k more bits.
    """
    pooled = 1 if layer.places is None else layer.places.pooled
    return min(pooled.bit_length() - 1, _MOST_HALVINGS)


@dataclass(frozen=True)
class Operands:
    """q and d of a layer: (rows, groups, T, numbers of a group), as shares.

    Attributes:
        low: the lowering.
        layer: the layer.
        q: with ``INPUT_SCALE`` + k bits, see ``halvings``.
        d: with ``COTANGENT_SCALE`` bits.
    """

    low: StepLowering
    layer: PrivateLayer
    q: Secret
    d: Secret

    @property
    def bias(self) -> tuple[int, int]:
        """(numerator, bits) of b, exactly."""
        places = self.layer.places
        return (1 if places is None else places.pooled), halvings(self.layer)

    @classmethod
    def of(cls, low: StepLowering, layer: PrivateLayer, x: Secret, d: Secret) -> Operands:
        """Return them for a layer's input and the cotangents of its outputs, channels last."""
        rows, *space, outputs = layer.shape
        groups, count = layer.groups, math.prod(space)
        d = low.reshape(d, (rows, count, groups, outputs // groups))
        q = x
        if layer.places is not None:
            taps = math.prod(layer.places.taps) * layer.places.channels
            if rows * count * taps > MAX_ELEMENTS:
                raise UnsupportedOperation(
                    f"{low.place()}: clipping lays out {rows * count * taps} numbers a step, more "
                    f"than {MAX_ELEMENTS}",
                    "Use a smaller batch, or a larger stride or pool in this layer",
                )
            q = low.relabel(_patches(low, layer, x), halvings(layer))
        q = low.reshape(q, (rows, count, groups, math.prod(q.shape[1:]) // (count * groups)))
        return cls(low, layer, low.transpose(q, (0, 2, 1, 3)), low.transpose(d, (0, 2, 1, 3)))

    @property
    def entries(self) -> int:
        """b^2 of all pairs of a place with itself, with ``INPUTS_SCALE`` bits."""
        numerator, bits = self.bias
        square = (numerator**2 << INPUTS_SCALE) >> (2 * bits) if self.layer.bias is not None else 0
        return square * math.prod(self.q.shape[1:3])

    def coarse(self) -> Secret:
        """Return what is at least (|q|^2 + b^2) |d|^2 of each row with ``COARSE_SCALE`` bits."""
        size = raised(self.low, square(self.low, self.q), 0, -(-self.entries >> INPUTS_SCALE))
        other = raised(self.low, square(self.low, self.d), COARSE_SCALE)
        return raw(self.low, "mul", size.handle, other.handle)

    def by_places(self) -> bool:
        """Whether the norm takes fewer numbers by pairs of places than by weights."""
        groups, count = self.q.shape[1:3]
        weights = groups * self.q.shape[3] * self.d.shape[3]
        fewer = groups * count == 1 or 2 * groups * count**2 < weights
        return fewer and self.reach <= 1 << _MOST_REACH

    @property
    def reach(self) -> int:
        """Return what |q|^2 + b^2 is multiplied by for r, with ``INPUTS_SCALE`` bits, rounded up.

        r = 4^k T outputs (|q|^2 + b^2): |c d| has an error below root of T outputs units.
        """
        outputs = math.prod(self.d.shape[2:]) << (2 * self.bias[1])
        return -(-outputs >> (REACH - (REACH_SCALE - INPUTS_SCALE)))

    def kernel(self, total: Secret) -> Secret:
        """Return a sum over rows of shape (groups, numbers, outputs) in the kernel's order."""
        low, layer, groups = self.low, self.layer, self.layer.groups
        if layer.places is None:
            return low.reshape(total, total.shape[1:])
        taps, width, outputs = layer.places.taps, layer.places.channels // groups, total.shape[2]
        split = low.reshape(total, (groups, width, *taps, outputs))
        window = tuple(range(2, 2 + len(taps)))
        moved = low.transpose(split, (*window, 1, 0, 2 + len(taps)))
        whole = low.reshape(moved, (*taps, width, groups * outputs))
        axes = kernel_axes(layer.product)
        return low.transpose(whole, tuple(axes.index(a) for a in range(len(axes))))


def _patches(low: StepLowering, layer: PrivateLayer, x: Secret) -> Secret:
    """Return what is under the window of each place, (rows, *space, channels taps)."""
    assert layer.places is not None
    how, kernel = layer.places.whole, low.register(public(layer.places.kernel()), scale=0)
    before, after = zip(*how.padding, strict=True)
    return raw(
        low,
        "conv",
        x.handle,
        kernel,
        strides=how.strides,
        low=before,
        high=after,
        input_dilation=(1,) * len(before),
        kernel_dilation=how.spread,
        groups=how.groups,
    )


def raw(low: StepLowering, op: str, /, *args: int, **attrs: Attribute) -> Secret:
    """Append an instruction on its arguments as they are."""
    return Lowering.emit(low, op, *args, **attrs)


def indicator(low: StepLowering, bit: Secret) -> Secret:
    """Return a share of exactly 1 where ``bit`` is set, of exactly 0 elsewhere."""
    ones = low.share(derive("ones", np.ones((1,) * len(bit.shape)), bit.shape))
    return raw(low, "gate", bit.handle, ones.handle, shift=0)


def added(low: StepLowering, values: Sequence[Secret]) -> Secret:
    """Return the sum of values of one scale."""
    total, *others = values
    for other in others:
        total = raw(low, "add", total.handle, other.handle)
    return total


def raised(low: StepLowering, x: Secret, scale: int, more: int = 0) -> Secret:
    """Return ``x`` rounded to ``scale`` bits plus ``more`` units, a unit and more above exact."""
    return raw(low, "add_const", low.to_scale(x, scale).handle, value=2 + more)


def square(low: StepLowering, x: Secret) -> Secret:
    """Return the squared norm of each row."""
    axes = tuple(range(1, len(x.shape)))
    return raw(low, "sum", raw(low, "mul", x.handle, x.handle).handle, axes=axes)
