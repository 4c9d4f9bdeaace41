"""What the passes share: a program under reconstruction, and who uses which value."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from tercet.program.builder import Builder
from tercet.program.program import Attribute, Input, Instruction, Program, Role
from tercet.program.types import Type
from tercet.program.verify import MAX_NAME

Array: TypeAlias = NDArray[np.float64]
Arrays: TypeAlias = Mapping[str, Array]


def count_uses(program: Program) -> Counter[int]:
    """Return how often each value is an argument or an output."""
    uses = Counter(a for i in program.instructions for a in i.args)
    uses.update(program.outputs)
    return uses


def definition(program: Program, value: int) -> Instruction | None:
    """Return the instruction that makes ``value``, ``None`` for an input."""
    number = value - len(program.inputs)
    return program.instructions[number] if number >= 0 else None


def array_input(program: Program, value: int) -> Input | None:
    """Return the weight or public input that ``value`` is, ``None`` for anything else."""
    if value >= len(program.inputs) or program.inputs[value].role is Role.INPUT:
        return None
    return program.inputs[value]


class Rewrite:
    """A new program in the making; ``values`` maps numbers of the old one to handles.

    All inputs are declared again; those that lose their uses fall to ``drop_dead``.
    """

    def __init__(self, program: Program, arrays: Arrays) -> None:
        self.program = program
        self.arrays = dict(arrays)
        self.builder = Builder(program.scale)
        self.values: dict[int, int] = {}
        self._inputs: dict[str, int] = {}
        self._roles: dict[int, tuple[str, Role]] = {}
        for number, value in enumerate(program.inputs):
            kind = value.type
            handle = self.builder.input(value.name, value.role, kind.shape, kind.scale)
            self.values[number] = self._enter(value.name, value.role, handle)

    def numbered(self) -> list[tuple[int, Instruction]]:
        """Return the old instructions, each with the number of its result."""
        return list(enumerate(self.program.instructions, len(self.program.inputs)))

    def emit(self, source: str, op: str, *args: int, **attrs: Attribute) -> int:
        """Append an instruction that stands for the layer ``source``."""
        self.builder.source = source
        return self.builder.emit(op, *args, **attrs)

    def again(self, instruction: Instruction, *args: int) -> int:
        """Append ``instruction`` on other arguments (handles)."""
        return self.emit(instruction.source, instruction.op, *args, **instruction.attrs)

    def copy(self, instruction: Instruction) -> int:
        """Append ``instruction`` on what its arguments have become."""
        return self.again(instruction, *(self.values[a] for a in instruction.args))

    def declare(self, name: str, role: Role, array: Array, scale: int) -> int:
        """Return the input that holds ``array``, declared once however often it is asked for."""
        base, count = _short(name), 1
        name = base
        while name in self._inputs:
            handle = self._inputs[name]
            if (
                (self._roles[handle][1], self.type_of(handle).scale) == (role, scale)
                and name in self.arrays
                and np.array_equal(self.arrays[name], array)
            ):
                return handle
            count += 1
            name = f"{base}#{count}"
        self.arrays[name] = array
        return self._enter(name, role, self.builder.input(name, role, array.shape, scale))

    def declared(self, handle: int) -> tuple[str, Role] | None:
        """Return name and role of the input behind a handle, ``None`` for an instruction."""
        return self._roles.get(handle)

    def _enter(self, name: str, role: Role, handle: int) -> int:
        self._inputs[name], self._roles[handle] = handle, (name, role)
        return handle

    def type_of(self, handle: int) -> Type:
        """Return the type of a handle."""
        return self.builder.type_of(handle)

    def finish(self) -> tuple[Program, dict[str, Array]]:
        """Return the new program and its arrays; outputs are what the old ones have become."""
        built = self.builder.finish(*(self.values[o] for o in self.program.outputs))
        return msgspec.structs.replace(built, protocol=self.program.protocol), self.arrays


def _short(name: str) -> str:
    """Return ``name``, its end replaced by a digest if it is too long for an input."""
    room = MAX_NAME - 8  # for the number that tells equal names apart
    if len(name) <= room:
        return name
    return name[: room - 17] + "~" + hashlib.sha256(name.encode()).hexdigest()[:16]
