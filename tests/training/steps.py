"""Running traced training steps in the clear or on three parties in one process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tercet.frontend.training import TracedTraining
from tercet.program.program import Role
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import finish
from tercet.ring.fixed import decode, encode
from tercet.runtime.training import run_step, step_values
from tests import trio

SEED = bytes(range(32))
Arrays = dict[str, np.ndarray]


def words(traced: TracedTraining, role: Role) -> Arrays:
    """Return the ring elements of the arrays with a role."""
    return {
        i.name: encode(traced.arrays[i.name], i.type.scale) for i in traced.training.inputs(role)
    }


def decoded(traced: TracedTraining, state: Mapping[str, np.ndarray]) -> Arrays:
    """Return the numbers of a state."""
    scales = {i.name: i.type.scale for i in traced.training.inputs(Role.STATE)}
    return {n: decode(np.ascontiguousarray(w), scales[n]) for n, w in state.items()}


def in_the_clear(traced: TracedTraining, batches: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
    """Yield (state, metrics) after each step, in the clear."""
    training = traced.training
    state, constants = words(traced, Role.STATE), words(traced, Role.PUBLIC)
    for number, rows in enumerate(batches):
        public = {**constants, **step_values(training, number, SEED)}
        shares = {n: Share((w,)) for n, w in state.items()}
        data = {n: Share((encode(np.asarray(v, float), 16),)) for n, v in zip("xy", rows)}
        after, sums = finish(run_step(training, Plaintext(), shares, data, public))
        state = {n: s.parts[0] for n, s in after.items()}
        yield state, {n: float(decode(s.parts[0], 16)) for n, s in sums.items()}


def on_three(traced: TracedTraining, batches: Iterator[tuple[Any, Any]]) -> Iterator[Any]:
    """Yield (state, metrics, traffic) after each step, on shares that are kept from step to step."""
    training, rng = traced.training, np.random.default_rng(0)
    constants = words(traced, Role.PUBLIC)
    states = {n: trio.share(w, rng) for n, w in words(traced, Role.STATE).items()}
    for number, rows in enumerate(batches):
        public = {**constants, **step_values(training, number, SEED)}
        data = {n: trio.share(encode(np.asarray(v, float), 16), rng) for n, v in zip("xy", rows)}
        sides = trio.parties()
        results, traffic = trio.run(
            lambda i: run_step(
                training,
                sides[i],
                {n: s[i] for n, s in states.items()},
                {n: s[i] for n, s in data.items()},
                public,
            )
        )
        states = {n: [r[0][n] for r in results] for n in states}
        state = {n: trio.reconstruct(s) for n, s in states.items()}
        sums = {n: trio.reconstruct([r[1][n] for r in results]) for n in results[0][1]}
        yield state, {n: float(decode(s, 16)) for n, s in sums.items()}, traffic
