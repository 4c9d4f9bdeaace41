"""The program: a flat, immutable list of typed instructions, and its digest.

A program is data. Workers verify it and interpret it; they never run code that they receive.
Values are numbered: inputs first, in order, then one value an instruction.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from functools import cached_property
from typing import TypeAlias

import msgspec

from tercet.program.types import Shape, Type

LANGUAGE_VERSION = 1

Attribute: TypeAlias = int | tuple[int, ...]

#: What msgspec raises on bytes that are not what they should be.
MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError)


class Role(StrEnum):
    """Who provides an input of a program."""

    INPUT = "input"  # the client's data: secret
    WEIGHT = "weight"  # the model's parameters: secret, shared once
    PUBLIC = "public"  # a constant of the architecture (a mask, a resize matrix): known to workers
    # Of the step of a training (``program.training``), in place of INPUT and WEIGHT:
    STATE = "state"  # secret, lives from step to step: weights, optimizer slots, statistics
    DATA = "data"  # secret rows of this step
    STEP = "step"  # public numbers of this step, which each worker derives by itself
    NOISE = "noise"  # each worker's own summand, drawn for this step and told to nobody


class Input(msgspec.Struct, frozen=True):
    """A named input with its role and type. Only role ``INPUT`` has a symbolic batch axis."""

    name: str
    role: Role
    type: Type


class Instruction(msgspec.Struct, frozen=True):
    """One operation: its name, the numbers of its arguments, attributes and result type.

    ``source`` names the layer of the model that it came from, for reports and errors only; it is
    not part of the digest.
    """

    op: str
    args: tuple[int, ...]
    attrs: dict[str, Attribute]
    type: Type
    source: str = ""


class Program(msgspec.Struct, frozen=True, dict=True):
    """A whole computation in Tercet's language.

    ``scale`` is f, the fractional bits of inputs, weights and outputs. ``protocol`` names the
    protocol that it was lowered for. ``outputs`` are numbers of values: the model's output and, if
    it is guarded (``passes.guard``), the guard's flag of shape (rows, 1). A program that trains has
    other roles and outputs: see ``program.training``.
    """

    inputs: tuple[Input, ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[int, ...]
    scale: int = 16
    protocol: str = "replicated"
    version: int = LANGUAGE_VERSION

    def type_of(self, value: int) -> Type:
        """Return the type of value number ``value``."""
        if value < len(self.inputs):
            return self.inputs[value].type
        return self.instructions[value - len(self.inputs)].type

    def named(self, role: Role) -> tuple[tuple[int, Input], ...]:
        """Return ``(value number, input)`` of every input with ``role``, in order."""
        return tuple((i, v) for i, v in enumerate(self.inputs) if v.role is role)

    @cached_property
    def dying(self) -> tuple[tuple[int, ...], ...]:
        """For each instruction the values that nothing uses after it."""
        last = {a: n for n, i in enumerate(self.instructions) for a in i.args}
        dying: list[list[int]] = [[] for _ in self.instructions]
        for value, number in last.items():
            if value not in self.outputs:
                dying[number].append(value)
        return tuple(map(tuple, dying))

    @property
    def guarded(self) -> bool:
        """Whether a second output tells if a value left its window."""
        return len(self.outputs) == 2 and not self.trains

    @property
    def trains(self) -> bool:
        """Whether it is the step of a training, which has state."""
        return any(i.role is Role.STATE for i in self.inputs)

    def output_shape(self) -> Shape:
        """Return the shape of the model's output, the batch axis as -1."""
        return self.type_of(self.outputs[0]).shape

    def input_shape(self) -> Shape:
        """Return the shape of the client's (only) input, the batch axis as -1."""
        (only,) = self.named(Role.INPUT)
        return only[1].type.shape

    def input_scale(self) -> int:
        """Return the fractional bits of the client's input: none if it is whole numbers."""
        (only,) = self.named(Role.INPUT)
        return only[1].type.scale

    def bare(self) -> Program:
        """Return the same without ``source`` labels, attributes in order: one form for each."""
        return msgspec.structs.replace(
            self,
            instructions=tuple(
                msgspec.structs.replace(i, source="", attrs=dict(sorted(i.attrs.items())))
                for i in self.instructions
            ),
        )

    def digest(self) -> str:
        """Return the hex SHA-256 of the canonical encoding, without ``source`` labels."""
        encoded = msgspec.msgpack.encode(self.bare())
        return hashlib.sha256(b"tercet program" + encoded).hexdigest()


def encode(program: Program) -> bytes:
    """Return the wire form of ``program`` (msgpack)."""
    return msgspec.msgpack.encode(program)
