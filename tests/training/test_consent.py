"""What a data owner's process does before it signs a private training: it recomputes, it pays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import tercet
from tercet.cli.main import cli
from tercet.errors import NotFoundError, RefusedError
from tercet.privacy.dp_sgd import Account
from tercet.privacy.events import GaussianSum
from tercet.privacy.ledger import Budget, Ledger
from tercet.program.training import Kind, decode_training, encode_training
from tercet.runtime.sampling import Poisson
from tercet.service.cluster import CLUSTER_FILE, LocalCluster
from tercet.service.package import Package
from tercet.training import parties

DELTA = 1e-4


@pytest.fixture(scope="module")
def three() -> Iterator[LocalCluster]:
    with LocalCluster(quiet=True, parties=("coordinator", "hospital")) as cluster:
        x = np.random.default_rng(0).normal(size=(300, 4))
        with tercet.connect(cluster.as_party("hospital")) as client:
            client.contribute("ward", x, (x[:, 0] > 0).astype(int), classes=2)
        yield cluster


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def model() -> Any:
    import keras

    made = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="line")
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.SGD(0.1), loss)
    return made


def propose(
    three: LocalCluster, name: str, who: str = "coordinator", **settings: Any
) -> tercet.Training:
    given = {"privacy": tercet.DPSGD(1.0, 2.0, DELTA), "epochs": 2, "batch_size": 30, **settings}
    return tercet.propose(model(), three.as_party(who), ["hospital/ward"], name=name, **given)


def test_client_refuses_terms_that_promise_too_much(
    three: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = parties.private_terms

    def better(*given: Any) -> Any:
        return msgspec.structs.replace(true(*given), epsilon=0.5, sampled_epsilon=0.1)

    monkeypatch.setattr(parties, "private_terms", better)
    with pytest.raises(RefusedError, match=r"epsilon 0\.500, but their noise gives"):
        propose(three, "promises")  # an honest proposer's own process
    monkeypatch.setattr(parties, "approve", lambda party, found, *_, **__: party.approve(found))
    training = propose(three, "promises")
    refused = pytest.raises(RefusedError, match=r"epsilon 0\.500, but their noise gives")
    with tercet.connect(three.as_party("hospital")) as owner, refused:
        owner.approve(training.id)
    assert len(training.refresh().missing) == 1


def test_an_owner_traces_the_model_again(three: LocalCluster) -> None:
    import keras

    wider, gentler = model(), model()
    wider.add(keras.layers.Dense(2))
    gentler.compile(keras.optimizers.SGD(0.05), gentler.loss)
    training = propose(three, "traced")
    with tercet.connect(three.as_party("hospital")) as owner:
        wider.compile(keras.optimizers.SGD(0.1), gentler.loss)
        for other in (wider, gentler):
            with pytest.raises(RefusedError, match="'traced' are not those of this model"):
                owner.approve(training.id, model=other)
        assert len(training.refresh().missing) == 1  # nothing was signed
        assert owner.approve(training.id, model=model()).holds


def test_an_owner_sees_a_changed_package(
    three: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right model, and a proposer whose own client traced something else."""
    true = parties.trace

    def faster(*given: Any) -> Any:
        traced = true(*given)
        package = msgspec.msgpack.decode(traced.package, type=Package)
        training = decode_training(package.training)
        tables = [i for i in training.step_inputs if i.kind is Kind.TABLE]
        assert tables
        rates = tuple(
            msgspec.structs.replace(i, values=tuple(2 * v for v in i.values)) if i in tables else i
            for i in training.step_inputs
        )
        changed = encode_training(msgspec.structs.replace(training, step_inputs=rates))
        package = msgspec.structs.replace(package, training=changed)
        return dataclasses.replace(traced, package=msgspec.msgpack.encode(package))

    monkeypatch.setattr(parties, "trace", faster)
    training = propose(three, "changed")
    changed = "'changed' are not those of this model"
    with (
        tercet.connect(three.as_party("hospital")) as owner,
        pytest.raises(RefusedError, match=changed),
    ):
        owner.approve(training.id, model=model())
    with pytest.raises(RefusedError, match=changed):
        tercet.find_training(three.as_party("hospital"), training.id).approve(model=model())


def test_a_seed_that_overfills_a_step_is_refused(
    three: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever proposes draws the seed; here from one that says so at once."""
    monkeypatch.setattr(Poisson, "count", lambda self, step: 20 * step)
    monkeypatch.setattr(parties, "approve", lambda party, found, *_, **__: party.approve(found))
    training = propose(three, "seeds")
    size = training.agreement.terms.batch_size
    refused = pytest.raises(RefusedError, match=rf"sample \d+ rows, and there is room for {size}")
    with tercet.connect(three.as_party("hospital")) as owner, refused:
        owner.approve(training.id)


def test_an_owner_pays_once_before_it_signs(three: LocalCluster, path: Path) -> None:
    training = propose(three, "paid")
    promised = training.agreement.terms.privacy
    event = GaussianSum(2.0, 20, 1.0)
    ledger = Ledger(path)
    account = Account(ledger, "ward", "line")
    with tercet.connect(three.as_party("hospital")) as owner:
        with pytest.raises(NotFoundError, match="no privacy budget"):
            owner.approve(training.id, account=account)
        ledger.allow("ward", "line", Budget(0.99 * promised.epsilon, DELTA))
        with pytest.raises(RefusedError, match=r"would bring 'line' on the data of 'ward' to"):
            owner.approve(training.id, account=account)
        assert ledger.events("ward") == []
        assert len(training.refresh().missing) == 1  # nothing was signed
        ledger.allow("ward", "line", Budget(1.01 * promised.epsilon, DELTA))
        assert owner.approve(training.id, account=account).holds
    ledger.close()
    again = Ledger(path)  # as after a restart
    account = Account(again, "ward", "line")
    with tercet.connect(three.as_party("hospital")) as owner:
        assert owner.approve(training.id, account=account).holds
    tercet.find_training(three.as_party("hospital"), training.id).approve(account=account)
    assert again.events("ward") == [event]
    assert again.spent("ward", "line").epsilon == pytest.approx(promised.epsilon, rel=1e-3)
    with pytest.raises(RefusedError, match="this run would bring"):
        tercet.find_training(three.as_party("hospital"), propose(three, "second").id).approve(
            account=account
        )


def test_sampling_may_count(three: LocalCluster, path: Path) -> None:
    training = propose(three, "sampled")
    promised = training.agreement.terms.privacy
    ledger = Ledger(path)
    ledger.allow("ward", "line", Budget(1.01 * promised.sampled_epsilon, DELTA))
    account = Account(ledger, "ward", "line")
    mine = tercet.find_training(three.as_party("hospital"), training.id)
    with pytest.raises(RefusedError, match="this run would bring"):
        mine.approve(account=account)
    assert mine.approve(account=account, sampled=True).holds
    assert ledger.events("ward") == [GaussianSum(2.0, 20, 0.1)]


def test_a_budget_is_not_for_trainings_without_noise(three: LocalCluster, path: Path) -> None:
    training = propose(three, "plain", privacy=None)
    mine = tercet.find_training(three.as_party("hospital"), training.id)
    with pytest.raises(RefusedError, match="'plain' is no training with noise"):
        mine.approve(account=Account(Ledger(path), "ward", "line"))
    assert len(training.refresh().missing) == 1


def test_an_owner_that_proposes_pays_too(three: LocalCluster, path: Path) -> None:
    ledger = Ledger(path)
    account = Account(ledger, "ward", "line")
    ledger.allow("ward", "line", Budget(0.1, DELTA))
    with pytest.raises(RefusedError, match="this run would bring"):
        propose(three, "mine", "hospital", account=account)
    ledger.allow("ward", "line", Budget(100.0, DELTA))
    assert propose(three, "mine", "hospital", account=account).agreement.holds
    assert len(ledger.events("ward")) == 1


def test_on_the_command_line(
    three: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERCET_CLUSTER", str(three.directory / CLUSTER_FILE))
    model().save("line.keras")

    def command(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, list(arguments))
        assert done.exit_code == code, (done.output, done.exception)
        return f"{done.output} {done.exception}"

    usual = (
        "propose", "line.keras", "--name", "line", "--data", "hospital/ward", "--epochs", "2",
        "--batch-size", "30", "--identity", "coordinator",
    )  # fmt: skip
    noise = ("--clip-norm", "1.0", "--noise-multiplier", "2.0")
    assert "by half" in command(*usual, *noise[:2], code=1)
    assert "without noise" in command(*usual, *noise, "--metric", "loss", code=1)
    assert "noise_multiplier -1" in command(*usual, *noise[:3], "-1", code=1)
    assert "delta 2.0" in command(*usual, *noise, "--delta", "2", code=1)
    told = command(*usual, *noise, "--delta", str(DELTA))
    for said in ("epsilon", "delta 0.0001", "clipped to 1", "noise multiplier 2", "30 of 300"):
        assert said in told
    agreement = told.rsplit("tercet approve ", 1)[1].split()[0]
    sign = ("approve", agreement, "--yes", "--identity", "hospital")
    assert "a budget without its ledger" in command(*sign, "--budget", "ward/line", code=1)
    ledger = ("--ledger", "ledger.db")
    assert "no privacy budget is set" in command(*sign, *ledger, code=1)
    assert "--budget ward" in command(*sign, *ledger, "--budget", "ward", code=1)
    allow = ("privacy", "allow", "hospital", "line", "--delta", str(DELTA), *ledger, "--epsilon")
    command(*allow, "1")
    assert "would bring 'line' on the data of 'hospital'" in command(*sign, *ledger, code=1)
    other = model()
    other.compile(keras.optimizers.SGD(0.2), other.loss)
    other.save("other.keras")
    assert "not those of this model" in command(*sign, *ledger, "--model", "other.keras", code=1)
    assert "has not signed" in command("agreements", agreement, "--identity", "hospital")
    command(*allow, "30")
    for _ in range(2):
        told = command(*sign, *ledger, "--model", "line.keras")
        assert "The programs are those of line.keras" in told
        assert "spent by line on the data of hospital: epsilon" in told
        assert "all have signed" in told
    (spent,) = msgspec.json.decode(command("privacy", "spent", *ledger, "--json").split("\n")[0])
    assert [run["count"] for run in spent["runs"]] == [20]
