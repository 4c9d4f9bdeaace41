"""A participant's own process: ask the coordinator, train, contribute to the workers, tell."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Final, Self, TypeVar

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import RefusedError, TercetError, TransportError
from tercet.federated.aggregation import Session
from tercet.federated.consent import Consent
from tercet.federated.participant import Participant
from tercet.federated.remote import ASK, TELL, Answer, Ask, Tell, unpack
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.agreements import Document
from tercet.service.cluster import Cluster
from tercet.service.config import ClusterConfig, WorkerEntry
from tercet.service.connection import Connection
from tercet.service.failures import to_failure
from tercet.service.parties import Party

T = TypeVar("T")

_TIMEOUT: Final = 600.0
_PAUSE: Final = 0.5


def participate(
    participant: Participant,
    cluster: Cluster,
    coordinator: PublicIdentity,
    address: str,
    *,
    patience: float = 60.0,
) -> dict[int, str | None]:
    """Take part in a run until the coordinator says that it is over.

    The agreement is read from the three workers, not from the coordinator, and signed if the
    participant accepts it (``Consent.check``). What fails in a round is told to the
    coordinator and does not end the run.

    Args:
        participant: with its identity, data and ledger.
        cluster: the three workers; none of the identities in it is used.
        coordinator: whom to trust with the model and the number of a round, and nothing else.
        address: where it listens, ``host:port``.
        patience: seconds to go on trying while it cannot be reached.

    Returns:
        For each round that was offered, None or why this participant is absent from it.

    Raises:
        RefusedError: this participant does not accept the agreement.
        TransportError: the coordinator cannot be reached.
    """
    session: Session | None = None
    outcome: dict[int, str | None] = {}
    after = -1
    with _Line(participant.identity, coordinator, address, patience) as line:
        try:
            while not (answer := line.ask(ASK, Ask(after), Answer)).over:
                task = answer.task
                if task is None:
                    continue
                failure: TercetError | None = None
                try:
                    session = session or sign(participant.consent, cluster, task.agreement)
                    if task.number:
                        participant.take_part(task.number, unpack(task.weights), session)
                except TercetError as error:
                    failure = error
                told = Tell(task.number, None if failure is None else to_failure(failure))
                try:
                    line.ask(TELL, told, type(None))
                except RefusedError as error:
                    failure = failure or error  # the round went on without this participant
                if session is None and failure is not None:
                    raise failure
                if task.number:
                    outcome[task.number] = None if failure is None else str(failure)
                after = task.number
        finally:
            if session is not None:
                session.close()
    return outcome


def sign(consent: Consent, cluster: Cluster, digest: bytes) -> Session:
    """Sign the agreement that the three workers hold under ``digest``, if ``consent`` says yes.

    Harmless if it is signed already.

    Raises:
        NotFoundError: they hold none that concerns this identity.
        RefusedError: this owner does not accept it, or somebody has withdrawn.
    """
    with Party(cluster.config, consent.identity) as party:
        terms: Document = party.find(digest.hex()).terms
    if not isinstance(terms, AggregationTerms):
        raise RefusedError(
            f"the agreement {terms.name!r} is about something else", "Ask the server"
        )
    consent.check(terms)
    return Session(cluster, consent.identity, terms)


class _Line:
    """The connection to the coordinator, dialled again while ``patience`` lasts."""

    def __init__(
        self, identity: Identity, coordinator: PublicIdentity, address: str, patience: float
    ) -> None:
        # It is reached like a worker, by address and key; there is no data port.
        entry = WorkerEntry(coordinator.name, address, address, coordinator.pem)
        self._connection = Connection(ClusterConfig([entry]), identity)
        self._name, self._address, self._patience = coordinator.name, address, patience

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    def ask(self, path: str, body: object, kind: type[T]) -> T:
        """Post to the coordinator and return its answer."""
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._connection.ask_all(path, [body], kind, _TIMEOUT)[0]
            except TransportError:
                if time.monotonic() > deadline:
                    raise TransportError(
                        f"the coordinator {self._name} at {self._address} cannot be reached",
                        "Ask whether it runs, and whether it has this certificate on its list",
                    ) from None
            time.sleep(_PAUSE)
