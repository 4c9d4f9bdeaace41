"""The two kinds of values while a trace is lowered: known to the model owner, or secret.

A known value keeps the dimensions that it merely repeats along at extent 1, so that a weight that
was broadcast along the batch never carries a batch axis. Whether a dimension repeats is decided
from the operations alone, never from the numbers: two models of one architecture must give one
program.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


class Taint(IntEnum):
    """What a known value depends on; of two, the larger one wins."""

    PUBLIC = 0  # literals of the architecture alone
    MODEL = 1  # weights or captured arrays: secret of the model owner


@dataclass(frozen=True, eq=False)
class Known:
    """A value that the model owner can compute.

    Attributes:
        array: the numbers; an extent may be 1 where ``shape`` has more.
        shape: the shape that the source framework sees; ``array`` broadcasts to it.
        taint: whether it depends on the model.
        key: names how it was derived, so that a weight used twice is registered once.
        origin: the name of the only weight that it was derived from, if there is just one.
    """

    array: Array
    shape: tuple[int, ...]
    taint: Taint
    key: str
    origin: str = ""

    @property
    def scalar(self) -> bool:
        """Whether it is a single public number."""
        return self.taint is Taint.PUBLIC and self.array.size == 1

    @property
    def number(self) -> float:
        """The number of a scalar, in float64."""
        return float(self.array.reshape(()))

    def full(self) -> Array:
        """Return the array in its whole shape (a view)."""
        return np.broadcast_to(self.array, self.shape)


@dataclass(frozen=True)
class Secret:
    """A value that depends on the client's data: a handle of the builder.

    ``bit`` says that it is a shared bit, ``truth`` that it is a number that stands for one.
    """

    handle: int
    shape: tuple[int, ...]
    bit: bool = False
    truth: bool = False


Value: TypeAlias = Known | Secret


def public(array: Array | float) -> Known:
    """Return a constant of the architecture."""
    data = np.asarray(array)
    digest = hashlib.sha256(data.tobytes()).hexdigest()
    return Known(data, data.shape, Taint.PUBLIC, f"{data.dtype}{data.shape}{digest}")


def derive(op: str, array: Array, shape: tuple[int, ...], *parents: Known) -> Known:
    """Return the known value ``array`` that ``op`` (with its parameters) made of ``parents``."""
    text = "|".join([op, *(p.key for p in parents)])
    origins = {p.origin for p in parents if p.taint is Taint.MODEL}
    return Known(
        array,
        shape,
        max((p.taint for p in parents), default=Taint.PUBLIC),
        hashlib.sha256(text.encode()).hexdigest(),
        origins.pop() if len(origins) == 1 else "",
    )
