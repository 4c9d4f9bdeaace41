"""What a frontend hands on: a program and the values of the inputs that the model owner holds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tercet.frontend.reports import LayerReport
from tercet.program.program import Program


@dataclass(frozen=True)
class Traced:
    """A traced model.

    Attributes:
        program: the program as traced, not lowered yet: every product of two secrets is followed
            at once by its truncation, for the passes to fuse.
        arrays: the float64 value of every input of role WEIGHT or PUBLIC, by its name. An entry
            is encoded with the scale of the type of its input.
        name: the name of the model.
        layers: what became of its operations, layer by layer, if it was traced here.
    """

    program: Program
    arrays: dict[str, NDArray[np.float64]]
    name: str
    layers: tuple[LayerReport, ...] = field(default=(), compare=False)
