"""One local cluster for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tercet.service.cluster import LocalCluster
from tests.federated.parties import NAMES, SERVER


@pytest.fixture(scope="package")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=(*NAMES, SERVER, "stranger")) as running:
        yield running
