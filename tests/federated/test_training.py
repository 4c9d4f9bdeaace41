"""The loop, its participants and their ledgers, on sums in the clear."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tercet.crypto.identity import Identity
from tercet.errors import InputError, RefusedError
from tercet.federated import participant as participant_module
from tercet.federated.aggregation import Aggregation
from tercet.federated.noise import UserLevel, event_of, with_noise
from tercet.federated.participant import Participant
from tercet.federated.training import _guarantees, run_rounds
from tercet.federated.update import change, flatten, unflatten
from tercet.privacy.accounting import epsilon
from tercet.privacy.dp_sgd import Account
from tercet.privacy.events import Relation
from tercet.privacy.ledger import Budget, Ledger
from tests.federated.plain import Book, Plain, terms_for

WEIGHTS = [np.zeros((2, 3), np.float32), np.zeros(4, np.float32)]
IDENTITIES = [Identity.generate(f"ward-{i}") for i in range(4)]


def adding(value: float):
    """Local training that adds a constant to every weight."""
    return lambda weights, number: [w + np.float32(value * number) for w in weights]


def failing(message: str, numbers: set[int]):
    def train(weights, number):
        if number in numbers:
            raise InputError(message)
        return [w + np.float32(0.25) for w in weights]

    return train


def run(participants: list[Participant], **changes: object):
    terms = terms_for([p.identity for p in participants], 10, **changes)
    book = Book(terms)
    group = Plain(participants, book)
    group.begin(terms, book.agreement.digest)
    return run_rounds(WEIGHTS, group, book, quiet=True)


def test_the_mean_of_what_they_learnt() -> None:
    steps = (0.0625, -0.03125, 0.015625)
    participants = [Participant(i, adding(s)) for i, s in zip(IDENTITIES, steps, strict=False)]
    weights, history = run(participants)
    assert flatten(weights) == pytest.approx((1 + 2 + 3) * sum(steps) / 3, abs=2**-20)
    assert [w.shape for w in weights] == [(2, 3), (4,)]
    assert {w.dtype for w in weights} == {np.dtype(np.float32)}
    assert [r.number for r in history.rounds] == [1, 2, 3]
    assert history.rounds[0].contributors == ("ward-0", "ward-1", "ward-2")
    assert history.rounds[0].guarantee is None


def test_a_sum_is_exact_bit_for_bit() -> None:
    rng = np.random.default_rng(1)
    updates = rng.normal(0, 0.2, (3, 10))
    trainers = [lambda w, n, u=u: unflatten(u, w) for u in updates]
    weights, _ = run(
        [Participant(i, t) for i, t in zip(IDENTITIES, trainers, strict=False)],
        rounds=1,
        bound=1 << 21,
    )
    rounded = [np.rint(u.astype(np.float32).astype(float) * 2**20) for u in updates]
    assert np.array_equal(flatten(weights), (sum(rounded) / 2**20 / 3).astype(np.float32))


def test_updates_are_clipped() -> None:
    weights, _ = run([Participant(i, adding(100.0)) for i in IDENTITIES], rounds=1)
    assert np.linalg.norm(flatten(weights)) == pytest.approx(1.0, abs=1e-5)


def test_weights_count() -> None:
    participants = [
        Participant(i, adding(v), weight=w)
        for i, v, w in zip(IDENTITIES, (0.1, 0.3), (1.0, 0.25), strict=False)
    ]
    weights, _ = run(participants, rounds=1, weighted=True)
    assert flatten(weights) == pytest.approx((0.1 + 0.25 * 0.3) / 1.25, abs=1e-5)
    for bad in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(InputError, match="weight"):
            Participant(IDENTITIES[0], adding(0), weight=bad)


def test_who_fails_is_absent_from_that_round_alone() -> None:
    participants = [Participant(i, adding(0.1)) for i in IDENTITIES[:2]]
    participants.append(Participant(IDENTITIES[2], failing("no power", {2})))
    _, history = run(participants)
    assert [len(r.contributors) for r in history.rounds] == [3, 2, 3]
    assert history.rounds[1].absent == {"ward-2": "no power"}


def test_too_few_contributors_change_nothing() -> None:
    trainers = [failing("no power", {2}), failing("no power", {2}), failing("no power", set())]
    participants = [Participant(i, t) for i, t in zip(IDENTITIES, trainers, strict=False)]
    weights, history = run(participants)
    assert history.rounds[1].contributors == ()
    assert set(history.rounds[1].absent) == {"ward-0", "ward-1"}
    assert flatten(weights) == pytest.approx(2 * 0.25, abs=1e-5)  # rounds 1 and 3
    dead = [Participant(i, failing("no power", {1, 2, 3})) for i in IDENTITIES]
    with pytest.raises(RefusedError, match="0 contributed to round 3"):
        run(dead)


def test_training_that_ends_in_nonsense_contributes_nothing() -> None:
    def nan(weights, number):
        return [w * np.nan for w in weights]

    def other(weights, number):
        return weights[:1]

    participants = [Participant(i, adding(0.1)) for i in IDENTITIES[:2]]
    participants += [Participant(IDENTITIES[2], nan), Participant(IDENTITIES[3], other)]
    _, history = run(participants, rounds=1)
    assert history.rounds[0].contributors == ("ward-0", "ward-1")
    assert "not finite" in history.rounds[0].absent["ward-2"]
    assert "other shapes" in history.rounds[0].absent["ward-3"]


def test_conditions_are_looked_at_before_signing() -> None:
    strict = Participant(IDENTITIES[0], adding(0.1), minimum=3)
    with pytest.raises(RefusedError, match="asks for 3"):
        run([strict, *(Participant(i, adding(0.1)) for i in IDENTITIES[1:3])])
    known = [i.public for i in IDENTITIES[:2]]
    shy = Participant(IDENTITIES[0], adding(0.1), known=known)
    with pytest.raises(RefusedError, match="does not know"):
        run([shy, *(Participant(i, adding(0.1)) for i in IDENTITIES[1:3])])
    run([shy, Participant(IDENTITIES[1], adding(0.1))])


AGREEMENT = Aggregation(
    "test", [i.fingerprint for i in IDENTITIES], "0" * 64, 10, 2, 1.0, rounds=20
)  # fmt: skip


def test_noise_is_what_the_budget_asks_for() -> None:
    for budget in (0.1, 3.0, 8.0):
        noisy = with_noise(AGREEMENT, UserLevel(budget, 1e-5))
        unit = 2.0**noisy.fraction_bits
        terms = terms_for(
            IDENTITIES, 10, bound=int(unit), scale=noisy.fraction_bits, rounds=20,
            variance=math.ceil((noisy.noise * unit) ** 2 / 2),
        )  # fmt: skip
        spent = epsilon([event_of(terms, 20)], 1e-5).epsilon
        assert 0.995 * budget < spent <= budget * (1 + 1e-6)
    assert event_of(terms_for(IDENTITIES, 10)) is None


def test_noise_beyond_the_ring_takes_fewer_bits() -> None:
    agreement = replace(AGREEMENT, rounds=10_000)
    noisy = with_noise(agreement, UserLevel(0.01, 1e-6))
    assert noisy.fraction_bits < agreement.fraction_bits
    assert (noisy.noise * 2**noisy.fraction_bits) ** 2 / 2 <= 2**61


def test_a_ledger_pays_for_each_round_and_refuses_what_is_beyond(tmp_path: Path) -> None:
    variance = 9 << 40
    one = event_of(terms_for(IDENTITIES, 10, variance=variance), 2)
    budget = Budget(epsilon([one], 1e-5).epsilon * 1.01, 1e-5)
    trained = []
    participants = []
    for identity in IDENTITIES[:3]:
        ledger = Ledger(tmp_path / f"{identity.name}.db")
        ledger.allow(identity.name, "digits", budget)

        def train(weights, number, name=identity.name):
            trained.append((name, number))
            return adding(0.1)(weights, number)

        account = Account(ledger, identity.name, "digits")
        participants.append(Participant(identity, train, account=account))
    participants.append(Participant(IDENTITIES[3], adding(0.1)))
    with pytest.raises(RefusedError, match="no noise"):
        run(participants)
    _, history = run(participants, variance=variance, rounds=2)
    assert [len(r.contributors) for r in history.rounds] == [4, 4]
    assert len(trained) == 6
    with pytest.raises(RefusedError, match="1 contributed"):
        run(participants, variance=variance)  # restarted: the budget is used up
    assert len(trained) == 6
    again = Ledger(tmp_path / "ward-0.db")
    assert len(again.events("ward-0", "digits")) == 2
    assert again.spent("ward-0", "digits").samplers == ("none",)
    again.close()


def test_epsilon_is_told_after_each_round() -> None:
    terms = terms_for(IDENTITIES, 10, variance=9 << 40)
    book = Book(terms)
    group = Plain([Participant(i, adding(0.1)) for i in IDENTITIES], book)
    _, history = run_rounds(WEIGHTS, group, book, privacy=UserLevel(9, 1e-5), quiet=True)
    told = [r.guarantee.epsilon for r in history.rounds]
    assert told == sorted(told)
    assert told[-1] == epsilon([event_of(terms, 3)], 1e-5).epsilon


def test_participants_that_draw_their_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is not drawn pays nothing; the mean is over the expected number; two guarantees."""
    chance = np.random.default_rng(1)
    monkeypatch.setattr(participant_module, "fresh", chance.bytes)
    account = None
    participants, rounds = [], 60
    for identity in IDENTITIES:
        ledger = Ledger(tmp_path / f"{identity.name}.db")
        ledger.allow(identity.name, "model", Budget(1000.0, 1e-5))
        account = Account(ledger, identity.name, "model")
        participants.append(
            Participant(identity, lambda w, n: [a + 0.01 for a in w], account=account, rate=0.7)
        )
    terms = terms_for(IDENTITIES, 10, rounds=rounds, variance=1 << 44)
    book = Book(terms)
    group = Plain(participants, book)
    group.begin(terms, book.agreement.digest)
    weights, history = run_rounds(
        WEIGHTS, group, book, privacy=UserLevel(1.0, 1e-5), rate=0.7, quiet=True
    )
    drawn = [len(r.contributors) for r in history.rounds]
    assert 0.5 < sum(drawn) / (4 * rounds) < 0.8
    assert flatten(weights) == pytest.approx(0.01 * sum(drawn) / (0.7 * 4), rel=1e-4)
    assert all(w.startswith("not drawn") for r in history.rounds for w in r.absent.values())
    paid = len(account.ledger.events(account.owner, account.model))
    assert 0 < paid < rounds
    last = history.rounds[-1]
    assert 0 < last.amplified.epsilon <= last.guarantee.epsilon
    whole, sampled = _guarantees(terms, rounds, UserLevel(1.0, 1e-5), 0.1)
    assert whole == last.guarantee
    assert 0 < sampled.epsilon < whole.epsilon / 3
    assert _guarantees(terms, 1, UserLevel(1.0, 1e-5, Relation.REPLACE), 0.1)[1] is None
    for wrong in (0.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="a rate of"):
            Participant(IDENTITIES[0], adding(0.1), rate=wrong)


def test_the_servers_optimiser_steps() -> None:
    velocity = np.zeros(10)

    def momentum(model, update):
        velocity[:] = 0.9 * velocity + update
        return model + velocity

    book = Book(terms_for(IDENTITIES, 10, rounds=2))
    group = Plain([Participant(i, lambda w, n: [a + 0.1 for a in w]) for i in IDENTITIES], book)
    weights, _ = run_rounds(WEIGHTS, group, book, step=momentum, quiet=True)
    assert flatten(weights) == pytest.approx(0.1 + 0.19, abs=1e-4)


def test_vectors() -> None:
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(1, np.float64)]
    back = unflatten(flatten(arrays), arrays)
    assert all(
        np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(arrays, back, strict=True)
    )
    with pytest.raises(InputError, match="7"):
        unflatten(np.zeros(6), arrays)
    assert change(arrays, arrays).tolist() == [0.0] * 7
