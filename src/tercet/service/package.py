"""The programs of a training, as one piece whose digest its agreement names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from tercet.errors import RefusedError
from tercet.program.program import MALFORMED, Program, Role
from tercet.program.training import Training, decode_training
from tercet.program.verify import decode as decode_program
from tercet.program.verify import verify_release
from tercet.protocol.replicated.sharing import Summand
from tercet.service.contributor import FEATURES, LABELS
from tercet.service.messages import Deposited
from tercet.service.training_messages import Tensor
from tercet.service.training_terms import TrainingTerms


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is run under a training's agreement.

    Attributes:
        training: the step (``program.training``), encoded.
        constants: the arrays of its PUBLIC inputs.
        serving: the prediction program, encoded; empty if the model is not served.
        serving_constants: the arrays of its PUBLIC inputs.
        weights: for each WEIGHT input of it the state that it is.
    """

    training: bytes
    constants: dict[str, bytes] = {}
    serving: bytes = b""
    serving_constants: dict[str, bytes] = {}
    weights: dict[str, str] = {}


@dataclass(frozen=True)
class Programs:
    """A package that was checked."""

    package: Package
    training: Training
    serving: Program | None

    @cached_property
    def states(self) -> dict[str, Tensor]:
        """Shape and scale of every state."""
        return {
            i.name: Tensor(i.type.shape, i.type.scale) for i in self.training.inputs(Role.STATE)
        }

    @cached_property
    def constants(self) -> dict[str, NDArray[np.uint64]]:
        """The arrays of the step's PUBLIC inputs."""
        arrays = Summand(arrays=self.package.constants)
        return {
            i.name: arrays.expand(i.name, i.type.shape) for i in self.training.inputs(Role.PUBLIC)
        }


def package_digest(package: bytes) -> str:
    """Return the hexadecimal digest of an encoded package."""
    return hashlib.sha256(b"tercet training package v1\0" + package).hexdigest()


def read_package(data: bytes) -> Programs:
    """Return the checked programs of a package.

    Raises:
        ProgramError: if a program is malformed.
        IntegrityError: if an array does not fit.
        RefusedError: if the prediction program is not one of the trained states.
    """
    try:
        package = msgspec.msgpack.decode(data, type=Package)
    except MALFORMED as error:
        raise RefusedError(
            f"not the programs of a training: {error}",
            "Use the same version of Tercet on both sides",
        ) from None
    training = decode_training(package.training)
    _check_constants(package.constants, training.program)
    serving = None
    if package.serving:
        serving = decode_program(package.serving)
        verify_release(serving)
        _check_constants(package.serving_constants, serving)
        states = {i.name: i.type for i in training.inputs(Role.STATE)}
        weights = {i.name: i.type for _, i in serving.named(Role.WEIGHT)}
        if set(weights) != set(package.weights):
            raise RefusedError("a weight of the prediction program is no state", _AGAIN)
        for name, kind in weights.items():
            if states.get(package.weights[name]) != kind:
                raise RefusedError(
                    f"weight {name[:80]!r} of the prediction program is of another type than the "
                    "state that it should be",
                    _AGAIN,
                )
    return Programs(package, training, serving)


def check_fit(
    programs: Programs, terms: TrainingTerms, states: Deposited, data: Sequence[Deposited]
) -> int:
    """Check that programs, terms and contributions fit together; return the number of rows.

    Raises:
        RefusedError: naming what does not.
    """
    training = programs.training
    if states.contribution.tensors != programs.states:
        raise RefusedError("the initial state is not that of the program", _AGAIN)
    for what, names, known in (
        ("metric", terms.metrics, training.metrics),
        ("weight", terms.weights, tuple(programs.states)),
    ):
        if unknown := set(names) - set(known):
            raise RefusedError(f"the training has no {what} {min(unknown)[:80]!r}", _AGAIN)
    if terms.serving != (programs.serving is not None):
        raise RefusedError("a prediction program that is not agreed on, or none", _AGAIN)
    if terms.batch_size != training.batch_size:
        raise RefusedError(
            f"a program for steps of {training.batch_size} rows, not {terms.batch_size}", _AGAIN
        )
    if training.privacy != (terms.privacy and terms.privacy.sum):
        raise RefusedError("a program with other clipping or noise than was agreed on", _AGAIN)
    for given in data:
        if not given.contribution.rows:
            raise RefusedError(f"{given.full_name} has no rows of data", "Contribute x and y")
    rows = (_rows_of_columns if terms.columns else _rows_together)(training, data)
    if rows < terms.batch_size:
        raise RefusedError(
            f"a step of {terms.batch_size} rows, and {rows} rows in all",
            "Choose a smaller batch, or contribute more",
        )
    batch = terms.batch_size
    if terms.privacy is not None:
        batch = terms.privacy.sum.batch
        if terms.privacy.sum.rows != rows:
            raise RefusedError(
                f"a private training on {terms.privacy.sum.rows} rows, and {rows} in all", _AGAIN
            )
    if terms.steps != terms.epochs * (rows // batch):
        raise RefusedError(
            f"{terms.steps} steps for {terms.epochs} epochs of {rows} rows",
            f"They are {terms.epochs * (rows // batch)} steps of {batch}",
        )
    return rows


_AGAIN = "Propose the training again with this version of Tercet"
#: About data that another version encoded.
_OTHER_SCALE = (
    "Remove the data and contribute it again, with the version of Tercet that traced the model"
)


def _wanted(training: Training) -> dict[str, Tensor]:
    """Return what a row must be: shape and scale of each DATA input, without its rows."""
    return {i.name: Tensor(i.type.shape[1:], i.type.scale) for i in training.inputs(Role.DATA)}


def _row(tensor: Tensor) -> Tensor:
    return Tensor(tensor.shape[1:], tensor.scale)


def _rows_together(training: Training, data: Sequence[Deposited]) -> int:
    wanted = _wanted(training)
    for given in data:
        _check_names(given, set(wanted))
        for name, tensor in given.contribution.tensors.items():
            if _row(tensor) != wanted[name]:
                raise RefusedError(
                    f"{name} of {given.full_name} has rows {_words(_row(tensor))}, but the model "
                    f"takes {_words(wanted[name])}",
                    _remedy(
                        _row(tensor), wanted[name], "All owners contribute rows of the same width"
                    ),
                )
    return sum(given.contribution.rows for given in data)


def _rows_of_columns(training: Training, data: Sequence[Deposited]) -> int:
    wanted = _wanted(training)
    first = data[0].contribution
    for given in data[1:]:
        if given.contribution.rows != first.rows:
            raise RefusedError(
                f"{given.full_name} has {given.contribution.rows} rows and {data[0].full_name} "
                f"has {first.rows}",
                "Owners of columns contribute the same rows",
            )
    orders = {given.contribution.order for given in data}
    if len(orders) > 1 or b"" in orders:
        raise RefusedError(
            "columns whose rows are not matched by the same ids",
            "Every owner contributes with the same ids=",
        )
    if LABELS in wanted:
        labelled = [d for d in data if LABELS in d.contribution.tensors]
        if len(labelled) != 1:
            raise RefusedError(
                f"{len(labelled)} owners contributed labels of the same rows", "One of them does"
            )
        if _row(labelled[0].contribution.tensors[LABELS]) != wanted[LABELS]:
            raise RefusedError(
                f"labels {_words(_row(labelled[0].contribution.tensors[LABELS]))}, but the model "
                f"takes {_words(wanted[LABELS])}",
                _remedy(
                    _row(labelled[0].contribution.tensors[LABELS]),
                    wanted[LABELS],
                    "Check the number of classes",
                ),
            )
    features = [
        d.contribution.tensors[FEATURES] for d in data if FEATURES in d.contribution.tensors
    ]
    if any(len(t.shape) != 2 for t in features):
        raise RefusedError("columns that are not tables", "Contribute x of shape (rows, columns)")
    for tensor in features:
        if tensor.scale != wanted[FEATURES].scale:
            raise RefusedError(
                f"columns with {tensor.scale} fractional bits, but the model takes "
                f"{wanted[FEATURES].scale}",
                _OTHER_SCALE,
            )
    together = Tensor((sum(t.shape[1] for t in features),), features[0].scale)
    if together != wanted[FEATURES]:
        raise RefusedError(
            f"{_words(together)} together, but the model takes {_words(wanted[FEATURES])}",
            "Name every owner of columns, in the order of the model's input",
        )
    return first.rows


def _check_names(given: Deposited, wanted: set[str]) -> None:
    if set(given.contribution.tensors) != wanted:
        raise RefusedError(
            f"{given.full_name} has {' and '.join(sorted(given.contribution.tensors))}, but the "
            f"training takes {' and '.join(sorted(wanted))}",
            "Contribute x and its labels y",
        )


def _check_constants(arrays: Mapping[str, bytes], program: Program) -> None:
    Summand(arrays=dict(arrays)).check(
        {i.name: i.type.shape for _, i in program.named(Role.PUBLIC)}
    )


def _remedy(row: Tensor, wanted: Tensor, usual: str) -> str:
    """Return what to do: data that another version encoded has other fractional bits."""
    return usual if row.shape != wanted.shape else _OTHER_SCALE


def _words(row: Tensor) -> str:
    shape = " x ".join(map(str, row.shape)) or "of one number"
    return f"{shape} ({row.scale} fractional bits)"
