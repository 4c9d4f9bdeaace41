import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.ring import _native, kernels, oracle
from tests.ring.arrays import EXTREMES, relaxed, words

side = st.integers(0, 21)
seeds = st.integers(0, 2**32 - 1)


@relaxed
@given(side, side, side, seeds)
def test_matches_oracle(m: int, k: int, n: int, seed: int) -> None:
    a, b = words(seed, m, k), words(seed + 1, k, n)
    np.testing.assert_array_equal(kernels.matmul(a, b), oracle.matmul(a, b))


@pytest.mark.parametrize("value", EXTREMES)
@pytest.mark.parametrize("other", EXTREMES)
def test_extreme_values(value: np.uint64, other: np.uint64) -> None:
    a, b = np.full((5, 7), value), np.full((7, 9), other)
    expected = 7 * int(value) * int(other) % 2**64
    assert (kernels.matmul(a, b) == np.uint64(expected)).all()


# Shapes on both sides of every limit of the blocking: register tiles, packed panels, depth and
# height of a block, sums along k. Checked against NumPy, whose uint64 product wraps.
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (1, 9, 16),
        (1, 300, 70),
        (1, 33, 10),
        (15, 40, 33),
        (16, 40, 33),
        (17, 257, 31),
        (37, 255, 32),
        (37, 256, 97),
        (193, 513, 100),
        (200, 20, 129),
        (6, 700, 96),
        (60, 700, 10),
        (61, 1000, 1),
        (5, 64, 3),
        (4, 101, 8),
        (3, 2, 300),
        (20, 3000, 390),
    ],
)
@pytest.mark.parametrize("accumulate", [False, True])
def test_blocking(m: int, k: int, n: int, accumulate: bool) -> None:
    a, b, base = words(1, m, k), words(2, k, n), words(3, m, n)
    out = base.copy()
    _native.matmul(a, b, out, accumulate)
    np.testing.assert_array_equal(out, a @ b + (base if accumulate else np.uint64(0)))


@pytest.mark.parametrize("b_columns", [1, 10, 33, 70])
@pytest.mark.parametrize("depths", [(0, 0), (0, 5), (9, 9), (100, 156), (200, 100), (3, 600)])
def test_sum_of_two(depths: tuple[int, int], b_columns: int) -> None:
    a1, b1 = words(1, 23, depths[0]), words(2, depths[0], b_columns)
    a2, b2 = words(3, 23, depths[1]), words(4, depths[1], b_columns)
    out = words(5, 23, b_columns)
    _native.matmul2(a1, b1, a2, b2, out)
    np.testing.assert_array_equal(out, a1 @ b1 + a2 @ b2)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((3,), (3,)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((5, 2, 3), (3,)),
        ((3,), (5, 3, 2)),
        ((5, 2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((2, 3), (5, 3, 4)),
        ((6, 1, 2, 3), (5, 3, 4)),
        ((6, 5, 2, 3), (1, 5, 3, 4)),
        ((0, 2, 3), (0, 3, 4)),
        ((2, 0, 3), (3, 4)),
        ((2, 2, 0), (2, 0, 4)),
    ],
)
def test_broadcasts_like_numpy(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    a, b = words(1, *left), words(2, *right)
    expected = np.matmul(a, b)
    actual = kernels.matmul(a, b)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


def test_strided_inputs() -> None:
    a, b = words(1, 12, 20)[::2, 1::3], words(2, 9, 7).T
    np.testing.assert_array_equal(kernels.matmul(a, b), np.matmul(a, b))


def test_out_and_accumulate() -> None:
    a, b, base = words(1, 2, 4, 5), words(2, 5, 6), words(3, 2, 4, 6)
    out = base.copy()
    assert kernels.matmul(a, b, out=out) is out
    np.testing.assert_array_equal(out, a @ b)
    out = base.copy()
    assert kernels.matmul(a, b, accumulate_into=out) is out
    np.testing.assert_array_equal(out, base + a @ b)
    with pytest.raises(ValueError, match="not both"):
        kernels.matmul(a, b, out=out, accumulate_into=out)


def test_shape_errors() -> None:
    with pytest.raises(ValueError, match="K differs"):
        kernels.matmul(words(1, 2, 3), words(1, 4, 5))
    with pytest.raises(ValueError, match="do not broadcast"):
        kernels.matmul(words(1, 2, 2, 3), words(1, 4, 3, 5))
    with pytest.raises(ValueError, match="at least one dimension"):
        kernels.matmul(words(1), words(1, 4, 3))
    with pytest.raises(ValueError, match=r"out has shape \(2, 2\)"):
        kernels.matmul(words(1, 2, 3), words(1, 3, 4), out=words(1, 2, 2))
    with pytest.raises(TypeError, match="a must be an array of dtype uint64, not int64"):
        kernels.matmul(words(1, 2, 3).astype(np.int64), words(1, 3, 4))  # type: ignore[arg-type]


def test_native_argument_errors() -> None:
    a, b, out = words(1, 2, 3), words(2, 3, 4), words(3, 2, 4)
    with pytest.raises(TypeError, match="b must be a NumPy array of dtype uint64, not list"):
        _native.matmul(a, b.tolist(), out, False)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a must have dtype uint64"):
        _native.matmul(a.astype(np.float64), b, out, False)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a must have dtype uint64"):
        _native.matmul(a.astype(">u8"), b, out, False)
    with pytest.raises(ValueError, match="a must have 2 dimensions, not 1"):
        _native.matmul(a[0], b, out, False)
    with pytest.raises(ValueError, match="b must be C-contiguous"):
        _native.matmul(a, words(1, 4, 3).T, out, False)
    with pytest.raises(ValueError, match=r"b has shape \(2, 4\), but \(3, 4\) is needed"):
        _native.matmul(a, b[:2], out, False)
    with pytest.raises(ValueError, match=r"out has shape \(1, 4\), but \(2, 4\) is needed"):
        _native.matmul(a, b, out[:1], False)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writable"):
        _native.matmul(a, b, out, False)
    square = words(1, 4, 4)
    with pytest.raises(ValueError, match="out must not share memory with a"):
        _native.matmul(square, words(2, 4, 4), square, False)
    raw = np.zeros(8 * 12 + 1, np.uint8)
    with pytest.raises(ValueError, match="b must be aligned"):
        _native.matmul(a, raw[1:].view(np.uint64).reshape(3, 4), words(3, 2, 4), False)


def test_unknown_isa() -> None:
    with pytest.raises(ValueError, match="isa 'sse9' is not one of"):
        kernels.set_isa("sse9")
    with pytest.raises(ValueError, match="isa 'AVX2' is not one of"):
        kernels.set_isa("AVX2")


def test_threads() -> None:
    a, b = words(1, 150, 280), words(2, 280, 130)
    expected = a @ b
    failures: list[int] = []

    def work() -> None:
        for _ in range(20):
            if not np.array_equal(kernels.matmul(a, b), expected):
                failures.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
