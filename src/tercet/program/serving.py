"""The program that is served: the shared one, with what its owner's policy puts around it.

A pure function of the stored program and of ``Release``, so that each worker derives it for
itself and all three arrive at the same digest, which is what clients name and sessions run under.
Everything is computed under sharing: nothing but the result of the last instruction is released.

* Clamping: the client's value is first brought into a range that comparisons hold, whatever ring
  element was shared (a shift left and a truncation by ``_FOLD`` bits: the identity up to one unit
  in the last place for honest inputs, a value below 2^50 in any case), then bounded by two ReLUs.
* Mode: softmax over the last axis; the index of the largest; the ``top`` largest with scores.
* Rounding: half a unit is added, the bits below are truncated away, and zeros take their place.
  A truncation may be one unit low, with a probability that follows from the bits cut off: whoever
  asks for the same row often would learn them. So what is left is compared with one unit, which is
  added where it is missing. Rounding comes before ``argmax`` and ``top_k``, so that the order
  within equal rounded scores is not released either.
"""

from __future__ import annotations

from enum import StrEnum
from math import isfinite

import msgspec

from tercet.errors import InputError
from tercet.program.checks import RANGE_BITS
from tercet.program.operations import MAX_CLASSES, MAX_TOP
from tercet.program.passes.rewrite import Rewrite, definition
from tercet.program.program import Program, Role
from tercet.program.verify import verify, verify_release

_FOLD = 16
#: Bounds of a clamp: what a client may send at most.
_MAX_BOUND = 1 << 14
_MAX_DECIMALS = 9
#: Narrowest window of a comparison.
_LEAST_BITS = 8


class Mode(StrEnum):
    """What of the scores is released."""

    RAW = "raw"
    SOFTMAX = "softmax"
    ARGMAX = "argmax"
    TOP_K = "top_k"


class Release(msgspec.Struct, frozen=True):
    """What a client gets of a model, and what it may put in.

    Attributes:
        mode: what of the scores is released; classes lie along the last axis.
        top: how many classes with ``TOP_K``, else 0.
        decimals: decimal places of released scores; ``None`` for all that there are.
        clamp: least and greatest input value; values beyond are moved to the bound.
    """

    mode: Mode = Mode.RAW
    top: int = 0
    decimals: int | None = None
    clamp: tuple[float, float] | None = None

    def check(self) -> None:
        """Refuse what makes no sense for any model.

        Raises:
            InputError: naming the setting.
        """
        if self.mode is Mode.TOP_K:
            if not 1 <= self.top <= MAX_TOP:
                raise InputError(f"the top {self.top} classes", f"Ask for 1 to {MAX_TOP}")
        elif self.top:
            raise InputError(f"the top {self.top} with mode {self.mode}", "Use mode top_k")
        if self.decimals is not None:
            if not 0 <= self.decimals <= _MAX_DECIMALS:
                raise InputError(f"{self.decimals} decimals", f"Use 0 to {_MAX_DECIMALS}")
            if self.mode is Mode.ARGMAX:
                raise InputError("decimals with mode argmax", "An index has none: leave them out")
        if self.clamp is not None:
            low, high = self.clamp
            if not (isfinite(low) and isfinite(high) and -_MAX_BOUND <= low < high <= _MAX_BOUND):
                raise InputError(
                    f"a clamp from {low} to {high}",
                    f"Give two finite bounds within {_MAX_BOUND}, the lower one first",
                )


def kept_bits(decimals: int, scale: int) -> int:
    """Return how many fractional bits hold ``decimals`` decimal places, at most ``scale``."""
    return min(scale, int(10**decimals - 1).bit_length())


def serving_program(program: Program, release: Release) -> Program:
    """Return the program that runs when ``program`` is served under ``release``.

    Args:
        program: a verified program that ends in a resend.
        release: what is released; the default changes nothing.

    Returns:
        A verified program with the same weights and public inputs.

    Raises:
        InputError: if the setting does not fit the program's output.
    """
    release.check()
    if release == Release():
        return program
    rewrite = Rewrite(program, {})
    if release.clamp is not None:
        _clamp(rewrite, release.clamp)
    for number, instruction in rewrite.numbered():
        rewrite.values[number] = rewrite.copy(instruction)
    output = program.outputs[0]
    value = rewrite.values[output]
    if release.mode is not Mode.RAW:
        shape = rewrite.type_of(value).shape
        if len(shape) < 2 or not release.top <= shape[-1] <= MAX_CLASSES:
            raise InputError(
                f"mode {release.mode} on an output of shape {shape}",
                "The last axis must hold the classes, at least as many as are asked for",
            )
    if release.mode is Mode.SOFTMAX and not _is_softmax(program, output):
        axis = len(rewrite.type_of(value).shape) - 1
        value = rewrite.emit("release", "softmax", value, axis=axis, bits=RANGE_BITS)
    if release.decimals is not None:
        value = _round(rewrite, value, kept_bits(release.decimals, program.scale))
    if release.mode is Mode.ARGMAX:
        axis = len(rewrite.type_of(value).shape) - 1
        value = rewrite.emit("release", "argmax", value, axis=axis)
    elif release.mode is Mode.TOP_K:
        value = rewrite.emit("release", "top_k", value, k=release.top)
    rewrite.values[output] = rewrite.emit("release", "reshare", value)
    served, _ = rewrite.finish()
    verify(served)
    verify_release(served)
    return served


def _clamp(rewrite: Rewrite, bounds: tuple[float, float]) -> None:
    """Let all that follows read the client's input between ``bounds``."""
    ((number, given),) = rewrite.program.named(Role.INPUT)
    low, high = (round(b * (1 << given.type.scale)) for b in bounds)
    value = rewrite.emit("clamp", "shift_left", rewrite.values[number], bits=_FOLD)
    value = rewrite.emit("clamp", "truncate", value, shift=_FOLD)
    value = rewrite.emit("clamp", "add_const", value, value=-low)
    value = rewrite.emit("clamp", "relu", value, shift=0, bits=RANGE_BITS)
    value = rewrite.emit("clamp", "add_const", value, value=low - high)
    value = rewrite.emit("clamp", "neg", value)
    value = rewrite.emit("clamp", "relu", value, shift=0, bits=RANGE_BITS)
    value = rewrite.emit("clamp", "neg", value)
    rewrite.values[number] = rewrite.emit("clamp", "add_const", value, value=high)


def _round(rewrite: Rewrite, value: int, bits: int) -> int:
    cut = rewrite.program.scale - bits
    if cut == 0:
        return value
    unit = 1 << cut
    value = rewrite.emit("release", "add_const", value, value=unit // 2)
    kept = rewrite.emit("release", "truncate", value, shift=cut)
    kept = rewrite.emit("release", "shift_left", kept, bits=cut)
    left = rewrite.emit("release", "sub", value, kept)  # 0 to 2 units, without the latter
    less = rewrite.emit("release", "add_const", left, value=-unit)
    exact = rewrite.emit("release", "negative", less, shift=0, bits=max(_LEAST_BITS, cut + 2))
    ones = rewrite.emit("release", "scale", kept, multiplier=0, bits=0)
    ones = rewrite.emit("release", "add_const", ones, value=unit)
    excess = rewrite.emit("release", "select", exact, ones)
    kept = rewrite.emit("release", "add_const", kept, value=unit)
    return rewrite.emit("release", "sub", kept, excess)


def _is_softmax(program: Program, value: int) -> bool:
    """Whether ``value`` is a softmax already, but for resends."""
    made = definition(program, value)
    while made is not None and made.op == "reshare":
        made = definition(program, made.args[0])
    return made is not None and made.op == "softmax"
