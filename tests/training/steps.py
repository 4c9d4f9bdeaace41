"""Running traced training steps in the clear or on three parties in one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tercet.frontend.training import TracedTraining
from tercet.program.program import Role
from tercet.program.training import DATA_SCALE
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import finish
from tercet.ring.fixed import decode, encode
from tercet.runtime.training import run_step, step_values
from tests import trio

SEED = bytes(range(32))
#: What the workers drew together for the checks of rows.
DRAWN = bytes(reversed(range(32)))
Arrays = dict[str, np.ndarray]
Shares = dict[str, list[Share]]


def words(traced: TracedTraining, role: Role) -> Arrays:
    """Return the ring elements of the arrays with a role."""
    return {
        i.name: encode(traced.arrays[i.name], i.type.scale) for i in traced.training.inputs(role)
    }


def decoded(traced: TracedTraining, state: Mapping[str, np.ndarray]) -> Arrays:
    """Return the numbers of a state."""
    scales = {i.name: i.type.scale for i in traced.training.inputs(Role.STATE)}
    return {n: decode(np.ascontiguousarray(w), scales[n]) for n, w in state.items()}


def _encoded(rows: tuple[Any, Any]) -> Arrays:
    return {n: encode(np.asarray(v, float), DATA_SCALE) for n, v in zip("xy", rows, strict=True)}


def in_the_clear(traced: TracedTraining, batches: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    """Yield (state, metrics) after each step, in the clear."""
    training = traced.training
    state, constants = words(traced, Role.STATE), words(traced, Role.PUBLIC)
    for number, rows in enumerate(batches):
        public = {**constants, **step_values(training, number, SEED, DRAWN)}
        shares, data = (
            {n: Share((w,)) for n, w in given.items()} for given in (state, _encoded(rows))
        )
        after, sums = finish(run_step(training, Plaintext(), shares, data, public))
        state = {n: s.parts[0] for n, s in after.items()}
        yield state, {n: float(decode(s.parts[0], 16)[0]) for n, s in sums.items()}


def on_three(traced: TracedTraining, batches: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    """Yield (state, metrics, traffic) after each step, on shares kept from step to step."""
    rng = np.random.default_rng(0)
    states = {n: trio.share(w, rng) for n, w in words(traced, Role.STATE).items()}
    for number, rows in enumerate(batches):
        data = {n: trio.share(w, rng) for n, w in _encoded(rows).items()}
        results, traffic = _step(traced, number, states, data)
        states = {n: [r[0][n] for r in results] for n in states}
        state = {n: trio.reconstruct(s) for n, s in states.items()}
        sums = {n: trio.reconstruct([r[1][n] for r in results]) for n in results[0][1]}
        yield state, {n: float(decode(s, 16)[0]) for n, s in sums.items()}, traffic


def _step(
    traced: TracedTraining, number: int, states: Shares, data: Shares
) -> tuple[list[Any], trio.Traffic]:
    training, sides = traced.training, trio.parties()
    public = {**words(traced, Role.PUBLIC), **step_values(training, number, SEED, DRAWN)}

    def side(i: int) -> Any:
        state, rows = ({n: s[i] for n, s in given.items()} for given in (states, data))
        return run_step(training, sides[i], state, rows, public)

    return trio.run(side)
