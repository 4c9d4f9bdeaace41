"""Non-linear functions against float64, on every protocol, within their stated errors."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.function.exponential import WORK_SCALE, exp_negative
from tercet.function.maximum import max_pool, maximum, reduce_max
from tercet.function.reciprocal import reciprocal_above_one
from tercet.function.softmax import softmax
from tercet.function.sort import network
from tercet.function.top import argmax, top_k
from tercet.protocol.base import Protocol, Share
from tercet.protocol.counting import Counting, count_rounds, zeros
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.protocol.rounds import Steps, finish
from tercet.ring.fixed import decode, encode
from tests.trio import parties, reconstruct, run, share

Function = Callable[..., Steps[Share]]


def apply(protocol: str, function: Callable[..., Steps[Any]], *arrays: np.ndarray) -> np.ndarray:
    """Run ``function(protocol, *shares)`` on ring elements and return ring elements."""
    if protocol == "plaintext":
        return finish(function(Plaintext(), *(Share((a,)) for a in arrays))).parts[0]
    rng = np.random.default_rng(1)
    held = [share(a, rng) for a in arrays]
    sides = parties()
    results, traffic = run(lambda i: function(sides[i], *(h[i] for h in held)))
    counting = Counting(ReplicatedCost())
    rounds = count_rounds(function(counting, *(Share((zeros(a.shape),)) for a in arrays)))
    assert (traffic.bytes, traffic.rounds) == (counting.bytes, rounds), "stated cost"
    return reconstruct(results)


both = pytest.mark.parametrize("protocol", ["plaintext", "replicated"])


@both
@pytest.mark.parametrize("scale", [12, 16, 20])
def test_exp_on_a_dense_grid(protocol: str, scale: int) -> None:
    x = np.concatenate((-np.linspace(0, 40, 20_001), [-1e3, -2000.0]))
    words = encode(x, scale)
    exact = np.exp(decode(words, scale))

    def function(p: Protocol, a: Share) -> Steps[Share]:
        return exp_negative(p, a, scale, 40, "exp")

    y = decode(apply(protocol, function, words), WORK_SCALE)
    assert np.abs(y - exact).max() <= 8e-6


@both
@pytest.mark.parametrize("highest", [1.0, 10.0, 64.0, 1000.0])
def test_reciprocal_above_one(protocol: str, highest: float) -> None:
    x = encode(np.linspace(1, highest, 5001), WORK_SCALE)

    def function(p: Protocol, a: Share) -> Steps[Share]:
        return reciprocal_above_one(p, a, WORK_SCALE, highest, "inverse")

    y = decode(apply(protocol, function, x), WORK_SCALE)
    assert np.abs(y - 1 / decode(x, WORK_SCALE)).max() <= 16 * 2.0**-24 + 3e-9


@both
@pytest.mark.parametrize("shape", [(128, 10), (7, 1), (3, 33)])
def test_softmax(protocol: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    x = encode(rng.normal(0, 6, shape), 16)
    exact = np.exp(decode(x, 16) - decode(x, 16).max(1, keepdims=True))
    exact /= exact.sum(1, keepdims=True)

    def function(p: Protocol, a: Share) -> Steps[Share]:
        return softmax(p, a, 1, 16, 40, "softmax")

    y = decode(apply(protocol, function, x), 16)
    assert np.abs(y - exact).max() <= 2.0**-16 + 1e-5


@both
def test_maxima_are_exact(protocol: str) -> None:
    rng = np.random.default_rng(2)
    x = rng.integers(-(2**40), 2**40, (2, 7, 6, 3), dtype=np.int64)
    y = rng.integers(-(2**40), 2**40, (7, 6, 3), dtype=np.int64)
    a, b = x.view(np.uint64), y.view(np.uint64)
    got = apply(protocol, lambda p, u, v: maximum(p, u, v, 62, "m"), a, b)
    np.testing.assert_array_equal(got.view(np.int64), np.maximum(x, y))
    got = apply(protocol, lambda p, u: reduce_max(p, u, (1, 3), 62, "m"), a)
    np.testing.assert_array_equal(got.view(np.int64), x.max(axis=(1, 3)))
    got = apply(
        protocol,
        lambda p, u: max_pool(
            p, u, (1, 3, 2, 1), (1, 2, 2, 1), (0, 1, 0, 0), (0, 1, 0, 0), 62, "m"
        ),
        a,
    )
    padded = np.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0)), constant_values=-(2**60))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (1, 3, 2, 1))[:, ::2, ::2]
    np.testing.assert_array_equal(got.view(np.int64), windows.max(axis=(-4, -3, -2, -1)))


@both
@pytest.mark.parametrize(("shape", "axis"), [((40, 10), 1), ((3, 1), 1), ((7, 2, 5), 0)])
def test_argmax_is_numpys(protocol: str, shape: tuple[int, ...], axis: int) -> None:
    """Few different values, so that ties are the rule: the first index wins, as in NumPy."""
    rng = np.random.default_rng(5)
    for x in (rng.integers(-3, 3, shape), rng.integers(-(2**50), 2**50, shape)):
        words = x.astype(np.int64).view(np.uint64)
        got = apply(protocol, lambda p, a: argmax(p, a, axis, 16, "a"), words)
        np.testing.assert_array_equal(got, x.argmax(axis).astype(np.uint64) << np.uint64(16))


@both
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 60), st.randoms())
def test_what_is_largest_up_to_the_end_of_the_domain(
    protocol: str, count: int, k: int, size: int, random: Random
) -> None:
    """Values of any size below 2^(60 - w) - 1, their ends and ties among them."""
    k, width = min(k, count), (count - 1).bit_length()
    most = min((1 << (60 - width)) - 2, 1 << size)
    few = [most, -most, 0, *(random.randint(-most, most) for _ in range(3))]
    x = np.array([[random.choice(few) for _ in range(count)] for _ in range(4)], np.int64)
    got = apply(protocol, lambda p, a: top_k(p, a, k, 16, "t"), x.view(np.uint64)).view(np.int64)
    order = np.argsort(-x, axis=-1, kind="stable")[:, :k]
    np.testing.assert_array_equal(got[..., 0] >> 16, order)
    np.testing.assert_array_equal(got[..., 1], np.take_along_axis(x, order, -1))
    got = apply(protocol, lambda p, a: argmax(p, a, 1, 16, "a"), x.view(np.uint64))
    np.testing.assert_array_equal(got >> np.uint64(16), x.argmax(1))


@pytest.mark.parametrize("count", range(1, 11))
def test_the_network_sorts_all_zeros_and_ones(count: int) -> None:
    """A network of exchanges that sorts these sorts everything (Knuth, volume 3, 5.3.4)."""
    every = (np.arange(1 << count)[:, None] >> np.arange(count) & 1).T
    for keep in range(1, count + 1):
        stages, places = network(count, keep)
        x = every.copy()
        for low, high in stages:
            assert len({*low, *high}) == 2 * len(low)
            x[low], x[high] = np.minimum(x[low], x[high]), np.maximum(x[low], x[high])
        np.testing.assert_array_equal(x[places], np.sort(every, 0)[:keep])


def test_the_network_is_no_larger_than_it_need_be() -> None:
    sizes = {k: sum(len(a) for a, _ in network(1000, k)[0]) for k in (1, 5, 1000)}
    assert sizes == {1: 999, 5: 3496, 1000: 23521}
    assert [len(network(1000, k)[0]) for k in (1, 5, 1000)] == [10, 34, 55]


@both
@pytest.mark.parametrize(("shape", "k"), [((20, 10), 3), ((4, 2, 5), 5), ((2, 1), 1)])
def test_top_k_is_a_stable_sort(protocol: str, shape: tuple[int, ...], k: int) -> None:
    rng = np.random.default_rng(6)
    for x in (rng.integers(-3, 3, shape), rng.integers(-(2**50), 2**50, shape)):
        words = x.astype(np.int64).view(np.uint64)
        got = apply(protocol, lambda p, a: top_k(p, a, k, 16, "t"), words).view(np.int64)
        order = np.argsort(-x, axis=-1, kind="stable")[..., :k]
        np.testing.assert_array_equal(got[..., 0] >> 16, order)
        np.testing.assert_array_equal(got[..., 1], np.take_along_axis(x, order, -1))
