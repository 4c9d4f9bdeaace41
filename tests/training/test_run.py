"""Agreed trainings over three real workers: to the end, refused, stopped, resumed."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

import tercet
from tercet.errors import NotFoundError, RefusedError
from tercet.service.cluster import LocalCluster
from tercet.service.contributor import Contributor
from tercet.service.parties import Agreement
from tercet.service.training_party import TrainingParty, TrainingProgress
from tests.service.conftest import dense_model, reference
from tests.service.processes import eventually
from tests.training import linear
from tests.training.linear import PARTIES, approve, contribute, data, initial, party, terms


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=(*PARTIES, "stranger")) as cluster:
        yield cluster


def wait(one: TrainingParty, agreement: Agreement, status: str = "done") -> TrainingProgress:
    eventually(lambda: one.progress(agreement).status != "running", 60)
    progress = one.progress(agreement)
    assert progress.status == status, progress.message
    return progress


def test_two_owners_train_serve_and_fetch(three: LocalCluster) -> None:
    a = contribute(three.as_party("hospital-a"), "a", *data(200, 1))
    b = contribute(three.as_party("hospital-b"), "b", *data(120, 2))
    start = initial(three.as_party("coordinator"), "start")
    with party(three, "coordinator") as one:
        agreement = one.propose(terms(three, "line", start, [a, b], epochs=4))
        one.attach(agreement, linear.package())
        with pytest.raises(RefusedError, match="is not signed by"):
            one.run(agreement)
        approve(three, agreement)
        one.run(agreement)
        progress = wait(one, agreement)
        assert progress.step == progress.steps == 160
        losses = [value for _, value in progress.metrics["loss"]]
        assert losses[0] > 0.05
        assert losses[-1] < 1e-3
        weights = one.fetch(agreement)["w"]
        np.testing.assert_allclose(weights, [[1.5], [-0.5], [0.25]], atol=0.02)
    with party(three, "hospital-a") as other, pytest.raises(RefusedError, match="opens no model"):
        other.fetch(agreement)

    owner = three.as_party("coordinator")
    tercet.serve("line", owner)
    x, _ = data(5, 3)
    with tercet.connect(three) as client:
        np.testing.assert_allclose(client.predict("coordinator/line", x), x @ weights, atol=1e-3)
        with party(three, "hospital-b") as other:
            other.withdraw(other.find("line"))
        with pytest.raises(RefusedError, match=r"hospital-b .* has withdrawn"):
            client.predict("coordinator/line", x)
    with party(three, "coordinator") as one, pytest.raises(RefusedError, match="withdrawn"):
        one.fetch(agreement)
    assert all(getattr(s, "ready", False) for s in three.status())


def agreed(three: LocalCluster, name: str, *rows: int, **other: object) -> Agreement:
    """Contribute rows of both hospitals, and let everybody sign."""
    told = [
        contribute(three.as_party(f"hospital-{h}"), name, *data(n, n))
        for h, n in zip("ab", rows, strict=True)
    ]
    start = initial(three.as_party("coordinator"), name)
    with party(three, "coordinator") as one:
        agreement = one.propose(terms(three, name, start, told, **other))
        one.attach(agreement, linear.package())
    approve(three, agreement)
    return agreement


def test_columns_of_the_same_rows(three: LocalCluster) -> None:
    x, y = data(96, 5)
    ids = [f"patient-{n}" for n in range(96)]
    shuffled = np.random.default_rng(0).permutation(96)
    a = contribute(three.as_party("hospital-a"), "left", x[:, :1], ids=ids)
    b = contribute(
        three.as_party("hospital-b"), "right", x[shuffled, 1:], y[shuffled],
        ids=[ids[n] for n in shuffled],
    )  # fmt: skip
    start = initial(three.as_party("coordinator"), "columns")
    with party(three, "coordinator") as one:
        agreement = one.propose(
            terms(three, "columns", start, [a, b], epochs=15, columns=True, checkpoint=60)
        )
        one.attach(agreement, linear.package())
        approve(three, agreement)
        one.run(agreement)
        wait(one, agreement)
        order = sorted(range(96), key=ids.__getitem__)
        wanted = linear.in_the_clear(agreement.terms, x[order], y[order])
        np.testing.assert_allclose(one.fetch(agreement)["w"], wanted, atol=1e-3)


def test_what_does_not_fit_is_refused_before_anything_runs(three: LocalCluster) -> None:
    x, y = data(40, 6)
    good = contribute(three.as_party("hospital-a"), "good", x, y)
    wide = contribute(three.as_party("hospital-b"), "wide", np.c_[x, x], y)
    bare = contribute(three.as_party("hospital-b"), "bare", x)
    few = contribute(three.as_party("hospital-b"), "few", x[:5], y[:5])
    fine = contribute(three.as_party("hospital-b"), "fine", x, y, scale=22)
    start = initial(three.as_party("coordinator"), "unfit")
    cases = (
        ([good, wide], {}, "x of hospital-b/wide has rows 6 .* but the model takes 3"),
        ([good, bare], {}, "hospital-b/bare has x, but the training takes x and y"),
        ([good, fine], {}, "fine has rows 3 .22 frac.* takes 3 .16 frac.*contribute it again"),
        ([few], {"steps": 1}, "a step of 8 rows, and 5 rows in all"),
        ([good], {"steps": 6}, "6 steps for 1 epochs of 40 rows"),
        ([good, few], {"columns": True}, "hospital-b/few has 5 rows and hospital-a/good has 40"),
        ([good, bare], {"columns": True}, "not matched by the same ids"),
        ([good], {"metrics": ("accuracy",)}, "no metric 'accuracy'"),
        ([good], {"weights": ("v",)}, "no weight 'v'"),
        ([good], {"serving": False}, "a prediction program that is not agreed on"),
        ([good], {"batch_size": 4, "steps": 10}, "a program for steps of 8 rows, not 4"),
    )
    with party(three, "coordinator") as one:
        for given, other, said in cases:
            agreement = one.propose(terms(three, "unfit", start, given, **other))
            one.attach(agreement, linear.package())
            approve(three, agreement, [n for n in PARTIES if _signs(three, n, agreement)])
            with pytest.raises(RefusedError, match=said):
                one.run(agreement)
            assert one.progress(agreement).status == "proposed"
        with pytest.raises(RefusedError, match="not the programs that the agreement names"):
            one.attach(agreement, linear.package(serving=False))
        other = one.propose(terms(three, "bare", start, [good]))
        approve(three, other, ["coordinator", "hospital-a"])
        with pytest.raises(NotFoundError, match="programs of the training are not here"):
            one.run(other)
        with pytest.raises(RefusedError, match="is proposed, not done"):
            one.fetch(agreement)
    with party(three, "stranger") as one, pytest.raises(NotFoundError, match="of yours"):
        one.run(agreement)


def _signs(three: LocalCluster, name: str, agreement: Agreement) -> bool:
    return three.as_party(name).owner.fingerprint in agreement.terms.signers


def test_an_owner_withdraws_before_it_began(three: LocalCluster) -> None:
    agreement = agreed(three, "before", 40, 40)
    with party(three, "hospital-b") as b:
        b.withdraw(agreement)
    with party(three, "coordinator") as one:
        with pytest.raises(RefusedError, match=r"hospital-b .* has withdrawn"):
            one.run(agreement)
        assert one.progress(agreement).step == 0


def test_an_owner_withdraws_while_it_runs(three: LocalCluster) -> None:
    agreement = agreed(three, "during", 400, 400, epochs=200)
    with party(three, "coordinator") as one, party(three, "hospital-b") as b:
        one.run(agreement)
        eventually(lambda: one.progress(agreement).checkpoint > 0, 60)
        b.withdraw(agreement)
        told = wait(one, agreement, "stopped")
        assert "hospital-b" in told.message
        assert "has withdrawn" in told.message
        assert told.checkpoint == 0  # what there was of it is not kept
        assert not told.metrics
        with pytest.raises(RefusedError, match="has withdrawn"):
            one.run(agreement)
        with pytest.raises(RefusedError, match="has withdrawn"):
            one.fetch(agreement)
        time.sleep(1)
        assert one.progress(agreement).checkpoint == 0


def test_a_contribution_is_removed_while_it_runs(three: LocalCluster) -> None:
    agreement = agreed(three, "removed", 400, 400, epochs=200)
    with party(three, "coordinator") as one:
        one.run(agreement)
        eventually(lambda: one.progress(agreement).checkpoint > 0, 60)
        with Contributor(three.config, three.as_party("hospital-a").owner) as a:
            a.remove("removed")
        told = wait(one, agreement, "stopped")
        assert "a contribution is not stored here" in told.message
        with pytest.raises(NotFoundError, match="a contribution is not stored here"):
            one.run(agreement)


def test_predictions_go_on_beside_a_training(three: LocalCluster) -> None:
    model = dense_model()
    tercet.share(model, three, "dense")
    tercet.serve("dense", three)
    rows = np.random.default_rng(7).normal(0, 2, (5, 8))
    agreement = agreed(three, "beside", 400, 400, epochs=200)
    with party(three, "coordinator") as one, tercet.connect(three) as client:
        one.run(agreement)
        eventually(lambda: one.progress(agreement).step > 0, 60)
        for _ in range(5):
            answer = client.predict("dense", rows)
            np.testing.assert_allclose(answer, reference(model, rows), atol=2e-3)
        told = one.progress(agreement)
        assert told.status == "running"
        one.cancel(agreement)
