"""Common subexpressions: equal operations on equal values are computed once.

A frontend repeats itself (a ReLU and the mask of its gradient, the same padding twice), and a
comparison is the dearest thing that a program does.
"""

from __future__ import annotations

from typing import TypeAlias

from tercet.program.passes.rewrite import Array, Arrays, Rewrite
from tercet.program.program import Attribute, Program

_Key: TypeAlias = tuple[str, tuple[int, ...], tuple[tuple[str, Attribute], ...]]

_COMMUTATIVE = frozenset({"add", "mul", "maximum", "bit_and"})


def merge_equal(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with instructions of equal operation, arguments and attributes merged."""
    rewrite = Rewrite(program, arrays)
    known: dict[_Key, int] = {}
    for number, instruction in rewrite.numbered():
        args = tuple(rewrite.values[a] for a in instruction.args)
        if instruction.op in _COMMUTATIVE:
            args = tuple(sorted(args))
        key = (instruction.op, args, tuple(sorted(instruction.attrs.items())))
        if key not in known:
            known[key] = rewrite.copy(instruction)
        rewrite.values[number] = known[key]
    return rewrite.finish()
