from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tercet.ring import _native, kernels, oracle
from tests.ring.arrays import EXTREMES, relaxed, words

Words = NDArray[np.uint64]


@st.composite
def convolutions(draw: st.DrawFn, dimensions: int) -> tuple[Words, Words, dict[str, Any]]:
    most = {1: 12, 2: 7, 3: 4}[dimensions]
    seed = draw(st.integers(0, 2**32 - 1))
    groups = draw(st.integers(1, 3))
    channels = draw(st.integers(0, 4))
    filters = groups * draw(st.integers(0, 5))
    if draw(st.booleans()):  # depthwise
        groups, channels = draw(st.integers(1, 10)), 1
        filters = groups * draw(st.integers(1, 3))
    sizes = [draw(st.integers(0, most)) for _ in range(dimensions)]
    kernel = [draw(st.integers(0, 3)) for _ in range(dimensions)]
    pad = st.tuples(st.integers(-2, 3), st.integers(-2, 3))
    parameters = {
        "strides": [draw(st.integers(1, 3)) for _ in range(dimensions)],
        "padding": [draw(pad) for _ in range(dimensions)],
        "input_dilation": [draw(st.integers(1, 2)) for _ in range(dimensions)],
        "kernel_dilation": [draw(st.integers(1, 2)) for _ in range(dimensions)],
        "groups": groups,
    }
    x = words(seed, draw(st.integers(0, 3)), *sizes, groups * channels)
    return x, words(seed + 1, *kernel, channels, filters), parameters


@settings(relaxed, max_examples=120)
@given(convolutions(2))
def test_two_dimensions(case: tuple[Words, Words, dict[str, Any]]) -> None:
    x, w, parameters = case
    expected = oracle.conv(x, w, **parameters)
    actual = kernels.conv(x, w, **parameters)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)
    base = words(9, *expected.shape)
    np.testing.assert_array_equal(
        kernels.conv(x, w, **parameters, accumulate_into=base.copy()), base + expected
    )


@settings(relaxed, max_examples=50)
@given(convolutions(1))
def test_one_dimension(case: tuple[Words, Words, dict[str, Any]]) -> None:
    x, w, parameters = case
    expected = oracle.conv(x, w, **parameters)
    actual = kernels.conv(x, w, **parameters)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)


@settings(relaxed, max_examples=30)
@given(convolutions(3))
def test_three_dimensions(case: tuple[Words, Words, dict[str, Any]]) -> None:
    x, w, parameters = case
    expected = oracle.conv(x, w, **parameters)
    actual = kernels.conv(x, w, **parameters)
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected)
    base = words(9, *expected.shape)
    np.testing.assert_array_equal(
        kernels.conv(x, w, **parameters, accumulate_into=base.copy()), base + expected
    )


def by_patches(x: Words, w: Words, *, stride: int, low: int, high: int, groups: int) -> Words:
    """Convolution by a patch matrix and NumPy's product, for sizes beyond the oracle's."""
    x = np.pad(x, ((0, 0), (low, high), (low, high), (0, 0)))
    kh, kw, channels, filters = w.shape
    each = filters // groups
    views = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))
    views = views[:, ::stride, ::stride]
    parts = []
    for g in range(groups):
        part = views[:, :, :, g * channels : (g + 1) * channels].transpose(0, 1, 2, 4, 5, 3)
        flat = np.ascontiguousarray(part).reshape(*part.shape[:3], kh * kw * channels)
        parts.append(flat @ w[..., g * each : (g + 1) * each].reshape(kh * kw * channels, each))
    return np.concatenate(parts, axis=-1)


# Each reaches another branch of the blocking: whole images, bands of rows, several blocks of the
# kernel's depth, packed and unpacked kernels, channel multipliers.
LARGE = [
    # images, size, channels, kernel, filters, stride, low, high, groups
    (1, 28, 1, 3, 16, 1, 0, 0, 1),
    (1, 28, 1, 3, 16, 1, 1, 1, 1),
    (9, 13, 16, 3, 40, 1, 1, 1, 1),
    (2, 5, 32, 3, 64, 1, 0, 0, 1),
    (1, 40, 32, 3, 8, 1, 1, 1, 1),
    (1, 44, 24, 5, 33, 2, 1, 2, 1),
    (1, 6, 200, 3, 34, 1, 1, 1, 1),
    (1, 4, 600, 2, 36, 1, 0, 1, 1),
    (1, 4, 600, 2, 3, 1, 0, 1, 1),
    (2, 6, 4, 1, 50, 1, 0, 0, 1),
    (2, 9, 8, 3, 80, 1, 1, 1, 2),
    (2, 9, 19, 3, 19, 1, 1, 1, 19),
    (1, 50, 27, 3, 54, 2, 1, 1, 27),
    (2, 9, 19, 3, 19, 1, 0, 0, 19),
    (1, 70, 1, 3, 2, 1, 65, 0, 1),
]


@pytest.mark.parametrize("case", LARGE, ids=str)
def test_blocking(case: tuple[int, ...]) -> None:
    images, size, channels, taps, filters, stride, low, high, groups = case
    x = words(1, images, size, size, channels)
    w = words(2, taps, taps, channels // groups, filters)
    shape = {"stride": stride, "low": low, "high": high, "groups": groups}
    expected = by_patches(x, w, **shape)
    parameters: dict[str, Any] = {
        "strides": (stride, stride),
        "padding": ((low, high), (low, high)),
        "groups": groups,
    }
    np.testing.assert_array_equal(kernels.conv(x, w, **parameters), expected)
    base = words(3, *expected.shape)
    kernels.conv(x, w, **parameters, accumulate_into=base)
    np.testing.assert_array_equal(base, words(3, *expected.shape) + expected)
    x2, w2 = words(4, *x.shape), words(5, *w.shape)
    _native.conv2(x, w, x2, w2, base, (stride, stride), (low, low), (1, 1), (1, 1), groups)
    np.testing.assert_array_equal(base, expected + by_patches(x2, w2, **shape))


@pytest.mark.parametrize("value", EXTREMES)
def test_extreme_values(value: np.uint64) -> None:
    x, w = np.full((1, 5, 5, 3), value), np.full((3, 3, 3, 4), value)
    expected = 27 * int(value) ** 2 % 2**64
    assert (kernels.conv(x, w) == np.uint64(expected)).all()


def test_output_beyond_the_input_is_zero() -> None:
    out = words(1, 1, 40, 40, 2)
    _native.conv(
        words(2, 1, 3, 3, 2), words(3, 2, 2, 2, 2), out, (2, 2), (-9, 50), (1, 1), (1, 1), 1, False
    )
    assert (out == 0).all()


def test_strided_inputs_and_out() -> None:
    x, w = words(1, 2, 6, 12, 3)[:, :, ::2], words(2, 2, 2, 3, 8)[..., ::2]
    expected = kernels.conv(np.ascontiguousarray(x), np.ascontiguousarray(w))
    out = np.empty_like(expected)
    assert kernels.conv(x, w, out=out) is out
    np.testing.assert_array_equal(out, expected)


def test_errors() -> None:
    x, w = words(1, 1, 5, 5, 4), words(2, 3, 3, 4, 6)
    with pytest.raises(ValueError, match="1 to 3 spatial dimensions"):
        kernels.conv(words(1, 2, 2), words(2, 2, 2))
    with pytest.raises(ValueError, match="w must have 4 dimensions"):
        kernels.conv(x, w[0])
    with pytest.raises(ValueError, match="strides must be 2 positive integers"):
        kernels.conv(x, w, strides=(0, 1))
    with pytest.raises(ValueError, match="padding must be 2 pairs"):
        kernels.conv(x, w, padding=((0, 0),))
    with pytest.raises(ValueError, match="w has shape"):
        kernels.conv(x, w[:, :, :3])
    with pytest.raises(ValueError, match="groups must be at least 1 and divide"):
        kernels.conv(x, w, groups=3)
    with pytest.raises(ValueError, match="groups must be at least 1 and divide"):
        kernels.conv(x, w, groups=0)
    with pytest.raises(TypeError, match="w must be an array of dtype uint64"):
        kernels.conv(x, w.astype(np.float64))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="accumulate_into must be C-contiguous"):
        kernels.conv(x, w, accumulate_into=words(3, 1, 3, 6, 6)[:, :, ::2])
    with pytest.raises(ValueError, match="padding_low must be two integers"):
        _native.conv(x, w, words(3, 1, 3, 3, 6), (1, 1), (2**40, 0), (1, 1), (1, 1), 1, False)
    with pytest.raises(ValueError, match="out has shape"):
        _native.conv(x, w, words(3, 2, 3, 3, 6), (1, 1), (0, 0), (1, 1), (1, 1), 1, False)
    with pytest.raises(ValueError, match="x2 has shape"):
        _native.conv2(
            x, w, x[:, :4].copy(), w, words(3, 1, 3, 3, 6), (1, 1), (0, 0), (1, 1), (1, 1), 1
        )
