"""A participant's own process: ask the coordinator, train, contribute to the workers, tell."""

from __future__ import annotations

import time
from typing import Final, TypeVar

from tercet.crypto.identity import PublicIdentity
from tercet.errors import IntegrityError, TercetError, TransportError
from tercet.federated.aggregation import Session
from tercet.federated.participant import Participant
from tercet.federated.remote import ASK, POLL, TELL, Answer, Ask, Task, Tell, unpack
from tercet.service.aggregation_terms import AggregationTerms
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
    participant accepts it (``Participant.accept``). What fails in a round is told to the
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
    # A connection to one worker's address and key is all it takes; it has no data port.
    entry = WorkerEntry(coordinator.name, address, address, coordinator.pem)
    line = _Line(Connection(ClusterConfig([entry]), participant.identity), patience)
    session: Session | None = None
    outcome: dict[int, str | None] = {}
    after = -1
    try:
        while True:
            answer = line.ask(ASK, Ask(after), Answer)
            if answer.over:
                return outcome
            task = answer.task
            if task is None:
                continue
            after = task.number
            if session is None:
                try:
                    session = _sign(participant, cluster, task)
                except TercetError as error:
                    line.ask(TELL, Tell(task.number, to_failure(error)), type(None))
                    raise
            failure: TercetError | None = None
            if task.number:
                try:
                    participant.take_part(task.number, unpack(task.weights), session)
                    line.ask(TELL, Tell(task.number), type(None))
                except TransportError as error:
                    if error.__class__ is _Gone: raise
                    failure = error
                except TercetError as error:
                    failure = error
                outcome[task.number] = None if failure is None else str(failure)
    finally:
        if session is not None:
            session.close()
        line.close()
