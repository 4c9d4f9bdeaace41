"""Accounting: published figures, closed forms, and orderings that a mistake would break."""

from __future__ import annotations

import math

import pytest

from tercet.errors import InputError
from tercet.privacy.accounting import (
    epsilon,
    integer_sum_rdp,
    noise_multiplier,
    sampled_rdp,
    without_sampling,
)
from tercet.privacy.events import GaussianSum, IntegerSum, Relation, Sampler, rounded_sensitivity
from tercet.privacy.plan import plan, plan_aggregate

MNIST = GaussianSum(1.1, round(60 * 60000 / 256), 256 / 60000)


def gaussian_delta(multiplier: float, epsilon: float) -> float:
    """Balle and Wang (2018), Theorem 8: the exact delta of one Gaussian."""

    def phi(t: float) -> float:
        return math.erfc(-t / math.sqrt(2)) / 2

    mu = 1 / multiplier
    return phi(mu / 2 - epsilon / mu) - math.exp(epsilon) * phi(-mu / 2 - epsilon / mu)


def test_golden_epsilons_of_dp_sgd() -> None:
    found = epsilon([MNIST], 1e-5)
    assert found.epsilon == pytest.approx(2.382, abs=1e-3)
    assert found.cross_check == pytest.approx(2.597, abs=1e-3)
    assert (found.accountant, found.samplers, found.relation) == (
        "PLD",
        (Sampler.POISSON,),
        Relation.ADD_OR_REMOVE,
    )
    assert str(found) == (
        "epsilon 2.382 at delta 1e-05 (PLD, sampling: Poisson, add-or-remove-one)"
    )


@pytest.mark.parametrize(("multiplier", "count"), [(1.0, 1), (4.0, 1), (12.0, 60)])
def test_unsampled_gaussians_have_a_closed_form(multiplier: float, count: int) -> None:
    found = epsilon([GaussianSum(multiplier, count)], 1e-5).epsilon
    exact = gaussian_delta(multiplier / math.sqrt(count), found)
    assert 0.98e-5 < exact <= 1e-5  # never optimistic, hardly pessimistic
    replaced = epsilon([GaussianSum(2 * multiplier, count)], 1e-5, Relation.REPLACE)
    assert replaced.epsilon == pytest.approx(found, rel=1e-3)
    assert replaced.cross_check is not None
    assert replaced.cross_check > replaced.epsilon


def test_relations_and_samplers_are_told_apart() -> None:
    plain, replaced = epsilon([MNIST], 1e-5), epsilon([MNIST], 1e-5, Relation.REPLACE)
    assert plain.epsilon < replaced.epsilon < 2.5 * plain.epsilon
    assert replaced.cross_check is None
    known = epsilon(without_sampling([MNIST]), 1e-5)
    assert known.samplers == (Sampler.NONE,)
    assert known.epsilon > 1000
    assert known.accountant == "RDP"
    both = epsilon([MNIST, GaussianSum(20.0)], 1e-5)
    assert both.samplers == (Sampler.POISSON, Sampler.NONE)
    assert both.epsilon > plain.epsilon


def test_no_events_cost_nothing() -> None:
    assert epsilon([], 1e-5).epsilon == 0


def test_splitting_a_run_changes_nothing() -> None:
    parts = [GaussianSum(1.1, n, MNIST.sampling_rate) for n in (1, 4061, 10000)]
    assert epsilon(parts, 1e-5).epsilon == pytest.approx(epsilon([MNIST], 1e-5).epsilon, rel=1e-3)


@pytest.mark.parametrize(
    ("target", "rounds", "rate", "relation"),
    [
        (3.0, 60, 1.0, Relation.ADD_OR_REMOVE),
        (3.0, 60, 1.0, Relation.REPLACE),
        (0.5, 1, 1.0, Relation.ADD_OR_REMOVE),
        (1.0, 1000, 0.01, Relation.ADD_OR_REMOVE),
        (1.0, 20, 0.2, Relation.REPLACE),
    ],
)
def test_calibrated_noise_meets_the_target(
    target: float, rounds: int, rate: float, relation: Relation
) -> None:
    multiplier = noise_multiplier(target, 1e-5, rounds, rate, relation)
    found = epsilon([GaussianSum(multiplier, rounds, rate)], 1e-5, relation).epsilon
    assert 0.998 * target < found <= target
    less = epsilon([GaussianSum(multiplier * 0.99, rounds, rate)], 1e-5, relation).epsilon
    assert less > target


def test_integer_noise_costs_what_a_gaussian_of_two_shares_costs() -> None:
    integer = IntegerSum(share_deviation=400.0, sensitivity=100.0, dimension=10**6, count=60)
    gaussian = GaussianSum(400 * math.sqrt(2) / 100, 60)
    for relation in Relation:
        found = epsilon([integer], 1e-5, relation)
        assert found.accountant == "RDP"
        assert found.epsilon == pytest.approx(
            epsilon([gaussian], 1e-5, relation).cross_check, rel=1e-6
        )
    together = epsilon([integer, gaussian], 1e-5)
    assert together.accountant == "RDP"
    assert together.epsilon > epsilon([integer], 1e-5).epsilon


def test_a_sum_of_narrow_discrete_gaussians_costs_more() -> None:
    # sigma 0.5: tau = 10 exp(-pi^2 / 4) = 0.848; two shares, sensitivity 1, one dimension, order 2.
    event = IntegerSum(share_deviation=0.5, sensitivity=1.0, dimension=1)
    tau = 10 * math.exp(-(math.pi**2) / 4)
    expected = min(2.0 + tau, (math.sqrt(2) + tau) ** 2)
    assert integer_sum_rdp(event, 2) == pytest.approx(expected)
    one = IntegerSum(share_deviation=0.5, sensitivity=1.0, dimension=1, shares=1)
    assert integer_sum_rdp(one, 2) == pytest.approx(4.0)


def test_sampling_amplifies_integer_noise() -> None:
    event = IntegerSum(400.0, 100.0, 10**6, count=100, sampling_rate=0.01)
    sampled = epsilon([event], 1e-5).epsilon
    assert sampled < 0.3 * epsilon(without_sampling([event]), 1e-5).epsilon
    # The bound for any mechanism is never below the exact value for the Gaussian.
    exact = epsilon([GaussianSum(4 * math.sqrt(2), 100, 0.01)], 1e-5).cross_check
    assert exact is not None
    assert sampled >= exact
    with pytest.raises(InputError, match="no bound is known"):
        epsilon([event], 1e-5, Relation.REPLACE)


def test_sampled_bound_at_order_two() -> None:
    # At order 2 it is exact for the worst mechanism: log(1 - q^2 + q^2 e^rdp).
    q, value = 0.25, 0.7
    expected = math.log((1 - q) * (1 + q) + q * q * math.exp(value))
    assert sampled_rdp({2: value}, 2, q) == pytest.approx(expected)


def test_rounding_adds_to_the_sensitivity() -> None:
    assert rounded_sensitivity(1.0, 16, 10**6) == 65536 + 500
    made = plan_aggregate(plan(3.0, 1e-5, 60), 1.0, 16, 10**6)
    assert made.aggregate is not None
    assert made.aggregate.share_variance >= (made.noise_multiplier * 66036) ** 2 / 2
    # By RDP, as a ledger composes it; PLD of a Gaussian would do with less.
    assert 0.998 * made.epsilon < made.aggregate.epsilon <= made.epsilon
    deviation = math.sqrt(made.aggregate.share_variance)
    event = IntegerSum(deviation, 66036.0, 10**6, count=60)
    assert epsilon([event], 1e-5).epsilon == pytest.approx(made.aggregate.epsilon)
    assert made.aggregate.total_deviation == pytest.approx(math.sqrt(3) * deviation / 65536)


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianSum(0.0),
        lambda: GaussianSum(math.nan),
        lambda: GaussianSum(1.0, 0),
        lambda: GaussianSum(1.0, 1, 1.5),
        lambda: GaussianSum(1.0, 1, 0.0),
        lambda: IntegerSum(-1.0, 1.0, 1),
        lambda: epsilon([], 0.0),
        lambda: epsilon([], 1.0),
        lambda: noise_multiplier(0.0, 1e-5, 1),
        lambda: noise_multiplier(math.inf, 1e-5, 1),
        lambda: noise_multiplier(1.0, 0.0, 1),
        lambda: noise_multiplier(1.0, 1e-5, 0),
    ],
)
def test_bad_arguments(make) -> None:
    with pytest.raises(InputError):
        make()
