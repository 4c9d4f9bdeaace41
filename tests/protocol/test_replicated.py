"""The replicated protocol against exact arithmetic, its stated cost, and what a worker sees."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tercet.errors import SecurityError
from tercet.protocol.base import Cost, Partial, Share
from tercet.protocol.replicated.comparison import by_digits, comparison_cost
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.protocol.replicated.groups import carry_tree
from tests.trio import Traffic, parties, reconstruct, reconstruct_bits, run, share

COST = ReplicatedCost()


def values(rng: np.random.Generator, size: int, bits: int) -> np.ndarray:
    """Signed values below 2^bits of all magnitudes, extremes first."""
    top = (1 << bits) - 1
    scale = rng.integers(0, bits + 1, size)
    x = rng.integers(-top, top, size, dtype=np.int64) >> (bits - scale)
    special = np.array([0, 1, -1, top, -top], dtype=np.int64)[:size]
    x[: len(special)] = special
    return x


def partials(x: np.ndarray, rng: np.random.Generator) -> list[Partial]:
    a, b = (rng.integers(0, 2**64, x.shape, dtype=np.uint64) for _ in range(2))
    return [Partial((a,)), Partial((b,)), Partial((x.view(np.uint64) - a - b,))]


def dealt(x: np.ndarray, form: str, rng: np.random.Generator) -> list:
    return share(x.view(np.uint64), rng) if form == "share" else partials(x, rng)


@pytest.mark.parametrize("operation", ["truncate", "truncate_fresh"])
@pytest.mark.parametrize("form", ["share", "partial"])
@pytest.mark.parametrize("shift", [1, 7, 16, 18, 24, 32, 40])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 1000])
def test_truncation_is_the_floor_or_one_less(
    operation: str, form: str, shift: int, size: int
) -> None:
    rng = np.random.default_rng(size * 100 + shift)
    x = values(rng, size, 62)
    held, sides = dealt(x, form, rng), parties()
    results, traffic = run(lambda i: getattr(sides[i], operation)(held[i], shift, "t"))
    error = reconstruct(results).view(np.int64) - (x >> shift)
    assert set(error.tolist()) <= {0, -1}
    stated = getattr(COST, operation)(size, shift, form == "partial")
    assert (traffic.bytes, traffic.rounds) == (stated.bytes, stated.rounds)


@pytest.mark.parametrize("form", ["share", "partial"])
@pytest.mark.parametrize(
    ("shift", "bits"),
    [(0, 8), (0, 28), (0, 62), (16, 24), (16, 28), (18, 28), (18, 44), (16, 46), (1, 61), (24, 32)],
)
@pytest.mark.parametrize("size", [1, 64, 500, 20_000])
def test_relu_and_sign(form: str, shift: int, bits: int, size: int) -> None:
    rng = np.random.default_rng(size + 97 * shift + bits)
    x = values(rng, size, min(62, shift + bits - 1))
    # -2^(bits-1) < x >> shift must hold for both roundings
    x = np.maximum(x, -(1 << (shift + bits - 1)) + (2 << shift) if shift else x)
    held, sides = dealt(x, form, rng), parties()
    results, traffic = run(lambda i: sides[i].relu(held[i], shift, bits, "r"))
    error = reconstruct(results).view(np.int64) - np.maximum(x >> shift, 0)
    assert set(error.tolist()) <= ({0, -1} if shift else {0})
    stated = COST.relu(size, shift, bits, form == "partial")
    assert (traffic.bytes, traffic.rounds) == (stated.bytes, stated.rounds)

    results, traffic = run(lambda i: sides[i].negative(held[i], shift, bits, "n"))
    wrong = reconstruct_bits(results) != (x < 0)
    assert not wrong[(x >> shift) != 0].any()  # a value in [0, 1) may truncate to -1
    assert shift or not wrong.any()
    stated = COST.negative(size, shift, bits, form == "partial")
    assert (traffic.bytes, traffic.rounds) == (stated.bytes, stated.rounds)


def test_relu_equals_the_sign_of_the_truncation_it_made() -> None:
    """Values around 0: the comparison must not disagree with the truncation's own rounding."""
    rng = np.random.default_rng(5)
    x = rng.integers(-(3 << 16), 3 << 16, 4096, dtype=np.int64)
    held, sides = partials(x, rng), parties()
    results, _ = run(lambda i: sides[i].relu(held[i], 16, 28, "r"))
    assert set(reconstruct(results).view(np.int64).tolist()) <= {0, 1, 2}


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_products_select_and_bits(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    m, k, n = (data.draw(st.integers(1, 9)) for _ in range(3))
    a = rng.integers(0, 2**64, (m, k), dtype=np.uint64)
    b = rng.integers(0, 2**64, (k, n), dtype=np.uint64)
    x, y, sides = share(a, rng), share(b, rng), parties()
    results, traffic = run(lambda i: sides[i].reshare(sides[i].product(np.matmul, x[i], y[i]), "p"))
    np.testing.assert_array_equal(reconstruct(results), a @ b)
    assert (traffic.bytes, traffic.rounds) == (24 * m * n, 1)

    signed = values(rng, m * k, 61)
    held = share(signed.view(np.uint64), rng)
    bits, _ = run(lambda i: sides[i].negative(held[i], 0, 62, "neg"))
    chosen, traffic = run(lambda i: sides[i].select(sides[i].bit_not(bits[i]), held[i], "sel"))
    np.testing.assert_array_equal(reconstruct(chosen).view(np.int64), np.maximum(signed, 0))
    stated = COST.select(m * k)
    assert (traffic.bytes, traffic.rounds) == (stated.bytes, stated.rounds)
    both, traffic = run(lambda i: sides[i].bit_and(bits[i], sides[i].bit_not(bits[i]), "and"))
    assert not reconstruct_bits(both).any()
    assert (traffic.bytes, traffic.rounds) == (COST.bit_and(m * k).bytes, 1)


def test_public_and_constant_values() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**64, (3, 4), dtype=np.uint64)
    y = rng.integers(0, 2**64, (4,), dtype=np.uint64)
    held, sides = share(x, rng), parties()
    total = reconstruct([sides[i].add_public(held[i], y) for i in range(3)])
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_array_equal(reconstruct([s.constant(x) for s in sides]), x)
    split = partials(x.view(np.int64), rng)
    results, _ = run(lambda i: sides[i].reshare(sides[i].add(split[i], held[i]), "mixed"))
    np.testing.assert_array_equal(reconstruct(results), x + x)


@pytest.mark.parametrize("size", [1, 2_000, 20_000, 10**6])
@pytest.mark.parametrize("bits", range(8, 63))
def test_carry_tree_covers_every_bit_once(bits: int, size: int) -> None:
    tree = carry_tree(bits, size)
    covered = [
        bit
        for block in tree.blocks
        for bit in range(block.start, block.start + block.size * block.count)
    ]
    assert covered == list(range(bits - 1))
    assert sum(block.count for block in tree.blocks) == tree.leaves
    assert all(1 <= block.size <= 7 for block in tree.blocks)


def test_few_elements_are_compared_in_fewer_rounds_many_in_fewer_bytes() -> None:
    few, many = carry_tree(28, 64), carry_tree(28, 10**6)
    assert (few.leaves, few.levels, few.planes) == (4, 1, 3 * 127 + 63 + 2 * 7 + 3 * 3)
    assert (many.leaves, many.levels) == (8, 2)
    assert many.planes == 3 * 15 + 5 * 7 + 2 * 15 + 3 * 7 + 3 * 3


def test_fewest_elements_are_compared_by_digits() -> None:
    assert by_digits(24, 4000)
    assert by_digits(60, 64)
    assert not by_digits(61, 64)
    assert not by_digits(28, 20_000)
    # 12 digits, 34 lent ones of 4 bits; 14 and 40 of 5 bits; a bit to both others or to one.
    assert comparison_cost(24, 640, opened=True) == Cost(640 * (17 + 2 * 6) + 2 * 80, 3)
    assert comparison_cost(28, 640, opened=False) == Cost(640 * (25 + 2 * 9) + 80, 3)
    assert comparison_cost(28, 10**6, opened=True) == Cost(125_000 * (140 + 6), 5)


def test_a_fresh_truncation_is_uniform_but_for_its_sum() -> None:
    """Chi-square of the bytes of every summand, from one and the same v: a truncation keeps it."""
    summands = [np.full(20_000, s, np.uint64) for s in (0, 5 << 16, 1 << 40)]
    held, sides = [Share((summands[i], summands[(i + 1) % 3])) for i in range(3)], parties()

    def unlikely(operation: str) -> list[bool]:
        results, _ = run(lambda i: getattr(sides[i], operation)(held[i], 16, operation))
        shares = [results[i].parts[0] for i in range(3)]
        counts = [np.bincount(s.view(np.uint8), minlength=256) for s in shares]
        expected = 20_000 * 8 / 256
        # 255 degrees of freedom: exceeded with a probability below 1e-12.
        return [((c - expected) ** 2 / expected).sum() > 450 for c in counts]

    assert unlikely("truncate") == [False, False, True]
    assert unlikely("truncate_fresh") == [False, False, False]


def test_the_same_place_cannot_run_twice_in_a_session() -> None:
    """A stream used twice would give away the difference of the two values that it hides."""
    rng = np.random.default_rng(0)
    held, sides = share(np.arange(8, dtype=np.uint64), rng), parties()
    run(lambda i: sides[i].truncate(held[i], 3, "here"))
    with pytest.raises(SecurityError, match="here"):
        run(lambda i: sides[i].truncate(held[i], 3, "here"))


def _traffic(operation: str, x: np.ndarray) -> Traffic:
    # Of digits modulo a prime tests/ring/test_digits.py sees to the same: there are too many here.
    rng, sides = np.random.default_rng(3), parties()
    if operation == "select":
        shares = share(x.view(np.uint64), rng)
        bits, _ = run(lambda i: sides[i].negative(shares[i], 0, 62, "bit"))
        return run(lambda i: sides[i].select(bits[i], shares[i], "op"))[1]
    held = partials(x, rng)
    arguments = {"reshare": (), "truncate": (16,), "truncate_fresh": (16,)}.get(operation, (16, 44))
    return run(lambda i: getattr(sides[i], operation)(held[i], *arguments, "op"))[1]


@pytest.mark.parametrize(
    "operation", ["reshare", "truncate", "truncate_fresh", "relu", "negative", "select"]
)
def test_every_message_is_uniform_whatever_the_value(operation: str) -> None:
    """Each byte that a worker receives, over many elements, has the same distribution for all
    values: chi-square of its 16 nibble values against uniform, for two very different inputs."""
    size = 20_000
    for fill in (0, -(1 << 40) + 12345):
        traffic = _traffic(operation, np.full(size, fill, dtype=np.int64))
        for sender, receiver, message in traffic.messages:
            if not message:
                continue
            raw = np.frombuffer(message, np.uint8)
            nibbles = np.concatenate((raw & 15, raw >> 4))
            counts = np.bincount(nibbles, minlength=16)
            expected = len(nibbles) / 16
            chi2 = float(((counts - expected) ** 2 / expected).sum())
            # 15 degrees of freedom: P(chi2 > 60) < 3e-7. Padding bits of planes are masked too.
            assert chi2 < 60, (operation, fill, sender, receiver, chi2)


@pytest.mark.parametrize("operation", ["relu", "negative"])
def test_what_worker_0_passes_on_of_a_comparison_by_digits_is_uniform(operation: str) -> None:
    """The opened sign, hidden by t, or the split one: chi-square of nibbles, for either sign."""
    size, width = 8192, 8192 // 8
    assert by_digits(24, size)
    for fill in (-(1 << 20) - 7, 1 << 20):
        held, sides = partials(np.full(size, fill), np.random.default_rng(0)), parties()
        _, traffic = run(lambda i, h=held, s=sides: getattr(s[i], operation)(h[i], 16, 24, "o"))
        sent = [m for who, _, m in traffic.messages if who == 0 and len(m) == width]
        assert len(sent) == (2 if operation == "relu" else 1)
        for message in sent:
            raw = np.frombuffer(message, np.uint8)
            counts = np.bincount(np.concatenate((raw & 15, raw >> 4)), minlength=16)
            expected = 2 * width / 16
            assert float(((counts - expected) ** 2 / expected).sum()) < 60, (operation, fill)


@pytest.mark.slow
def test_a_hundred_million_truncations() -> None:
    rng = np.random.default_rng(11)
    size, times = 1 << 20, 100
    for number in range(times):
        shift = int(rng.integers(1, 41))
        x = values(rng, size, 62)
        held, sides = partials(x, rng), parties()
        results, _ = run(lambda i, h=held, s=shift, p=sides: p[i].truncate(h[i], s, "t"))
        error = reconstruct(results).view(np.int64) - (x >> shift)
        assert error.max() <= 0, (number, shift)
        assert error.min() >= -1, (number, shift)
