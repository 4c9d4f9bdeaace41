"""The client's side of a prediction: encode, split, send, check, recombine, decode."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.errors import (
    InputError,
    IntegrityError,
    NotFoundError,
    RangeError,
    RefusedError,
    TransportError,
)
from tercet.program.serving import Mode, Release
from tercet.program.types import Shape, bind_shape, format_dim
from tercet.protocol.replicated.sharing import Summand, combine, deal
from tercet.ring.fixed import decode, encode
from tercet.runtime.batch import INPUT_NAME
from tercet.service.config import WORKERS, ClusterConfig
from tercet.service.connection import Connection
from tercet.service.contributor import Contributor
from tercet.service.messages import (
    REQUEST_ID_BYTES,
    Answer,
    Deposited,
    Describe,
    Description,
    Predict,
)

#: Rows of one request; more are sent as several.
REQUEST_ROWS = 4096
REQUEST_BYTES = 64 << 20
#: Seconds to wait for the workers to describe a model, and to answer a request.
DESCRIBE_TIMEOUT = 10.0
REQUEST_TIMEOUT = 180.0
#: Seconds for which the workers may tell different things of a model while its owner changes it.
CHANGE_SECONDS = 5.0
_CHANGE_POLL = 0.05


@dataclass(frozen=True, slots=True)
class RequestCost:
    """What the latest prediction took.

    ``seconds`` from call to return; ``compute_seconds`` of that at the slowest worker's data
    plane; payload ``bytes`` between the workers; ``rounds`` of a slice; ``upload_bytes`` of shares.
    """

    seconds: float
    compute_seconds: float
    bytes: int
    rounds: int
    upload_bytes: int


@dataclass(frozen=True, slots=True)
class TopK:
    """The classes that score highest, the highest first; the lower index first among equals.

    ``indices`` int64 and ``scores`` float32, both of shape (rows, ..., k).
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.indices)


Prediction: TypeAlias = NDArray[Any] | TopK


class Client:
    """Asks models that three workers hold in shares. One thread at a time.

    Close it, or use it in a ``with`` statement.
    """

    def __init__(self, cluster: ClusterConfig, identity: Identity) -> None:
        self._connection = Connection(cluster, identity)
        self._known: dict[str, Description] = {}
        self.last_cost: RequestCost | None = None
        self.last_shares: tuple[tuple[Summand, Summand], ...] = ()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def describe(self, name: str) -> Description:
        """Return what the workers say of model ``name``: shapes, policy, what is used of it.

        Raises:
            NotFoundError: if there is no such model.
            IntegrityError: if the workers say different things.
            TransportError: if a worker cannot be reached.
        """
        deadline = time.monotonic() + CHANGE_SECONDS
        while True:
            answers = self._connection.ask_all(
                "/v1/describe", [Describe(name)] * WORKERS, Description, DESCRIBE_TIMEOUT
            )
            told = {
                (a.id, a.program_digest, a.input_shape, a.output_shape, a.policy) for a in answers
            }
            if len(told) == 1:
                break
            if time.monotonic() > deadline:
                raise IntegrityError(
                    f"the workers hold different models under {name!r}",
                    "Its owner should serve or share it again",
                )
            time.sleep(_CHANGE_POLL)  # its owner may be changing it just now
        self._known[name] = answers[0]
        return answers[0]

    def contribute(
        self,
        name: str,
        x: ArrayLike,
        y: ArrayLike | None = None,
        *,
        classes: int | None = None,
        ids: Sequence[str | int] | None = None,
    ) -> Deposited:
        """Contribute data under ``name``, as shares, for a training: see ``Contributor``."""
        with Contributor(self._connection.cluster, self._connection.identity) as owner:
            return owner.contribute(name, x, y, classes=classes, ids=ids)

    def predict(self, name: str, inputs: ArrayLike, *, accept_guard: bool = False) -> Prediction:
        """Return the model's outputs for ``inputs``, which no worker sees.

        Args:
            name: the model; ``owner/name`` if several owners use the name, ``name@2`` for a
                version other than the latest that is served.
            inputs: real numbers of shape (rows, ...) as the model takes them; any float or
                integer type.
            accept_guard: let a guarded model open one bit a row to this client, whether a value
                left its range. Whoever chose the weights chose what makes the bit 1: do not show
                others whether a prediction failed by it.

        Returns:
            By the model's policy: float32 scores of shape (rows, ...), or int64 indices of shape
            (rows, ...) with mode ``argmax``, or a ``TopK``.

        Raises:
            InputError: for a wrong shape, type or value, or a guard that was not accepted; nothing
                was sent then.
            RangeError: if the guard says that a value left its range; names the rows.
            NotFoundError, RefusedError: if there is no such model or its policy says no.
            TransportError, WorkerError: if a worker is missing or fails.
            IntegrityError: if a worker tampers or the workers disagree.
        """
        started = time.perf_counter()
        known = self._known.get(name)
        try:
            return self._predict(known or self.describe(name), name, inputs, accept_guard, started)
        except (NotFoundError, RefusedError, IntegrityError) as refusal:
            if known is None or not self._changed(name, known):
                raise refusal
        # The model has another version or policy than when this client met it.
        return self._predict(self._known[name], name, inputs, accept_guard, started)

    def _changed(self, name: str, known: Description) -> bool:
        """Ask again what there is under a name; False also if the workers cannot be asked.

        Raises:
            NotFoundError: if there is nothing any more.
        """
        try:
            return not _same(self.describe(name), known)
        except TransportError:
            return False

    def _predict(
        self,
        model: Description,
        name: str,
        inputs: ArrayLike,
        accept_guard: bool,
        started: float,
    ) -> Prediction:
        if model.guarded and not accept_guard:
            raise InputError(
                f"model {name!r} is guarded: each row's answer comes with one bit, whether a value "
                "left its range",
                "Pass accept_guard=True to accept that, or ask for the model without its guard",
            )
        values = check_input(inputs, model.input_shape, name)
        words = encode(values, model.input_scale, "input")
        results: list[NDArray[np.float64]] = []
        answers: list[Answer] = []
        upload = 0
        step = max(1, min(REQUEST_ROWS, REQUEST_BYTES // max(1, words[0].nbytes)))
        for start in range(0, len(words), step):
            part = words[start : start + step]
            shares = deal({INPUT_NAME: part})
            upload += sum(len(a) for p in shares for s in p for a in s.arrays.values())
            request = fresh(REQUEST_ID_BYTES)
            bodies = [
                Predict(request, model.id, model.program_digest, len(part), pair) for pair in shares
            ]
            self.last_shares = shares
            answered = self._connection.call_all(bodies, Answer, REQUEST_TIMEOUT)
            shape = bind_shape(model.output_shape, len(part))
            size = (len(part), math.prod(shape[1:]) + model.guarded)
            results.append(decode(combine([a.part for a in answered], size), model.scale))
            answers += answered
        self.last_cost = _cost(time.perf_counter() - started, answers, upload)
        output = np.concatenate(results)
        if model.guarded:
            output, flags = output[:, :-1], output[:, -1]
            check_flags(flags)
        output = output.reshape(bind_shape(model.output_shape, len(output)))
        return _present(output, model.policy.release)


def check_flags(flags: NDArray[np.float64]) -> None:
    """Raise if a guard's flags, one a row, say that values left their ranges.

    Raises:
        RangeError: naming the rows.
    """
    rows = np.flatnonzero(flags)
    if rows.size:
        named = ", ".join(map(str, rows[:10])) + (", ..." if rows.size > 10 else "")
        raise RangeError(
            f"a value left its range in {rows.size} of {flags.size} rows: {named}",
            "The input differs from the sample that the owner gave: check its scale (pixels to "
            "[0, 1], say), or ask the owner to share the model with a wider sample",
        )


def _present(values: NDArray[np.float64], release: Release) -> Prediction:
    """Return what was released as the policy means it."""
    if release.mode is Mode.ARGMAX:
        return values.astype(np.int64)
    if release.mode is Mode.TOP_K:
        scores = _rounded(values[..., 1], release)
        return TopK(values[..., 0].astype(np.int64), scores)
    return _rounded(values, release)


def _rounded(scores: NDArray[np.float64], release: Release) -> NDArray[np.float32]:
    if release.decimals is not None:  # for the eye: what was cut off is not there
        scores = np.round(scores, release.decimals)
    return scores.astype(np.float32)


def _same(a: Description, b: Description) -> bool:
    return (a.id, a.program_digest) == (b.id, b.program_digest)


def check_input(inputs: ArrayLike, shape: Shape, name: str) -> NDArray[Any]:
    """Return ``inputs`` as an array of real numbers that fits the model's input ``shape``.

    Raises:
        InputError: naming what was expected.
    """
    try:
        values = np.asarray(inputs)
    except ValueError:
        raise InputError(
            "the input is not an array: its rows have different shapes",
            "Give a list of equally shaped rows, or a NumPy array",
        ) from None
    if values.dtype.kind not in "fiub":
        raise InputError(
            f"the input has dtype {values.dtype}", "Give real numbers: floats or integers"
        )
    wanted = " x ".join(format_dim(d) for d in shape)
    if values.ndim != len(shape) or values.shape[1:] != tuple(shape[1:]):
        hint = "Check the shape"
        if values.shape == tuple(shape[1:]):
            hint = "Add the batch axis: x[None]"
        raise InputError(
            f"the input has shape {values.shape}, but model {name!r} takes {wanted}", hint
        )
    if len(values) == 0:
        raise InputError("the input has no rows", "Give at least one row")
    return values


def _cost(seconds: float, answers: Sequence[Answer], upload: int) -> RequestCost:
    return RequestCost(
        seconds,
        max(a.seconds for a in answers),
        sum(a.bytes_sent for a in answers),
        max(a.rounds for a in answers),
        upload,
    )
