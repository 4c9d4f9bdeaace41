"""Sums in one process and in the clear, in the workers' arithmetic: what secure ones must equal."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import RefusedError, TercetError
from tercet.federated.aggregation import Aggregate, Receipt
from tercet.federated.group import Group, Heard
from tercet.federated.participant import Participant
from tercet.federated.quantise import quantise
from tercet.federated.update import Arrays
from tercet.service.aggregation_terms import WEIGHT_SCALE, AggregationTerms

WORKERS = tuple(Identity.generate(f"worker-{i}").fingerprint for i in range(3))


def terms_for(identities: Sequence[Identity], length: int, **changes: object) -> AggregationTerms:
    participants = tuple(sorted(i.fingerprint for i in identities))
    server = Identity.generate("laptop").fingerprint
    given = {
        "name": "test", "workers": WORKERS, "signers": (*participants, server),
        "participants": participants, "server": server, "length": length, "minimum": 2,
        "bound": 1 << 20, "scale": 20, "deadline": 60, "rounds": 3,
    } | changes  # fmt: skip
    terms = AggregationTerms(**given)
    terms.check()
    return terms


class Book:
    """What one aggregation has been given; sessions, and the server, in one."""

    def __init__(self, terms: AggregationTerms) -> None:
        self.terms = terms
        self.agreement = SimpleNamespace(digest=hashlib.sha256(terms.name.encode()).digest())
        self.given: dict[int, dict[str, np.ndarray]] = defaultdict(dict)

    def session(self, fingerprint: str) -> Page:
        return Page(self, fingerprint)

    def aggregate(
        self, round: int, participants: Sequence[str], awaited: Sequence[str]
    ) -> Aggregate:
        given = self.given[round]
        assert set(participants) >= set(given)
        assert set(participants) >= set(awaited)
        if len(given) < self.terms.minimum:
            raise RefusedError(f"{len(given)} contributed")
        words = sum(given.values()).view(np.int64)
        weight = float(len(given))
        if self.terms.weighted:
            weight = words[-1] * 2.0**-WEIGHT_SCALE
        total = words[: self.terms.length] * 2.0**-self.terms.scale
        return Aggregate(round, total, weight, tuple(sorted(given)), {}, 0.0)

    def __enter__(self) -> Book:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class Page:
    """One participant's session."""

    def __init__(self, book: Book, fingerprint: str) -> None:
        self.terms, self._book, self._who = book.terms, book, fingerprint

    def contribute(self, round: int, update: np.ndarray, weight: float = 1.0) -> Receipt:
        given = quantise(update, weight, self.terms)
        self._book.given[round][self._who] = given.words
        return Receipt(round, given.norm, given.clipped, 0)

    def close(self) -> None:
        pass

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class Plain(Group):
    """Participants in this process."""

    def __init__(self, participants: Sequence[Participant], book: Book) -> None:
        self._book = book
        self._participants = list(participants)

    @property
    def members(self) -> list[PublicIdentity]:
        return [p.identity.public for p in self._participants]

    def begin(self, terms: AggregationTerms, digest: bytes) -> None:
        for participant in self._participants:
            participant.consent.check(terms)

    def run(self, number: int, weights: Arrays, heard: Heard) -> set[str]:
        for participant in self._participants:
            who, failure = participant.identity.fingerprint, None
            try:
                participant.take_part(number, weights, self._book.session(who))
            except TercetError as error:
                failure = str(error)
            heard(who, failure)
        return set()
