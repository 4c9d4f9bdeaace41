"""Accounting: what recorded events spend together, and the noise that a budget asks for.

Gaussian noise is composed as privacy loss distributions (PLD; Koskela et al. 2020, Doroshenko et
al. 2022), with Renyi differential privacy (RDP; Mironov 2017) as a cross-check; both by
``dp_accounting``. Integer noise has an RDP bound only, so a record that holds some is composed by
RDP. Every figure names its accountant, sampler and neighbouring relation.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from tercet.errors import ConfigError, InputError
from tercet.privacy.events import Event, GaussianSum, IntegerSum, Relation, Sampler, sampler_of

_ORDERS: Final = (*range(2, 65), 128, 256, 512, 1024)
"""Renyi orders; whole numbers, since the bound for sampled integer noise holds for these."""
_TOLERANCE: Final = 1e-3
_PLD_LIMIT: Final = 30.0


class Guarantee(NamedTuple):
    """(epsilon, delta)-differential privacy, and in what sense.

    Attributes:
        epsilon, delta: the guarantee.
        accountant: "PLD" or "RDP".
        samplers: the samplers of the events, without repetition; empty if there are no events.
        relation: the neighbouring relation.
        cross_check: epsilon by RDP where ``accountant`` is PLD and RDP has a bound, else None.
    """

    epsilon: float
    delta: float
    accountant: str
    samplers: tuple[Sampler, ...]
    relation: Relation
    cross_check: float | None

    def __str__(self) -> str:
        """State the guarantee in one line."""
        samplers = " and ".join(self.samplers) or "none"
        return (
            f"epsilon {self.epsilon:.3f} at delta {self.delta:g} "
            f"({self.accountant}, sampling: {samplers}, {self.relation})"
        )


def epsilon(
    events: Sequence[Event], delta: float, relation: Relation = Relation.ADD_OR_REMOVE
) -> Guarantee:
    """Return what ``events``, one after the other on the same data, guarantee.

    Beyond epsilon 30, which protects nobody, RDP alone is used.

    Raises:
        InputError: delta is no probability below 1, or no bound is known: sampled integer noise
            under the replace-one relation, or sampled Gaussian beside integer noise under it.
        ConfigError: ``dp_accounting`` is not installed.
    """
    _check_delta(delta)
    samplers = tuple(dict.fromkeys(map(sampler_of, events)))
    if not events:
        return Guarantee(0.0, delta, "PLD", samplers, relation, 0.0)
    renyi = _renyi_epsilon(events, delta, relation)
    # PLD works on a grid over epsilon: beyond a size that means nothing it takes all memory.
    size = _renyi_epsilon(events, delta, Relation.ADD_OR_REMOVE)
    assert size is not None
    if size > _PLD_LIMIT and renyi is None:
        renyi = _renyi_epsilon(without_sampling(events), delta, relation)
    gaussian = tuple(event for event in events if isinstance(event, GaussianSum))
    if len(gaussian) == len(events) and size <= _PLD_LIMIT:
        value = _pld_epsilon(gaussian, delta, relation)
        return Guarantee(value, delta, "PLD", samplers, relation, renyi)
    if renyi is None:
        raise InputError(
            "no bound is known for this record: sampling under the replace-one relation "
            "beside or of integer noise",
            "Account under add-or-remove-one, or without sampling",
        )
    return Guarantee(renyi, delta, "RDP", samplers, relation, None)


@lru_cache(maxsize=64)
def noise_multiplier(
    target: float,
    delta: float,
    rounds: int,
    sampling_rate: float = 1.0,
    relation: Relation = Relation.ADD_OR_REMOVE,
) -> float:
    """Return a noise multiplier whose epsilon (by PLD) is ``target`` or up to 0.1 % less.

    Raises:
        InputError: an argument is out of range.
    """
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"the target epsilon is {target}", "Give a number above zero, such as 3")
    _check_delta(delta)

    def spent(multiplier: float) -> float:
        event = GaussianSum(multiplier, rounds, sampling_rate)
        return epsilon([event], delta, relation).epsilon

    def spent_by_renyi(multiplier: float) -> float:
        event = GaussianSum(multiplier, rounds, sampling_rate)
        found = _renyi_epsilon([event], delta, Relation.ADD_OR_REMOVE)
        assert found is not None
        return found

    # RDP takes milliseconds and is never far off, so that PLD needs a few steps only.
    start, slope = _solve(spent_by_renyi, target, 1.0)
    if relation is Relation.REPLACE:
        start *= 2
    return _solve(spent, target, start, slope)[0]


@lru_cache(maxsize=64)
def share_variance(target: float, delta: float, one: IntegerSum, relation: Relation) -> int:
    """Return the variance of a share of integer noise whose epsilon (by RDP) is ``target``.

    As a ledger composes integer noise by RDP too, a run planned with it fits the budget that it was
    planned for.

    Args:
        target: epsilon of all ``one.count`` sums; reached up to 0.1 %.
        delta: the other half of the guarantee.
        one: the sums; its ``share_deviation`` is not looked at.
        relation: the neighbouring relation.

    Raises:
        InputError: an argument is out of range, or no bound is known.
    """
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"the target epsilon is {target}", "Give a number above zero, such as 3")

    def spent(multiplier: float) -> float:
        deviation = multiplier * one.sensitivity / math.sqrt(one.shares)
        event = msgspec.structs.replace(one, share_deviation=deviation)
        return epsilon([event], delta, relation).epsilon

    multiplier, _ = _solve(spent, target, math.sqrt(one.count))
    return math.ceil((multiplier * one.sensitivity) ** 2 / one.shares)


def epsilon_by_epoch(
    event: GaussianSum, epochs: int, delta: float, relation: Relation = Relation.ADD_OR_REMOVE
) -> list[float]:
    """Return epsilon (by PLD) after each of ``epochs`` repetitions of ``event``."""
    library = _library("dp_accounting.pld.privacy_loss_distribution")
    one = library.from_gaussian_mechanism(
        event.noise_multiplier,
        sampling_prob=event.sampling_rate,
        neighboring_relation=_relation(relation),
    )
    epoch = total = one.self_compose(event.count)
    values = [float(total.get_epsilon_for_delta(delta))]
    for _ in range(epochs - 1):
        total = total.compose(epoch)
        values.append(float(total.get_epsilon_for_delta(delta)))
    return values


def without_sampling(events: Sequence[Event]) -> list[Event]:
    """Return the events as they look to somebody who knows which records were sampled.

    A recipient that colludes with a worker knows who contributed to a round, so that sampling
    hides nothing from it.
    """
    return [msgspec.structs.replace(event, sampling_rate=1.0) for event in events]


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise InputError(f"delta is {delta}", "Give a probability, such as 1e-5")


def _solve(
    spent: Callable[[float], float], target: float, guess: float, slope: float = -1.0
) -> tuple[float, float]:
    """Return x with ``target`` (1 - tolerance) <= spent(x) <= ``target``; ``spent`` decreases.

    Secant steps in logarithms, where the curve is almost straight, held in a bracket; ``slope`` is
    the first guess of its slope there, the one found is returned beside x.
    """
    low, high = 2.0**-10, 2.0**24
    x = guess
    before: tuple[float, float] | None = None
    for _ in range(60):
        # Aim into the middle of the tolerance; steps are bounded where spent() is 0 or infinite.
        gap = math.log(max(spent(x), 1e-9) / target) + _TOLERANCE / 2
        gap = min(max(gap, -2.0), 2.0)
        if abs(gap) < _TOLERANCE / 2:
            return x, slope
        low, high = (x, high) if gap > 0 else (low, x)
        if before is not None and gap != before[1]:
            slope = min((gap - before[1]) / math.log(x / before[0]), -0.2)
        before = (x, gap)
        x *= math.exp(-gap / slope)
        if not low < x < high:
            x = math.sqrt(low * high)
    raise InputError(
        f"no noise multiplier between 2^-10 and 2^24 gives epsilon {target}",
        "Change epsilon, delta, the number of rounds or the sampling rate",
    )


@lru_cache(maxsize=256)
def _pld_epsilon(events: tuple[GaussianSum, ...], delta: float, relation: Relation) -> float:
    dp = _library("dp_accounting")
    accountant = _library("dp_accounting.pld").PLDAccountant(_relation(relation))
    for event in events:
        # The library's multiplier is relative to one contribution's norm under both relations.
        accountant.compose(_sampled(dp, event.noise_multiplier, event.sampling_rate), event.count)
    return float(accountant.get_epsilon(delta))


def _renyi_epsilon(events: Sequence[Event], delta: float, relation: Relation) -> float | None:
    """Return epsilon by RDP, or None where no bound is implemented."""
    if relation is Relation.REPLACE and any(event.sampling_rate < 1 for event in events):
        return None
    rdp = _library("dp_accounting.rdp")
    total = [0.0] * len(_ORDERS)
    for event in events:
        total = [a + b for a, b in zip(total, _renyi_curve(event, relation), strict=True)]
    return float(rdp.compute_epsilon(_ORDERS, total, delta)[0])


@lru_cache(maxsize=256)
def _renyi_curve(event: Event, relation: Relation) -> tuple[float, ...]:
    """Return the RDP of an event at each order."""
    distance = 2.0 if relation is Relation.REPLACE else 1.0
    if isinstance(event, GaussianSum):
        dp = _library("dp_accounting")
        accountant = _library("dp_accounting.rdp").RdpAccountant(_ORDERS)
        # Unsampled, replacing a record moves the sum twice as far; sampled does not come here.
        multiplier = event.noise_multiplier / distance
        accountant.compose(_sampled(dp, multiplier, event.sampling_rate), event.count)
        return tuple(map(float, accountant.rdp))
    curve = {order: integer_sum_rdp(event, order, distance) for order in _ORDERS}
    if event.sampling_rate < 1:
        dense = {
            order: integer_sum_rdp(event, order, distance) for order in range(2, max(_ORDERS) + 1)
        }
        curve = {
            order: min(curve[order], sampled_rdp(dense, order, event.sampling_rate))
            for order in _ORDERS
        }
    return tuple(event.count * curve[order] for order in _ORDERS)


def integer_sum_rdp(event: IntegerSum, order: int, distance: float = 1.0) -> float:
    """Return the RDP of one unsampled sum with discrete Gaussian shares.

    Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism" (ICML 2021), Proposition
    14: as for a Gaussian of the summed variance, but for tau, which is the price of a sum of
    discrete Gaussians being none itself. tau is below 10^-80 as soon as a share's sigma is 5.

    Args:
        event: its sampling and count are not looked at.
        order: the Renyi order, above 1.
        distance: how many contributions' norms neighbouring sums are apart.
    """
    variance = event.share_deviation**2
    tau = 10 * sum(
        math.exp(-2 * math.pi**2 * variance * k / (k + 1)) for k in range(1, event.shares)
    )
    ratio = distance * event.sensitivity / (event.share_deviation * math.sqrt(event.shares))
    return min(
        order / 2 * ratio**2 + tau * event.dimension,
        order / 2 * (ratio + tau * math.sqrt(event.dimension)) ** 2,
    )


def sampled_rdp(curve: dict[int, float], order: int, rate: float) -> float:
    """Return the RDP at ``order`` after Poisson sampling of any mechanism (add-or-remove-one).

    Zhu and Wang, "Poisson Subsampled Renyi Differential Privacy" (ICML 2019), Theorem 5.

    Args:
        curve: the mechanism's RDP at all whole orders from 2 to ``order``.
        order: a whole number >= 2.
        rate: sampling probability, below 1.
    """
    stay, take = math.log1p(-rate), math.log(rate)
    terms = [
        (order - 1) * stay + math.log1p((order - 1) * rate),
        _log_choose(order, 2) + 2 * take + (order - 2) * stay + curve[2],
    ]
    terms += [
        math.log(3) + _log_choose(order, k) + (order - k) * stay + k * take + (k - 1) * curve[k]
        for k in range(3, order + 1)
    ]
    top = max(terms)
    return (top + math.log(math.fsum(math.exp(term - top) for term in terms))) / (order - 1)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _sampled(dp: Any, multiplier: float, rate: float) -> Any:
    event = dp.GaussianDpEvent(multiplier)
    return event if rate == 1 else dp.PoissonSampledDpEvent(rate, event)


def _relation(relation: Relation) -> Any:
    relations = _library("dp_accounting").NeighboringRelation
    if relation is Relation.REPLACE:
        return relations.REPLACE_ONE
    return relations.ADD_OR_REMOVE_ONE


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            "dp-accounting is not installed", "Install the extra: pip install 'tercet[privacy]'"
        ) from None
