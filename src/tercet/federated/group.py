"""Those who take part in a run, as the server sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

from tercet.crypto.identity import PublicIdentity
from tercet.errors import TercetError
from tercet.federated.aggregation import Session
from tercet.federated.participant import Participant
from tercet.federated.update import Arrays
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.cluster import Cluster

Heard: TypeAlias = Callable[[str, str | None], None]
"""Called with a participant's fingerprint and, unless it has contributed, the reason why not."""


class Group(ABC):
    """The participants of a run, here or in processes of their own."""

    @property
    @abstractmethod
    def members(self) -> list[PublicIdentity]:
        """Who may contribute."""

    @abstractmethod
    def begin(self, terms: AggregationTerms, digest: bytes) -> None:
        """Let them sign the terms, which the workers keep under ``digest``.

        Raises:
            TercetError: if they cannot, or will not.
        """

    @property
    def deadline(self) -> int:
        """Seconds from a round's first contribution to its close."""
        return 600

    @abstractmethod
    def run(self, number: int, weights: Arrays, heard: Heard) -> set[str]:
        """Let all of them train from ``weights`` and contribute to round ``number``, from 1.

        Returns:
            Once each has been heard of, or has run out of time: the fingerprints of those who may
            have contributed without having said so.
        """


class LocalGroup(Group):
    """Participants in this process, one after the other: for trial only, since it sees all data.

    Use it in a ``with`` statement.
    """

    def __init__(self, participants: Sequence[Participant], cluster: Cluster) -> None:
        self._participants = list(participants)
        self._cluster = cluster
        self._sessions: list[Session] = []

    def __enter__(self) -> LocalGroup:
        return self

    def __exit__(self, *exception: object) -> None:
        for session in self._sessions:
            session.close()

    @property
    def members(self) -> list[PublicIdentity]:
        """Who may contribute."""
        return [p.identity.public for p in self._participants]

    def begin(self, terms: AggregationTerms, digest: bytes) -> None:
        """Let one after the other sign.

        Raises:
            RefusedError: one of them does not accept the terms.
        """
        for participant in self._participants:
            participant.consent.check(terms)
        for participant in self._participants:
            self._sessions.append(Session(self._cluster, participant.identity, terms))

    def run(self, number: int, weights: Arrays, heard: Heard) -> set[str]:
        """Let one after the other take part; who fails is absent from the round."""
        for participant, session in zip(self._participants, self._sessions, strict=True):
            failure = None
            try:
                participant.take_part(number, weights, session)
            except TercetError as error:
                failure = str(error)
            heard(participant.identity.fingerprint, failure)
        return set()
