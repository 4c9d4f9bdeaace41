"""Types of the compiled kernels; `kernels` is their public face.

Every array is C-contiguous and native-endian, `uint64` unless stated; `out` is written in place and
must not share memory with an input. A wrong type or dtype raises `TypeError`, a wrong shape or
layout `ValueError`, both naming the argument.
"""

import numpy as np
from numpy.typing import NDArray

def set_isa(name: str) -> None: ...
def get_isa() -> str: ...
def available_isas() -> list[str]: ...
def matmul(
    a: NDArray[np.uint64], b: NDArray[np.uint64], out: NDArray[np.uint64], accumulate: bool
) -> None: ...
def batch_matmul(
    a: NDArray[np.uint64], b: NDArray[np.uint64], out: NDArray[np.uint64], accumulate: bool
) -> None: ...
def matmul2(
    a1: NDArray[np.uint64],
    b1: NDArray[np.uint64],
    a2: NDArray[np.uint64],
    b2: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None: ...
def conv(
    x: NDArray[np.uint64],
    w: NDArray[np.uint64],
    out: NDArray[np.uint64],
    strides: tuple[int, int],
    padding_low: tuple[int, int],
    input_dilation: tuple[int, int],
    kernel_dilation: tuple[int, int],
    groups: int,
    accumulate: bool,
) -> None: ...
def conv2(
    x1: NDArray[np.uint64],
    w1: NDArray[np.uint64],
    x2: NDArray[np.uint64],
    w2: NDArray[np.uint64],
    out: NDArray[np.uint64],
    strides: tuple[int, int],
    padding_low: tuple[int, int],
    input_dilation: tuple[int, int],
    kernel_dilation: tuple[int, int],
    groups: int,
) -> None: ...
def bit_planes(x: NDArray[np.uint64], shift: int, count: int, out: NDArray[np.uint64]) -> None: ...
def planes_to_words(planes: NDArray[np.uint64], out: NDArray[np.uint64]) -> None: ...
def expand_mask(plane: NDArray[np.uint64], out: NDArray[np.uint64]) -> None: ...
def project(
    x: NDArray[np.uint64],
    rows: NDArray[np.uint64],
    plane: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None: ...
def pack_bits(x: NDArray[np.uint64], bits: int, out: NDArray[np.uint8]) -> None: ...
def unpack_bits(buffer: NDArray[np.uint8], bits: int, out: NDArray[np.uint64]) -> None: ...
def truncate_lend(
    u: NDArray[np.uint64],
    shift: int,
    plane: NDArray[np.uint64],
    masks: NDArray[np.uint64],
    low_masks: NDArray[np.uint64],
    lent: NDArray[np.uint64],
    low: NDArray[np.uint64],
) -> None: ...
def truncate_apply(
    v: NDArray[np.uint64],
    shift: int,
    plane: NDArray[np.uint64],
    copy: NDArray[np.uint64],
    lent: NDArray[np.uint64],
    low: NDArray[np.uint64],
    mask: NDArray[np.uint64],
    other_mask: NDArray[np.uint64],
    message: NDArray[np.uint64],
    multiple_third: NDArray[np.uint64],
    value: NDArray[np.uint64],
    third: NDArray[np.uint64],
) -> None: ...
def add_carries(
    x: NDArray[np.uint64], low: NDArray[np.uint64], shift: int, out: NDArray[np.uint64]
) -> None: ...
def choose(
    plane: NDArray[np.uint64],
    x: NDArray[np.uint64],
    multiple: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None: ...
def lend_leaves(
    planes: NDArray[np.uint64],
    leaves: list[tuple[int, int]],
    masks: NDArray[np.uint64],
    out: NDArray[np.uint64],
) -> None: ...
def answer_leaves(
    planes: NDArray[np.uint64],
    leaves: list[tuple[int, int]],
    lent: NDArray[np.uint64],
    mask: NDArray[np.uint64],
    other_mask: NDArray[np.uint64],
    answer: NDArray[np.uint64],
    third: NDArray[np.uint64],
) -> None: ...
def lend_digits(
    u: NDArray[np.uint64],
    shift: int,
    bits: int,
    masks: NDArray[np.uint64],
    out: NDArray[np.uint8],
) -> None: ...
def answer_digits(
    v: NDArray[np.uint64],
    shift: int,
    bits: int,
    reverse: NDArray[np.uint64],
    first: bool,
    lent: NDArray[np.uint64] | NDArray[np.uint8],
    units: NDArray[np.uint64],
    offsets: NDArray[np.uint64],
    masks: NDArray[np.uint64],
    out: NDArray[np.uint8],
) -> None: ...
def find_zero(
    one: NDArray[np.uint8], two: NDArray[np.uint8], bits: int, n: int, out: NDArray[np.uint64]
) -> None: ...
