"""What a program will cost before anything of it runs: bytes and rounds, layer by layer.

Nothing is computed: each instruction that communicates runs alone on a counting protocol, on
zeros of its argument types, so that a composite (softmax, max pooling) is counted by its own
code. Products and other local operations send nothing and are not run at all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tercet.program.program import Program
from tercet.program.types import Form, Type, bind_shape
from tercet.protocol.base import Bits, Cost, Partial, Share
from tercet.protocol.cost import CostModel
from tercet.protocol.counting import Counting, count_rounds, zeros
from tercet.runtime.batch import slice_rows
from tercet.runtime.interpreter import ROUNDS, Value
from tercet.runtime.step import Step


@dataclass(frozen=True, slots=True)
class InstructionCost:
    """Payload bytes over all links, and rounds of a slice, of one instruction, by its number."""

    number: int
    op: str
    source: str
    bytes: int
    rounds: int


@dataclass(frozen=True, slots=True)
class SourceCost:
    """Payload bytes over all links, and rounds of a slice, of one layer."""

    source: str
    bytes: int
    rounds: int


def estimate(program: Program, batch: int, costs: CostModel) -> list[InstructionCost]:
    """Return the cost of each instruction of ``program``, in order.

    Args:
        program: a verified program.
        batch: number of rows; beyond those of a slice they run as several.
        costs: what the protocol states about its operations.
    """
    whole, rest = divmod(batch, slice_rows(program))
    result = []
    for number, instruction in enumerate(program.instructions):
        cost = Cost(0, 0)
        if instruction.op in ROUNDS:
            for times, rows in ((whole, slice_rows(program)), (1, rest)):
                if times and rows:
                    one = _slice_cost(program, number, rows, costs)
                    cost = Cost(cost.bytes + times * one.bytes, max(cost.rounds, one.rounds))
        result.append(
            InstructionCost(number, instruction.op, instruction.source, cost.bytes, cost.rounds)
        )
    return result


def _slice_cost(program: Program, number: int, rows: int, costs: CostModel) -> Cost:
    instruction, counting = program.instructions[number], Counting(costs)
    args = tuple(_dummy(program.type_of(a), rows) for a in instruction.args)
    step = Step(program, counting, instruction, args, str(number), rows)
    rounds = count_rounds(ROUNDS[instruction.op](step))
    return Cost(counting.bytes, rounds)


def totals(costs: Iterable[InstructionCost]) -> Cost:
    """Return bytes and rounds of a whole program; instructions run one after the other."""
    costs = list(costs)
    return Cost(sum(c.bytes for c in costs), sum(c.rounds for c in costs))


def by_source(costs: Iterable[InstructionCost]) -> list[SourceCost]:
    """Return the cost of each layer, in the order in which the program first meets them."""
    layers: dict[str, tuple[int, int]] = {}
    for cost in costs:
        spent, rounds = layers.get(cost.source, (0, 0))
        layers[cost.source] = spent + cost.bytes, rounds + cost.rounds
    return [SourceCost(source, *cost) for source, cost in layers.items()]


def _dummy(kind: Type, batch: int) -> Value:
    """Return zeros of a type that take no memory."""
    shape = bind_shape(kind.shape, batch)
    if kind.form is Form.BIT:
        return Bits((), shape)
    words = zeros(shape)
    if kind.form is Form.PUBLIC:
        return words
    return Share((words,)) if kind.form is Form.SHARE else Partial((words,))
