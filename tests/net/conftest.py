"""Fixtures for the network tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tercet.crypto.identity import Identity
from tercet.net.memory import MemoryTransport
from tests.net.workers import TlsCluster, Trio


@pytest.fixture(scope="session")
def identities() -> list[Identity]:
    return [Identity.generate(name) for name in ("julia", "greg", "me")]


@pytest.fixture
def cluster(identities: list[Identity]) -> Iterator[TlsCluster]:
    made = TlsCluster(identities)
    with contextlib.closing(made):
        made.ready()
        yield made


@pytest.fixture(params=["memory", "tls"])
def trio(request: pytest.FixtureRequest) -> Iterator[Trio]:
    if request.param == "memory":
        a, b, c = MemoryTransport.trio()
        yield a, b, c
        for worker in (a, b, c):
            worker.close()
    else:
        cluster: TlsCluster = request.getfixturevalue("cluster")
        a, b, c = cluster.workers
        yield a, b, c
