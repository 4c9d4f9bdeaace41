"""Rounding, ReLUs that keep their bit, and products with a kept bit."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.protocol.base import Partial, Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.protocol.rounds import finish
from tests import trio

SHIFT, LOW, BITS = 20, 8, 43


def _partials(value: np.ndarray, rng: np.random.Generator) -> list[Partial]:
    a, b = (rng.integers(0, 2**64, value.shape, dtype=np.uint64) for _ in range(2))
    return [Partial((p,)) for p in (a, b, value - a - b)]


def _signed(words: np.ndarray) -> np.ndarray:
    return words.view(np.int64).astype(np.float64)


@pytest.mark.parametrize("partial", [False, True])
@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_rectify_and_gate(partial: bool, size: int) -> None:
    rng = np.random.default_rng(size)
    value = rng.integers(-(2**48), 2**48, size).astype(np.int64).view(np.uint64)
    values = _partials(value, rng) if partial else trio.share(value, rng)
    sides = trio.parties()
    results, traffic = trio.run(lambda i: sides[i].rectify(values[i], SHIFT, LOW, BITS, "a"))
    cost = ReplicatedCost().rectify(size, SHIFT, BITS, partial)
    assert (traffic.bytes, traffic.rounds) == (cost.bytes, cost.rounds)
    y = _signed(trio.reconstruct([r[0] for r in results]))
    bits = trio.reconstruct_bits([r[1] for r in results])
    real = _signed(value) / 2**SHIFT
    assert np.abs(y - np.maximum(real, 0)).max() <= 1
    far = np.abs(real) >= 2.0 ** (LOW - SHIFT)
    assert np.array_equal(bits[far], (real > 0)[far])
    assert not y[bits == 0].any()

    g = rng.integers(-(2**40), 2**40, size).astype(np.int64).view(np.uint64)
    gradients = _partials(g, rng) if partial else trio.share(g, rng)
    gated, traffic = trio.run(lambda i: sides[i].gate(results[i][1], gradients[i], SHIFT, "b"))
    cost = ReplicatedCost().gate(size, SHIFT, partial)
    assert (traffic.bytes, traffic.rounds) == (cost.bytes, cost.rounds)
    through = _signed(trio.reconstruct(gated))
    assert np.abs(through - bits * _signed(g) / 2**SHIFT).max() <= 1
    assert not through[bits == 0].any()


@pytest.mark.parametrize("size", [100, 10_000])
@pytest.mark.parametrize("low", [1, 16, 30])
def test_the_widest_window_ends_at_bit_62(low: int, size: int) -> None:
    rng = np.random.default_rng(low)
    most = 2**62 - 2**36
    value = rng.integers(-most, most, size)
    value[:4] = most, -most, 1 << low, -1
    values, sides = trio.share(value.view(np.uint64), rng), trio.parties()
    results, _ = trio.run(lambda i: sides[i].rectify(values[i], 35, low, 63 - low, "a"))
    y = _signed(trio.reconstruct([r[0] for r in results]))
    assert np.array_equal(trio.reconstruct_bits([r[1] for r in results]), value > 0)
    assert np.abs(y - np.maximum(value, 0) / 2**35).max() <= 1
    signs, _ = trio.run(lambda i: sides[i].negative(values[i], low, 63 - low, "b"))
    assert np.array_equal(trio.reconstruct_bits(signs), value < 0)


def test_gate_without_a_shift_is_exact() -> None:
    rng = np.random.default_rng(0)
    bit, x = (rng.integers(0, 2**64, 300, dtype=np.uint64) for _ in range(2))
    sides, bits = trio.parties(), trio.share(bit, rng)
    chosen, _ = trio.run(lambda i: sides[i].bit(bits[i], 40, "a"))
    values = trio.share(x, rng)
    gated, _ = trio.run(lambda i: sides[i].gate(chosen[i], values[i], 0, "b"))
    assert np.array_equal(trio.reconstruct(gated), (bit >> np.uint64(40) & np.uint64(1)) * x)


def test_rounding_has_no_bias() -> None:
    rng = np.random.default_rng(0)
    value = np.full(200_000, 3 * 2**SHIFT + 2 ** (SHIFT - 2), np.uint64)
    values, sides = trio.share(value, rng), trio.parties()
    results, _ = trio.run(lambda i: sides[i].round(values[i], SHIFT, "a"))
    rounded = _signed(trio.reconstruct(results))
    assert set(np.unique(rounded)) == {3.0, 4.0}
    assert abs(rounded.mean() - 3.25) < 0.01
    (plain,) = finish(Plaintext().round(Share((value[:1],)), SHIFT, "a")).parts
    assert plain[0] == 3


@pytest.mark.parametrize("worker", range(3))
def test_messages_of_a_kept_bit_are_uniform(worker: int) -> None:
    """The bit that worker 0 lends, and what follows from it, looks random to each receiver."""
    rng = np.random.default_rng(worker)
    value = np.full(1 << 16, 2**40, np.uint64)
    values, sides = trio.share(value, rng), trio.parties()
    results, traffic = trio.run(lambda i: sides[i].rectify(values[i], SHIFT, LOW, BITS, "a"))
    trio.run(lambda i: sides[i].gate(results[i][1], values[i], SHIFT, "b"))
    for _, receiver, message in traffic.messages:
        if receiver == worker and len(message) > 4096:
            ones = np.unpackbits(np.frombuffer(message, np.uint8)).mean()
            assert abs(ones - 0.5) < 0.01
