"""Calibration against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import InputError, ModelError
from tercet.program.builder import Builder
from tercet.program.program import Program, Role
from tercet.runtime import calibrate as module
from tercet.runtime.calibrate import calibrate

UNIT = 1 << 16


def doubled() -> tuple[Program, dict[str, np.ndarray]]:
    """relu(x * 2 - 1) fused, then the larger of it and x, then a softmax."""
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 3))
    two = builder.input("two", Role.WEIGHT, (3,))
    one = builder.input("one", Role.PUBLIC, (3,), 32)
    product = builder.emit("sub", builder.emit("mul", x, two), one)
    positive = builder.emit("relu", product, shift=16, bits=46)
    largest = builder.emit("maximum", positive, x, bits=62)
    result = builder.emit("softmax", largest, axis=1, bits=62)
    return builder.finish(result), {"two": np.full(3, 2.0), "one": np.ones(3)}


def test_bounds_are_the_largest_absolute_values() -> None:
    program, arrays = doubled()
    sample = np.array([[0.5, 1.0, 0.25], [-3.0, 2.5, 0.0]])
    # 2 * -3 - 1 = -7; relu reaches 4 and x reaches 3; their maximum 4.
    assert calibrate(program, arrays, sample) == {2: 7 * UNIT, 3: 4 * UNIT, 4: 4 * UNIT}


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    program, arrays = doubled()
    sample = np.random.default_rng(0).normal(0, 2, (10, 3))
    whole = calibrate(program, arrays, sample)
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 12)
    assert calibrate(program, arrays, sample) == whole


def test_the_clients_input_may_be_compared() -> None:
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 2))
    program = builder.finish(builder.emit("relu", x, shift=0, bits=62))
    assert calibrate(program, {}, np.array([[1.5, -2.0], [0.0, 1.0]])) == {0: 2 * UNIT}


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 4), (2, 3, 1)])
def test_a_sample_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    program, arrays = doubled()
    with pytest.raises(InputError, match="calibration sample"):
        calibrate(program, arrays, np.zeros(shape))


def test_a_sample_that_is_not_finite_is_refused() -> None:
    program, arrays = doubled()
    with pytest.raises(InputError, match=r"calibration sample at index \(0, 1\)"):
        calibrate(program, arrays, np.array([[0.0, np.nan, 0.0]]))


def test_values_beyond_the_ring_are_noticed() -> None:
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 1))
    builder.source = "dense"
    square = builder.emit("mul", x, x)
    for _ in range(3):
        square = builder.emit("add", square, square)
    program = builder.finish(builder.emit("truncate", square, shift=16))
    calibrate(program, {}, np.array([[2.0**13]]))
    with pytest.raises(ModelError, match="dense computes values beyond"):
        calibrate(program, {}, np.array([[2.0**14 - 1]]))
