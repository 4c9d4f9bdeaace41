"""Running one step of a training, and the public numbers that each step brings."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import seed_words
from tercet.program.program import Role
from tercet.program.training import Kind, StepInput, Training
from tercet.program.types import Type
from tercet.protocol.base import Protocol, Share
from tercet.protocol.rounds import Steps
from tercet.runtime.schedule import run_outputs

Words: TypeAlias = NDArray[np.uint64]


def step_values(training: Training, step: int, seed: bytes) -> dict[str, Words]:
    """Return the ring elements of every STEP input of step number ``step`` (0 for the first).

    A function of public data alone, in whole numbers wherever machines could differ, so that all
    workers and a run in the clear compute alike.

    Args:
        training: a verified training.
        step: number of the step, counted over all epochs.
        seed: 32 public bytes, equal at all workers; fresh for each training.
    """
    kinds = {i.name: i.type for i in training.inputs(Role.STEP)}
    return {i.name: _value(i, kinds[i.name], step, seed) for i in training.step_inputs}


def _value(given: StepInput, kind: Type, step: int, seed: bytes) -> Words:
    if given.kind is Kind.TABLE:
        number = given.values[min(step, len(given.values) - 1)]
        return np.asarray(_word(number, kind.scale))
    words = seed_words(seed, f"mask {step} {given.name}", prod(kind.shape)).reshape(kind.shape)
    kept = words <= np.uint64(min(int(given.keep * 2.0**64), 2**64 - 1))
    return np.where(kept, _word(1.0 / given.keep, kind.scale), np.uint64(0))


def _word(number: float, scale: int) -> np.uint64:
    return np.uint64(round(number * (1 << scale)) & ((1 << 64) - 1))


def run_step(
    training: Training,
    protocol: Protocol,
    state: Mapping[str, Share],
    data: Mapping[str, Share],
    public: Mapping[str, Words],
) -> Steps[tuple[dict[str, Share], dict[str, Share]]]:
    """Return the steps that compute one step of ``training``.

    Args:
        training: a verified training.
        protocol: this party's side of the protocol, in a session of its own.
        state: the share of every STATE input.
        data: the share of every DATA input: rows of this step.
        public: the array of every PUBLIC input and what ``step_values`` returns.

    Returns:
        The new state and the metrics, by name. The metrics are shares still.
    """
    outputs = yield from run_outputs(
        training.program, protocol, {**state, **data, **public}, training.batch_size
    )
    names = [i.name for i in training.inputs(Role.STATE)]
    shares = [cast("Share", o) for o in outputs]
    after = dict(zip(names, shares, strict=False))
    return after, dict(zip(training.metrics, shares[len(names) :], strict=True))
