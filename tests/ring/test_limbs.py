"""Products whose sizes matter to kernels that multiply byte by byte (`native/src/isa_amx.cpp`).

They run on every instruction set; on those of AMX they take tiles that are partly empty, sums as
large as they can get, and several threads that each have tiles.
"""

import platform
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tercet.ring import _native, kernels, oracle
from tests.ring.arrays import relaxed, words

ONES = np.uint64(2**64 - 1)


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [
        (15, 63, 15),
        (16, 64, 16),
        (17, 65, 17),
        (31, 4, 33),
        (96, 512, 32),
        (97, 513, 31),
        (95, 511, 8),
        (1, 1025, 9),
        (193, 61, 24),
        (50, 1990, 23),
    ],
)
def test_tails(m: int, k: int, n: int) -> None:
    a, b, base = words(1, m, k), words(2, k, n), words(3, m, n)
    expected = base + a @ b
    kernels.matmul(a, b, accumulate_into=base)
    np.testing.assert_array_equal(base, expected)


@relaxed
@given(
    st.integers(1, 40),
    st.integers(1, 5),
    st.integers(1, 40),
    st.integers(0, 63),
    st.integers(0, 63),
)
def test_each_bit_meets_each(m: int, k: int, n: int, left: int, right: int) -> None:
    a = np.full((m, k), np.uint64(1) << np.uint64(left))
    b = np.full((k, n), np.uint64(1) << np.uint64(right))
    np.testing.assert_array_equal(kernels.matmul(a, b), oracle.matmul(a, b))


@pytest.mark.parametrize("k", [63, 512, 513, 4000, 20000])
@pytest.mark.parametrize("value", [2**64 - 1, 2**32 - 1, 0x00FF00FF00FF00FF])
def test_largest_sums(k: int, value: int) -> None:
    a, b = np.full((17, k), np.uint64(value)), np.full((k, 18), ONES)
    expected = k * value * (2**64 - 1) % 2**64
    assert (kernels.matmul(a, b) == np.uint64(expected)).all()


def test_largest_sum_of_two() -> None:
    # Kernel rows of 339 elements: two of them make the deepest block that a convolution has.
    x, w = np.full((1, 5, 6, 113), ONES), np.full((3, 3, 113, 20), ONES)
    out = np.empty((1, 3, 4, 20), np.uint64)
    _native.conv2(x, w, x, w, out, (1, 1), (0, 0), (1, 1), (1, 1), 1)
    assert (out == 2 * 9 * 113).all()


def test_strided_inputs() -> None:
    a, b = words(1, 140, 400)[::2, 1::3], words(2, 50, 133).T
    np.testing.assert_array_equal(kernels.matmul(a, b), a @ b)


def test_threads_of_different_sizes() -> None:
    cases = []
    for seed, (m, k, n) in enumerate([(200, 300, 70), (33, 129, 250), (5, 40, 3), (97, 600, 16)]):
        a, b = words(seed, m, k), words(seed + 9, k, n)
        cases.append((a, b, a @ b))
    failures: list[int] = []

    def work(first: int) -> None:
        for turn in range(60):
            a, b, expected = cases[(first + turn) % len(cases)]
            if not np.array_equal(kernels.matmul(a, b), expected):
                failures.append(turn)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


SMALL_SIGNAL_STACK = """
import ctypes

class Stack(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

memory = ctypes.create_string_buffer(8192)
stack = Stack(ctypes.addressof(memory), 0, len(memory))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.sigaltstack(ctypes.byref(stack), None) == 0

import numpy
from tercet.ring import kernels

a = numpy.arange(256 * 256, dtype=numpy.uint64).reshape(256, 256)
assert (kernels.matmul(a, a) == a @ a).all()
print(*kernels.available_isas())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="AMX is asked for on x86 Linux",
)
def test_amx_is_not_used_where_the_kernel_refuses_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SMALL_SIGNAL_STACK], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "portable" in done.stdout
    assert "amx" not in done.stdout
