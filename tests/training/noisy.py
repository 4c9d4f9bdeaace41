"""Running private steps with chosen noise, and what they moved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from tercet.program.program import Role
from tercet.program.training import DATA_SCALE, Kind, Training
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import finish
from tercet.ring.fixed import decode, encode
from tercet.runtime.sampling import Poisson
from tercet.runtime.schedule import run_outputs
from tercet.runtime.training import noise_inputs, noise_words, run_step, step_values
from tests import trio
from tests.training.steps import DRAWN, SEED, Arrays, words


def step(
    found: Any, x: np.ndarray, y: np.ndarray, noise: Sequence[np.ndarray], shared: bool
) -> Arrays:
    """Return the states after the first step of ``found`` with every worker's noise."""
    training: Training = found.training
    assert training.privacy is not None
    rows = Poisson(SEED, training.privacy, training.batch_size).rows(0)
    given = {"x": encode(x[rows], DATA_SCALE), "y": encode(y[rows], DATA_SCALE)}
    public = {**words(found, Role.PUBLIC), **step_values(training, 0, SEED, DRAWN)}
    state = words(found, Role.STATE)
    if not shared:
        shares, own = ({n: Share((w,)) for n, w in g.items()} for g in (state, given))
        added = noise_inputs(training, np.sum(noise, axis=0))
        after, _ = finish(run_step(training, Plaintext(), shares, own, public, added))
        return {n: s.parts[0] for n, s in after.items()}
    rng, sides = np.random.default_rng(0), trio.parties()
    states = {n: trio.share(w, rng) for n, w in state.items()}
    shared_rows = {n: trio.share(w, rng) for n, w in given.items()}

    def side(i: int) -> Any:
        mine, held = ({n: s[i] for n, s in g.items()} for g in (states, shared_rows))
        return run_step(training, sides[i], mine, held, public, noise_inputs(training, noise[i]))

    results, _ = trio.run(side)
    return {n: trio.reconstruct([r[0][n] for r in results]) for n in state}


def moved(found: Any, after: Arrays) -> list[np.ndarray]:
    """Return what SGD subtracted from each weight, as the sum over rows that it came from."""
    scales = {i.name: i.type.scale for i in found.training.inputs(Role.STATE)}
    new = {n: decode(np.ascontiguousarray(w), scales[n]) for n, w in after.items()}
    batch = found.training.privacy.batch
    return [(found.arrays[n] - new[n]) * batch / 0.5 for n in found.variables.values()]


def norm(arrays: Sequence[np.ndarray]) -> float:
    return math.sqrt(sum(float((a**2).sum()) for a in arrays))


def silence(found: Any) -> list[np.ndarray]:
    return [np.zeros(noise_words(found.training), np.int64)] * 3


def exact_sums(found: Any, given: Arrays, shared: bool, drawn: bytes = DRAWN) -> list[np.ndarray]:
    """Return the clipped sums of a step in which all rows count: integers of the grid.

    Args:
        found: a traced private training.
        given: ring elements of its rows x and y, and of weights that are to be other ones.
        shared: run on three parties, else in the clear.
        drawn: from which the signs of the checks follow.
    """
    training: Training = found.training
    program, start = training.program, len(training.program.inputs)
    reads = {a: start + n for n, made in enumerate(program.instructions) for a in made.args}
    # What a NOISE input is added to and then reshared.
    handles = {i.name: reads[reads[n]] for n, i in program.named(Role.NOISE)}
    program = msgspec.structs.replace(program, outputs=tuple(handles.values()))
    (present,) = (i.name for i in training.step_inputs if i.kind is Kind.PRESENT)
    public = {**words(found, Role.PUBLIC), **step_values(training, 0, SEED, drawn)}
    public[present] = np.ones((training.batch_size, 1), np.uint64)
    secret = {**words(found, Role.STATE), **given}
    public |= noise_inputs(training, silence(found)[0])
    if shared:
        rng, sides = np.random.default_rng(0), trio.parties()
        shares = {n: trio.share(w, rng) for n, w in secret.items()}

        def side(i: int) -> Any:
            mine = {n: s[i] for n, s in shares.items()}
            return run_outputs(program, sides[i], {**mine, **public}, training.batch_size)

        results, _ = trio.run(side)
        outputs = [trio.reconstruct(o) for o in zip(*results, strict=True)]
    else:
        mine = {n: Share((w,)) for n, w in secret.items()}
        steps = run_outputs(program, Plaintext(), {**mine, **public}, training.batch_size)
        outputs = [o.parts[0] for o in finish(steps)]
    by_name = dict(zip(handles, outputs, strict=True))
    return [by_name[f"{n}/noise"].view(np.int64) for n in found.variables.values()]


def squared_norm(sums: Sequence[np.ndarray]) -> int:
    """Return the exact squared norm of integers."""
    return sum(int(v) ** 2 for a in sums for v in a.ravel())
