"""Every PyTorch module and model of the table, within its stated error."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.frontend.torch import trace_torch
from tests.coverage.run import by_three, in_the_clear
from tests.coverage.torch_cases import CASES

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")

#: Run by three parties as well.
BY_THREE = ("AvgPool2d(padding not counted)", "LSTM", "GRU", "Model: BERT-like", "Model: LeNet")


@pytest.mark.parametrize("name", CASES)
def test_module_is_within_its_error(name: str) -> None:
    case = CASES[name]
    module, x = case.module(), case.sample(3)
    exact = module(x).detach().double().numpy()
    traced = trace_torch(module, x)
    spread = max(float(np.ptp(exact)), 1.0)
    got = in_the_clear(traced, x.numpy())
    assert got.shape == exact.shape
    assert np.abs(got - exact).max() <= case.error * spread
    if "Model" in name and exact.ndim == 2:
        assert (got.argmax(-1) == exact.argmax(-1)).all()
    if name in BY_THREE:
        three = by_three(traced, x.numpy(), x.numpy())
        assert np.abs(three - exact).max() <= case.error * spread
