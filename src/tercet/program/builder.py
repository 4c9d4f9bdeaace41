"""Building a program one instruction at a time, with inferred types."""

from __future__ import annotations

from tercet.program.operations import infer
from tercet.program.program import Attribute, Input, Instruction, Program, Role
from tercet.program.types import Form, Shape, Type


def role_form(role: Role) -> Form:
    """Return how an input with ``role`` is held."""
    if role is Role.NOISE:
        return Form.PARTIAL
    return Form.PUBLIC if role in (Role.PUBLIC, Role.STEP) else Form.SHARE


class Builder:
    """Collects inputs and instructions; ``emit`` infers each result type from the table.

    Inputs and instructions may be declared in any order: both are named by handles until
    ``finish`` numbers the inputs first. ``source`` labels the instructions that follow.
    """

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.source = ""
        self._inputs: list[Input] = []
        self._instructions: list[Instruction] = []

    def input(self, name: str, role: Role, shape: Shape, scale: int | None = None) -> int:
        """Declare an input and return its handle (a negative number)."""
        form = role_form(role)
        kind = Type(tuple(shape), self.scale if scale is None else scale, form)
        self._inputs.append(Input(name, role, kind))
        return -len(self._inputs)

    def emit(self, op: str, *args: int, **attrs: Attribute) -> int:
        """Append an instruction and return the handle of its result (0, 1, ...)."""
        kind = infer(op, [self.type_of(a) for a in args], attrs)
        self._instructions.append(Instruction(op, args, attrs, kind, self.source))
        return len(self._instructions) - 1

    def type_of(self, handle: int) -> Type:
        """Return the type of a handle."""
        if handle < 0:
            return self._inputs[-handle - 1].type
        return self._instructions[handle].type

    def instruction(self, handle: int) -> Instruction:
        """Return the instruction behind a handle of ``emit``; its arguments are handles."""
        return self._instructions[handle]

    def finish(self, *outputs: int) -> Program:
        """Return the program: inputs numbered first, then instructions."""
        count = len(self._inputs)

        def number(handle: int) -> int:
            return -handle - 1 if handle < 0 else handle + count

        return Program(
            inputs=tuple(self._inputs),
            instructions=tuple(
                Instruction(i.op, tuple(map(number, i.args)), i.attrs, i.type, i.source)
                for i in self._instructions
            ),
            outputs=tuple(map(number, outputs)),
            scale=self.scale,
        )
