"""Running a program on a batch of requests: joining rows, slicing, releasing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import cast

import numpy as np

from tercet.function.lookup import held
from tercet.program.checks import multiply_extents
from tercet.program.program import Instruction, Program, Role
from tercet.program.types import Shape, bind_shape
from tercet.protocol.base import Share
from tercet.protocol.replicated.sharing import OutputPart, Summand, expand
from tercet.protocol.rounds import Steps
from tercet.runtime.interpreter import Words, run
from tercet.runtime.release import release
from tercet.runtime.session import Measure, Session

#: Rows that one slice takes at most; with ``session.IN_FLIGHT`` it bounds the memory of a run.
SLICE_ROWS = 64
#: Elements of the largest value of a slice, where a single row does not exceed it.
SLICE_ELEMENTS = 1 << 23
INPUT_NAME = "input"


def slice_rows(program: Program) -> int:
    """Return the rows of a slice: the same at all workers, as it follows from the program."""
    sizes = [multiply_extents(i.type.shape)[0] for i in program.instructions]
    sizes += [_windows(i) for i in program.instructions if i.op == "max_pool"]
    sizes += [_held(program, i) for i in program.instructions if i.op == "lookup"]
    return max(1, min(SLICE_ROWS, SLICE_ELEMENTS // max(sizes, default=1)))


def _windows(pool: Instruction) -> int:
    """Return the elements of all windows of a row, which a max pool lays side by side."""
    return multiply_extents(pool.type.shape)[0] * prod(cast("Shape", pool.attrs["window"]))


def _held(program: Program, lookup: Instruction) -> int:
    """Return the elements of the largest array that the lookups of a row make on the way."""
    index, table = (program.type_of(a).shape for a in lookup.args)
    return multiply_extents(index)[0] * held(*table[-2:])


def run_batch(
    session: Session,
    program: Program,
    model: Mapping[str, Share | Words],
    requests: Sequence[tuple[int, tuple[Summand, Summand]]],
    step: int,
    timeout: float,
) -> tuple[list[OutputPart], Measure]:
    """Run ``program`` on all rows of all requests together and return a part for each request.

    Args:
        session: a fresh session.
        program: a verified program.
        model: shares (or public arrays) of all inputs but the client's.
        requests: ``(rows, summand pair)`` of each.
        step: rows of a slice (``slice_rows``).
        timeout: seconds to wait for any single message.

    Raises:
        IntegrityError: if a request's shares do not have the program's input shape.
        TransportError: if a worker is lost.
    """
    ((number, given),) = program.named(Role.INPUT)
    shape = given.type.shape
    shares = [expand(pair, INPUT_NAME, bind_shape(shape, rows)) for rows, pair in requests]
    columns = tuple(np.concatenate(c) for c in zip(*(s.parts for s in shares), strict=True))
    total = sum(rows for rows, _ in requests)

    def slices() -> Iterator[Steps[Share]]:
        for piece, start in enumerate(range(0, total, step)):
            part = Share(tuple(c[start : start + step] for c in columns))
            inputs = {**model, program.inputs[number].name: part}
            yield run(program, session.protocol(piece), inputs, part.shape[0])

    results, measure = session.run(slices(), timeout)
    joined = tuple(np.concatenate(c) for c in zip(*(r.parts for r in results), strict=True))
    answers, start = [], 0
    for rows, _ in requests:
        answers.append(Share(tuple(j[start : start + rows] for j in joined)))
        start += rows
    return release(answers), measure
