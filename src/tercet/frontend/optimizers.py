"""Optimizers of Keras on shares: what a step adds to each weight, and the slots that it keeps.

A gradient arrives times a public factor, so that its small numbers survive the fractional bits of
the program (f = 16), and not truncated yet:

* SGD and momentum are linear in the gradient. The factor is lr / B 2^k, its power of two chosen
  for the largest rate of the schedule; the update is the rounded gradient with k more fractional
  bits, one rounding a weight.
* Adam, AdamW and RMSprop divide by the root of a mean of squares, from which the factor cancels:
  it is 2^10 / B, so that cotangents of a mean have 26 fractional bits. In the slots a gradient
  counts 2^6 times. Its mean square v has 38 fractional bits; before the root it is multiplied by
  the power of 4 below 1 / (1 - beta_2^t), since the first ones are small, and rounded to 30. So
  root-mean-squares from 4.8e-7 on are told apart (below, a gradient counts as that small). Above,
  each gradient is brought to at most ``LARGEST`` in magnitude, so that v never exceeds its square:
  old v times 1 - beta_2 has room for 4. ``epsilon`` is added to v as its square: the two differ
  where the root is as small as ``epsilon``.

Weights, momenta and first moments have 24 fractional bits. Roundings are unbiased, so that what is
less than a unit is added as often as it has to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.foreign import Foreign
from tercet.frontend.lowering import Lowering
from tercet.frontend.scales import ROOT_SCALE, STATE_SCALE
from tercet.frontend.step import StepLowering, approximate
from tercet.frontend.values import Secret, public
from tercet.program.checks import RANGE_BITS
from tercet.program.program import Role
from tercet.program.training import Kind, StepInput

#: Fractional bits of a mean square in its slot, and of a product on its way to an update.
SQUARE_SCALE, UPDATE_SCALE = 38, 20
#: Base-2 logarithms of the factor of gradients where it cancels: in the backward pass, in slots.
GRADIENT_LOG2, FACTOR_LOG2 = 10, 6
#: A gradient of Adam, AdamW or RMSprop that is larger counts as this large, with its sign.
LARGEST = 1.875
#: It is compared in steps of 2^-10, within 2^17; products of gradients hold to 2^14.
_GUARD_SHIFT, _GUARD_BITS = 16, 28
#: The factor of gradients of SGD lies between 2^3 and 2^4 where the rate is highest.
_HEADROOM = 4
#: Bits of the numbers that a step brings.
_MANTISSA = 12
#: Relative accuracy of a momentum and of 1 - beta_1.
_MOMENTUM_BITS = 18
#: Relative accuracy of 1 - beta_2: more bits would overflow beside a large square.
_DECAY_BITS = 10


@dataclass(frozen=True)
class Weight:
    """A weight about to be updated: its name, its value and its gradient times the factor."""

    name: str
    value: Secret
    gradient: Secret


@dataclass
class Optimizer:
    """One optimizer, ready to emit its updates.

    Attributes:
        rates: the learning rate of each step; a single one if it is constant.
        factor: the factor of gradients of each step, 1 / B apart.
        linear: whether ``factor`` holds the rate; 2^-k is left to be applied.
        slots: the slots that updates declared: name, initial value 0, new value.
    """

    settings: dict[str, Any]
    rates: tuple[float, ...]
    linear: bool
    steps: int
    rows: int
    slots: list[tuple[str, Secret, Secret]] = field(default_factory=list)

    @property
    def places(self) -> int:
        """k of the factor lr / B 2^k."""
        if not self.linear:
            return GRADIENT_LOG2
        return math.floor(_HEADROOM - math.log2(max(self.rates) / self.rows))

    def factors(self) -> tuple[float, ...]:
        """Return the factor of the gradient's sum over rows, for each step."""
        rates = self.rates if self.linear else (1.0,)
        return tuple(r / self.rows * 2.0**self.places for r in rates)

    # --- helpers ----------------------------------------------------------------------------

    def slot(self, low: StepLowering, name: str, like: Secret, scale: int) -> Secret:
        """Declare a slot."""
        return low.wrap(low.builder.input(name, Role.STATE, like.shape, scale))

    def by_table(
        self, low: StepLowering, x: Secret, name: str, values: Sequence[float], most: int
    ) -> Secret:
        """Return ``x`` times a public number of the step, with 12 bits where it is largest."""
        top = max(map(abs, values))
        scale = min(max(_MANTISSA - math.frexp(top)[1], 0), most)
        known = next((i for i in low.step_inputs if i.name == name), None)
        if known is None:
            given = low.step_input(StepInput(name, Kind.TABLE, tuple(values)), (), scale)
            self._tables[name] = given
        # As it is: what an update multiplies is much smaller than what a gradient comes from.
        return Lowering.emit(low, "mul", x.handle, self._tables[name].handle)

    _tables: dict[str, Secret] = field(default_factory=dict)

    # --- the step ---------------------------------------------------------------------------

    def update(self, low: StepLowering, weights: Sequence[Weight]) -> list[Secret]:
        """Return the new values of ``weights``."""
        gradients = [w.gradient for w in weights]
        if not self.linear:
            gradients = [low.relabel(g, GRADIENT_LOG2 - FACTOR_LOG2) for g in gradients]
            gradients = self._clipped(low, gradients)
        rule: Callable[[StepLowering, Weight, Secret], Secret] = {
            "SGD": self._sgd,
            "Adam": self._adam,
            "AdamW": self._adam,
            "RMSprop": self._rmsprop,
        }[self.settings["kind"]]
        results = []
        for weight, gradient in zip(weights, gradients, strict=True):
            change = rule(low, weight, gradient)
            if decay := self.settings["weight_decay"]:
                by = [rate * decay for rate in self.rates]
                lost = self.by_table(low, weight.value, "weight decay", by, 24)
                change = _secret(low.add(change, low.to_scale(lost, STATE_SCALE)))
            results.append(_secret(low.sub(weight.value, change)))
        return results

    def _clipped(self, low: StepLowering, gradients: list[Secret]) -> list[Secret]:
        norm, together, most = (
            self.settings[n] for n in ("clipnorm", "global_clipnorm", "clipvalue")
        )
        if most:
            edge = public(most * 2.0**FACTOR_LOG2)
            return [
                _secret(low.maximum(low.minimum(low.settle(g), edge), low.neg(edge)))
                for g in gradients
            ]
        if not norm and not together:
            return gradients
        settled = [low.settle(g) for g in gradients]
        squares = [self._square_norm(low, g, norm or together) for g in settled]
        if together:
            total = squares[0]
            for other in squares[1:]:
                total = _secret(low.add(total, other))
            squares = [total] * len(squares)
        return [
            _secret(low.mul(g, self._shrink(low, s))) for g, s in zip(settled, squares, strict=True)
        ]

    def _square_norm(self, low: StepLowering, gradient: Secret, norm: float) -> Secret:
        """Return the square of the gradient's norm over the largest one, 32 fractional bits."""
        # Squared numbers divided at once: their sum has less room.
        scaled = low.to_scale(low.relabel(low.times(gradient, 1 / norm), FACTOR_LOG2), 22)
        square = low.emit("mul", scaled.handle, scaled.handle)
        total = low.emit("sum", square.handle, axes=tuple(range(len(square.shape))))
        return low.reshape(total, (1,))

    def _shrink(self, low: StepLowering, square: Secret) -> Secret:
        """Return min(1, 1 / root of the square)."""
        inverse = low.emit("rsqrt", square.handle, scale=low.scale, bits=RANGE_BITS)
        return _secret(low.minimum(inverse, public(1.0)))

    def _sgd(self, low: StepLowering, weight: Weight, gradient: Secret) -> Secret:
        if self.linear:
            change = low.relabel(gradient, self.places)
        else:
            rated = self.by_table(low, low.settle(gradient), "rate", self.rates, 24)
            change = low.relabel(rated, FACTOR_LOG2)
        momentum = self.settings["momentum"]
        if not momentum:
            return low.to_scale(change, STATE_SCALE)
        # The slot holds minus what Keras holds: what is to be taken off the weight.
        new = self._with_momentum(low, weight, change)
        if not self.settings["nesterov"]:
            return new
        ahead = low.add_small(low.times(new, momentum, _MOMENTUM_BITS), change)
        return low.to_scale(ahead, STATE_SCALE)

    def _with_momentum(self, low: StepLowering, weight: Weight, change: Secret) -> Secret:
        """Update the slot of the momentum and return it."""
        name = f"{weight.name}/momentum"
        old = self.slot(low, name, weight.value, STATE_SCALE)
        kept = low.times(old, self.settings["momentum"], _MOMENTUM_BITS)
        new = low.to_scale(low.add_small(kept, change), STATE_SCALE)
        self.slots.append((name, old, new))
        return new

    def _mean_square(self, low: StepLowering, weight: Weight, g: Secret, decay: float) -> Secret:
        """Update the mean square; return it plus epsilon squared (RMSprop: plus epsilon)."""
        name = f"{weight.name}/mean square"
        old = self.slot(low, name, weight.value, SQUARE_SCALE)
        settled = low.settle(g)
        square = low.emit("mul", settled.handle, settled.handle)
        # Not their difference: at the scale of the slot a large square has no room.
        more, less = (
            low.to_scale(low.times(x, 1 - decay, _DECAY_BITS), SQUARE_SCALE) for x in (square, old)
        )
        new = _secret(low.add(old, low.sub(more, less)))
        self.slots.append((name, old, new))
        epsilon = self.settings["epsilon"]
        if self.settings["kind"] != "RMSprop":
            epsilon *= epsilon
        units = max(1, round(epsilon * 2.0 ** (SQUARE_SCALE + 2 * FACTOR_LOG2)))
        return low.emit("add_const", new.handle, value=units)

    def _bounded(self, low: StepLowering, gradient: Secret) -> Secret:
        """Return the gradient with ``UPDATE_SCALE`` bits, at most ``LARGEST`` in magnitude."""
        g = low.to_scale(gradient, UPDATE_SCALE)
        limits = [self.settings[n] for n in ("clipnorm", "global_clipnorm", "clipvalue")]
        if any(0 < limit < LARGEST for limit in limits):
            return g
        edge = round(LARGEST * 2.0 ** (FACTOR_LOG2 + UPDATE_SCALE))
        result = g
        for side in (low.emit("neg", g.handle), g):
            # What is left to the edge is negative beyond it, and then taken back.
            left = low.emit("add_const", side.handle, value=edge)
            beyond = low.emit("negative", left.handle, shift=_GUARD_SHIFT, bits=_GUARD_BITS)
            back = low.emit("gate", beyond.handle, left.handle, shift=0)
            result = _secret(low.sub(result, back) if side is g else low.add(result, back))
        return result

    def _over_root(self, low: StepLowering, x: Secret, square: Secret) -> Secret:
        rooted = low.to_scale(square, ROOT_SCALE)
        inverse = low.emit("rsqrt", rooted.handle, scale=UPDATE_SCALE, bits=RANGE_BITS)
        return low.to_scale(low.emit("mul", x.handle, inverse.handle), UPDATE_SCALE)

    def _adam(self, low: StepLowering, weight: Weight, gradient: Secret) -> Secret:
        g = self._bounded(low, gradient)
        name = f"{weight.name}/mean"
        old = self.slot(low, name, weight.value, STATE_SCALE)
        first, second = self.settings["beta_1"], self.settings["beta_2"]
        moved = low.times(_secret(low.sub(g, old)), 1 - first, _MOMENTUM_BITS)
        new = _secret(low.add(old, low.to_scale(moved, STATE_SCALE)))
        self.slots.append((name, old, new))
        multiplier, bits = approximate(1 - second, _DECAY_BITS)
        kept = 1 - multiplier / 2**bits
        ages = [1 - kept ** (t + 1) for t in range(self.steps)]
        powers = [4.0 ** math.floor(-math.log(age, 4)) for age in ages]
        square = self._mean_square(low, weight, g, second)
        square = self.by_table(low, square, "power of four", powers, 4)
        direction = self._over_root(low, new, square)
        rates = [
            self.rates[min(t, len(self.rates) - 1)]
            * math.sqrt(ages[t] * powers[t])
            / (1 - first ** (t + 1))
            for t in range(self.steps)
        ]
        change = self.by_table(low, direction, "rate", rates, 36)
        return low.to_scale(change, STATE_SCALE)

    def _rmsprop(self, low: StepLowering, weight: Weight, gradient: Secret) -> Secret:
        g = self._bounded(low, gradient)
        square = self._mean_square(low, weight, g, self.settings["rho"])
        direction = self._over_root(low, g, square)
        change = self.by_table(low, direction, "rate", self.rates, 36)
        momentum = self.settings["momentum"]
        if not momentum:
            return low.to_scale(change, STATE_SCALE)
        return self._with_momentum(low, weight, change)


def optimizer_of(model: Foreign, steps: int, rows: int) -> Optimizer:
    """Return the optimizer that ``model`` was compiled with, as for its first step.

    Args:
        model: a compiled Keras model.
        steps: steps that will be run at most: the length of a schedule.
        rows: rows of a batch.

    Raises:
        UnsupportedOperation: if it is none of those above, or has a setting that they lack.
        ModelError: if a setting makes no sense.
    """
    given = model.optimizer
    kind = type(given).__name__
    if kind not in ("SGD", "Adam", "AdamW", "RMSprop"):
        raise UnsupportedOperation(
            f"Model {model.name!r} is compiled with optimizer {kind}, which is not supported yet",
            "Use SGD, Adam, AdamW or RMSprop of keras.optimizers",
        )
    refused = {
        "amsgrad": False, "centered": False, "use_ema": False,
        "loss_scale_factor": None, "gradient_accumulation_steps": None,
    }  # fmt: skip
    for name, usual in refused.items():
        if getattr(given, name, usual) not in (usual, None):
            raise UnsupportedOperation(
                f"Optimizer {kind} with {name}, which is not supported yet", f"Leave {name} out"
            )
    numbers = (
        "momentum", "nesterov", "beta_1", "beta_2", "epsilon", "rho",
        "clipnorm", "global_clipnorm", "clipvalue", "weight_decay",
    )  # fmt: skip
    settings = {"kind": kind, **{n: getattr(given, n, None) or 0.0 for n in numbers}}
    clips = any(settings[n] for n in ("clipnorm", "global_clipnorm", "clipvalue"))
    return Optimizer(settings, _rates(given, steps), kind == "SGD" and not clips, steps, rows)


def _rates(given: Foreign, steps: int) -> tuple[float, ...]:
    rate = given._learning_rate
    if callable(rate) and not hasattr(rate, "value"):
        rates = tuple(float(rate(t)) for t in range(steps))
    else:
        rates = (float(rate.value if hasattr(rate, "value") else rate),)
    if not all(math.isfinite(r) and r >= 0 for r in rates) or not max(rates) > 0:
        raise ModelError("a learning rate that is not positive and finite", "Use one such as 0.01")
    return rates


def _secret(value: object) -> Secret:
    assert isinstance(value, Secret)
    return value
