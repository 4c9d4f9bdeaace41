"""Three participants and a server on one local cluster, for tests of aggregation."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count

import numpy as np

from tercet.errors import TercetError
from tercet.federated import Aggregate, Aggregation, Server, Session, join, serve
from tercet.federated.quantise import quantise
from tercet.service.cluster import LocalCluster

NAMES = ("amber", "birch", "cedar")
SERVER = "server"
LENGTH = 50
_number = count()


def agreement(cluster: LocalCluster, **changes: object) -> Aggregation:
    """An agreement of the three, under a name that no other has."""
    prints = [cluster.as_party(n).owner.fingerprint for n in NAMES]
    fields: dict[str, object] = {
        "name": f"study {next(_number)}",
        "participants": prints,
        "server": cluster.as_party(SERVER).owner.fingerprint,
        "length": LENGTH,
        "minimum": 2,
        "bound": 2.0,
        "deadline": 30,
        "rounds": 5,
    }
    return Aggregation(**(fields | changes))  # type: ignore[arg-type]


class Study:
    """All sides of one agreement."""

    def __init__(self, cluster: LocalCluster, **changes: object) -> None:
        self.cluster = cluster
        self.agreement = agreement(cluster, **changes)
        self.server: Server = self._side(serve, SERVER)
        self.sessions: list[Session] = [self._side(join, n) for n in NAMES]
        self.terms = self.server.terms

    def __enter__(self) -> Study:
        return self

    def __exit__(self, *exception: object) -> None:
        for side in (*self.sessions, self.server):
            side.close()

    def _side(self, make, name: str):
        party = self.cluster.as_party(name)
        return make(party, party.owner, self.agreement)

    def prints(self, *who: int) -> list[str]:
        return [self.cluster.as_party(NAMES[i]).owner.fingerprint for i in who]

    def words(self, updates: Sequence[np.ndarray], weights: Sequence[float] = ()) -> np.ndarray:
        """The exact sum, in the arithmetic of the agreement."""
        given = weights or [1.0] * len(updates)
        total = np.zeros(self.terms.words, np.uint64)
        for update, weight in zip(updates, given, strict=True):
            total += quantise(update, weight, self.terms).words
        return total.view(np.int64)[: self.terms.length]

    def whole(self, told: Aggregate) -> np.ndarray:
        """What was opened, as integers: exact, as they are below 2^53."""
        return np.rint(told.sum * 2.0**self.terms.scale).astype(np.int64)


def updates(seed: int, norm: float = 1.0, length: int = LENGTH) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    given = [rng.normal(0, 1, length).astype(np.float32) for _ in NAMES]
    return [u * np.float32(norm / np.linalg.norm(u)) for u in given]


class Doing(threading.Thread):
    """A call in the background, with its result or error."""

    def __init__(self, call, *arguments) -> None:
        super().__init__(daemon=True)
        self._call, self._arguments = call, arguments
        self.value = None
        self.error: TercetError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self._call(*self._arguments)
        except TercetError as error:
            self.error = error

    def result(self, seconds: float = 60):
        self.join(seconds)
        assert not self.is_alive(), "it hangs"
        if self.error is not None:
            raise self.error
        return self.value
