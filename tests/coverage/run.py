"""Running a traced model in the clear, in the fixed-point arithmetic of the workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from tercet.frontend.traced import Traced
from tercet.program.passes import lower, narrow
from tercet.program.program import Program, Role
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import finish
from tercet.ring.fixed import decode, encode
from tercet.runtime.calibrate import calibrate
from tercet.runtime.interpreter import run
from tests.trio import parties, reconstruct, share
from tests.trio import run as drive

#: A row of a table: a dataclass with ``approximated``.
Row = TypeVar("Row", bound=Any)


def marked(cases: Mapping[str, Row], by: Sequence[str], exact: Sequence[str]) -> dict[str, Row]:
    """Return ``cases``, approximated where the name has a part of ``by`` and none of ``exact``."""
    return {
        name: replace(
            case,
            approximated=any(part in name for part in by)
            and not any(part in name for part in exact),
        )
        for name, case in cases.items()
    }


def lowered(
    traced: Traced, sample: np.ndarray | None = None
) -> tuple[Program, dict[str, np.ndarray]]:
    """Return the program that workers would run, narrowed by ``sample``, and its encoded arrays."""
    program, arrays = lower(traced.program, traced.arrays)
    if sample is not None:
        program = narrow(program, calibrate(program, arrays, sample))
    words = {
        i.name: encode(arrays[i.name], i.type.scale)
        for i in program.inputs
        if i.role is not Role.INPUT
    }
    return program, words


def _inputs(program: Program, words: Mapping[str, np.ndarray], x: np.ndarray) -> dict[str, object]:
    return {
        i.name: encode(x, i.type.scale) if i.role is Role.INPUT else words[i.name]
        for i in program.inputs
    }


def in_the_clear(traced: Traced, x: np.ndarray) -> np.ndarray:
    """Return the output for the rows ``x`` on the plaintext protocol."""
    program, words = lowered(traced)
    public = {i.name for i in program.inputs if i.role is Role.PUBLIC}
    values = {n: w if n in public else Share((w,)) for n, w in _inputs(program, words, x).items()}
    result = finish(run(program, Plaintext(), values, len(x)))
    return decode(result.parts[0], program.scale)


def by_three(traced: Traced, x: np.ndarray, sample: np.ndarray | None = None) -> np.ndarray:
    """Return the output for the rows ``x`` from three parties."""
    program, words = lowered(traced, sample)
    public = {i.name for i in program.inputs if i.role is Role.PUBLIC}
    rng = np.random.default_rng(5)
    held = {
        n: [w] * 3 if n in public else share(w, rng) for n, w in _inputs(program, words, x).items()
    }
    sides = parties()
    results, _ = drive(lambda i: run(program, sides[i], {n: h[i] for n, h in held.items()}, len(x)))
    return decode(reconstruct(results), program.scale)
