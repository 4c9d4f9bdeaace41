"""The local steps of a comparison by digits against their definition."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tercet.ring import digits
from tests.ring import digits_oracle as oracle
from tests.ring.arrays import words

BITS = [2, 3, 4, 8, 9, 23, 24, 25, 28, 46, 59, 60]


def close(u: NDArray[np.uint64], shift: int, bits: int) -> NDArray[np.uint64]:
    """v such that u + v is all ones within the window, or a little beside it, or anything."""
    n = u.size
    near = ~u + (np.random.default_rng(n).integers(-2, 3, n) << shift).view(np.uint64)
    return np.where(np.arange(n) % 3 > 0, near, words(9, n))


def carries(u: NDArray[np.uint64], v: NDArray[np.uint64], shift: int, bits: int) -> list[bool]:
    """Whether the numbers below the top bits carry."""
    pairs = zip(u.tolist(), v.tolist(), strict=True)
    return [
        oracle.number(a, shift, bits) + oracle.number(b, shift, bits) >= 2 ** (bits - 1)
        for a, b in pairs
    ]


def plane(bits: list[bool]) -> NDArray[np.uint64]:
    out = [0] * -(-len(bits) // 64)
    for i, bit in enumerate(bits):
        out[i // 64] |= bit << i % 64
    return np.array(out, np.uint64)


@pytest.mark.parametrize("n", [0, 1, 8, 9, 65, 530])
@pytest.mark.parametrize("bits", BITS)
def test_the_steps(bits: int, n: int) -> None:
    shift, count, lent = 3, digits.digits(bits), digits.lent_digits(bits)
    u = words(1, n)
    v = close(u, shift, bits)
    masks = words(2, digits.word_rows(lent, bits), n)
    rows = digits.word_rows(count, bits)
    units, answers, offsets = words(3, rows, n), words(4, rows, n), words(5, n)
    reverse = words(6, -(-n // 64))
    message = digits.lend_digits(u, shift, bits, masks)
    assert message.shape == digits.message_shape(lent, bits, n)
    per_word = 4 if bits <= 24 else 3
    drawn = oracle.drawn(masks, lent, oracle.prime(bits), per_word)
    copies = [[row[i] for row in drawn] for i in range(n)]
    found = []
    if n:
        np.testing.assert_array_equal(message, oracle.lend(u, shift, bits, masks))
    for first, mine in ((True, masks), (False, message)):
        got = digits.answer_digits(v, shift, bits, reverse, mine, units, offsets, answers)
        assert got.shape == digits.message_shape(count, bits, n)
        if n:
            share = copies if first else oracle.unpacked(message, lent, bits, n)
            want = oracle.answer(v, shift, bits, reverse, share, first, units, offsets, answers)
            np.testing.assert_array_equal(got, want)
        found.append(got)
    zero = digits.find_zero(found[0], found[1], bits, n)
    keep = plane([True] * n)
    np.testing.assert_array_equal(zero, (plane(carries(u, v, shift, bits)) ^ reverse) & keep)


@pytest.mark.parametrize("bits", BITS)
def test_worker_0_sees_one_random_zero_or_none(bits: int) -> None:
    """The sum of the answers, whatever u and v are: chi-square of place and of the other values."""
    n, p, count = 6000, oracle.prime(bits), digits.digits(bits)
    rows = digits.word_rows(count, bits)
    rng = np.random.default_rng(bits)
    draw = lambda *s: rng.integers(0, 2**64, s, dtype=np.uint64)  # noqa: E731
    for u_value, v_value in ((0, 0), (2**64 - 1, 1), (2**40 + 5, 2**41 - 3), (7, 2**64 - 8)):
        u, v = np.full(n, u_value, np.uint64), np.full(n, v_value, np.uint64)
        reverse = draw(-(-n // 64))
        masks = draw(digits.word_rows(digits.lent_digits(bits), bits), n)
        units, answers, offsets = draw(rows, n), draw(rows, n), draw(n)
        message = digits.lend_digits(u, 0, bits, masks)
        one, two = (
            digits.answer_digits(v, 0, bits, reverse, lent, units, offsets, answers)
            for lent in (masks, message)
        )
        sums = (
            np.array(oracle.unpacked(one, count, bits, n))
            + np.array(oracle.unpacked(two, count, bits, n))
        ) % p
        zeros = (sums == 0).sum(1)
        carry = carries(u[:1], v[:1], 0, bits)[0]
        bit = np.unpackbits(reverse.view(np.uint8), count=n, bitorder="little") == 1
        np.testing.assert_array_equal(zeros, carry ^ bit)
        places = np.bincount(np.nonzero(sums == 0)[1], minlength=count)
        assert _chi_square(places) < _bound(count - 1)
        for row in sums.T:
            values = np.bincount(row[row > 0], minlength=p)[1:]
            assert _chi_square(values) < _bound(p - 2)


@pytest.mark.parametrize("bits", [24, 28])
def test_masked_digits_are_uniform(bits: int) -> None:
    n, p, lent = 6000, oracle.prime(bits), digits.lent_digits(bits)
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2**64, (digits.word_rows(lent, bits), n), dtype=np.uint64)
    message = digits.lend_digits(np.full(n, 2**30 + 3, np.uint64), 2, bits, masks)
    for row in np.array(oracle.unpacked(message, lent, bits, n)).T:
        assert _chi_square(np.bincount(row, minlength=p)) < _bound(p - 1)


def _chi_square(counts: NDArray[np.int64]) -> float:
    expected = counts.sum() / len(counts)
    return float(((counts - expected) ** 2 / expected).sum())


def _bound(freedom: int) -> float:
    """Exceeded with a probability below 1e-9 for the freedoms here (1 to 30)."""
    return freedom + 8 * (2 * freedom) ** 0.5 + 35


def test_bad_shapes() -> None:
    u, plane_word = words(1, 10), words(1, 1)
    masks = words(1, digits.word_rows(digits.lent_digits(24), 24), 10)
    rows = words(1, digits.word_rows(12, 24), 10)
    message = digits.lend_digits(u, 0, 24, masks)
    with pytest.raises(ValueError, match="bits must be from 2 to 60"):
        digits.lend_digits(u, 0, 61, masks)
    with pytest.raises(ValueError, match="bits must be from 2 to 60"):
        digits.lend_digits(u, 41, 24, masks)
    with pytest.raises(ValueError, match="masks"):
        digits.lend_digits(u, 0, 24, masks[1:])
    for index, name in enumerate(("reverse", "lent", "units", "offsets", "masks")):
        arguments = [plane_word, message, rows, u, rows]
        arguments[index] = np.ascontiguousarray(arguments[index][:0])
        with pytest.raises(ValueError, match=name):
            digits.answer_digits(u, 0, 24, *arguments)
    answer = digits.answer_digits(u, 0, 24, plane_word, message, rows, u, rows)
    with pytest.raises(ValueError, match="two"):
        digits.find_zero(answer, answer[1:], 24, 10)
    with pytest.raises(ValueError, match="one"):
        digits.find_zero(answer, answer, 24, 17)
    with pytest.raises(TypeError):
        digits.find_zero(answer.astype(np.uint64), answer, 24, 10)
