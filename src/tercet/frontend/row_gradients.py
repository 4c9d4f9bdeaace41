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
from dataclasses import dataclass

from tercet.frontend.private_layers import PrivateLayer
from tercet.frontend.row_operands import (
    CLIPPED_SCALE,
    COTANGENTS_SCALE,
    INPUTS_SCALE,
    REACH_SCALE,
    ROW_SCALE,
    Operands,
    added,
    raised,
    raw,
    square,
)
from tercet.frontend.step import StepLowering
from tercet.frontend.values import Secret
from tercet.program.private import GRID


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
        size = raised(low, square(low, q), INPUTS_SCALE, given.entries)
        changes = raised(low, square(low, d), COTANGENTS_SCALE)
        self.reach = raw(
            low, "scale", size.handle, multiplier=given.reach, bits=REACH_SCALE - INPUTS_SCALE
        )
        if groups * count == 1:
            self.square = raw(low, "mul", size.handle, changes.handle)
            return
        # Each product is less than a unit off, hence that of two at most one factor times the other
        # one's unit, and the product of units. Sums over pairs of |q_t q_u| and |d_t d_u| are at
        # most ``count`` times those of |q_t|^2 and |d_t|^2.
        more = given.entries // (groups * count)
        pairs = low.to_scale(_gram(low, q), INPUTS_SCALE)
        pairs = raw(low, "add_const", pairs.handle, value=more) if more else pairs
        products = raw(
            low, "mul", pairs.handle, low.to_scale(_gram(low, d), COTANGENTS_SCALE).handle
        )
        total = raw(low, "sum", products.handle, axes=(1, 2, 3))
        for value, scale in ((changes, INPUTS_SCALE), (size, COTANGENTS_SCALE)):
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
        shift = low.scale_of(product) - (CLIPPED_SCALE - bits)
        within = counted.bits(low, product.shape)
        shrunk = raw(low, "gate", within.handle, product.handle, shift=shift)
        clipped = raw(low, "mul", shrunk.handle, one.handle)
        left = low.reshape(low.transpose(q, (1, 3, 0, 2)), (groups, width, rows * count))
        right = low.transpose(clipped, (1, 0, 2, 3))
        right = low.reshape(right, (groups, rows * count, d.shape[3]))
        kernel = raw(low, "matmul", left.handle, right.handle)
        total = raw(low, "sum", clipped.handle, axes=(0, 2))
        total = raw(low, "scale", total.handle, multiplier=numerator, bits=bits)
        total = raw(low, "shift_left", total.handle, bits=GRID - CLIPPED_SCALE)
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
        self.gradients = [low.to_scale(raw(low, "matmul", turned.handle, d.handle), ROW_SCALE)]
        if given.layer.bias is not None:
            total = raw(low, "sum", d.handle, axes=(2,))
            total = raw(low, "scale", total.handle, multiplier=numerator, bits=bits)
            self.gradients.append(low.to_scale(total, ROW_SCALE))
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


def _gram(low: StepLowering, x: Secret) -> Secret:
    """Return the products of all pairs of places, (rows, groups, T, T)."""
    turned = low.transpose(x, (0, 1, 3, 2))
    return raw(low, "matmul", x.handle, turned.handle)
