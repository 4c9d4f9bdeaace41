"""Planning: the noise that keeps a run within a budget, before anything runs."""

from __future__ import annotations

import math

import msgspec

from tercet.privacy import accounting
from tercet.privacy.events import (
    Event,
    GaussianSum,
    IntegerSum,
    Relation,
    rounded_sensitivity,
)


class Aggregate(msgspec.Struct, frozen=True):
    """Noise on a securely summed, quantised update.

    Attributes:
        share_variance: sigma^2 of the discrete Gaussian that each worker adds, in squared units of
            2^-fraction_bits; two of the three carry the guarantee, the third's is extra.
        total_deviation: deviation of what the recipient sees, in the update's own unit.
        epsilon: of two shares, by RDP.
    """

    share_variance: int
    total_deviation: float
    epsilon: float


class Plan(msgspec.Struct, frozen=True):
    """A run that fits a budget.

    Attributes:
        noise_multiplier: deviation of the noise, in clipping norms.
        epsilon: by PLD.
        cross_check: epsilon by RDP, if it has a bound.
        unsampled_epsilon: epsilon towards somebody who knows which records were sampled.
        delta, rounds, sampling_rate, relation: of the run.
        sampler: the sampler's name.
        aggregate: for a secure sum; None if none was asked for.
    """

    noise_multiplier: float
    epsilon: float
    cross_check: float | None
    unsampled_epsilon: float
    delta: float
    rounds: int
    sampling_rate: float
    sampler: str
    relation: str
    aggregate: Aggregate | None = None


def plan(
    epsilon: float,
    delta: float,
    rounds: int,
    sampling_rate: float = 1.0,
    relation: Relation = Relation.ADD_OR_REMOVE,
) -> Plan:
    """Return the noise for ``rounds`` sums within ``epsilon`` at ``delta``.

    Raises:
        InputError: an argument is out of range.
    """
    multiplier = accounting.noise_multiplier(epsilon, delta, rounds, sampling_rate, relation)
    events: list[Event] = [GaussianSum(multiplier, rounds, sampling_rate)]
    found = accounting.epsilon(events, delta, relation)
    known = accounting.epsilon(accounting.without_sampling(events), delta, relation)
    return Plan(
        multiplier,
        found.epsilon,
        found.cross_check,
        known.epsilon,
        delta,
        rounds,
        sampling_rate,
        found.samplers[0].value,
        relation.value,
    )


def plan_aggregate(made: Plan, clip_norm: float, fraction_bits: int, dimension: int) -> Plan:
    """Add to ``made`` the shares of noise on a sum of clipped updates of ``dimension`` numbers.

    Each worker adds a discrete Gaussian of half the variance, so that the recipient together with
    one worker still faces all of it. Rounding adds to the sensitivity, and so to the noise. The
    variance is the one whose epsilon by RDP is that of ``made``, since a ledger composes integer
    noise by RDP: somewhat more than the noise multiplier says.
    """
    relation = Relation(made.relation)
    event = IntegerSum(
        1.0,
        rounded_sensitivity(clip_norm, fraction_bits, dimension),
        dimension,
        count=made.rounds,
        sampling_rate=made.sampling_rate,
    )
    variance = accounting.share_variance(made.epsilon, made.delta, event, relation)
    event = msgspec.structs.replace(event, share_deviation=math.sqrt(variance))
    found = accounting.epsilon([event], made.delta, relation)
    total = math.ldexp(math.sqrt(3 * variance), -fraction_bits)
    return msgspec.structs.replace(made, aggregate=Aggregate(variance, total, found.epsilon))
