"""The client mod: the update leaves the client as shares to the three workers, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from flwr.common.constant import ErrorCode

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import ConfigError, InputError, RefusedError, TercetError
from tercet.federated.consent import Consent
from tercet.federated.joining import sign
from tercet.federated.update import change
from tercet.flower.records import HELLO, RECORD, SIGN, only_arrays, real_arrays
from tercet.privacy.dp_sgd import Account
from tercet.privacy.ledger import Ledger
from tercet.service.cluster import Cluster

Mod: TypeAlias = Callable[[Message, Context, ClientAppCallable], Message]


@dataclass(frozen=True)
class Settings:
    """A data owner's own settings: not the server's to choose.

    Attributes:
        cluster: the three workers, or the path of ``cluster.toml``.
        identity: its identity, or the path of NAME.crt without the suffix, with NAME.key beside it.
        minimum: least number of contributors that it accepts.
        known: the participants that it accepts; everybody if None.
        account: the ledger that pays for user-level noise; nothing is charged if None.
        metrics: names of the training metrics that the server may see in the clear; none of them
            carries noise.
    """

    cluster: Cluster | str | Path
    identity: Identity | str | Path
    minimum: int = 2
    known: Sequence[PublicIdentity] | None = None
    account: Account | None = None
    metrics: Sequence[str] = ()

    def consent(self) -> Consent:
        """Return on what conditions this owner takes part."""
        identity = self.identity
        if not isinstance(identity, Identity):
            identity = Identity.load(f"{identity}.crt", f"{identity}.key")
        return Consent(identity, minimum=self.minimum, known=self.known, account=self.account)


def from_node_config(context: Context) -> Settings:
    """Return the settings in a SuperNode's ``--node-config``, which its operator writes.

    ``tercet-cluster`` and ``tercet-identity`` are paths; ``tercet-minimum`` is a number;
    ``tercet-known`` is a folder of certificates; ``tercet-ledger`` is the path of a ledger with a
    budget of the model ``tercet-model`` on the data of ``tercet-owner``; ``tercet-metrics`` names
    metrics, with commas between. All but the first two may be left out.

    Raises:
        ConfigError: one of the first two is missing, or a part of the budget is.
    """
    given = context.node_config

    def text(name: str) -> str:
        if f"tercet-{name}" not in given:
            raise ConfigError(
                f"no tercet-{name} in the node's configuration",
                "Name tercet-cluster and tercet-identity in flower-supernode's --node-config, or "
                "give secure_mod its settings",
            )
        return str(given[f"tercet-{name}"])

    account = known = None
    if "tercet-ledger" in given:
        account = Account(Ledger(text("ledger")), text("owner"), text("model"))
    if "tercet-known" in given:
        known = [PublicIdentity.load(p) for p in sorted(Path(text("known")).glob("*.crt"))]
    metrics = str(given.get("tercet-metrics", ""))
    return Settings(
        text("cluster"),
        text("identity"),
        int(given.get("tercet-minimum", 2)),
        known,
        account,
        [name for name in metrics.split(",") if name],
    )


def secure_mod(settings: Callable[[Context], Settings] = from_node_config) -> Mod:
    """Return a mod that makes ``@app.train`` secure: ``@app.train(mods=[secure_mod()])``.

    What the training function returns is compared with the model that the server sent; the change
    is clipped and goes as shares to the three workers. The reply to the server holds no array and,
    of the metrics, only those that the settings name. The mod comes first in the list of mods:
    what others do after it would be seen by the server. A message that does not come from a
    ``SecureStrategy`` is refused, and nothing is trained.

    Args:
        settings: returns the data owner's own settings.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            return _handle(message, context, call_next, settings(context))
        except TercetError as error:
            return Message(
                Error(ErrorCode.MOD_FAILED_PRECONDITION, f"tercet: {error}"), reply_to=message
            )

    return mod


def _handle(
    message: Message, context: Context, call_next: ClientAppCallable, mine: Settings
) -> Message:
    asked = message.content.config_records.pop(RECORD, None)
    if asked is None:
        raise RefusedError(
            "the server asks for an update in the clear", "Wrap its strategy in SecureStrategy"
        )
    consent, cluster = mine.consent(), mine.cluster
    if not isinstance(cluster, Cluster):
        cluster = Cluster.load(cluster)
    if asked["kind"] == HELLO:
        return _reply(message, ConfigRecord({"certificate": consent.identity.public.certificate}))
    with sign(consent, cluster, _bytes(asked, "agreement")) as session:
        if asked["kind"] == SIGN:
            return _reply(message, ConfigRecord())
        before = real_arrays(only_arrays(message.content.array_records, "the server's message"))
        consent.pay(session.terms)
        reply = call_next(message, context)
        if reply.has_error():
            return reply
        after = real_arrays(only_arrays(reply.content.array_records, "the client's reply"))
        if set(after) != set(before):
            raise InputError(
                "training returned other arrays than it was given", "Return all under their names"
            )
        weight = 1.0
        if session.terms.weighted:
            weight = _weight(reply, str(asked["weighted_by"]), asked["most_examples"])
        update = change(list(before.values()), [after[name] for name in before])
        session.contribute(int(str(asked["number"])) - 1, update, weight)
    shown = {
        name: value
        for record in reply.content.metric_records.values()
        for name, value in record.items()
        if name in mine.metrics
    }
    return Message(RecordDict({"metrics": MetricRecord(shown)}), reply_to=message)


def _reply(message: Message, answer: ConfigRecord) -> Message:
    return Message(RecordDict({RECORD: answer}), reply_to=message)


def _bytes(record: ConfigRecord, key: str) -> bytes:
    value = record[key]
    if not isinstance(value, bytes):
        raise InputError(f"{key} is not what it should be", "Use the same version on both sides")
    return value


def _weight(reply: Message, key: str, most: Any) -> float:
    """Return the weight of a reply: its number of examples over the agreed largest one."""
    for record in reply.content.metric_records.values():
        examples = record.get(key)
        if isinstance(examples, int | float) and 0 < examples <= most:
            return float(examples) / float(most)
    raise InputError(
        f"the reply has no {key!r} from 1 to {most}, by which means are weighted here",
        "Return it in the metrics, or agree on a larger most_examples",
    )
