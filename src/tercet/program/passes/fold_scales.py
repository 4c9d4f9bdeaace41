"""A factor behind a linear layer moves into the layer's weights.

A batch norm multiplies each output channel of the convolution before it by a weight; a rescaling
multiplies by a constant. Both cost a product and a truncation an activation, or nothing at all
when the owner multiplies the kernel and the biases instead: the factor of channel c goes into
slice c of the kernel's last axis, the output channel in every case (grouped and depthwise
kernels too).

The way from the factor back to the kernel leads through values that nothing else uses and through
operations that act on each channel alike. Of a constant only the part in [1, 2) moves: the power
of two that is left joins a truncation (``sink_truncations``), while in the kernel it would cost
the bits of the weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from tercet.program.checks import multiply_extents
from tercet.program.passes.rewrite import (
    Array,
    Arrays,
    Rewrite,
    array_input,
    count_uses,
    definition,
)
from tercet.program.program import Instruction, Program, Role
from tercet.program.types import Form, Shape

#: A weight's use: the instruction (by the number of its result) and the place of the argument.
_Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Factor:
    """A factor for each channel (or a single one, of shape ``()``) and its name."""

    name: str
    array: Array


@dataclass
class _Plan:
    """What is to change: weights that gain factors, values that others replace, scales."""

    factors: defaultdict[_Place, list[tuple[_Factor, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    aliases: dict[int, int] = field(default_factory=dict)
    shifts: dict[int, int] = field(default_factory=dict)


def fold_scales(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with factors of weights and constants moved into weights before them."""
    plan = _Planner(program, arrays).plan()
    rewrite = Rewrite(program, arrays)
    for number, instruction in rewrite.numbered():
        if number in plan.aliases:
            rewrite.values[number] = rewrite.values[plan.aliases[number]]
        elif number in plan.shifts:
            (arg,), shift = instruction.args, plan.shifts[number]
            attrs = (
                {"shift": shift}
                if instruction.op == "truncate"
                else {"multiplier": 1, "bits": shift}
            )
            rewrite.values[number] = rewrite.emit(
                instruction.source, instruction.op, rewrite.values[arg], **attrs
            )
        else:
            args = [rewrite.values[a] for a in instruction.args]
            for place, value in enumerate(instruction.args):
                if factors := plan.factors.get((number, place)):
                    args[place] = _scaled(rewrite, value, factors)
            rewrite.values[number] = rewrite.again(instruction, *args)
    return rewrite.finish()


def _scaled(rewrite: Rewrite, value: int, factors: list[tuple[_Factor, int]]) -> int:
    """Return the handle of a weight multiplied by ``factors``, each with its trailing axes."""
    known = array_input(rewrite.program, value)
    assert known is not None
    name, array = known.name, rewrite.arrays[known.name]
    for factor, trailing in factors:
        name = f"{name}*{factor.name}"
        array = array * factor.array.reshape(factor.array.shape + (1,) * trailing)
    return rewrite.declare(name, known.role, array, known.type.scale)


class _Planner:
    def __init__(self, program: Program, arrays: Arrays) -> None:
        self.program = program
        self.arrays = arrays
        self.uses = count_uses(program)
        self.users: dict[int, list[int]] = defaultdict(list)
        self.result = _Plan()

    def plan(self) -> _Plan:
        numbered = list(enumerate(self.program.instructions, len(self.program.inputs)))
        for number, instruction in numbered:
            for a in instruction.args:
                self.users[a].append(number)
        for number, instruction in numbered:
            if instruction.op == "mul":
                self._weight(number, instruction)
            elif instruction.op == "scale":
                self._constant(number, instruction)
        return self.result

    def _weight(self, number: int, instruction: Instruction) -> None:
        """Fold a product with a weight or a public array that has one number a channel."""
        for value, other in (instruction.args, instruction.args[::-1]):
            known = array_input(self.program, other)
            shape = self.program.type_of(value).shape
            if known is None or instruction.type.shape != shape:
                continue
            channel = _channel(known.type.shape, shape)
            if channel is None or (known.type.scale == 0 and instruction.type.form is Form.PARTIAL):
                continue
            truncation = self._truncation(number, known.type.scale)
            if truncation is None:
                continue
            factor = _Factor(known.name, self.arrays[known.name].reshape(channel[1]))
            if self._spread(value, channel[0], factor):
                self.result.aliases[number] = value
                for n in truncation:
                    self.result.aliases[n] = number
                return

    def _constant(self, number: int, instruction: Instruction) -> None:
        """Fold the part of a constant that is no power of two."""
        multiplier, bits = instruction.attrs["multiplier"], instruction.attrs["bits"]
        assert isinstance(multiplier, int) and isinstance(bits, int)
        truncation = self._truncation(number, bits)
        if truncation is None or multiplier == 0:
            return
        ratio = Fraction(multiplier, 1 << bits)
        # The largest power of two that leaves a factor of at least 1; none if it is one already.
        shift = max(0, math.ceil(-math.log2(abs(ratio))))
        constant = ratio * (1 << shift)
        if constant == 1:
            return
        (value,) = instruction.args
        factor = _Factor(f"{float(constant):.9g}", np.asarray(float(constant)))
        if self._spread(value, None, factor):
            for n in (number, *truncation):
                if shift:
                    self.result.shifts[n] = shift
                else:
                    self.result.aliases[n] = value

    def _truncation(self, number: int, shift: int) -> list[int] | None:
        """Return the truncation by ``shift`` that alone uses a value: one, none needed, or None."""
        if shift == 0:
            return []
        if self.uses[number] != 1 or not self.users[number]:
            return None
        (user,) = self.users[number]
        made = definition(self.program, user)
        assert made is not None
        return [user] if (made.op, made.attrs.get("shift")) == ("truncate", shift) else None

    def _spread(self, value: int, axis: int | None, factor: _Factor) -> bool:
        """Multiply ``value`` by ``factor`` along ``axis`` in the weights that make it."""
        places: dict[_Place, int] = {}
        while True:
            if value in self.result.aliases:
                if self.uses[value] != 1:
                    return False
                value = self.result.aliases[value]
                continue
            made = definition(self.program, value)
            if made is None or self.uses[value] != 1:
                return False
            trailing = 0 if axis is None else len(made.type.shape) - 1 - axis
            place = self._product(made, trailing, axis)
            if place is not None:
                places[value, place] = trailing
                break
            if made.op in ("add", "sub"):
                bias = self._bias(made)
                if bias is None:
                    return False
                places[value, bias] = trailing
                value = made.args[1 - bias]
                continue
            behind = _axis_before(made, self.program.type_of(made.args[0]).shape, axis)
            if behind is None:
                return False
            value, axis = made.args[0], behind[0]
        for at, count in places.items():
            self.result.factors[at].append((factor, count))
        return True

    def _product(self, made: Instruction, trailing: int, axis: int | None) -> int | None:
        """Return the place of the weight of a product whose output channels the factor scales."""
        if made.op in ("conv", "matmul"):
            known = array_input(self.program, made.args[1])
            fits = known is not None and known.role is Role.WEIGHT
            return 1 if fits and (axis is None or trailing == 0) else None
        if made.op != "mul":
            return None
        for place in (0, 1):
            known = array_input(self.program, made.args[place])
            other = self.program.type_of(made.args[1 - place]).shape
            if known is not None and known.role is Role.WEIGHT and other == made.type.shape:
                return place
        return None

    def _bias(self, made: Instruction) -> int | None:
        """Return the place of the array that an addition adds to a value of the result's shape."""
        for place in (0, 1):
            known = array_input(self.program, made.args[place])
            other = self.program.type_of(made.args[1 - place]).shape
            if known is not None and other == made.type.shape:
                return place
        return None


def _channel(factor: Shape, shape: Shape) -> tuple[int | None, Shape] | None:
    """Return the axis of ``shape`` along which ``factor`` varies, and its extent as a shape."""
    wide = [a - len(factor) for a, d in enumerate(factor) if d != 1]
    if not wide:
        return None, ()
    if len(wide) > 1 or shape[wide[0]] != factor[wide[0]]:
        return None
    return len(shape) + wide[0], (factor[wide[0]],)


def _axis_before(made: Instruction, shape: Shape, axis: int | None) -> tuple[int | None] | None:
    """Return the axis of the argument (of ``shape``) that became ``axis``; None if there is none.

    ``made`` must act on each index of the axis alike, and take zero to zero.
    """
    attrs = made.attrs

    def at(name: str) -> int:
        values = attrs[name]
        assert isinstance(values, tuple) and axis is not None
        return values[axis]

    if made.op not in _CHANNELWISE:
        return None
    if axis is None or made.op in ("truncate", "neg", "scale"):
        return (axis,)
    ok = True
    if made.op == "reshape":
        # Row by row, an axis is still one if it has its extent and as much lies behind it.
        wanted = made.type.shape[axis], multiply_extents(made.type.shape[axis + 1 :])
        axes = [a for a, d in enumerate(shape) if (d, multiply_extents(shape[a + 1 :])) == wanted]
        if not axes:
            return None
        axis = axes[0]
    elif made.op == "transpose":
        order = attrs["axes"]
        assert isinstance(order, tuple)
        axis = order[axis]
    elif made.op == "sum":
        gone = attrs["axes"]
        assert isinstance(gone, tuple)
        axis = [a for a in range(len(shape)) if a not in gone][axis]
    elif made.op == "window_sum":
        ok = (at("window"), at("strides"), at("low"), at("high")) == (1, 1, 0, 0)
    elif made.op == "pad":
        ok = at("low") == at("high") == at("interior") == 0
    elif made.op == "slice":
        ok = (at("start"), at("limit"), at("stride")) == (0, shape[axis], 1)
    elif made.op == "reverse":
        gone = attrs["axes"]
        assert isinstance(gone, tuple)
        ok = axis not in gone
    return (axis,) if ok else None


_CHANNELWISE = frozenset(
    {
        "truncate",
        "neg",
        "scale",
        "reshape",
        "transpose",
        "sum",
        "window_sum",
        "pad",
        "slice",
        "reverse",
    }
)
