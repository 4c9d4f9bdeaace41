"""Running a program with every operation as soon as it can: independent ones share their rounds.

The order follows from the program alone, hence is the same at every worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tercet.program.program import Program
from tercet.protocol.base import Partial, Protocol, Share
from tercet.protocol.rounds import Steps, together
from tercet.runtime.interpreter import LOCAL, ROUNDS, Value, Words
from tercet.runtime.step import Step


def run_outputs(
    program: Program, protocol: Protocol, inputs: Mapping[str, Share | Partial | Words], batch: int
) -> Steps[list[Value]]:
    """Return the steps that run ``program`` and end in all its outputs, in order.

    Args:
        program: a verified program.
        protocol: this party's side of the protocol.
        inputs: for each named input its share, this party's own summand, or a public array.
        batch: number of rows.
    """
    values: dict[int, Value] = {n: inputs[i.name] for n, i in enumerate(program.inputs)}
    left = _uses(program)
    for local, communicating in levels(program):
        for number in local:
            step = _step(program, protocol, values, number, batch)
            # NumPy turns arrays without axes into scalars, and those warn of what is meant here.
            with np.errstate(over="ignore"):
                result = LOCAL[step.instruction.op](step)
            values[number + len(program.inputs)] = (
                np.asarray(result) if isinstance(result, np.generic) else result
            )
            _release(program, values, left, number)
        if communicating:
            steps = [_step(program, protocol, values, n, batch) for n in communicating]
            results = yield from together(*(ROUNDS[s.instruction.op](s) for s in steps))
            for number, result in zip(communicating, results, strict=True):
                values[number + len(program.inputs)] = result
                _release(program, values, left, number)
    return [values[o] for o in program.outputs]


def levels(program: Program) -> list[tuple[list[int], list[int]]]:
    """Return instructions by levels: those that run locally, then those that share rounds.

    An instruction's level is the number of operations with rounds on the longest way to it.
    """
    depth = [0] * len(program.inputs)
    result: list[tuple[list[int], list[int]]] = []
    for number, instruction in enumerate(program.instructions):
        level = max((depth[a] for a in instruction.args), default=0)
        rounds = instruction.op in ROUNDS
        depth.append(level + rounds)
        while len(result) <= level:
            result.append(([], []))
        result[level][rounds].append(number)
    return result


def _step(
    program: Program, protocol: Protocol, values: Mapping[int, Value], number: int, batch: int
) -> Step:
    instruction = program.instructions[number]
    args: tuple[Any, ...] = tuple(values[a] for a in instruction.args)
    return Step(program, protocol, instruction, args, str(number), batch)


def _uses(program: Program) -> dict[int, int]:
    """Return how often each value is used; outputs once more, so that they stay."""
    left: dict[int, int] = {}
    for instruction in program.instructions:
        for a in instruction.args:
            left[a] = left.get(a, 0) + 1
    for o in program.outputs:
        left[o] = left.get(o, 0) + 1
    return left


def _release(program: Program, values: dict[int, Value], left: dict[int, int], number: int) -> None:
    for a in program.instructions[number].args:
        left[a] -= 1
        if not left[a]:
            values.pop(a, None)
