"""Running one step of a training, and the public numbers that each step brings."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from math import prod
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import seed_words
from tercet.errors import SecurityError
from tercet.program.program import Role
from tercet.program.training import Kind, StepInput, Training
from tercet.program.types import Type
from tercet.protocol.base import Partial, Protocol, Share
from tercet.protocol.rounds import Steps
from tercet.runtime.sampling import Poisson
from tercet.runtime.schedule import run_outputs

Words: TypeAlias = NDArray[np.uint64]


def step_values(
    training: Training, step: int, seed: bytes, drawn: bytes | None = None
) -> dict[str, Words]:
    """Return the ring elements of every STEP input of step number ``step`` (0 for the first).

    A function of public data alone, in whole numbers wherever machines could differ, so that all
    workers and a run in the clear compute alike.

    Args:
        training: a verified training.
        step: number of the step, counted over all epochs.
        seed: 32 public bytes, equal at all workers; fresh for each training.
        drawn: 32 public bytes that the workers drew together when the state and the rows of this
            step were fixed (``protocol.joint_seed``); for a training that is ``checked``.

    Raises:
        SecurityError: if they are missing.
    """
    kinds = {i.name: i.type for i in training.inputs(Role.STEP)}
    values = {}
    for given in training.step_inputs:
        if given.kind is Kind.PRESENT:
            values[given.name] = _present(training, step, seed)
        elif given.kind is Kind.SIGNS:
            values[given.name] = _signs(given, kinds[given.name], step, drawn)
        else:
            values[given.name] = _value(given, kinds[given.name], step, seed)
    return values


def _present(training: Training, step: int, seed: bytes) -> Words:
    assert training.privacy is not None
    count = len(Poisson(seed, training.privacy, training.batch_size).sampled(step))
    return (np.arange(training.batch_size) < count).astype(np.uint64)[:, None]


def _signs(given: StepInput, kind: Type, step: int, drawn: bytes | None) -> Words:
    if drawn is None:
        raise SecurityError("rows are checked by signs that nobody drew", "Report this fault")
    words = seed_words(drawn, f"signs {step} {given.name}", prod(kind.shape)).reshape(kind.shape)
    return words >> np.uint64(63) << np.uint64(1)


def noise_words(training: Training) -> int:
    """Return how many numbers of noise each worker adds in a step."""
    return sum(prod(i.type.shape) for i in training.inputs(Role.NOISE))


def noise_inputs(training: Training, noise: NDArray[np.int64]) -> dict[str, Partial]:
    """Return this worker's summand of every NOISE input, cut out of ``noise``.

    Args:
        training: a verified training.
        noise: (noise_words,), drawn for this step and used for nothing else.
    """
    inputs = training.inputs(Role.NOISE)
    ends = np.cumsum([0, *(prod(i.type.shape) for i in inputs)])
    return {
        i.name: Partial((noise[start:end].view(np.uint64).reshape(i.type.shape),))
        for i, (start, end) in zip(inputs, pairwise(ends), strict=True)
    }


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
    noise: Mapping[str, Partial] | None = None,
) -> Steps[tuple[dict[str, Share], dict[str, Share]]]:
    """Return the steps that compute one step of ``training``.

    Args:
        training: a verified training.
        protocol: this party's side of the protocol, in a session of its own.
        state: the share of every STATE input.
        data: the share of every DATA input: rows of this step.
        public: the array of every PUBLIC input and what ``step_values`` returns.
        noise: what ``noise_inputs`` returns; None without NOISE inputs.

    Returns:
        The new state and the metrics, by name. The metrics are shares still.
    """
    outputs = yield from run_outputs(
        training.program,
        protocol,
        {**state, **data, **public, **(noise or {})},
        training.batch_size,
    )
    names = [i.name for i in training.inputs(Role.STATE)]
    shares = [cast("Share", o) for o in outputs]
    after = dict(zip(names, shares, strict=False))
    return after, dict(zip(training.metrics, shares[len(names) :], strict=True))
