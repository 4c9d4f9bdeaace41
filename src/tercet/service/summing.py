"""The wire of secure aggregation at its participants and its server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from tercet.crypto.identity import Identity
from tercet.crypto.prg import SECRET_BYTES, fresh, seed_stream
from tercet.errors import InputError, IntegrityError
from tercet.protocol.base import Words
from tercet.protocol.replicated.sharing import combine
from tercet.runtime.aggregation import SUM_BITS, TENSOR
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.config import WORKERS, ClusterConfig
from tercet.service.connection import Connection
from tercet.service.messages import REQUEST_ID_BYTES
from tercet.service.sum_messages import HEAD_BYTES, AskSum, Contribute, Told

#: Seconds beyond a round's deadline, for its last contributions and its end.
_GRACE = 120.0

#: Words that are dealt at a time: what is done to them stays in the cache.
_BLOCK = 1 << 15


class Summed(NamedTuple):
    """The opened words of a round, and what the three workers say of it."""

    words: Words
    contributors: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]


class Summing:
    """Speaks to the three workers under one agreement. Close it after use."""

    def __init__(
        self, cluster: ClusterConfig, identity: Identity, agreement: bytes, terms: AggregationTerms
    ) -> None:
        self._connection = Connection(cluster, identity)
        self._agreement = agreement
        self._terms = terms

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def contribute(self, round: int, words: Words) -> int:
        """Deal ``words`` to the three workers and return the bytes sent, once they are summed.

        Worker 0 gets two seeds, the others one array and one seed each.
        """
        return self.send(self.bodies(round, words))

    def bodies(self, round: int, words: Words) -> list[list[bytes | memoryview]]:
        """Return what each worker gets of a fresh sharing of ``words``."""
        seeds = [fresh(SECRET_BYTES) for _ in range(2)]
        streams = [seed_stream(seed, TENSOR) for seed in seeds]
        last = np.empty(words.size, "<u8")
        for start in range(0, words.size, _BLOCK):
            block = words[start : start + _BLOCK]
            mask = streams[0].words(block.size)
            mask += streams[1].words(block.size)
            np.subtract(block, mask, out=last[start : start + _BLOCK])
        array = last.data.cast("B")
        request = fresh(REQUEST_ID_BYTES)
        bodies: list[list[bytes | memoryview]] = []
        for pair in ((seeds[0], seeds[1]), (seeds[1], b""), (b"", seeds[0])):
            head = msgspec.msgpack.encode(Contribute(request, self._agreement, round, pair))
            framed = len(head).to_bytes(HEAD_BYTES, "little") + head
            bodies.append([framed] if all(pair) else [framed, array])
        return bodies

    def send(self, bodies: Sequence[Sequence[bytes | memoryview]]) -> int:
        """Send what ``bodies`` made and return the bytes sent, once it is summed."""
        timeout = self._terms.deadline + _GRACE
        self._connection.send_all("/v1/sums/contribute", bodies, type(None), timeout)
        return sum(len(part) for body in bodies for part in body)

    def aggregate(
        self, round: int, participants: Sequence[str] | None, awaited: Sequence[str] | None = None
    ) -> Summed:
        """Close a round and return what it opened."""
        if participants is not None and not all(isinstance(p, str) for p in participants):
            raise InputError("participants that are no fingerprints", "Give `fingerprint`s")
        asked = self._terms.participants if participants is None else participants
        waits = asked if awaited is None else awaited
        question = AskSum(
            fresh(REQUEST_ID_BYTES), self._agreement, round,
            tuple(sorted(set(asked))), tuple(sorted(set(waits))),
        )  # fmt: skip
        timeout = self._terms.deadline + _GRACE
        told = self._connection.ask_all("/v1/sums/aggregate", [question] * WORKERS, Told, timeout)
        if any(
            (t.contributors, t.dropped) != (told[0].contributors, told[0].dropped) for t in told
        ):
            raise IntegrityError(
                "the workers name different contributors", "Tell the workers' operators"
            )
        words = combine([t.part for t in told], (self._terms.words,), SUM_BITS)
        return Summed(np.asarray(words), told[0].contributors, told[0].dropped)
