"""Types of PyTorch, by name, as types of NumPy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from tercet.frontend.aten.operation import Refused

WHOLE = ("uint8", "int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class Dtype:
    """A dtype of PyTorch among the arguments of an operation."""

    name: str

    def numpy(self) -> np.dtype[np.generic]:
        """Return what stands for it in a trace.

        Raises:
            Refused: if its values are neither float32 nor whole numbers nor truth values.
        """
        if self.name == "float32":
            return np.dtype(np.float32)
        if self.name in WHOLE:
            return np.dtype(np.int32)
        if self.name == "bool":
            return np.dtype(np.bool_)
        raise Refused(f"on {self.name} values")


def kind_of(given: Dtype | None, default: DTypeLike = np.float32) -> np.dtype[np.generic]:
    """Return the NumPy dtype of an argument that may be missing."""
    return np.dtype(default) if given is None else given.numpy()
