"""Agreed trainings over three real workers: to the end, refused, stopped, resumed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tercet
from tercet.errors import RefusedError
from tercet.service.cluster import LocalCluster
from tercet.service.parties import Agreement
from tercet.service.training_party import TrainingParty, TrainingProgress
from tests.service.processes import eventually
from tests.training import linear
from tests.training.linear import PARTIES, approve, contribute, data, initial, party, terms


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=PARTIES) as cluster:
        yield cluster


def wait(one: TrainingParty, agreement: Agreement, status: str = "done") -> TrainingProgress:
    eventually(lambda: one.progress(agreement).status != "running", 30)
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
