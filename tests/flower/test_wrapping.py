"""Strategy and mod without any network: the model is Flower's own, and no update leaves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx
from flwr.supercore.task_identity import TaskIdentity

from tercet.crypto.identity import Identity
from tercet.errors import ConfigError, RefusedError
from tercet.federated.noise import UserLevel
from tercet.flower import SecureStrategy, Settings, secure_mod
from tercet.flower import mod as mod_module
from tercet.flower import strategy as strategy_module
from tercet.flower.mod import from_node_config
from tercet.privacy import Account, Budget, Ledger
from tercet.service.cluster import Cluster
from tercet.service.config import ClusterConfig, WorkerEntry
from tests.federated.plain import Book

NODES = {10: 0, 11: 1, 12: 2}
CLIENTS = [Identity.generate(f"ward-{i}") for i in NODES.values()]
WORKERS = [Identity.generate(f"worker-{i}") for i in range(3)]
CLUSTER = Cluster(
    ClusterConfig(
        [
            WorkerEntry(w.name, f"h:{i + 1}", f"h:{i + 11}", w.public.pem)
            for i, w in enumerate(WORKERS)
        ]
    ),
    Identity.generate("laptop"),
    None,
)
MODEL = {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}
TARGETS = np.random.default_rng(1).normal(0, 1, (3, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def plain_sums(monkeypatch: pytest.MonkeyPatch) -> dict[bytes, Book]:
    books: dict[bytes, Book] = {}

    def serve(cluster, identity, agreement) -> Book:
        book = Book(agreement.terms(cluster))
        books[book.agreement.digest] = book
        return book

    def sign(consent, cluster, digest):
        consent.check(books[digest].terms)
        return books[digest].session(consent.identity.fingerprint)

    monkeypatch.setattr(strategy_module, "serve", serve)
    monkeypatch.setattr(mod_module, "sign", sign)
    monkeypatch.setattr(TaskIdentity, "_run_id", 1)
    monkeypatch.setattr(TaskIdentity, "_node_id", 1)
    monkeypatch.setattr(TaskIdentity, "_task_id", 1)
    return books


def settings_of(context: Context, **more: object) -> Settings:
    return Settings(CLUSTER, CLIENTS[int(context.node_config["partition-id"])], **more)


def client(mods, examples=lambda i: 10) -> ClientApp:
    """Goes half of the way to a target of its own; with FedProx less."""
    app = ClientApp()

    @app.train(mods=mods)
    def train(message: Message, context: Context) -> Message:
        partition = int(context.node_config["partition-id"])
        stiff = float(message.content["config"].get("proximal-mu", 0.0))
        arrays, start = {}, 0
        for name, array in message.content["arrays"].items():
            value = array.numpy()
            if value.dtype.kind == "f":
                target = TARGETS[partition, start : start + value.size].reshape(value.shape)
                start += value.size
                value = value + (target - value) / np.float32(2 + stiff)
            arrays[name] = Array(value)
        metrics = MetricRecord({"num-examples": examples(partition), "loss": 0.5 + partition})
        return Message(
            RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message
        )

    return app


class Grid:
    """Hands messages to the clients, in this process, and keeps what they reply."""

    def __init__(self, app: ClientApp, fail=lambda node, number: False) -> None:
        self._app, self._fail = app, fail
        self.replies: list[Message] = []
        self.sent: list[dict[str, object]] = []

    def get_node_ids(self):
        return list(NODES)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            number = dict(message.content.config_records.get("config", {})).get("server-round", 0)
            if self._fail(node, number):
                continue
            context = Context(
                run_id=1, node_id=node, node_config={"partition-id": NODES[node]},
                state=RecordDict(), run_config={},
            )  # fmt: skip
            copy = Message(
                RecordDict(dict(message.content)), dst_node_id=node, message_type="train"
            )
            replies.append(self._app(copy, context))
        self.replies += replies
        self.sent += [dict(reply.content) for reply in replies if not reply.has_error()]
        return replies


def run(strategy, grid, rounds=3, model=MODEL):
    arrays = ArrayRecord({name: Array(a) for name, a in model.items()})
    return strategy.start(grid, arrays, num_rounds=rounds)


def arrays_of(result):
    return {name: array.numpy() for name, array in result.arrays.items()}


STRATEGIES = [
    lambda: FedAvg(fraction_evaluate=0.0),
    lambda: FedProx(fraction_evaluate=0.0, proximal_mu=1.0),
    lambda: FedAdam(fraction_evaluate=0.0, eta=0.1, tau=0.1),
]


@pytest.mark.parametrize("make", STRATEGIES, ids=["FedAvg", "FedProx", "FedAdam"])
def test_the_model_is_flowers_own(make) -> None:
    plain = run(make(), Grid(client([])))
    grid = Grid(client([secure_mod(settings_of)]))
    secure = run(SecureStrategy(make(), CLUSTER, clip_norm=100.0), grid)
    for name, array in arrays_of(plain).items():
        assert np.abs(arrays_of(secure)[name] - array).max() < 1e-4
        assert arrays_of(secure)[name].dtype == array.dtype
    assert len(grid.replies) == 3 * (2 + 3)  # a greeting, a signature, three rounds


def test_replies_hold_no_array_and_only_the_metrics_that_the_owner_names() -> None:
    grid = Grid(client([secure_mod(settings_of)]))
    result = run(SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=100.0), grid)
    records = [record for content in grid.sent for record in content.values()]
    assert len(records) == 3 * (2 + 3)
    assert not any(isinstance(record, ArrayRecord) for record in records)
    assert all(dict(m) == {} for m in result.train_metrics_clientapp.values())
    shown = Grid(client([secure_mod(lambda c: settings_of(c, metrics=["loss"]))]))
    result = run(SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=100.0), shown)
    assert dict(result.train_metrics_clientapp[1]) == {"loss": pytest.approx(1.5)}


def test_means_weighted_by_examples_that_nobody_learns() -> None:
    def examples(partition):
        return (10, 40, 25)[partition]

    plain = run(FedAvg(fraction_evaluate=0.0), Grid(client([], examples)))
    grid = Grid(client([secure_mod(settings_of)], examples))
    wrapped = FedAvg(fraction_evaluate=0.0)
    secure = run(SecureStrategy(wrapped, CLUSTER, clip_norm=100.0, most_examples=50), grid)
    for name, array in arrays_of(plain).items():
        assert np.abs(arrays_of(secure)[name] - array).max() < 1e-4
    too_many = SecureStrategy(
        FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=100.0, most_examples=20
    )
    result = run(too_many, Grid(client([secure_mod(settings_of)], examples)))
    assert result.arrays is None or not arrays_of(result)  # only one of three was within it


def test_counters_stay_as_the_server_has_them() -> None:
    model = MODEL | {"steps": np.array(7, np.int64)}
    grid = Grid(client([secure_mod(settings_of)]))
    result = run(
        SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=100.0), grid, model=model
    )
    assert arrays_of(result)["steps"] == 7


def test_updates_are_clipped() -> None:
    grid = Grid(client([secure_mod(settings_of)]))
    result = run(
        SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=0.01), grid, rounds=1
    )
    moved = np.concatenate([a.ravel() for a in arrays_of(result).values()])
    assert 0 < np.linalg.norm(moved) <= 0.01 + 1e-6


def test_who_drops_out_changes_nothing_for_the_rest() -> None:
    grid = Grid(client([secure_mod(settings_of)]), fail=lambda node, number: node == number + 9)
    result = run(SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=100.0), grid)
    target = np.zeros(8)
    for left in ((1, 2), (0, 2), (0, 1)):
        target = target + np.mean([(TARGETS[i] - target) / 2 for i in left], 0)
    moved = np.concatenate([a.ravel() for a in arrays_of(result).values()])
    assert np.abs(moved - target).max() < 1e-4


def test_an_error_after_a_complete_contribution_voids_nothing() -> None:
    """Flower replaces a reply that is lost by an error: the update is in the sum all the same."""

    class Losing(Grid):
        def send_and_receive(self, messages, *, timeout=None):
            messages = list(messages)
            replies = super().send_and_receive(messages, timeout=timeout)
            if not messages or "arrays" not in messages[0].content:
                return replies  # a greeting, or a signature
            lost = Message(Error(ErrorCode.REPLY_MESSAGE_UNAVAILABLE, "lost"), reply_to=messages[1])
            assert lost.metadata.src_node_id == replies[1].metadata.src_node_id
            return [replies[0], lost, replies[2]]

    wrapped = FedAvg(fraction_evaluate=0.0)
    result = run(
        SecureStrategy(wrapped, CLUSTER, clip_norm=100.0),
        Losing(client([secure_mod(settings_of)])),
        rounds=1,
    )
    moved = np.concatenate([a.ravel() for a in arrays_of(result).values()])
    assert np.abs(moved - TARGETS.mean(0) / 2).max() < 1e-4


def test_too_few_leave_the_model_as_it_was() -> None:
    grid = Grid(
        client([secure_mod(settings_of)]), fail=lambda node, number: number == 2 and node > 10
    )
    result = run(
        SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=100.0), grid, rounds=2
    )
    moved = np.concatenate([a.ravel() for a in arrays_of(result).values()])
    assert np.abs(moved - TARGETS.mean(0) / 2).max() < 1e-4


def test_a_server_without_the_strategy_gets_nothing() -> None:
    trained = []
    app = client([secure_mod(settings_of), lambda m, c, n: trained.append(1) or n(m, c)])
    grid = Grid(app)
    result = run(FedAvg(fraction_evaluate=0.0), grid)
    assert not trained
    assert all(reply.has_error() for reply in grid.replies)
    assert "in the clear" in grid.replies[0].error.reason
    assert not arrays_of(result)


def test_owners_have_the_last_word(tmp_path) -> None:
    strict = client([secure_mod(lambda c: settings_of(c, minimum=3))])
    with pytest.raises(RefusedError, match="asks for 3"):
        run(SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=1.0), Grid(strict))
    ledgers = []
    for identity in CLIENTS:
        ledgers.append(Ledger(tmp_path / f"{identity.name}.db"))
        ledgers[-1].allow(identity.name, "digits", Budget(5.0, 1e-5))

    def paying(context: Context) -> Settings:
        number = int(context.node_config["partition-id"])
        account = Account(ledgers[number], CLIENTS[number].name, "digits")
        return settings_of(context, account=account)

    app = client([secure_mod(paying)])
    with pytest.raises(RefusedError, match="no noise"):
        run(SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=1.0), Grid(app))
    private = SecureStrategy(
        FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=1.0, privacy=UserLevel(4.0, 1e-5)
    )
    run(private, Grid(app), rounds=2)
    spent = ledgers[0].spent("ward-0", "digits")
    assert 3.9 < spent.epsilon <= 4.0
    grid = Grid(app)
    run(private, grid, rounds=2)
    assert any(r.has_error() and "would bring" in r.error.reason for r in grid.replies)
    assert len(ledgers[0].events("ward-0", "digits")) == 2


def test_two_nodes_of_one_identity_are_refused() -> None:
    one = client([secure_mod(lambda c: Settings(CLUSTER, CLIENTS[0]))])
    with pytest.raises(ValueError, match="same identity"):
        run(SecureStrategy(FedAvg(fraction_evaluate=0.0), CLUSTER, clip_norm=1.0), Grid(one))


def test_settings_of_a_node(tmp_path) -> None:
    for identity in CLIENTS:
        identity.save(tmp_path)
    ledger = Ledger(tmp_path / "ledger.db")
    ledger.allow("ward-0", "digits", Budget(1.0, 1e-5))
    config = {
        "tercet-cluster": str(tmp_path / "cluster.toml"),
        "tercet-identity": str(tmp_path / "ward-0"),
        "tercet-minimum": 3,
        "tercet-known": str(tmp_path),
        "tercet-ledger": str(tmp_path / "ledger.db"),
        "tercet-owner": "ward-0",
        "tercet-model": "digits",
        "tercet-metrics": "loss,accuracy",
    }
    found = from_node_config(SimpleNamespace(node_config=config))
    assert (found.minimum, found.metrics) == (3, ["loss", "accuracy"])
    assert found.known is not None
    assert len(found.known) == 3
    assert found.account is not None
    assert found.consent().identity.fingerprint == CLIENTS[0].fingerprint
    del config["tercet-model"]
    with pytest.raises(ConfigError, match="tercet-model"):
        from_node_config(SimpleNamespace(node_config=config))
    with pytest.raises(ConfigError, match="tercet-cluster"):
        from_node_config(SimpleNamespace(node_config={}))
