"""The local steps of the replicated protocol against references on Python integers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tercet.ring import _native, kernels, oracle, steps
from tests.ring.arrays import words

SIZES = [0, 1, 5, 63, 64, 65, 129, 511, 512, 513, 1100]
# A shift, whether U is lent and whether there is a flip.
KINDS = [
    *((shift, True, flip) for shift in (1, 8, 16, 18, 31, 32, 33, 47, 62) for flip in (0, 1)),
    (0, True, True),
    (0, False, True),
]
LEAVES = [
    [(7, 3), (6, 1)],
    [(6, 3), (5, 1)],
    [(4, 2)],
    [(4, 3), (3, 5)],
    [(4, 5), (3, 3)],
    [(2, 1), (1, 3)],
    [(1, 2)],
    [(4, 1)],
    [(3, 4), (2, 4)],
]


def low_words(n: int, bits: int) -> int:
    return -(-n * bits // 64)


def plane_words(n: int) -> int:
    return -(-n // 64)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("shift", "lends_value", "flips"), KINDS)
def test_truncate_lend(n: int, shift: int, lends_value: bool, flips: bool) -> None:
    rows, narrow = lends_value + 2 * flips, (1 + flips) * n
    u, masks, low_masks = words(1, n), words(2, rows, n), words(3, low_words(narrow, shift))
    plane = words(4, plane_words(n)) if flips else None
    lent, low = steps.truncate_lend(u, shift, plane, masks, low_masks)
    expected = oracle.truncate_lend(u, shift, plane, masks, low_masks)
    np.testing.assert_array_equal(lent, expected[0])
    np.testing.assert_array_equal(low, expected[1])


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("shift", "lends_value", "flips"), KINDS)
def test_truncate_apply(n: int, shift: int, lends_value: bool, flips: bool) -> None:
    rows, narrow = lends_value + 2 * flips, (1 + flips) * n
    back = flips * n + low_words(n, shift)
    v, lent, low = words(1, n), words(2, rows, n), words(3, low_words(narrow, shift))
    plane = words(4, plane_words(n)) if flips else None
    copy = lent[0] if lends_value else words(5, n)
    masks = words(6, 2, back)
    found = steps.truncate_apply(v, shift, plane, copy, lent, low, masks[0], masks[1])
    expected = oracle.truncate_apply(v, shift, plane, copy, lent, low, masks[0], masks[1])
    for name, wanted in zip(found._fields, expected, strict=True):
        np.testing.assert_array_equal(getattr(found, name), wanted, name)


@pytest.mark.parametrize("shift", [1, 16, 18, 62])
@pytest.mark.parametrize("n", [1, 64, 65, 1000])
def test_the_copies_make_a_truncation(n: int, shift: int) -> None:
    """x >> shift and r (x >> shift) come out, up to one, for worker 0's and the pair's shares."""
    x = np.random.default_rng(n).integers(-(2**61), 2**61, n).view(np.uint64)
    u = words(1, n)
    t, q = words(2, plane_words(n)), words(3, plane_words(n))
    masks, low_masks = words(4, 3, n), words(5, low_words(2 * n, shift))
    back = words(6, 2, n + low_words(n, shift))
    lent, low = steps.truncate_lend(u, shift, t, masks, low_masks)
    one = steps.truncate_apply(x - u, shift, q, masks[0], masks, low_masks, back[0], back[1])
    two = steps.truncate_apply(x - u, shift, q, lent[0], lent, low, back[1], back[0])
    np.testing.assert_array_equal(one.third, two.third)
    np.testing.assert_array_equal(one.multiple_third, two.multiple_third)
    y = (one.value + two.value + one.third).view(np.int64)
    error = (x.view(np.int64) >> np.int64(shift)) - y
    assert set(error.tolist()) <= {0, 1}
    r_y = one.message[:n] + two.message[:n] + one.multiple_third
    r = oracle.expand_mask(t ^ q, n)
    np.testing.assert_array_equal(r_y, y.view(np.uint64) & r)
    # Worker 0 gets to the same summands of y.
    for mine, other, copy in ((one, two, lent[0]), (two, one, masks[0])):
        np.testing.assert_array_equal(
            steps.add_carries(copy, other.message[n:], shift), other.value, str(mine is one)
        )


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("shift", [1, 16, 18, 33, 62])
def test_add_carries(n: int, shift: int) -> None:
    x, low = words(1, n), words(2, low_words(n, shift))
    np.testing.assert_array_equal(
        steps.add_carries(x, low, shift), oracle.add_carries(x, low, shift)
    )


@pytest.mark.parametrize("n", SIZES)
def test_choose(n: int) -> None:
    plane, x, multiple = words(1, plane_words(n)), words(2, n), words(3, n)
    np.testing.assert_array_equal(
        steps.choose(plane, x, multiple), oracle.choose(plane, x, multiple)
    )


def monomials(leaves: list[tuple[int, int]]) -> int:
    return sum((2**size - 1) * count for size, count in leaves)


def bits_of(leaves: list[tuple[int, int]]) -> int:
    return sum(size * count for size, count in leaves)


@pytest.mark.parametrize("width", [0, 1, 3, 4, 7, 8, 9, 43])
@pytest.mark.parametrize("leaves", LEAVES)
def test_leaves(leaves: list[tuple[int, int]], width: int) -> None:
    planes = words(1, bits_of(leaves) + 1, width)
    masks = words(2, monomials(leaves), width)
    np.testing.assert_array_equal(
        steps.lend_leaves(planes, leaves, masks), oracle.lend_leaves(planes, leaves, masks)
    )
    rows = 2 * sum(count for _, count in leaves) - 1
    back = words(3, 2, rows, width)
    found = steps.answer_leaves(planes, leaves, masks, back[0], back[1])
    expected = oracle.answer_leaves(planes, leaves, masks, back[0], back[1])
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("leaves", LEAVES)
def test_leaves_add_bits(leaves: list[tuple[int, int]]) -> None:
    """Generate is the carry out of u + v on a leaf's bits; propagate says that all bits differ."""
    n, rng = 500, np.random.default_rng(1)
    u, v = rng.integers(0, 2 ** bits_of(leaves), (2, n), dtype=np.uint64)
    bits = bits_of(leaves)
    mine, theirs = kernels.bit_planes(u, 0, bits), kernels.bit_planes(v, 0, bits)
    width = plane_words(n)
    masks = words(2, monomials(leaves), width)
    leaf_sizes = [size for size, count in leaves for _ in range(count)]
    back = words(3, 2, 2 * len(leaf_sizes) - 1, width)
    lent = steps.lend_leaves(mine, leaves, masks)
    one, third = steps.answer_leaves(theirs, leaves, masks, back[0], back[1])
    two, same = steps.answer_leaves(theirs, leaves, lent, back[1], back[0])
    np.testing.assert_array_equal(third, same)
    opened = one ^ two ^ third
    first = 0
    for number, size in enumerate(leaf_sizes):
        part = [(value >> np.uint64(first)) & np.uint64(2**size - 1) for value in (u, v)]
        first += size
        carry = (part[0] + part[1]) >> np.uint64(size)
        np.testing.assert_array_equal(bits_in(opened[number], n), carry)
        if number:
            differ = part[0] ^ part[1] == np.uint64(2**size - 1)
            row = opened[len(leaf_sizes) + number - 1]
            np.testing.assert_array_equal(bits_in(row, n), differ)


def bits_in(plane: NDArray[np.uint64], n: int) -> NDArray[np.uint64]:
    return kernels.planes_to_words(plane[None], n)


def test_errors() -> None:
    n = 70
    u, plane = words(1, n), words(2, 2)
    masks, low = words(3, 3, n), words(4, low_words(2 * n, 18))
    for shift in (-1, 63, 64):
        with pytest.raises(ValueError, match="shift must be from 0 to 62"):
            steps.truncate_lend(u, shift, plane, masks, low)
    with pytest.raises(ValueError, match="shift must be from 1 to 62"):
        steps.add_carries(u, low[:0], 0)
    for rows, shift in ((0, 18), (2, 18), (4, 18), (1, 0)):
        with pytest.raises(ValueError, match="masks must have 1 or 3 rows"):
            steps.truncate_lend(u, shift, plane, words(1, rows, n), low)
    with pytest.raises(ValueError, match="low_masks has shape"):
        steps.truncate_lend(u, 18, plane, masks, low[1:])
    with pytest.raises(ValueError, match="plane has shape"):
        steps.truncate_lend(u, 18, None, masks, low)
    with pytest.raises(ValueError, match="plane has shape"):
        steps.truncate_lend(u, 18, plane, masks[:1], low[: low_words(n, 18)])
    back = words(5, n + low_words(n, 18))
    with pytest.raises(ValueError, match="other_mask has shape"):
        steps.truncate_apply(u, 18, plane, u, masks, low, back, back[1:])
    with pytest.raises(ValueError, match="copy has shape"):
        steps.truncate_apply(u, 18, plane, u[1:], masks, low, back, back)
    with pytest.raises(ValueError, match="mask has shape"):
        steps.truncate_apply(u, 18, plane, u, masks, low, back[1:], back[1:])
    with pytest.raises(TypeError, match="u must be an array of dtype uint64"):
        steps.truncate_lend(u.astype(np.int64), 18, plane, masks, low)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="multiple has shape"):
        steps.choose(plane, u, u[1:])
    with pytest.raises(ValueError, match="out must not share memory with x"):
        _native.choose(plane, u, masks[0], u)
    planes, leaf_masks = words(1, 8, 2), words(2, 30, 2)
    for leaves in ([(8, 1)], [(0, 1)], [(4, 0)], [(4, -1)]):
        with pytest.raises(ValueError, match="leaves must be pairs"):
            steps.lend_leaves(planes, leaves, leaf_masks)
    with pytest.raises(ValueError, match=r"leaves have 12 bits, planes is \(8, 2\)"):
        steps.lend_leaves(planes, [(4, 3)], leaf_masks)
    with pytest.raises(ValueError, match="leaves have 0 bits"):
        steps.lend_leaves(planes, [], leaf_masks)
    with pytest.raises(ValueError, match="masks has shape"):
        steps.lend_leaves(planes, [(4, 1)], leaf_masks)
    with pytest.raises(ValueError, match="other_mask has shape"):
        steps.answer_leaves(planes, [(4, 2)], leaf_masks, words(3, 3, 2), words(3, 4, 2))
