"""What a worker checks of data before a training takes it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from tercet.errors import RefusedError
from tercet.program.training import DATA_SCALE, Training
from tercet.program.types import Type
from tercet.service.messages import Contribution, Deposited
from tercet.service.package import _rows_of_columns
from tercet.service.training_messages import Tensor


def columns(owner: str, width: int, scale: int = DATA_SCALE) -> Deposited:
    given = Contribution(bytes(16), "ward", {"x": Tensor((8, width), scale)}, 8, b"o" * 32)
    return Deposited(given, owner, "aa" * 32, b"")


def test_columns_of_another_precision_are_to_be_contributed_again() -> None:
    x = SimpleNamespace(name="x", type=Type((8, 5), DATA_SCALE))
    training = cast("Training", SimpleNamespace(inputs=lambda role: (x,)))
    assert _rows_of_columns(training, [columns("a", 2), columns("b", 3)]) == 8
    for old in (0, 1):
        scales = [16 if old == n else DATA_SCALE for n in range(2)]
        data = [columns(o, w, s) for o, w, s in zip("ab", (2, 3), scales, strict=True)]
        with pytest.raises(RefusedError, match=r"columns with 16 fractional bits.*22") as refused:
            _rows_of_columns(training, data)
        assert "contribute it again" in refused.value.remedy
    with pytest.raises(RefusedError, match=r"6 .*together"):
        _rows_of_columns(training, [columns("a", 3), columns("b", 3)])
