"""Secure aggregation as its participants and its server see it.

    agreement = Aggregation("spleen", participants, server, length=n, minimum=3, bound=1.0)

    with join(cluster, identity, agreement) as session:      # each participant
        session.contribute(0, update)

    with serve(cluster, identity, agreement) as server:      # whoever receives the sums
        mean = server.aggregate(0).mean

Each side signs the same document; the three workers hold the participants and the server to it
(``service/rounds.py``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.crypto.identity import Identity
from tercet.errors import InputError
from tercet.federated.quantise import quantise
from tercet.protocol.norm import MAX_BOUND
from tercet.service.aggregation_terms import MAX_SCALE, WEIGHT_SCALE, AggregationTerms
from tercet.service.cluster import Cluster
from tercet.service.parties import Agreement, Party
from tercet.service.summing import Summed, Summing

_MAX_AUTOMATIC = 40


@dataclass(frozen=True)
class Aggregation:
    """What participants and server agree on; see ``service/aggregation_terms.py``.

    Attributes:
        name: what it is about, 1 to 100 characters.
        participants: fingerprints (``Identity.fingerprint``) of those who may contribute.
        server: fingerprint of who receives the sums. It may be a participant as well.
        length: parameters of an update.
        minimum: contributors without which no sum is opened, 2 at least.
        bound: L2 norm to which updates are clipped, and which the workers enforce.
        noise: standard deviation of the Gaussian noise on each element of the sum that protects
            against the server and any one worker together; the sum carries sqrt(1.5) times it. 0
            for none.
        weighted: whether contributions carry weights; only without noise.
        deadline: seconds from a round's first contribution, or the server's question, to its close.
        rounds: rounds in all.
        scale: fractional bits of updates; as many as the bound allows if None.
    """

    name: str
    participants: Sequence[str]
    server: str
    length: int
    minimum: int
    bound: float
    noise: float = 0.0
    weighted: bool = False
    deadline: int = 600
    rounds: int = 1
    scale: int | None = None

    @property
    def fraction_bits(self) -> int:
        """Fractional bits of updates.

        Raises:
            InputError: if the bound is no positive number, or too large for any.
        """
        if not (math.isfinite(self.bound) and self.bound > 0):
            raise InputError(f"a bound of {self.bound}", "Give a positive number")
        if self.scale is not None:
            return self.scale
        bits = math.floor(math.log2(MAX_BOUND / self.bound))
        if bits < 0:
            raise InputError(
                f"a bound of {self.bound:g}", f"At most {MAX_BOUND:g}: scale updates down"
            )
        return min(bits, _MAX_AUTOMATIC, MAX_SCALE)

    def terms(self, cluster: Cluster) -> AggregationTerms:
        """Return the document for the three workers of ``cluster``.

        Raises:
            InputError: if bound or noise are not numbers that make sense.
            RefusedError: if the document does not, as each worker would say.
        """
        unit = 2.0**self.fraction_bits
        if not (math.isfinite(self.noise) and self.noise >= 0):
            raise InputError(f"noise of {self.noise}", "Give a number that is not negative")
        participants = tuple(sorted(set(self.participants)))
        terms = AggregationTerms(
            name=self.name,
            workers=_three([w.identity.fingerprint for w in cluster.config.worker]),
            signers=tuple(dict.fromkeys((*participants, self.server))),
            participants=participants,
            server=self.server,
            length=self.length,
            minimum=self.minimum,
            bound=math.floor(self.bound * unit),
            scale=self.fraction_bits,
            variance=math.ceil((self.noise * unit) ** 2 / 2),
            weighted=self.weighted,
            deadline=self.deadline,
            rounds=self.rounds,
        )
        terms.check()
        return terms


@dataclass(frozen=True)
class Receipt:
    """A contribution that all three workers have checked and summed.

    Attributes:
        round: of the agreement.
        norm: L2 norm of what was contributed, after clipping and rounding.
        clipped: whether the update was over the bound and scaled down.
        bytes_sent: payload to all three workers.
    """

    round: int
    norm: float
    clipped: bool
    bytes_sent: int


@dataclass(frozen=True)
class Aggregate:
    """What a round opened.

    Attributes:
        round: of the agreement.
        sum: float64 (length,): the sum of the clipped, rounded, weighted updates, and noise.
        weight: sum of the weights; the number of contributors if they carry none.
        contributors: fingerprints, in ascending order.
        dropped: fingerprints of those whose contribution failed the check, each with the reason.
        sigma: standard deviation of the noise in ``sum``; 0 for none. Of it, sqrt(2/3) protects
            against the server and one worker together.
    """

    round: int
    sum: NDArray[np.float64] = field(repr=False)
    weight: float
    contributors: tuple[str, ...]
    dropped: Mapping[str, str]
    sigma: float

    @property
    def mean(self) -> NDArray[np.float64]:
        """The weighted mean, float64 (length,)."""
        return self.sum / self.weight


class Session:
    """One participant's side of an aggregation. Close it, or use it in a ``with`` statement."""

    def __init__(self, cluster: Cluster, identity: Identity, terms: AggregationTerms) -> None:
        self.terms = terms
        self.agreement = _agree(cluster, identity, terms)
        self._summing = Summing(cluster.config, identity, self.agreement.digest, terms)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._summing.close()

    def contribute(self, round: int, update: ArrayLike, weight: float = 1.0) -> Receipt:
        """Send shares of ``weight`` times the clipped update; return once they are in the sum.

        After a ``TransportError`` or ``WorkerError`` the same round can be contributed to again:
        what was not in the sum at all three workers is in it nowhere.

        Args:
            round: 0 to ``rounds`` - 1.
            update: real numbers, (length,) or of any shape with that many elements.
            weight: 0 to 1, if the agreement has weights.

        Raises:
            InputError: for NaN, infinity, another size or a weight that does not fit; nothing was
                sent then.
            RefusedError: if the round is closed, this participant has contributed, or the
                agreement does not hold.
            IntegrityError: if the workers got shares that do not belong together.
            TransportError, WorkerError: if a worker is missing or fails.
        """
        given = quantise(update, weight, self.terms)
        sent = self._summing.contribute(round, given.words)
        return Receipt(round, given.norm, given.clipped, sent)


class Server:
    """The receiving side of an aggregation. Close it, or use it in a ``with`` statement."""

    def __init__(self, cluster: Cluster, identity: Identity, terms: AggregationTerms) -> None:
        self.terms = terms
        self.agreement = _agree(cluster, identity, terms)
        self._summing = Summing(cluster.config, identity, self.agreement.digest, terms)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._summing.close()

    def aggregate(
        self,
        round: int,
        participants: Sequence[str] | None = None,
        awaited: Sequence[str] | None = None,
    ) -> Aggregate:
        """Wait for a round to close and return its sum; later calls return the same sum.

        The round closes once all of ``awaited`` have contributed, or at its deadline, with those of
        ``participants`` who have.

        Args:
            round: 0 to ``rounds`` - 1.
            participants: fingerprints of those who are to contribute; everybody if None. Another
                list for a round that was opened is refused, since the difference of two sums is
                somebody's update.
            awaited: those of them for whom the round waits; all if None. Others are in the sum if
                they have contributed by then: whoever failed may have.

        Raises:
            RefusedError: if too few contributed (nothing is opened; the round can be run again) or
                the list is another one.
            IntegrityError: if the workers do not agree on the round.
            TransportError, WorkerError: if a worker is missing or fails; ask again.
        """
        told = self._summing.aggregate(round, participants, awaited)
        return _aggregate(told, self.terms, round)


def join(cluster: Cluster, identity: Identity, agreement: Aggregation) -> Session:
    """Sign an agreement as one of its participants and return the session for its rounds.

    Raises:
        InputError: if this identity is not a participant.
        RefusedError: if the workers refuse the document.
    """
    terms = agreement.terms(cluster)
    if identity.fingerprint not in terms.participants:
        raise InputError(
            f"{identity.name} is not a participant of {agreement.name!r}",
            "Name its fingerprint among the participants",
        )
    return Session(cluster, identity, terms)


def serve(cluster: Cluster, identity: Identity, agreement: Aggregation) -> Server:
    """Sign an agreement as its server and return the side that receives the sums.

    Raises:
        InputError: if this identity is not its server.
        RefusedError: if the workers refuse the document.
    """
    terms = agreement.terms(cluster)
    if identity.fingerprint != terms.server:
        raise InputError(
            f"{identity.name} is not the server of {agreement.name!r}",
            "Name its fingerprint as the server",
        )
    return Server(cluster, identity, terms)


def _agree(cluster: Cluster, identity: Identity, terms: AggregationTerms) -> Agreement:
    with Party(cluster.config, identity) as party:
        return party.approve(party.propose(terms))


def _aggregate(told: Summed, terms: AggregationTerms, round: int) -> Aggregate:
    values = told.words.view(np.int64)
    unit = np.float64(2.0**-terms.scale)
    weight = float(len(told.contributors))
    if terms.weighted:
        weight = float(values[-1]) * 2.0**-WEIGHT_SCALE
    return Aggregate(
        round,
        values[: terms.length] * unit,
        weight,
        told.contributors,
        dict(told.dropped),
        math.sqrt(3 * terms.variance) * unit,
    )


def _three(names: Sequence[str]) -> tuple[str, str, str]:
    first, second, third = names
    return first, second, third
