"""The training loop: rounds of local training, secure sums and a new model."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from tercet.crypto.prg import fresh
from tercet.errors import InputError, RefusedError
from tercet.federated.aggregation import Aggregate, Aggregation, Server, serve
from tercet.federated.group import Group, LocalGroup
from tercet.federated.history import History, Round, Terminal
from tercet.federated.noise import UserLevel, event_of, with_noise
from tercet.federated.participant import Participant
from tercet.federated.update import Arrays, Vector, flatten, unflatten
from tercet.privacy import accounting
from tercet.privacy.accounting import Guarantee
from tercet.privacy.dp_sgd import accuracy_on
from tercet.privacy.events import Relation
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.cluster import Cluster

Foreign = Any
"""A Keras model, which has no type here."""

ServerStep: TypeAlias = Callable[[Vector, Vector], Vector]
"""The server's optimiser: takes the model and the mean update, returns the next model."""

Evaluate: TypeAlias = Callable[[Arrays], float]
"""Returns the accuracy of a model, in [0, 1], on data that are public."""

_FAILURES: Final = 3
"""Rounds in a row that may fail before the run is given up."""


def add(model: Vector, update: Vector) -> Vector:
    """Federated averaging: the mean of the participants' models (McMahan et al., AISTATS 2017)."""
    return model + update


def train(
    model: Foreign,
    participants: Sequence[Participant] | Group,
    cluster: Cluster,
    *,
    rounds: int,
    clip_norm: float,
    minimum: int | None = None,
    privacy: UserLevel | None = None,
    weighted: bool = False,
    rate: float = 1.0,
    step: ServerStep = add,
    validation: tuple[NDArray[Any], NDArray[Any]] | None = None,
    quiet: bool = False,
) -> History:
    """Train ``model`` in place with participants who keep their data.

    In each round every participant trains from the model on its own data, clips what changed and
    sends it as shares straight to the three workers; this process, the server, receives the sum and
    nothing else, and steps. A participant that fails or is late is absent from that round alone. A
    round with too few contributors changes nothing; the third in a row ends the run.

    Args:
        model: a Keras model, which only gives and takes weights here; or nothing else than an
            object with ``get_weights`` and ``set_weights``, unless there is ``validation``.
        participants: in this process, or a ``Coordinator`` for those in processes of their own.
        cluster: the workers; ``cluster.owner`` is the server's identity, which they and every
            participant's identity must be listed as parties at.
        rounds: how many.
        clip_norm: L2 norm to which updates are clipped, and which the workers enforce.
        minimum: contributors without which no sum is opened; half of the participants, and 2 at
            least, if None.
        privacy: user-level noise, added by the workers; none if None.
        weighted: whether participants count by their ``weight``; only without noise.
        rate: with which each participant draws whether it takes part in a round
            (``Participant(rate=...)``). The sum is then divided by the expected number of
            contributors, whatever their number.
        step: what the server does with the mean update.
        validation: public data, on which accuracy is measured after each round.
        quiet: show nothing in the terminal.

    Raises:
        InputError: arguments are out of range or do not belong together.
        RefusedError: a participant does not accept the run, or three rounds in a row failed.
        TransportError, WorkerError: the workers cannot be reached or fail.
    """

    if not 0 < rate <= 1 or (weighted and rate < 1):
        raise InputError(
            f"a rate of {rate}{' with weights' if weighted else ''}",
            "Give a probability: above 0, at most 1, and 1 with weights",
        )

    def evaluate(weights: Arrays) -> float:
        assert validation is not None
        model.set_weights(list(weights))
        return accuracy_on(model, *validation)

    weights = [np.array(w) for w in model.get_weights()]
    with contextlib.ExitStack() as stack:
        group = participants
        if not isinstance(group, Group):
            group = stack.enter_context(LocalGroup(group, cluster))
        members = [p.fingerprint for p in group.members]
        if len(set(members)) < len(members) or len(members) < 2:
            raise InputError(
                f"{len(members)} participants, of whom {len(set(members))} are different",
                "Two different ones at least: a sum of one is its update",
            )
        agreement = Aggregation(
            # A name is for one run: the workers open each round of an agreement once.
            name=f"{getattr(model, 'name', 'model')}-{fresh(8).hex()}",
            participants=members,
            server=cluster.owner.fingerprint,
            length=sum(w.size for w in weights),
            minimum=max(-(-len(members) // 2), 2) if minimum is None else minimum,
            bound=clip_norm,
            weighted=weighted,
            deadline=group.deadline,
            rounds=rounds,
        )
        if privacy is not None:
            agreement = with_noise(agreement, privacy)
        server = stack.enter_context(serve(cluster, cluster.owner, agreement))
        group.begin(server.terms, server.agreement.digest)
        weights, history = run_rounds(
            weights,
            group,
            server,
            privacy=privacy,
            rate=rate,
            step=step,
            evaluate=evaluate if validation is not None else None,
            quiet=quiet,
        )
    model.set_weights(weights)
    return history


def run_rounds(
    weights: Arrays,
    group: Group,
    server: Server,
    *,
    privacy: UserLevel | None = None,
    rate: float = 1.0,
    step: ServerStep = add,
    evaluate: Evaluate | None = None,
    quiet: bool = False,
) -> tuple[list[NDArray[Any]], History]:
    """Run the rounds of ``server``'s agreement from ``weights``: see ``train``.

    Returns:
        The weights at the end, and what happened.
    """
    shapes = [np.asarray(w) for w in weights]
    vector, made, failures = flatten(shapes), History([]), 0
    names = {p.fingerprint: p.name for p in group.members}
    rounds = server.terms.rounds
    with Terminal(rounds, quiet=quiet) as terminal:
        for number in range(1, rounds + 1):
            started = time.perf_counter()
            told: dict[str, str | None] = {}

            def heard(who: str, failure: str | None, told: dict[str, str | None] = told) -> None:
                told[who] = failure
                terminal.heard(names[who], failure)

            terminal.begin(number, len(names))
            silent = group.run(number, unflatten(vector, shapes), heard)
            absent = {names[who]: failure for who, failure in told.items() if failure}
            contributors: tuple[str, ...] = ()
            try:
                done = {who for who, failure in told.items() if not failure}
                opened = _open(server, number, done | silent, told.keys() - done)
            except RefusedError:
                failures += 1
                if failures == _FAILURES:
                    raise
            else:
                failures = 0
                mean = opened.mean if rate == 1 else opened.sum / (rate * len(names))
                vector = step(vector, mean)
                contributors = tuple(n for who, n in names.items() if who in opened.contributors)
                absent = {name: why for name, why in absent.items() if name not in contributors}
                absent.update({names[who]: why for who, why in opened.dropped.items()})
            seconds = time.perf_counter() - started
            guarantee, amplified = _guarantees(server.terms, number, privacy, rate)
            score = None if evaluate is None else evaluate(unflatten(vector, shapes))
            made.rounds.append(
                Round(number, contributors, absent, score, guarantee, seconds, amplified)
            )
            terminal.end(made.rounds[-1])
    return unflatten(vector, shapes), made


def _guarantees(
    terms: AggregationTerms, rounds: int, privacy: UserLevel | None, rate: float
) -> tuple[Guarantee | None, Guarantee | None]:
    """Return what the noise guarantees after ``rounds``: to all, and by sampling as well.

    The server and any worker see who contributed: against them sampling helps nothing. Accounting
    of sampling is for one participant more or less.
    """
    event = event_of(terms, rounds)
    if event is None or privacy is None:
        return None, None
    whole = accounting.epsilon([event], privacy.delta, privacy.relation)
    if rate == 1 or privacy.relation is not Relation.ADD_OR_REMOVE:
        return whole, None
    sampled = msgspec.structs.replace(event, sampling_rate=rate)
    return whole, accounting.epsilon([sampled], privacy.delta, privacy.relation)


def _open(server: Server, number: int, awaited: set[str], failed: set[str]) -> Aggregate:
    """Open the sum of those who have contributed, or may have; who failed may have before it did.

    Raises:
        RefusedError: they are too few.
    """
    if len(awaited) < server.terms.minimum:
        raise RefusedError(
            f"{len(awaited)} contributed to round {number} of {server.terms.name!r}, which takes "
            f"{server.terms.minimum}",
            "See why the others are absent",
        )
    return server.aggregate(number - 1, sorted(awaited | failed), sorted(awaited))
