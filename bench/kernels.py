"""Rates of the ring kernels beside those of float64 BLAS, one thread, in the same run.

    python -m bench.kernels [--isa amx|avx512|avx2|portable] [--seconds 0.3] [--json FILE]

Ratios within a run mean more than rates, which depend on what else the machine does. For a
convolution the float64 figure is that of the matrix product alone, on patches made beforehand.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

# Before NumPy loads its BLAS.
for variable in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np

from bench.common import Part, Row, finish
from tercet.ring import _native, kernels

MATMULS = [(256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (1, 1024, 1024), (128, 256, 10)]
CONVS = [
    ((1, 28, 28, 1), (3, 3, 1, 16)),
    ((1, 13, 13, 16), (3, 3, 16, 32)),
    ((1, 5, 5, 32), (3, 3, 32, 64)),
    ((128, 28, 28, 1), (3, 3, 1, 16)),
    ((128, 13, 13, 16), (3, 3, 16, 32)),
    ((128, 5, 5, 32), (3, 3, 32, 64)),
    ((1, 56, 56, 64), (3, 3, 64, 64)),
]


def call_times(action: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of processor time a call takes in each of some batches of at least 0.5 ms, sorted."""
    action()
    calls = 1
    found: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        start = time.thread_time()
        for _ in range(calls):
            action()
        taken = time.thread_time() - start
        if taken < 0.5e-3:
            calls *= 2
            continue
        found.append(taken / calls)
        if time.perf_counter() > end:
            return sorted(found)


def timing(name: str, found: list[float]) -> Row:
    """Best, median and spread of one kernel."""
    best, low, middle, high = np.quantile(found, (0, 0.1, 0.5, 0.9)) * 1e6
    return {
        "kernel": name,
        "best_us": float(best),
        "median_us": float(middle),
        "p10_us": float(low),
        "p90_us": float(high),
    }


def main() -> None:
    """Prints one row a kernel and size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--isa", choices=kernels.available_isas(), default=kernels.get_isa())
    parser.add_argument("--seconds", type=float, default=0.3, help="time a measurement")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    kernels.set_isa(options.isa)
    seconds: float = options.seconds
    rng = np.random.default_rng(1)
    part = Part(
        "kernels", f"ring kernels on one thread, {kernels.get_isa()}; rates are of the best"
    )

    def ring(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
        return rng.integers(0, 2**64, shape, dtype=np.uint64)

    def line(name: str, products: int, ours: list[float], floats: list[float] | None) -> None:
        part.rows.append(
            {
                **timing(name, ours),
                "ring_GMAC_s": products / ours[0] / 1e9,
                "float64_GMAC_s": products / floats[0] / 1e9 if floats else None,
                "ratio_to_float64": floats[0] / ours[0] if floats else None,
            }
        )

    for m, k, n in MATMULS:
        a, b, out = ring(m, k), ring(k, n), ring(m, n)
        fa, fb, fout = a / 2.0**64, b / 2.0**64, out / 2.0**64
        floats = call_times(partial(np.matmul, fa, fb, out=fout), seconds)
        ours = call_times(partial(kernels.matmul, a, b, out=out), seconds)
        line(f"matmul {m} x {k} x {n}", m * k * n, ours, floats)

    for x_shape, w_shape in CONVS:
        for same in (False, True):
            pads = ((1, 1), (1, 1)) if same else ((0, 0), (0, 0))
            x, w = ring(*x_shape), ring(*w_shape)
            out = kernels.conv(x, w, padding=pads)
            depth, filters = int(np.prod(w_shape[:3])), w_shape[3]
            pixels = out.size // filters
            fa, fb = rng.random((pixels, depth)), rng.random((depth, filters))
            fout = np.empty((pixels, filters))
            floats = call_times(partial(np.matmul, fa, fb, out=fout), seconds)
            ours = call_times(partial(kernels.conv, x, w, padding=pads, out=out), seconds)
            name = f"conv {x_shape} {w_shape}".replace(", ", ",")
            line(name + (" same" if same else ""), pixels * depth * filters, ours, floats)

    x, w = ring(1, 56, 56, 64), ring(3, 3, 1, 64)
    out = kernels.conv(x, w, groups=64)
    ours = call_times(lambda: kernels.conv(x, w, groups=64, out=out), seconds)
    line("depthwise (1,56,56,64) 3x3", out.size * 9, ours, None)

    x = ring(1 << 16)
    planes = np.empty((64, x.size // 64), np.uint64)
    words = np.empty_like(x)
    mask = ring(x.size // 64)
    packed = np.empty(x.size * 18 // 8, np.uint8)
    for name, action in [
        ("bit_planes, all 64", lambda: _native.bit_planes(x, 0, 64, planes)),
        ("bit_planes, 28", lambda: _native.bit_planes(x, 16, 28, planes[:28])),
        ("planes_to_words, 64", lambda: _native.planes_to_words(planes, words)),
        ("expand_mask", lambda: _native.expand_mask(mask, words)),
        ("pack_bits, 18", lambda: _native.pack_bits(x, 18, packed)),
        ("unpack_bits, 18", lambda: _native.unpack_bits(packed, 18, words)),
    ]:
        ours = call_times(action, seconds)
        part.rows.append(
            timing(f"{name}, 65,536 elements", ours) | {"GB_s": x.nbytes / ours[0] / 1e9}
        )
    finish(part, options.json)


if __name__ == "__main__":
    main()
