"""Calibration: how large the values get that a program compares, measured on sample rows.

The owner runs the lowered program in the clear, in the same fixed-point arithmetic as the
workers, on rows that look like what will be asked; ``tercet.program.passes.narrow`` turns the
result into windows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError, ModelError
from tercet.program.checks import RANGE_BITS, multiply_extents
from tercet.program.passes.narrow import DIFFERENCES, SIGNS, TRUNCATIONS
from tercet.program.program import Program, Role
from tercet.program.types import Form
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.rounds import finish
from tercet.ring.fixed import encode
from tercet.runtime.interpreter import Value, Words, run

#: Rows are taken in chunks whose largest value has at most this many elements (64 MB).
CHUNK_ELEMENTS = 1 << 23


@dataclass(frozen=True)
class Ranges:
    """How large the values of a program get on a sample.

    Attributes:
        compared: for the number of each instruction that compares (0 for the first instruction)
            the largest absolute value among what it compares, in units of the last place after
            its shift. For a maximum, a pooling or a softmax: of its arguments, not of their
            differences.
        results: for the number of each instruction the largest absolute value of its result, in
            units of the last place.
    """

    compared: dict[int, int] = field(default_factory=dict)
    results: dict[int, int] = field(default_factory=dict)


def calibrate(
    program: Program,
    arrays: Mapping[str, NDArray[np.float64]],
    sample: NDArray[np.floating[Any]],
) -> dict[int, int]:
    """Return a bound for every comparison of ``program``: ``measure(...).compared``."""
    return measure(program, arrays, sample).compared


def measure(
    program: Program,
    arrays: Mapping[str, NDArray[np.float64]],
    sample: NDArray[np.floating[Any]],
) -> Ranges:
    """Run ``program`` on a sample and return how large its values get.

    Args:
        program: a lowered program, before ``narrow``.
        arrays: the arrays of its weights and public inputs.
        sample: float array (rows, ...) of the shape of the client's input, at least one row.

    Raises:
        InputError: if the sample does not fit the program's input, or holds NaN or infinity.
        ModelError: if a value leaves the fixed-point range (2^62 before a truncation).
    """
    sample = np.asarray(sample)
    row = program.input_shape()[1:]
    if sample.shape[1:] != row or not len(sample):
        raise InputError(
            f"calibration sample of shape {sample.shape}",
            f"Give at least one row, an array of shape (rows, {', '.join(map(str, row))})",
        )
    inputs: dict[str, Share | Words] = {}
    for value in program.inputs:
        if value.role is not Role.INPUT:
            words = encode(arrays[value.name], value.type.scale, value.name)
            inputs[value.name] = words if value.role is Role.PUBLIC else Share((words,))
    ((_, client),) = program.named(Role.INPUT)
    recorder = _Recorder(program)
    chunk = _rows(program)
    for start in range(0, len(sample), chunk):
        words = encode(sample[start : start + chunk], client.type.scale, "calibration sample")
        inputs[client.name] = Share((words,))
        for number, value in enumerate(program.inputs):
            recorder.see(number, inputs[value.name])
        finish(run(program, Plaintext(), inputs, len(words), recorder.watch))
    return recorder.ranges


class _Recorder:
    """Keeps the largest absolute value that each comparison reads and each instruction makes."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.ranges = Ranges()
        self._readers: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, instruction in enumerate(program.instructions):
            if instruction.op in SIGNS | DIFFERENCES | TRUNCATIONS:
                shift = instruction.attrs.get("shift", 0)
                assert isinstance(shift, int)
                for a in set(instruction.args):
                    self._readers[a].append((number, shift))

    def watch(self, number: int, result: Value) -> None:
        """Take in the result of instruction ``number``."""
        self.see(number + len(self.program.inputs), result)

    def see(self, value: int, held: Value) -> None:
        """Take in a value by its number in the program."""
        assert not isinstance(held, tuple)  # no prediction keeps the bits of its ReLUs
        words = held if isinstance(held, np.ndarray) else held.parts[0]
        made = value - len(self.program.inputs)
        if not words.size or self.program.type_of(value).form is Form.BIT:
            return
        signed = np.ascontiguousarray(words).view(np.int64)
        low, high = int(signed.min()), int(signed.max())
        if made >= 0:
            results = self.ranges.results
            results[made] = max(results.get(made, 0), -low, high)
        for number, shift in self._readers.get(value, ()):
            instruction = self.program.instructions[number]
            if max(-low, high) >= 1 << RANGE_BITS:
                raise ModelError(
                    f"{instruction.source or 'The model'} computes values beyond the fixed-point "
                    "range on the calibration sample",
                    "Scale the inputs (pixels to [0, 1], say) or use fewer fractional bits",
                )
            if instruction.op not in TRUNCATIONS:
                largest = max(-(low >> shift), high >> shift)
                compared = self.ranges.compared
                compared[number] = max(compared.get(number, 0), largest)


def _rows(program: Program) -> int:
    kinds = [v.type for v in program.inputs] + [i.type for i in program.instructions]
    sizes = [multiply_extents(k.shape) for k in kinds]
    largest = max((size for size, power in sizes if power), default=1)
    return max(1, CHUNK_ELEMENTS // max(largest, 1))
