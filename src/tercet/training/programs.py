"""From a compiled Keras model to what workers run: the step, its prediction, its initial state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from tercet.program.private import PrivateSum
from tercet.program.program import Input, Role, encode
from tercet.program.training import encode_training
from tercet.ring import fixed
from tercet.service.package import Package
from tercet.service.training_messages import Tensor

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class TrainingPrograms:
    """What ``trace`` makes of a model.

    Attributes:
        package: the programs, encoded.
        state: the encoded initial value of each state.
        tensors: shapes and scales of the states.
        weights: the states that are the model's own variables.
    """

    package: bytes
    state: dict[str, NDArray[np.uint64]]
    tensors: dict[str, Tensor]
    weights: tuple[str, ...]


def trace(
    model: keras.Model,
    batch_size: int,
    steps: int,
    metrics: Sequence[str] = (),
    serving: bool = True,
    privacy: PrivateSum | None = None,
) -> TrainingPrograms:
    """Trace the training step of a compiled Keras model and, with ``serving``, its prediction.

    The package is a function of the model's architecture, loss and optimizer, and of what else is
    given: not of its weights, nor of the numbers that Keras gives to layers that it names itself.

    Raises:
        UnsupportedOperation: if a layer, the loss or the optimizer has no rule; names it.
        ModelError, InputError: as ``frontend.training.trace_training``.
    """
    from tercet.frontend.trained import trace_trained, trained_states
    from tercet.frontend.training import trace_training

    traced = trace_training(model, batch_size, steps, metrics=metrics, privacy=privacy)
    training = traced.training
    states = training.inputs(Role.STATE)
    # Without labels: Keras numbers the names of layers within a process, and who traces the same
    # model elsewhere must find the same package.
    training = msgspec.structs.replace(training, program=training.program.bare())
    package = Package(
        encode_training(training), _words(training.inputs(Role.PUBLIC), traced.arrays)
    )
    if serving:
        told = trace_trained(model)
        weights = [i.name for _, i in told.program.named(Role.WEIGHT)]
        constants = [i for _, i in told.program.named(Role.PUBLIC)]
        package = msgspec.structs.replace(
            package,
            serving=encode(told.program.bare()),
            serving_constants=_words(constants, told.arrays),
            weights={name: name for name in weights},
        )
    known = {i.name for i in states}
    return TrainingPrograms(
        msgspec.msgpack.encode(package),
        {
            i.name: fixed.encode(traced.arrays[i.name], i.type.scale, f"weight {i.name!r}")
            for i in states
        },
        {i.name: Tensor(i.type.shape, i.type.scale) for i in states},
        tuple(n for n in trained_states(model) if n in known),
    )


def _words(inputs: Sequence[Input], arrays: Mapping[str, NDArray[np.float64]]) -> dict[str, bytes]:
    return {
        i.name: fixed.encode(arrays[i.name], i.type.scale, i.name).astype("<u8").tobytes()
        for i in inputs
    }
