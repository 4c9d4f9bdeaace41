import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.ring import _native, kernels, oracle
from tests.ring.arrays import EXTREMES, relaxed, words

lengths = st.one_of(
    st.integers(0, 200), st.sampled_from([63, 64, 65, 511, 512, 513, 575, 1024, 1100])
)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def bit_ranges(draw: st.DrawFn) -> tuple[int, int]:
    shift = draw(st.integers(0, 64))
    return shift, draw(st.integers(0, 64 - shift))


@relaxed
@given(lengths, bit_ranges(), seeds)
def test_bit_planes(n: int, bits: tuple[int, int], seed: int) -> None:
    x = words(seed, n)
    planes = kernels.bit_planes(x, *bits)
    np.testing.assert_array_equal(planes, oracle.bit_planes(x, *bits))
    shift, count = bits
    expected = [(int(v) >> shift) % 2**count for v in x]
    np.testing.assert_array_equal(kernels.planes_to_words(planes, n), np.array(expected, np.uint64))


def test_bit_planes_of_extremes() -> None:
    planes = kernels.bit_planes(EXTREMES, 0, 64)
    np.testing.assert_array_equal(planes, oracle.bit_planes(EXTREMES, 0, 64))
    np.testing.assert_array_equal(kernels.planes_to_words(planes, EXTREMES.size), EXTREMES)


def test_every_bit_finds_its_plane() -> None:
    x = np.uint64(1) << np.arange(64, dtype=np.uint64)
    np.testing.assert_array_equal(kernels.bit_planes(x, 0, 64).ravel(), x)
    for shift in range(64):
        np.testing.assert_array_equal(kernels.bit_planes(x, shift, 1).ravel(), x[shift])


@relaxed
@given(st.integers(0, 300), st.integers(0, 64), seeds)
def test_planes_to_words_ignores_padding(n: int, count: int, seed: int) -> None:
    planes = words(seed, count, -(-n // 64))
    np.testing.assert_array_equal(
        kernels.planes_to_words(planes, n), oracle.planes_to_words(planes, n)
    )


@relaxed
@given(lengths, seeds)
def test_expand_mask(n: int, seed: int) -> None:
    plane = words(seed, -(-n // 64))
    np.testing.assert_array_equal(kernels.expand_mask(plane, n), oracle.expand_mask(plane, n))


@relaxed
@given(st.integers(0, 200), st.integers(0, 2**32))
def test_project(n: int, seed: int) -> None:
    groups = -(-n // 64)
    x, rows, plane = words(seed, n), words(seed + 1, groups, 64), words(seed + 2, groups)
    np.testing.assert_array_equal(kernels.project(x, rows, plane), oracle.project(x, rows, plane))


@pytest.mark.parametrize("bits", range(1, 65))
@pytest.mark.parametrize("n", [0, 1, 7, 63, 64, 65, 200])
def test_packing(n: int, bits: int) -> None:
    x = words(n + bits, n)
    packed = kernels.pack_bits(x, bits)
    assert packed.dtype == np.uint8
    assert packed.tobytes() == oracle.pack_bits(x, bits)
    low = x & np.uint64(2**bits - 1)
    np.testing.assert_array_equal(kernels.unpack_bits(packed, bits, n), low)


@relaxed
@given(st.integers(0, 150), st.integers(1, 64), st.data())
def test_unpacking_ignores_padding(n: int, bits: int, data: st.DataObject) -> None:
    size = (n * bits + 7) // 8
    raw = data.draw(st.binary(min_size=size, max_size=size))
    value = int.from_bytes(raw, "little")
    expected = [(value >> (i * bits)) % 2**bits for i in range(n)]
    np.testing.assert_array_equal(
        kernels.unpack_bits(np.frombuffer(raw, np.uint8), bits, n), np.array(expected, np.uint64)
    )


def test_shapes_are_flattened_and_strides_followed() -> None:
    x = words(1, 6, 40)[:, ::2]
    flat = np.ascontiguousarray(x).ravel()
    np.testing.assert_array_equal(kernels.bit_planes(x, 3, 9), kernels.bit_planes(flat, 3, 9))
    np.testing.assert_array_equal(kernels.pack_bits(x, 11), kernels.pack_bits(flat, 11))
    packed = kernels.pack_bits(flat, 11)
    twice = np.repeat(packed, 2)[::2]
    np.testing.assert_array_equal(kernels.unpack_bits(twice, 11, 120), flat & np.uint64(2047))


def test_errors() -> None:
    x = words(1, 100)
    for shift, count in [(-1, 3), (60, 5), (0, 65), (65, 0), (3, -1)]:
        with pytest.raises(ValueError, match="shift and count"):
            kernels.bit_planes(x, shift, count)
    with pytest.raises(ValueError, match=r"planes has shape \(3, 2\), but \(3, 3\) is needed"):
        kernels.planes_to_words(words(1, 3, 2), 129)
    with pytest.raises(ValueError, match="at most 64 planes"):
        kernels.planes_to_words(words(1, 65, 1), 5)
    with pytest.raises(ValueError, match=r"plane has shape \(2,\), but \(1,\) is needed"):
        kernels.expand_mask(words(1, 2), 64)
    with pytest.raises(ValueError, match="n must not be negative"):
        kernels.expand_mask(words(1, 2), -1)
    for bits in (0, 65, -3):
        with pytest.raises(ValueError, match="bits must be from 1 to 64"):
            kernels.pack_bits(x, bits)
        with pytest.raises(ValueError, match="bits must be from 1 to 64"):
            kernels.unpack_bits(np.zeros(8, np.uint8), bits, 1)
    with pytest.raises(ValueError, match=r"buffer has shape \(4,\), but \(3,\) is needed"):
        kernels.unpack_bits(np.zeros(4, np.uint8), 12, 2)
    with pytest.raises(TypeError, match="buffer must have dtype uint8"):
        kernels.unpack_bits(np.zeros(3, np.int16), 12, 2)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="x must be an array of dtype uint64"):
        kernels.pack_bits(x.astype(np.int64), 12)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="out must have dtype uint8"):
        _native.pack_bits(x, 8, x)  # type: ignore[arg-type]
