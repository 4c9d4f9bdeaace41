"""What the interpreter hands to an operation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tercet.program.program import Instruction, Program
from tercet.program.types import bind_shape
from tercet.protocol.base import Protocol


@dataclass(slots=True)
class Step:
    """One instruction about to run: its arguments' values, bound attributes and place."""

    program: Program
    protocol: Protocol
    instruction: Instruction
    args: tuple[Any, ...]
    at: str
    batch: int

    @property
    def scale(self) -> int:
        """Fractional bits of the first argument."""
        return self.program.type_of(self.instruction.args[0]).scale

    def attr(self, name: str) -> Any:
        """Return an attribute as it stands."""
        return self.instruction.attrs[name]

    def shape(self, name: str = "shape") -> tuple[int, ...]:
        """Return an attribute of extents, with the batch bound."""
        return bind_shape(self.attr(name), self.batch)
