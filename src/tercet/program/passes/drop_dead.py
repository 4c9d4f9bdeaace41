"""What nothing uses goes: instructions, weights and public inputs, with their arrays.

The client's input stays, used or not: a program has exactly one. Inputs are put in the order in
which the program first uses them, so that the digest does not depend on the way through the
passes.
"""

from __future__ import annotations

import msgspec

from tercet.program.builder import Builder
from tercet.program.passes.rewrite import Array, Arrays
from tercet.program.program import Program, Role


def drop_dead(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with only what its outputs need, and the arrays that are left."""
    inputs = len(program.inputs)
    alive = set(program.outputs)
    for number in reversed(range(len(program.instructions))):
        if number + inputs in alive:
            alive.update(program.instructions[number].args)
    order = [n for n, _ in program.named(Role.INPUT)]
    uses = [a for n, i in enumerate(program.instructions, inputs) if n in alive for a in i.args]
    order += [a for a in dict.fromkeys([*uses, *program.outputs]) if a < inputs and a not in order]

    builder = Builder(program.scale)
    values: dict[int, int] = {}
    for number in order:
        value = program.inputs[number]
        values[number] = builder.input(value.name, value.role, value.type.shape, value.type.scale)
    for number, instruction in enumerate(program.instructions, inputs):
        if number in alive:
            builder.source = instruction.source
            args = (values[a] for a in instruction.args)
            values[number] = builder.emit(instruction.op, *args, **instruction.attrs)
    result = builder.finish(*(values[o] for o in program.outputs))
    return (
        msgspec.structs.replace(result, protocol=program.protocol),
        {n: arrays[n] for n in (program.inputs[i].name for i in order) if n in arrays},
    )
