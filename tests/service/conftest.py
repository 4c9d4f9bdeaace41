"""One local cluster (three worker processes over TLS) for the whole folder, and a small model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tercet.api import Lowered
from tercet.program.builder import Builder
from tercet.program.passes import lower
from tercet.program.program import Role
from tercet.service.cluster import LocalCluster


def dense_model(seed: int = 0) -> Lowered:
    """relu(x A + a) B + b on rows of 8: three outputs."""
    rng = np.random.default_rng(seed)
    builder = Builder(16)
    x = builder.input("input", Role.INPUT, (-1, 8))
    value = x
    arrays = {}
    for name, shape in (("hidden", (8, 16)), ("output", (16, 3))):
        w = builder.input(f"{name}/kernel", Role.WEIGHT, shape)
        b = builder.input(f"{name}/bias", Role.WEIGHT, shape[1:])
        builder.source = name
        value = builder.emit("truncate", builder.emit("matmul", value, w), shift=16)
        value = builder.emit("add", value, b)
        if name == "hidden":
            value = builder.emit("relu", value, shift=0, bits=62)
        arrays[f"{name}/kernel"] = rng.normal(0, 0.5, shape)
        arrays[f"{name}/bias"] = rng.normal(0, 0.5, shape[1:])
    return Lowered(*lower(builder.finish(value), arrays))


def reference(model: Lowered, x: np.ndarray) -> np.ndarray:
    """The model in float64."""
    a = {k.split("@")[0]: v for k, v in model.arrays.items()}
    hidden = np.maximum(x @ a["hidden/kernel"] + a["hidden/bias"], 0)
    return hidden @ a["output/kernel"] + a["output/bias"]


@pytest.fixture(scope="session")
def model() -> Lowered:
    return dense_model()


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True) as running:
        yield running


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 2, (5, 8))
