"""What a participant contributes: integers whose norm never exceeds the bound."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tercet.federated.quantise import quantise
from tercet.service.aggregation_terms import AggregationTerms


def terms(length: int, bound: int, scale: int) -> AggregationTerms:
    prints = tuple(f"{i:064x}" for i in range(3))
    return AggregationTerms(
        name="x", workers=(prints[0],) * 3, signers=prints, participants=prints, server=prints[0],
        length=length, minimum=2, bound=bound, scale=scale, deadline=1, rounds=1,
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_the_integer_norm_is_within_the_bound(data: st.DataObject) -> None:
    """Whatever the update: also where rounding alone would exceed it."""
    length = data.draw(st.integers(1, 60))
    bound = data.draw(st.integers(int(np.ceil(np.sqrt(length))), 2**25))
    scale = data.draw(st.integers(0, 40))
    reals = st.floats(-1e15, 1e15, allow_nan=False)
    values = data.draw(arrays(np.float64, length, elements=reals))
    made = quantise(values, 1.0, terms(length, bound, scale))
    whole = made.words.view(np.int64)
    assert sum(int(v) ** 2 for v in whole) <= bound**2
    if not made.clipped:
        np.testing.assert_array_equal(whole, np.rint(values * 2.0**scale))


def test_rounding_at_the_bound() -> None:
    """All elements at one half: rounding up doubles the norm, and must not."""
    agreed = terms(64, 8, 0)
    made = quantise(np.full(64, 0.99), 1.0, agreed)
    assert int(np.sum(made.words.view(np.int64) ** 2)) <= 64
    made = quantise(np.array([0.6] * 63 + [5.0]), 1.0, agreed)
    assert made.clipped
    assert int(np.sum(made.words.view(np.int64) ** 2)) <= 64


def test_a_clipped_update_keeps_its_direction() -> None:
    values = np.random.default_rng(0).normal(0, 1, 1000)
    made = quantise(values, 1.0, terms(1000, 2**24, 24))
    whole = made.words.view(np.int64) * 2.0**-24
    np.testing.assert_allclose(whole, values / np.linalg.norm(values), atol=2e-6)
