"""Secure aggregation over three real workers: what is opened, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import (
    InputError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    TercetError,
    TransportError,
)
from tercet.federated import join, serve
from tercet.service.cluster import LocalCluster
from tercet.service.parties import Party
from tercet.service.summing import Summing
from tests.federated.parties import LENGTH, SERVER, Doing, Study, agreement, updates
from tests.service.processes import ready


def test_the_sum_is_that_of_the_clipped_rounded_updates(cluster: LocalCluster) -> None:
    """Bit for bit; two rounds; updates below, at and above the bound."""
    with Study(cluster) as study:
        for number, norm in enumerate((0.5, 2.0, 300.0)):
            given = updates(number, norm)
            asked = Doing(study.server.aggregate, number)
            receipts = [s.contribute(number, u) for s, u in zip(study.sessions, given, strict=True)]
            assert all(r.clipped == (norm > 2) and r.norm <= 2 for r in receipts) or norm == 2.0
            told = asked.result()
            np.testing.assert_array_equal(study.whole(told), study.words(given))
            assert told.contributors == study.terms.participants
            assert (told.weight, told.dropped, told.sigma) == (3, {}, 0)
            clipped = [u * min(1, 2 / norm) for u in given]
            np.testing.assert_allclose(told.mean, np.mean(clipped, axis=0), atol=1e-6)


def test_weights(cluster: LocalCluster) -> None:
    with Study(cluster, weighted=True) as study:
        given, weights = updates(1), [1.0, 0.25, 0.0]
        for session, update, weight in zip(study.sessions, given, weights, strict=True):
            session.contribute(0, update, weight)
        told = study.server.aggregate(0)
        assert told.weight == 1.25
        np.testing.assert_array_equal(study.whole(told), study.words(given, weights))
        np.testing.assert_allclose(told.mean, (given[0] + given[1] / 4) / 1.25, atol=1e-6)


def test_a_retry_opens_the_same_sum_again(cluster: LocalCluster) -> None:
    with Study(cluster, noise=1.0) as study:
        for session, update in zip(study.sessions, updates(2), strict=True):
            session.contribute(0, update)
        first, second = study.server.aggregate(0), study.server.aggregate(0)
        np.testing.assert_array_equal(first.sum, second.sum)
        assert first.sigma == pytest.approx(np.sqrt(1.5), rel=1e-6)
        assert np.abs(study.whole(first) - study.words(updates(2))).max() > 0


def test_the_noise_is_the_sum_of_three_discrete_gaussians(cluster: LocalCluster) -> None:
    """Against the exact distribution: variance 2 each, convolved; and no two elements alike."""
    length = 20_000
    sigma = 2 / 256  # in units of 2^-8: variance 4, of which each worker adds a half
    with Study(cluster, length=length, scale=8, bound=2.0, noise=sigma) as study:
        assert study.terms.variance == 2
        given = updates(15, 0.5, length)
        for session, update in zip(study.sessions, given, strict=True):
            session.contribute(0, update)
        told = study.server.aggregate(0)
    noise = study.whole(told) - study.words(given)
    reach = 30
    single = np.exp(-(np.arange(-reach, reach + 1) ** 2) / 4)
    single /= single.sum()
    exact = np.convolve(np.convolve(single, single), single)
    values = np.arange(-3 * reach, 3 * reach + 1)
    assert told.sigma == pytest.approx(np.sqrt(6) / 256)
    common = exact * length >= 10
    seen = np.array([(noise == v).sum() for v in values[common]])
    expected = exact[common] * length
    rest = length - seen.sum(), length - expected.sum()
    square = ((seen - expected) ** 2 / expected).sum() + (rest[0] - rest[1]) ** 2 / rest[1]
    degrees = common.sum()
    assert square < degrees + 5 * np.sqrt(2 * degrees)
    shifted = np.corrcoef(noise[1:], noise[:-1])[0, 1]
    assert abs(shifted) < 5 / np.sqrt(length)


def test_another_list_for_the_same_round_is_refused(cluster: LocalCluster) -> None:
    """The difference attack: two sums that differ in one participant."""
    with Study(cluster) as study:
        for session, update in zip(study.sessions, updates(3), strict=True):
            session.contribute(0, update)
        told = study.server.aggregate(0)
        with pytest.raises(RefusedError, match="closed for another list"):
            study.server.aggregate(0, study.prints(0, 1))
        again = study.server.aggregate(0, study.prints(2, 0, 1))
        np.testing.assert_array_equal(told.sum, again.sum)


def test_a_round_for_some_of_them(cluster: LocalCluster) -> None:
    """It closes once they are complete; others in it make it refused, with nothing opened."""
    with Study(cluster) as study:
        given = updates(4)
        for i in (0, 2):
            study.sessions[i].contribute(0, given[i])
        told = study.server.aggregate(0, study.prints(0, 2))
        np.testing.assert_array_equal(study.whole(told), study.words([given[0], given[2]]))
        for session, update in zip(study.sessions, given, strict=True):
            session.contribute(1, update)
        with pytest.raises(RefusedError, match=r"1 participants contributed .* who were not asked"):
            study.server.aggregate(1, study.prints(0, 2))
        with pytest.raises(RefusedError, match="1 participants where 2 must contribute"):
            study.server.aggregate(2, study.prints(0))


def test_a_round_waits_for_those_it_is_told_to(cluster: LocalCluster) -> None:
    """Others are in it if they have contributed, and are not waited for if not."""
    with Study(cluster) as study:
        given = updates(16)
        for number, there in enumerate(((0, 1, 2), (0, 1))):
            for i in there:
                study.sessions[i].contribute(number, given[i])
            told = study.server.aggregate(number, study.prints(0, 1, 2), study.prints(0, 1))
            assert told.contributors == tuple(sorted(study.prints(*there)))
            np.testing.assert_array_equal(study.whole(told), study.words([given[i] for i in there]))
        with pytest.raises(RefusedError, match="waits for others than it asks"):
            study.server.aggregate(2, study.prints(0, 1), study.prints(2))


def test_too_few_contributors(cluster: LocalCluster) -> None:
    """At the deadline nothing is opened; the round can be run again."""
    with Study(cluster, deadline=2) as study:
        given = updates(5)
        study.sessions[1].contribute(0, given[1])
        with pytest.raises(RefusedError, match="has 1 contributors and needs 2"):
            study.server.aggregate(0)
        for session, update in zip(study.sessions, given, strict=True):
            session.contribute(0, update)
        np.testing.assert_array_equal(study.whole(study.server.aggregate(0)), study.words(given))


def test_a_round_closes_at_its_deadline(cluster: LocalCluster) -> None:
    with Study(cluster, deadline=2) as study:
        given = updates(6)
        for i in (0, 1):
            study.sessions[i].contribute(0, given[i])
        told = study.server.aggregate(0)
        assert told.contributors == tuple(sorted(study.prints(0, 1)))
        np.testing.assert_array_equal(study.whole(told), study.words(given[:2]))
        with pytest.raises(RefusedError, match="the round is closed"):
            study.sessions[2].contribute(0, given[2])


def test_a_contributor_twice(cluster: LocalCluster) -> None:
    with Study(cluster) as study:
        given = updates(7)
        study.sessions[0].contribute(0, given[0])
        with pytest.raises(RefusedError, match="amber has contributed to round 0"):
            study.sessions[0].contribute(0, given[1])
        for i in (1, 2):
            study.sessions[i].contribute(0, given[i])
        np.testing.assert_array_equal(study.whole(study.server.aggregate(0)), study.words(given))


@pytest.mark.parametrize(
    "attack",
    [[2**32], [2**63, 2**63], [2**31] * 4, [2**62] * 4, [2**25 + 1], [-(2**25) - 1]],
    ids=str,
)
def test_who_is_over_the_norm_is_dropped_and_named(
    cluster: LocalCluster, attack: list[int]
) -> None:
    with Study(cluster, scale=24) as study:
        given = updates(8)
        words = np.zeros(LENGTH, np.uint64)
        words[: len(attack)] = np.array([a % 2**64 for a in attack], np.uint64)
        with pytest.raises(RefusedError, match="does not keep the agreed bound"):
            study.sessions[1]._summing.contribute(0, words)
        with pytest.raises(RefusedError, match="has contributed"):
            study.sessions[1].contribute(0, given[1])
        for i in (0, 2):
            study.sessions[i].contribute(0, given[i])
        told = study.server.aggregate(0)
        assert told.contributors == tuple(sorted(study.prints(0, 2)))
        assert list(told.dropped) == study.prints(1)
        np.testing.assert_array_equal(study.whole(told), study.words([given[0], given[2]]))


def test_a_weight_over_1_is_dropped(cluster: LocalCluster) -> None:
    with Study(cluster, weighted=True) as study:
        words = np.zeros(LENGTH + 1, np.uint64)
        words[-1] = (1 << 20) + 1
        with pytest.raises(RefusedError, match="does not keep the agreed bound"):
            study.sessions[0]._summing.contribute(0, words)


def test_what_is_no_update_is_not_sent(cluster: LocalCluster) -> None:
    with Study(cluster) as study:
        session, good = study.sessions[0], updates(9)[0]
        for value in (np.nan, np.inf, -np.inf):
            bad = good.copy()
            bad[7] = value
            with pytest.raises(InputError, match="NaN, infinity or overflow at index 7"):
                session.contribute(0, bad)
        with pytest.raises(InputError, match="overflow in its norm"):
            session.contribute(0, np.full(LENGTH, 1e300))
        with pytest.raises(InputError, match=r"shape \(49,\).*is about 50"):
            session.contribute(0, good[1:])
        with pytest.raises(InputError, match="dtype complex"):
            session.contribute(0, good.astype(np.complex64))
        with pytest.raises(InputError, match="where contributions carry none"):
            session.contribute(0, good, 0.5)
        for weight in (-0.1, 1.1, float("nan")):
            with pytest.raises(InputError, match="a weight of"):
                session.contribute(0, good, weight)
        session.contribute(0, good.reshape(5, 10))


def test_a_contribution_of_another_size(cluster: LocalCluster) -> None:
    """From a client that does not check: the workers do."""
    with Study(cluster) as study:
        for size in (LENGTH - 1, LENGTH + 1, 4, 1):
            with pytest.raises(InputError, match="updates of 400 bytes"):
                study.sessions[0]._summing.contribute(0, np.zeros(size, np.uint64))
        study.sessions[0].contribute(0, updates(10)[0])


def test_shares_that_do_not_belong_together(cluster: LocalCluster) -> None:
    """Other seeds, or another array, at one of the two holders: found, and nothing is summed."""
    with Study(cluster) as study:
        given, summing = updates(11), study.sessions[0]._summing
        words = study.words([given[0]]).view(np.uint64)
        for worker in range(3):
            for byte in (-1, -40):
                bodies = summing.bodies(0, words)
                spoilt = bytearray(b"".join(bodies[worker]))
                spoilt[byte] ^= 1
                bodies[worker] = [bytes(spoilt)]
                with pytest.raises(TercetError) as error:
                    summing.send(bodies)
                assert not isinstance(error.value, TransportError)
        for session, update in zip(study.sessions, given, strict=True):
            session.contribute(0, update)
        np.testing.assert_array_equal(study.whole(study.server.aggregate(0)), study.words(given))


def test_seeds_that_differ_are_named(cluster: LocalCluster) -> None:
    """The two holders of the summand are, not the third."""
    with Study(cluster) as study:
        summing = study.sessions[0]._summing
        bodies = summing.bodies(0, np.zeros(LENGTH, np.uint64))
        array = bytearray(bodies[2][1])
        array[100] ^= 4
        bodies[2] = [bodies[2][0], bytes(array)]
        with pytest.raises(IntegrityError, match=r"greg and me|me and greg"):
            summing.send(bodies)


@pytest.mark.parametrize("reached", [[0], [0, 1], [1, 2]], ids=str)
def test_a_client_that_vanishes_midway(cluster: LocalCluster, reached: list[int]) -> None:
    """It reached some workers only: the round closes without it."""
    with Study(cluster, deadline=3) as study:
        given = updates(12)
        gone = study.sessions[2]._summing
        bodies = gone.bodies(0, study.words([given[2]]).view(np.uint64))
        doing = [Doing(_send_one, gone, i, bodies[i]) for i in reached]
        for i in (0, 1):
            study.sessions[i].contribute(0, given[i])
        told = study.server.aggregate(0)
        np.testing.assert_array_equal(study.whole(told), study.words(given[:2]))
        gone.close()
        assert doing


def _send_one(summing: Summing, worker: int, body: list[bytes]) -> None:
    connection = summing._connection
    connection._portal.call(_dial_and_ask(connection, worker, body))


async def _dial_and_ask(connection, worker: int, body: list[bytes]) -> None:
    await connection._open()
    await connection._ask(worker, "/v1/sums/contribute", body, type(None), 60)


def test_who_may_do_what(cluster: LocalCluster) -> None:
    with Study(cluster) as study:
        with pytest.raises(InputError, match="stranger is not a participant"):
            join(cluster.as_party("stranger"), cluster.as_party("stranger").owner, study.agreement)
        with pytest.raises(InputError, match="amber is not the server"):
            serve(cluster.as_party("amber"), cluster.as_party("amber").owner, study.agreement)
        digest = study.server.agreement.digest
        for name, call, message in (
            (
                "stranger",
                lambda s: s.contribute(0, np.zeros(LENGTH, np.uint64)),
                "not a participant",
            ),
            (SERVER, lambda s: s.contribute(0, np.zeros(LENGTH, np.uint64)), "not a participant"),
            ("amber", lambda s: s.aggregate(0, None), "amber is not the server"),
            (SERVER, lambda s: s.aggregate(5, None), "round 5 of 5"),
            (SERVER, lambda s: s.aggregate(0, ["00" * 32] * 3), "a list of other participants"),
        ):
            identity = cluster.as_party(name).owner
            summing = Summing(cluster.config, identity, digest, study.terms)
            with pytest.raises(RefusedError, match=message):
                call(summing)
            summing.close()
        nothing = Summing(cluster.config, cluster.as_party("amber").owner, bytes(32), study.terms)
        with pytest.raises(NotFoundError, match="no agreement"):
            nothing.contribute(0, np.zeros(LENGTH, np.uint64))
        nothing.close()


def test_an_agreement_that_not_all_have_signed(cluster: LocalCluster) -> None:
    given = agreement(cluster)
    party = cluster.as_party("amber")
    with (
        join(party, party.owner, given) as session,
        pytest.raises(RefusedError, match="not signed"),
    ):
        session.contribute(0, updates(13)[0])


def test_a_withdrawal_ends_it(cluster: LocalCluster) -> None:
    """Also between the contributions and their opening."""
    with Study(cluster) as study:
        for session, update in zip(study.sessions, updates(14), strict=True):
            session.contribute(0, update)
        party = cluster.as_party("birch")
        with Party(party.config, party.owner) as signer:
            signer.withdraw(study.sessions[1].agreement)
        with pytest.raises(RefusedError, match=r"birch .* has withdrawn"):
            study.server.aggregate(0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"minimum": 1}, "a sum of one is somebody's update"),
        ({"minimum": 4}, "minimum of 4 of 3"),
        ({"length": 0}, "0 parameters"),
        ({"bound": 0.0}, "a bound of 0.0"),
        ({"bound": float("nan")}, "a bound of nan"),
        ({"bound": 1e12}, "At most"),
        ({"scale": 0, "bound": 3.0}, "Take more fractional bits"),
        ({"scale": 25, "bound": 3.0}, "as a bound"),
        ({"noise": -1.0}, "noise of -1.0"),
        ({"noise": 1e9}, "as a variance"),
        ({"noise": 1.0, "weighted": True}, "weights beside noise"),
        ({"rounds": 0}, "0 rounds"),
        ({"deadline": 0}, "0 seconds"),
    ],
)
def test_agreements_that_make_no_sense(
    cluster: LocalCluster, changes: dict[str, object], message: str
) -> None:
    with pytest.raises((InputError, RefusedError), match=message):
        agreement(cluster, **changes).terms(cluster)


def test_several_rounds_at_a_time(cluster: LocalCluster) -> None:
    """Contributions of two agreements and two rounds, mixed, as threads happen to send them."""
    with Study(cluster) as one, Study(cluster, noise=0.0, length=2000) as two:
        doing = []
        for study in (one, two):
            for number in range(2):
                given = updates(20 + number, length=study.terms.length)
                doing += [
                    Doing(s.contribute, number, u)
                    for s, u in zip(study.sessions, given, strict=True)
                ]
        told = [Doing(study.server.aggregate, n) for study in (one, two) for n in range(2)]
        for each in doing:
            each.result()
        results = [t.result() for t in told]
        for (study, number), result in zip(
            [(s, n) for s in (one, two) for n in range(2)], results, strict=True
        ):
            given = updates(20 + number, length=study.terms.length)
            np.testing.assert_array_equal(study.whole(result), study.words(given))
    assert ready(cluster)
