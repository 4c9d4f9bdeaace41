"""User-level privacy: how much noise a run needs, and what each of its sums spends."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec

from tercet.federated.aggregation import Aggregation
from tercet.privacy import accounting
from tercet.privacy.events import IntegerSum, Relation
from tercet.service.aggregation_terms import MAX_VARIANCE, AggregationTerms


class UserLevel(msgspec.Struct, frozen=True):
    """Noise on the sums that protects everything that one participant holds.

    Attributes:
        epsilon, delta: of all rounds together, for a participant that contributes to each. No
            amplification by sampling is claimed: server and workers see who contributes.
        relation: add-or-remove-one compares a participant's update with none (zero; the number of
            contributors is public), replace-one with any other.
    """

    epsilon: float
    delta: float
    relation: Relation = Relation.ADD_OR_REMOVE


def event_of(terms: AggregationTerms, rounds: int = 1) -> IntegerSum | None:
    """Return what ``rounds`` sums spend; None without noise, which guarantees nothing.

    Two of the three workers' shares of the noise count: the server may collude with one worker.
    """
    if not terms.variance:
        return None
    deviation = math.sqrt(terms.variance)
    return IntegerSum(deviation, float(terms.bound), terms.length, count=rounds)


def with_noise(agreement: Aggregation, privacy: UserLevel) -> Aggregation:
    """Return ``agreement`` with as much noise as ``privacy`` asks for, over all its rounds.

    Where the noise would be larger than the workers' arithmetic takes, updates get fewer
    fractional bits.

    Raises:
        InputError: an argument is out of range.
    """
    while True:
        unit = 2.0**agreement.fraction_bits
        sensitivity = float(math.floor(agreement.bound * unit))
        event = IntegerSum(1.0, sensitivity, agreement.length, count=agreement.rounds)
        variance = accounting.share_variance(
            privacy.epsilon, privacy.delta, event, privacy.relation
        )
        if variance <= MAX_VARIANCE or agreement.fraction_bits == 0:
            return replace(
                agreement,
                noise=math.sqrt(2 * variance) / unit,
                scale=agreement.fraction_bits,
            )
        too_many = max(math.ceil(math.log2(variance / MAX_VARIANCE) / 2), 1)
        agreement = replace(agreement, scale=max(agreement.fraction_bits - too_many, 0))
