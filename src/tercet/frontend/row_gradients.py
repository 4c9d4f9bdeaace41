"""Each row's gradient by one layer: its squared norm, and the sum of the clipped ones.

The gradient of a row is the sum over T places of outer products q_t d_t (``private_layers``).
There are two ways to its squared norm, both on the integers that the clipped sum is made of:

* **Places**: n = sum over pairs of places of (q_t q_u + b^2) (d_t d_u), b being the bias's
  factor, and the clipped sum is that of q_t (c d_t) (Goodfellow 2015 for T = 1; Bu, Mao and Xu,
  "Scalable and Efficient Training of Large Convolutional Neural Networks with Differential
  Privacy", NeurIPS 2022). No gradient of a row is ever computed. Roundings of n are made up for,
  upwards; that of c d is bounded by ``reach``.
* **Weights**: the gradient itself, rounded once; n is the squared norm of what came out, and the
  clipped sum that of c times it.

The first takes 2 T^2 numbers a row that somebody has to round, the second one for each weight: the
smaller one is taken. For a dense layer, where T = 1, and for the late layers of a network that is
the first, for early convolutions of few channels the second.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
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
_CLIPPED, _GRADIENT = GRID - INPUT_SCALE, GRID - FACTOR_SCALE
#: Fractional bits of products of two q, of products of two d, hence of a squared norm.
_INPUTS, _COTANGENTS = 10, 24
SQUARE_SCALE = 2 * _GRADIENT
assert SQUARE_SCALE == _INPUTS + _COTANGENTS
#: Rounding c d moves a row's gradient by 2^-24 root of r at most; r 2^-19 counts beside n. With r
#: up to 2^20 times what is known of the inputs, neither that nor the sum over layers wraps.
REACH, REACH_SCALE, _MOST_REACH = 19, 26, 20
#: The mean over a pool is one but for powers of 2 up to this: b^2 then has ``_INPUTS`` bits.
_MOST_HALVINGS = _INPUTS // 2
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
        """b^2 of all pairs of a place with itself, with ``_INPUTS`` bits."""
        numerator, bits = self.bias
        square = (numerator**2 << _INPUTS) >> (2 * bits) if self.layer.bias is not None else 0
        return square * math.prod(self.q.shape[1:3])

    def coarse(self) -> Secret:
        """Return what is at least (|q|^2 + b^2) |d|^2 of each row with ``COARSE_SCALE`` bits."""
        size = raised(self.low, square(self.low, self.q), 0, -(-self.entries >> _INPUTS))
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
        """Return what |q|^2 + b^2 with ``_INPUTS`` bits is multiplied by for ``reach``, rounded up.

        r = 4^k T outputs (|q|^2 + b^2): |c d| has an error below root of T outputs units.
        """
        outputs = math.prod(self.d.shape[2:]) << (2 * self.bias[1])
        return -(-outputs >> (REACH - (REACH_SCALE - _INPUTS)))

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


class RowGradients(ABC):
    """The gradients of all rows by one layer.

    Attributes:
        square: what is at least the squared norm of each row's gradient, with ``SQUARE_SCALE``
            bits, (rows,).
        reach: r 2^-``REACH`` of each row with ``REACH_SCALE`` bits, (rows,); ``None`` for 0.
        coarse: what is at least ``square`` but for roundings, with ``COARSE_SCALE`` bits.
    """

    square: Secret
    reach: Secret | None
    coarse: Secret

    @abstractmethod
    def sums(self, factor: Secret, counted: Counted) -> tuple[Secret, Secret]:
        """Return the clipped sums by kernel and bias with ``GRID`` bits.

        Args:
            factor: c of each row with ``FACTOR_SCALE`` bits, (rows, 1), exactly 0 if it is out.
            counted: which rows count.
        """


@dataclass(frozen=True)
class Counted:
    """Which rows count.

    Attributes:
        present: the public number 1 or 0 of each row, (rows, 1).
        within: a share of 1 for each row within the limits, else of 0, (rows, 1).
    """

    present: Secret
    within: Secret

    def bits(self, low: StepLowering, shape: tuple[int, ...]) -> Secret:
        """Return ``within`` as a bit for each number of ``shape``, rows first."""
        scale = low.scale_of(self.within)
        minus = raw(low, "neg", self.within.handle)
        sign = raw(low, "add_const", minus.handle, value=1 << (scale - 1))
        sign = low.reshape(sign, (shape[0], *(1 for _ in shape[1:])))
        spread = low.broadcast(sign, shape)
        # Plus or minus 32, or one below.
        return raw(low, "negative", spread.handle, shift=scale - 6, bits=8)


def row_gradients(low: StepLowering, layer: PrivateLayer, x: Secret, d: Secret) -> RowGradients:
    """Return the gradients of all rows by ``layer``, in the way that takes fewer numbers.

    Args:
        low: the lowering.
        layer: the layer.
        x: its input, channels last, with ``INPUT_SCALE`` bits.
        d: the cotangents of 2^-``halvings`` of its outputs' sums, ``COTANGENT_SCALE`` bits.
    """
    given = Operands.of(low, layer, x, d)
    return ByPlaces(given) if given.by_places() else ByWeights(given)


class ByPlaces(RowGradients):
    """Norms by pairs of places; sums of q (c d)."""

    def __init__(self, given: Operands) -> None:
        self.given, self.coarse = given, given.coarse()
        low, q, d = given.low, given.q, given.d
        _, groups, count, _ = q.shape
        size = raised(low, square(low, q), _INPUTS, given.entries)
        changes = raised(low, square(low, d), _COTANGENTS)
        self.reach = raw(
            low, "scale", size.handle, multiplier=given.reach, bits=REACH_SCALE - _INPUTS
        )
        if groups * count == 1:
            self.square = raw(low, "mul", size.handle, changes.handle)
            return
        # Each product is less than a unit off, hence that of two at most one factor times the other
        # one's unit, and the product of units. Sums over pairs of |q_t q_u| and |d_t d_u| are at
        # most ``count`` times those of |q_t|^2 and |d_t|^2.
        more = given.entries // (groups * count)
        pairs = low.to_scale(_gram(low, q), _INPUTS)
        pairs = raw(low, "add_const", pairs.handle, value=more) if more else pairs
        products = raw(low, "mul", pairs.handle, low.to_scale(_gram(low, d), _COTANGENTS).handle)
        total = raw(low, "sum", products.handle, axes=(1, 2, 3))
        for value, scale in ((changes, _INPUTS), (size, _COTANGENTS)):
            slack = raw(low, "scale", value.handle, multiplier=count, bits=scale)
            total = raw(low, "add", total.handle, slack.handle)
        self.square = raw(low, "add_const", total.handle, value=groups * count**2)

    def sums(self, factor: Secret, counted: Counted) -> tuple[Secret, Secret]:
        """Return the sums of q_t (c d_t) and of b c d_t, c d_t rounded."""
        low, q, d = self.given.low, self.given.q, self.given.d
        numerator, bits = self.given.bias
        rows, groups, count, width = q.shape
        c, one = (low.reshape(v, (rows, 1, 1, 1)) for v in (factor, counted.present))
        product = raw(low, "mul", d.handle, c.handle)
        # Gates, and what pads after the rounding: 0 may be rounded to 1.
        shift = low.scale_of(product) - (_CLIPPED - bits)
        within = counted.bits(low, product.shape)
        shrunk = raw(low, "gate", within.handle, product.handle, shift=shift)
        clipped = raw(low, "mul", shrunk.handle, one.handle)
        left = low.reshape(low.transpose(q, (1, 3, 0, 2)), (groups, width, rows * count))
        right = low.transpose(clipped, (1, 0, 2, 3))
        right = low.reshape(right, (groups, rows * count, d.shape[3]))
        kernel = raw(low, "matmul", left.handle, right.handle)
        total = raw(low, "sum", clipped.handle, axes=(0, 2))
        total = raw(low, "scale", total.handle, multiplier=numerator, bits=bits)
        total = raw(low, "shift_left", total.handle, bits=GRID - _CLIPPED)
        return self.given.kernel(kernel), low.reshape(total, (math.prod(total.shape),))


class ByWeights(RowGradients):
    """The gradient of each row, rounded; its norm; sums of c times it."""

    reach = None

    def __init__(self, given: Operands) -> None:
        self.given, self.coarse = given, given.coarse()
        low, q, d = given.low, given.q, given.d
        numerator, bits = given.bias
        rows = q.shape[0]
        turned = low.transpose(q, (0, 1, 3, 2))
        self.gradients = [low.to_scale(raw(low, "matmul", turned.handle, d.handle), _GRADIENT)]
        if given.layer.bias is not None:
            total = raw(low, "sum", d.handle, axes=(2,))
            total = raw(low, "scale", total.handle, multiplier=numerator, bits=bits)
            self.gradients.append(low.to_scale(total, _GRADIENT))
        self.square = added(low, [square(low, g) for g in self.gradients])
        self.shape = self.gradients[0].shape[1:]
        self.rows = rows

    def sums(self, factor: Secret, counted: Counted) -> tuple[Secret, Secret]:
        """Return the sums of c times the gradients."""
        low = self.given.low
        c = raw(low, "mul", factor.handle, counted.present.handle)
        turned = low.transpose(c, (1, 0))
        totals = []
        for gradient in self.gradients:
            size = math.prod(gradient.shape[1:])
            flat = low.reshape(gradient, (self.rows, size))
            total = raw(low, "matmul", turned.handle, flat.handle)
            totals.append(low.reshape(total, (size,)))
        return self.given.kernel(low.reshape(totals[0], self.shape)), totals[-1]


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


def _gram(low: StepLowering, x: Secret) -> Secret:
    """Return the products of all pairs of places, (rows, groups, T, T)."""
    turned = low.transpose(x, (0, 1, 3, 2))
    return raw(low, "matmul", x.handle, turned.handle)
