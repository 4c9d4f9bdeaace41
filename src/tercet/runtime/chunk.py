"""Some steps of a training in one session: from a stored state to the next one.

A session has fresh nonces of all three workers, so no mask of an earlier one comes again, also
not when steps are repeated after a worker was lost. Each step is a slice of its own in the names
of streams; what follows the last one is one more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tercet.program.training import Training
from tercet.protocol.base import Share
from tercet.protocol.joint_seed import joint_seed
from tercet.protocol.replicated.sharing import OutputPart
from tercet.protocol.rounds import Steps
from tercet.runtime.interpreter import Words
from tercet.runtime.release import release
from tercet.runtime.session import Measure, Session
from tercet.runtime.training import noise_inputs, run_step, step_values

State = dict[str, Share]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What to run: steps ``first`` to ``first + steps - 1`` of a training.

    Attributes:
        first: number of the first step, counted over all epochs.
        steps: how many.
        seed: the training's public seed.
        opened: metrics whose sums over these steps are released.
        last: whether the training ends here: the state then ends in a resend, so that what is
            agreed of it may be released.
    """

    first: int
    steps: int
    seed: bytes
    opened: tuple[str, ...]
    last: bool


def run_chunk(
    session: Session,
    training: Training,
    chunk: Chunk,
    state: State,
    rows: Callable[[int], Mapping[str, Share]],
    constants: Mapping[str, Words],
    timeout: float,
    noise: Callable[[], NDArray[np.int64]] | None = None,
) -> tuple[State, list[OutputPart], Measure]:
    """Run a chunk and return the new state and this worker's parts of the opened metrics.

    Args:
        session: a fresh session.
        training: a verified training.
        chunk: which steps.
        state: the share of every STATE input.
        rows: returns the share of every DATA input of a step, by its number.
        constants: the array of every PUBLIC input.
        timeout: seconds to wait for any single message.
        noise: returns this worker's noise of a step, fresh each time; None for a training that is
            not private.

    Raises:
        TransportError: if a worker is lost.
    """

    def operation() -> Steps[tuple[State, list[Share]]]:
        now, sums = dict(state), dict.fromkeys(chunk.opened)
        drawn = None
        if training.checked:  # no party may know the signs when it chooses weights or rows
            drawn = yield from joint_seed(session.index, b"tercet signs v1\0" + session.id)
        for piece in range(chunk.steps):
            number = chunk.first + piece
            protocol = session.protocol(piece)
            public = {**constants, **step_values(training, number, chunk.seed, drawn)}
            added = noise_inputs(training, noise()) if noise is not None else None
            now, metrics = yield from run_step(training, protocol, now, rows(number), public, added)
            for name in chunk.opened:
                before = sums[name]
                # Each ends in a resend of its own, hence so does their sum.
                sums[name] = _add(before, metrics[name]) if before else metrics[name]
        if chunk.last:
            now = yield from _refresh(session, chunk.steps, now)
        return now, [s for s in sums.values() if s is not None]

    ((after, opened),), measure = session.run([operation()], timeout)
    return after, release(opened), measure


def open_state(state: State, names: Sequence[str]) -> list[OutputPart]:
    """Return this worker's parts of a last chunk's states, for whom the agreement names."""
    return release([state[name] for name in names])


def _add(x: Share, y: Share) -> Share:
    return Share(tuple(a + b for a, b in zip(x.parts, y.parts, strict=True)))


def _refresh(session: Session, piece: int, state: State) -> Steps[State]:
    """Resend all states together: a truncation's third summand would tell bits of what it cut."""
    flat = Share(
        tuple(np.concatenate([s.parts[i].reshape(-1) for s in state.values()]) for i in range(2))
    )
    fresh = yield from session.protocol(piece).reshare(flat, "state")
    ends = np.cumsum([0, *(s.size for s in state.values())])
    return {
        name: Share(tuple(p[start:end].reshape(old.shape) for p in fresh.parts))
        for (name, old), (start, end) in zip(state.items(), pairwise(ends), strict=True)
    }
