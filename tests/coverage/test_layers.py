"""Every layer of the coverage table, within its stated error; the page that lists them."""

from __future__ import annotations

import numpy as np
import pytest
from bench.coverage import PAGE, page

from tercet.frontend.keras import trace_keras
from tests.coverage.cases import CASES
from tests.coverage.run import by_three, in_the_clear

# Keras asks JAX for float64 variables, which JAX makes float32 unless told otherwise.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64:UserWarning")

#: Run by three parties as well: what has functions of several kinds.
BY_THREE = (
    "Dense(relu)",
    "LayerNormalization",
    "UnitNormalization",
    "Activation(softsign)",
    "Activation(gelu)",
    "Activation(selu)",
    "GRU",
    "Embedding",
    "MultiHeadAttention(causal)",
)


@pytest.mark.parametrize("name", CASES)
def test_layer_is_within_its_error(name: str) -> None:
    case = CASES[name]
    model = case.model()
    x = case.sample(3)
    exact = np.asarray(model(x, training=False)).astype(np.float64)
    traced = trace_keras(model)
    spread = max(float(np.ptp(exact)), 1.0)
    got = in_the_clear(traced, x)
    assert got.shape == exact.shape
    assert np.abs(got - exact).max() <= case.error * spread
    if name in BY_THREE:
        for sample in (None, x):  # comparisons over the whole range, and narrowed by calibration
            three = by_three(traced, x, sample)
            assert np.abs(three - exact).max() <= case.error * spread


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == page(), "run python -m bench.coverage"
