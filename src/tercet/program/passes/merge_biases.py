"""Consecutive additions of arrays that the owner knows become one.

The bias of a convolution and the offset of the batch norm behind it are one vector. Additions
are local, but each stored weight is shared, sent and kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from tercet.program.passes.rewrite import Array, Arrays, Rewrite, array_input, count_uses
from tercet.program.program import Instruction, Program, Role


@dataclass(frozen=True, slots=True)
class _Bias:
    """``value + array``, with the handle of ``value``; not emitted before its sum is whole."""

    value: int
    name: str
    role: Role
    array: Array
    minus: bool


def merge_biases(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with ``(x + a) + b`` as ``x + (a + b)``, for ``sub`` likewise."""
    rewrite, uses = Rewrite(program, arrays), count_uses(program)
    biased: dict[int, _Bias] = {}
    for number, instruction in rewrite.numbered():
        found = _bias(rewrite, instruction)
        if found is None:
            rewrite.values[number] = rewrite.copy(instruction)
            continue
        x, bias = found
        before = biased.get(x)
        if before is not None and uses[x] == 1:
            bias = _sum(before, bias)
            handle = rewrite.declare(bias.name, bias.role, bias.array, instruction.type.scale)
            rewrite.values[number] = rewrite.emit(instruction.source, "add", bias.value, handle)
        else:
            rewrite.values[number] = rewrite.copy(instruction)
        biased[number] = bias
    return rewrite.finish()


def _bias(rewrite: Rewrite, instruction: Instruction) -> tuple[int, _Bias] | None:
    """Return the value and the array that ``instruction`` adds, if it is such an addition."""
    if instruction.op not in ("add", "sub"):
        return None
    x, y = instruction.args
    if instruction.op == "add" and array_input(rewrite.program, x) is not None:
        x, y = y, x
    known = array_input(rewrite.program, y)
    if known is None or array_input(rewrite.program, x) is not None:
        return None
    array, minus = rewrite.arrays[known.name], instruction.op == "sub"
    return x, _Bias(rewrite.values[x], known.name, known.role, array, minus)


def _sum(first: _Bias, second: _Bias) -> _Bias:
    a, b = (-bias.array if bias.minus else bias.array for bias in (first, second))
    role = Role.PUBLIC if first.role is second.role is Role.PUBLIC else Role.WEIGHT
    name = f"{'-' if first.minus else ''}{first.name}{'-' if second.minus else '+'}{second.name}"
    return _Bias(first.value, name, role, a + b, False)
