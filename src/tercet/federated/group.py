"""Those who take part in a run, as the server sees them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeAlias

from tercet.crypto.identity import PublicIdentity
from tercet.errors import TercetError
from tercet.federated.aggregation import Receipt, Session
from tercet.federated.participant import Participant
from tercet.federated.update import Arrays
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.cluster import Cluster

Heard: TypeAlias = Callable[[str, str | None], None]
"""Called with a participant's fingerprint and, unless it has contributed, the reason why not."""

_AT_ONCE: Final = 8
"""Updates of local participants that are on their way at a time; each is held in memory."""


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
    """Participants in this process: for trial only, since it sees all data.

    They train one after the other; up to ``_AT_ONCE`` send their updates meanwhile.

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
        sending: deque[tuple[str, Future[Receipt]]] = deque()

        def settle() -> None:
            who, sent = sending.popleft()
            error = sent.exception()
            if error is not None and not isinstance(error, TercetError):
                raise error
            heard(who, None if error is None else str(error))

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for participant, session in zip(self._participants, self._sessions, strict=True):
                who = participant.identity.fingerprint
                try:
                    update = participant.learn(number, weights, session)
                except TercetError as error:
                    heard(who, str(error))
                    continue
                if len(sending) == _AT_ONCE:
                    settle()
                sending.append((who, pool.submit(participant.contribute, number, update, session)))
            while sending:
                settle()
        return set()
