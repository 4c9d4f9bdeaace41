"""Types of PyTorch, by name, as types of NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from tercet.frontend.aten.operation import Refused

#: Half precision and its kin, and float64, are real numbers like any other: the arithmetic is the
#: program's fixed point.
REAL = ("float16", "float32", "float64", "bfloat16")
WHOLE = ("uint8", "int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class Dtype:
    """A dtype of PyTorch among the arguments of an operation."""

    name: str

    def numpy(self) -> np.dtype[np.generic]:
        """Return what stands for it in a trace.

        Raises:
            Refused: if its values are no real numbers.
        """
        if self.name in REAL:
            return np.dtype(np.float32)
        if self.name in WHOLE:
            return np.dtype(np.int32)
        if self.name == "bool":
            return np.dtype(np.bool_)
        raise Refused(f"on {self.name} values")


def kind_of(given: Dtype | None, default: DTypeLike = np.float32) -> np.dtype[np.generic]:
    """Return the NumPy dtype of an argument that may be missing."""
    return np.dtype(default) if given is None else given.numpy()
