"""Three workers as processes, and the links of three in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

from tercet.api import Lowered
from tercet.crypto.identity import Identity
from tercet.service.cluster import LocalCluster
from tests.net.workers import TlsCluster
from tests.service.conftest import dense_model


@pytest.fixture
def links() -> Iterator[TlsCluster]:
    made = TlsCluster([Identity.generate(name) for name in ("julia", "greg", "me")])
    with contextlib.closing(made):
        made.ready()
        yield made


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Lowered:
    return dense_model()


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(7).normal(0, 2, (5, 8))
