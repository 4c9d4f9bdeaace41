"""Gradients of a convolution are what makes it a linear map: <g, conv(x, w)> tells both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tercet.ring import gradients, kernels

CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((3, 9, 2), (3, 2, 4), {"strides": (2,), "padding": ((1, 1),)}),
    ((2, 7, 8, 3), (3, 2, 3, 4), {"strides": (2, 3), "padding": ((1, 0), (0, 2))}),
    ((2, 7, 8, 4), (3, 2, 2, 6), {"groups": 2}),
    ((2, 7, 8, 3), (3, 3, 1, 3), {"groups": 3, "padding": ((1, 1), (1, 1))}),
    ((2, 9, 9, 2), (3, 3, 2, 2), {"kernel_dilation": (2, 3)}),
    ((2, 4, 5, 2), (3, 3, 2, 2), {"input_dilation": (2, 3), "padding": ((2, 2), (1, 2))}),
    ((2, 5, 4, 6, 2), (2, 2, 3, 2, 3), {"strides": (2, 1, 2)}),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "how"), CASES)
def test_both_gradients_are_adjoint(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], how: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    rank = len(x_shape) - 2
    full = {
        "strides": (1,) * rank,
        "padding": ((0, 0),) * rank,
        "input_dilation": (1,) * rank,
        "kernel_dilation": (1,) * rank,
        "groups": 1,
        **how,
    }
    x, w = (rng.integers(0, 2**64, s, dtype=np.uint64) for s in (x_shape, w_shape))
    y = kernels.conv(x, w, **full)
    g = rng.integers(0, 2**64, y.shape, dtype=np.uint64)
    of_x = gradients.conv_input(g, w, extents=x_shape[1:-1], **full)
    of_w = gradients.conv_kernel(x, g, window=w_shape[:-2], **full)
    assert of_x.shape == x.shape
    assert of_w.shape == w.shape
    # The map is bilinear: its value at any x and w is <gradient, x> and <gradient, w>.
    wanted = (y * g).sum(dtype=np.uint64)
    assert (of_x * x).sum(dtype=np.uint64) == wanted
    assert (of_w * w).sum(dtype=np.uint64) == wanted
    other = rng.integers(0, 2**64, x_shape, dtype=np.uint64)
    again = (kernels.conv(other, w, **full) * g).sum(dtype=np.uint64)
    assert (of_x * other).sum(dtype=np.uint64) == again
