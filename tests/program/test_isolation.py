"""Rows of a batch may belong to different clients: no program may move one into another's."""

from __future__ import annotations

import pytest

from tercet.errors import ProgramError
from tercet.program.builder import Builder
from tercet.program.operations import infer
from tercet.program.program import Role
from tercet.program.types import Type

CONV = {
    "strides": (1,), "low": (0,), "high": (0,), "input_dilation": (1,),
    "kernel_dilation": (1,), "groups": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after"),
    [((-1, 8), (8, -1)), ((-1, 8), (2, -1, 4)), ((-6, 8), (6, -1, 8)), ((2, -1), (-2,))],
)
def test_a_reshape_that_mixes_rows_is_refused(
    before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    with pytest.raises(ProgramError, match="mixes the rows"):
        infer("reshape", [Type(before, 16)], {"shape": after})


@pytest.mark.parametrize(
    ("before", "after"), [((-1, 8), (-1, 2, 4)), ((-1, 6, 8), (-6, 8)), ((3, -1, 4), (3, -1, 2, 2))]
)
def test_a_reshape_within_rows_is_not(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    assert infer("reshape", [Type(before, 16)], {"shape": after}).shape == after


@pytest.mark.parametrize(
    ("op", "shapes", "attrs"),
    [
        ("sum", [(-1, 8)], {"axes": (0,)}),
        ("reverse", [(-1, 8)], {"axes": (0,)}),
        ("concat", [(-1, 8), (-1, 8)], {"axis": 0}),
        ("slice", [(-1, 8)], {"start": (1, 0), "limit": (-1, 8), "stride": (1, 1)}),
        ("pad", [(-1, 8)], {"low": (1, 0), "high": (0, 0), "interior": (0, 0)}),
        ("matmul", [(8, -1), (-1, 8)], {}),
        ("matmul", [(-1, 8), (8, -1)], {}),
        ("mul", [(-1, 1), (1, -1)], {}),
        ("conv", [(3, 5, -1), (1, -1, 4)], CONV),
        ("conv", [(-1, 5, 2), (1, 2, -1)], CONV),
        ("reduce_max", [(-1, 8)], {"axes": (0,), "bits": 62}),
        ("reduce_max", [(-1, 8)], {"axes": (9,), "bits": 62}),
        ("softmax", [(-1, 8)], {"axis": 0, "bits": 62}),
        ("argmax", [(-1, 8)], {"axis": 0}),
        ("argmax", [(-1, 8)], {"axis": 2}),
        ("top_k", [(8, -1)], {"k": 1}),
        ("top_k", [(-1, 8)], {"k": 9}),
        ("top_k", [(-1, 8)], {"k": 0}),
        ("log_softmax", [(-1, 8)], {"axis": 0, "bits": 62}),
        ("sort", [(-1, 8)], {"axis": 0, "bits": 62}),
        ("cumsum", [(-1, 8)], {"axis": 0, "reverse": 0}),
        ("divide", [(-1, 1), (1, -1)], {"signed": 1, "bits": 62}),
        (
            "window_sum",
            [(-1, 8)],
            {"window": (2, 1), "strides": (1, 1), "low": (0, 0), "high": (0, 0)},
        ),
        (
            "window_sum",
            [(-1, 1 << 20)],
            {"window": (1, 1 << 20), "strides": (1, 1), "low": (0, 0), "high": (0, 0)},
        ),
        ("broadcast", [(-1, 1)], {"shape": (-1, -1)}),
        ("reshape", [(0, 3)], {"shape": (3, 0)}),
    ],
)
def test_operations_across_rows_and_beyond_bounds_are_refused(
    op: str, shapes: list[tuple[int, ...]], attrs: dict[str, object]
) -> None:
    with pytest.raises(ProgramError):
        infer(op, [Type(s, 16) for s in shapes], attrs)


def test_a_transposed_batch_must_come_back() -> None:
    """A transpose moves the axis as a whole: rows stay apart, and the output must start with it."""
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 8))
    y = builder.emit("transpose", x, axes=(1, 0))
    assert builder.type_of(y).shape == (8, -1)
    with pytest.raises(ProgramError, match="mixes"):
        builder.emit("reshape", y, shape=(-1, 8))
