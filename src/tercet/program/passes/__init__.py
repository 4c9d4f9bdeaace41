"""Lowering: one ordered tuple of passes, run once at the owner of a model.

A frontend emits a plain program: every product is truncated at once, every comparison is as wide
as the ring allows. ``lower`` rewrites it so that less is sent: see the module of each pass. What
comes out is what workers verify and run, and what the digest covers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tercet.errors import ProgramError
from tercet.program.passes.drop_dead import drop_dead
from tercet.program.passes.finish_output import finish_output
from tercet.program.passes.fold_pools import fold_pools
from tercet.program.passes.fold_scales import fold_scales
from tercet.program.passes.fuse_relu import fuse_relu
from tercet.program.passes.guard import guard
from tercet.program.passes.merge_biases import merge_biases
from tercet.program.passes.merge_equal import merge_equal
from tercet.program.passes.narrow import narrow
from tercet.program.passes.rewrite import Arrays
from tercet.program.passes.sink_truncations import sink_truncations
from tercet.program.program import Program, Role
from tercet.program.verify import verify

Pass: TypeAlias = Callable[[Program, Arrays], tuple[Program, dict[str, NDArray[np.float64]]]]

#: ``merge_equal`` comes first, because later passes ask which values are used only once, and
#: again after fusing, which leaves equal comparisons behind.
PASSES: tuple[Pass, ...] = (
    merge_equal,
    fold_scales,
    merge_biases,
    sink_truncations,
    fold_pools,
    fuse_relu,
    merge_equal,
    finish_output,
)


def lower(
    program: Program, arrays: Mapping[str, NDArray[np.floating[Any]]]
) -> tuple[Program, dict[str, NDArray[np.float64]]]:
    """Return ``program`` lowered and the arrays of its weights and public inputs.

    Args:
        program: a program as a frontend emits it.
        arrays: float array of each weight and public input, of the input's shape.

    Returns:
        The lowered, verified program and a float64 array for each of its weights and public
        inputs. Inputs may be new (a kernel times a scale, ``conv/kernel*bn/gamma``), declared
        with other scales (``conv/bias@32``) or gone.

    Raises:
        ProgramError: if an array is missing or of another shape, or if the result is malformed.
    """
    current = {
        value.name: _array(value.name, value.type.shape, arrays)
        for value in program.inputs
        if value.role is not Role.INPUT
    }
    program, current = drop_dead(program, current)
    for step in PASSES:
        # What a pass leaves behind unused must not count as a use in the next one.
        program, current = drop_dead(*step(program, current))
    verify(program)
    return program, current


def _array(
    name: str, shape: tuple[int, ...], arrays: Mapping[str, NDArray[np.floating[Any]]]
) -> NDArray[np.float64]:
    if name not in arrays:
        raise ProgramError(f"no array for the input {name!r}", "Trace the model again")
    array = np.asarray(arrays[name], np.float64)
    if array.shape != shape:
        raise ProgramError(
            f"array of shape {array.shape} for the input {name!r} of shape {shape}",
            "Trace the model again",
        )
    return array


__all__ = ["PASSES", "Pass", "guard", "lower", "narrow"]
