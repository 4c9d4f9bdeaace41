"""Times of the kernels on every instruction set, by pytest-benchmark.

    pytest tests/ring/test_kernel_benchmarks.py --benchmark-only

Without ``--benchmark-only`` or ``--benchmark-enable`` each kernel runs once, and only its result is
checked.
"""

import math

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from tercet.ring import kernels
from tests.ring.arrays import words

ELEMENTS = 1 << 16


@pytest.fixture
def benchmark(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> BenchmarkFixture:
    option = request.config.getoption
    if not (option("benchmark_only") or option("benchmark_enable")):
        benchmark.disabled = True
    return benchmark


@pytest.mark.parametrize(
    ("m", "k", "n"), [(256, 256, 256), (512, 512, 512), (1, 1024, 1024), (128, 256, 10)]
)
def test_matmul(benchmark: BenchmarkFixture, m: int, k: int, n: int) -> None:
    a, b, out = words(1, m, k), words(2, k, n), np.empty((m, n), np.uint64)
    benchmark.extra_info["products"] = m * k * n
    benchmark(kernels.matmul, a, b, out=out)
    np.testing.assert_array_equal(out[:2], a[:2] @ b)


@pytest.mark.parametrize("images", [1, 32])
@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups"),
    [
        ((28, 28, 1), (3, 3, 1, 16), 1),
        ((13, 13, 16), (3, 3, 16, 32), 1),
        ((5, 5, 32), (3, 3, 32, 64), 1),
        ((28, 28, 32), (3, 3, 1, 32), 32),
    ],
    ids=["first", "second", "third", "depthwise"],
)
def test_conv(
    benchmark: BenchmarkFixture,
    x_shape: tuple[int, ...],
    w_shape: tuple[int, ...],
    groups: int,
    images: int,
) -> None:
    x, w = words(1, images, *x_shape), words(2, *w_shape)
    out = kernels.conv(x, w, groups=groups)
    benchmark.extra_info["products"] = out.size * math.prod(w_shape[:3])
    benchmark(kernels.conv, x, w, groups=groups, out=out)
    # One output position, as a sum over its patch.
    patch = x[-1, -3:, -3:]
    by_group = w.reshape(*w_shape[:3], groups, -1)
    channels = patch.reshape(3, 3, groups, -1)
    expected = np.einsum("hwgc,hwcgo->go", channels, by_group).reshape(-1)
    np.testing.assert_array_equal(out[-1, -1, -1], expected)


@pytest.mark.parametrize("count", [18, 28, 64])
def test_bit_planes(benchmark: BenchmarkFixture, count: int) -> None:
    x = words(1, ELEMENTS)
    planes = benchmark(kernels.bit_planes, x, 0, count)
    mask = np.uint64(2**count - 1)
    np.testing.assert_array_equal(kernels.planes_to_words(planes, x.size), x & mask)


def test_planes_to_words(benchmark: BenchmarkFixture) -> None:
    x = words(1, ELEMENTS)
    planes = kernels.bit_planes(x, 0, 64)
    np.testing.assert_array_equal(benchmark(kernels.planes_to_words, planes, x.size), x)


def test_expand_mask(benchmark: BenchmarkFixture) -> None:
    x = words(1, ELEMENTS)
    plane = kernels.bit_planes(x, 0, 1)[0]
    expected = np.zeros_like(x) - (x & np.uint64(1))
    np.testing.assert_array_equal(benchmark(kernels.expand_mask, plane, x.size), expected)


@pytest.mark.parametrize("bits", [1, 18, 28, 64])
def test_pack_bits(benchmark: BenchmarkFixture, bits: int) -> None:
    x = words(1, ELEMENTS)
    packed = benchmark(kernels.pack_bits, x, bits)
    np.testing.assert_array_equal(
        kernels.unpack_bits(packed, bits, x.size), x & np.uint64(2**bits - 1)
    )


@pytest.mark.parametrize("bits", [1, 18, 28, 64])
def test_unpack_bits(benchmark: BenchmarkFixture, bits: int) -> None:
    x = words(1, ELEMENTS)
    packed = kernels.pack_bits(x, bits)
    unpacked = benchmark(kernels.unpack_bits, packed, bits, x.size)
    np.testing.assert_array_equal(unpacked, x & np.uint64(2**bits - 1))
