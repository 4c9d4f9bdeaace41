"""A data owner's side: contributing data to the workers as shares, listing and removing it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.errors import InputError, IntegrityError, TercetError
from tercet.program.training import DATA_SCALE
from tercet.protocol.replicated.sharing import deal
from tercet.ring import fixed
from tercet.service.config import WORKERS, ClusterConfig
from tercet.service.connection import Connection
from tercet.service.messages import (
    REQUEST_ID_BYTES,
    Commit,
    Contribution,
    Deposit,
    Deposited,
    Discard,
)
from tercet.service.training_messages import Tensor

#: Names of the arrays in a contribution of data.
FEATURES, LABELS = "x", "y"
MAX_CLASSES = 100_000

_TIMEOUT = 30.0
_SHARE_TIMEOUT = 900.0


class Contributor:
    """Speaks to the workers as an owner of data. Close it, or use it in a ``with`` statement."""

    def __init__(self, cluster: ClusterConfig, identity: Identity) -> None:
        self._connection = Connection(cluster, identity)

    def __enter__(self) -> Contributor:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def contribute(
        self,
        name: str,
        x: ArrayLike,
        y: ArrayLike | None = None,
        *,
        classes: int | None = None,
        ids: Sequence[str | int] | None = None,
        scale: int = DATA_SCALE,
    ) -> Deposited:
        """Share rows of data with the three workers; they leave this process only as shares.

        Args:
            name: what to call it, among the contributions of this identity.
            x: features, (rows, ...).
            y: labels: class numbers 0 to ``classes`` - 1, which are turned into one-hot rows
                here; or, without ``classes``, targets (rows,) or (rows, ...) as they are. None if
                another owner of the same rows has them.
            classes: how many classes there are.
            ids: a public id for each row, unique, by which rows are matched with those of other
                owners: rows are put in the order of their ids.
            scale: fractional bits: what trainings of this version take.

        Raises:
            InputError: naming what is wrong with the data; nothing was sent then.
            RefusedError: if the name is taken or this identity is not on the workers' lists.
            TransportError, WorkerError: if a worker is missing or fails; nothing is kept then.
        """
        arrays, order = prepare_rows(x, y, classes, ids)
        words = {k: fixed.encode(a, scale, f"{k} of {name!r}") for k, a in arrays.items()}
        tensors = {k: Tensor(w.shape, scale) for k, w in words.items()}
        rows = len(words[FEATURES])
        return self.deposit(name, words, tensors, rows, order)

    def deposit(
        self,
        name: str,
        words: Mapping[str, NDArray[np.uint64]],
        tensors: Mapping[str, Tensor],
        rows: int = 0,
        order: bytes = b"",
    ) -> Deposited:
        """Share encoded arrays under ``name``: see ``messages.Contribution``.

        Raises:
            IntegrityError: if the workers tell different things of it.
        """
        given = Contribution(fresh(REQUEST_ID_BYTES), name, dict(tensors), rows, order)
        bodies = [Deposit(given, pair) for pair in deal(words)]
        self._connection.ask_all("/v1/sharings/prepare", bodies, type(None), _SHARE_TIMEOUT)
        try:
            told = self._connection.ask_all(
                "/v1/sharings/commit", [Commit(given.id)] * WORKERS, Deposited, _TIMEOUT
            )
        except TercetError:
            # Whoever has committed it lets go of it again, so that it can be sent anew.
            self._connection.ask_each(
                "/v1/sharings/remove", [Discard(name)] * WORKERS, type(None), _TIMEOUT
            )
            raise
        if len({t.digest for t in told}) > 1:
            raise IntegrityError("the workers stored different things", "Tell their operators")
        return told[0]

    def contributions(self) -> list[Deposited]:
        """Return the contributions that all three workers hold, of every owner, by age."""
        told = self._connection.ask_all("/v1/sharings", [None] * WORKERS, list[Deposited], _TIMEOUT)
        common = set.intersection(*({t.digest for t in answer} for answer in told))
        return [t for t in told[0] if t.digest in common]

    def remove(self, name: str) -> None:
        """Delete a contribution of this identity from all three workers."""
        self._connection.ask_all(
            "/v1/sharings/remove", [Discard(name)] * WORKERS, type(None), _TIMEOUT
        )


def prepare_rows(
    x: ArrayLike,
    y: ArrayLike | None,
    classes: int | None,
    ids: Sequence[str | int] | None,
) -> tuple[dict[str, NDArray[np.float64]], bytes]:
    """Return checked arrays of rows and the digest of their public order (empty without ids).

    Raises:
        InputError: as ``Contributor.contribute``.
    """
    arrays = {FEATURES: _real(x, "x")}
    rows = len(arrays[FEATURES])
    if y is not None:
        labels = _real(y, "y")
        arrays[LABELS] = _labels(labels, classes) if classes is not None else labels
        if len(labels) != rows:
            raise InputError(
                f"{rows} rows of x and {len(labels)} labels", "Give one label for each row"
            )
        if arrays[LABELS].ndim == 1:
            arrays[LABELS] = arrays[LABELS][:, None]
    elif classes is not None:
        raise InputError("a number of classes without labels", "Give y, or leave classes out")
    if ids is None:
        return arrays, b""
    names = [str(i) for i in ids]
    if len(names) != rows or len(set(names)) < rows:
        raise InputError(
            f"{len(set(names))} different ids for {rows} rows", "Give each row an id of its own"
        )
    order = sorted(range(rows), key=names.__getitem__)
    state = hashlib.sha256(b"tercet row order v1\0")
    for row in order:
        encoded = names[row].encode()
        state.update(len(encoded).to_bytes(8, "little"))
        state.update(encoded)
    return {key: array[order] for key, array in arrays.items()}, state.digest()


def _real(values: ArrayLike, what: str) -> NDArray[np.float64]:
    try:
        array: NDArray[Any] = np.asarray(values)
    except ValueError:
        raise InputError(
            f"{what} is not an array: its rows have different shapes", "Give equally shaped rows"
        ) from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} has dtype {array.dtype}", "Give real numbers")
    if array.ndim == 0 or array.size == 0:
        raise InputError(
            f"{what} of shape {array.shape} is empty", "A contribution has at least one row"
        )
    finite = np.isfinite(array)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise InputError(
            f"{what} at index {index} is NaN or infinite", "Fill in or leave out such rows"
        )
    return array.astype(np.float64)


def _labels(labels: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """Return class numbers as one-hot rows."""
    if not 2 <= classes <= MAX_CLASSES:
        raise InputError(f"{classes} classes", f"Give 2 to {MAX_CLASSES}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InputError(
            f"class numbers of shape {labels.shape}",
            "Give one number for each row, or leave classes out for targets as they are",
        )
    wrong = (labels != np.rint(labels)) | (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise InputError(
            f"the label of row {row} is not a class from 0 to {classes - 1}",
            "Check the labels, or how many classes there are",
        )
    hot = np.zeros((len(labels), classes))
    hot[np.arange(len(labels)), labels.astype(np.int64)] = 1
    return hot
