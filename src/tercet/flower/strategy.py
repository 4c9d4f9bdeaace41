"""The strategy: what any FedAvg-like strategy does, on a mean that nobody could look into."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy
from numpy.typing import NDArray

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.crypto.prg import fresh
from tercet.errors import InputError, RefusedError, TransportError
from tercet.federated.aggregation import Aggregate, Aggregation, Server, serve
from tercet.federated.noise import UserLevel, event_of, with_noise
from tercet.federated.update import flatten, unflatten
from tercet.flower.records import (
    HELLO,
    RECORD,
    ROUND,
    SIGN,
    question,
    real_arrays,
    with_real_arrays,
)
from tercet.privacy import accounting
from tercet.service.cluster import Cluster

_log = logging.getLogger("flwr")

_POLL: Final = 1.0
_DEADLINE: Final = 600


class SecureStrategy(Strategy):
    """Runs a FedAvg-like strategy on securely summed updates.

    The wrapped strategy chooses clients and steps the model: FedAvg, FedProx, FedAdam and all that
    only use the weighted mean of the replies' arrays. It sees replies that all hold the same
    arrays, the model plus the mean update. What needs single updates (medians, Krum) cannot work.

    Args:
        strategy: the wrapped one.
        cluster: the three workers, with this server's identity as owner.
        clip_norm: L2 norm to which updates are clipped, and which the workers enforce.
        minimum: contributors without which no sum is opened.
        participants: the clients that may contribute; those that are connected at the start and
            that the workers know, if None.
        nodes: how many clients to wait for at the start; as many as there are participants, or as
            the wrapped strategy waits for, if None.
        privacy: user-level noise, added by the workers; none if None.
        most_examples: weigh clients by their number of examples, which nobody learns, up to this
            number; clients count alike if None. Only without noise.
        deadline: seconds from a round's first contribution to its close.
        identity: this server's; ``cluster.owner`` if None.
    """

    def __init__(
        self,
        strategy: Strategy,
        cluster: Cluster,
        *,
        clip_norm: float,
        minimum: int = 2,
        participants: Sequence[PublicIdentity] | None = None,
        nodes: int | None = None,
        privacy: UserLevel | None = None,
        most_examples: int | None = None,
        deadline: int = _DEADLINE,
        identity: Identity | None = None,
    ) -> None:
        self._inner = strategy
        self._cluster = cluster
        self._identity = identity or cluster.owner
        self._clip_norm = clip_norm
        self._minimum = minimum
        self._participants = participants
        waits = getattr(strategy, "min_available_nodes", minimum)
        self._nodes = nodes or (len(participants) if participants is not None else waits)
        self._privacy = privacy
        self._most_examples = most_examples
        self._deadline = deadline
        self._key: str = getattr(strategy, "arrayrecord_key", "arrays")
        self._weighted_by: str = getattr(strategy, "weighted_by_key", "num-examples")
        self._server: Server | None = None
        self._fingerprints: dict[int, str] = {}
        self._sampled: set[int] = set()
        self._current = ArrayRecord()

    def summary(self) -> None:
        """Log the settings, then those of the wrapped strategy."""
        noise = "none" if self._privacy is None else str(self._privacy)
        _log.info("\t├──> Tercet: sums on three workers, of %d clients or more", self._minimum)
        _log.info("\t│\t├── Clipping norm: %g", self._clip_norm)
        _log.info("\t│\t└── User-level noise: %s", noise)
        self._inner.summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Agree with the clients, then run: see Flower's ``Strategy.start``.

        Raises:
            InputError: arguments do not belong together.
            RefusedError: clients or workers do not accept the agreement.
            TransportError: too few clients are there in time.
        """
        with contextlib.ExitStack() as stack:
            members = self._meet(grid, timeout)
            agreement = Aggregation(
                # A name is for one run: the workers open each round of an agreement once.
                name=f"flower-{fresh(8).hex()}",
                participants=sorted(members.values()),
                server=self._identity.fingerprint,
                length=sum(a.size for a in real_arrays(initial_arrays).values()),
                minimum=self._minimum,
                bound=self._clip_norm,
                weighted=self._most_examples is not None,
                deadline=self._deadline,
                rounds=num_rounds,
            )
            if self._privacy is not None:
                agreement = with_noise(agreement, self._privacy)
            server = stack.enter_context(serve(self._cluster, self._identity, agreement))
            signing = question(SIGN, agreement=server.agreement.digest)
            self._ask(grid, members, signing, timeout)
            self._server, self._fingerprints = server, members
            stack.callback(self._finish)
            return super().start(
                grid, initial_arrays, num_rounds, timeout, train_config, evaluate_config,
                evaluate_fn,
            )  # fmt: skip

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the wrapped strategy choose; clients that have not signed are left out."""
        self._current = arrays
        asked = question(
            ROUND,
            agreement=self._running().agreement.digest,
            number=server_round,
            weighted_by=self._weighted_by,
            most_examples=self._most_examples or 0,
        )
        messages = [
            message
            for message in self._inner.configure_train(server_round, arrays, config, grid)
            if message.metadata.dst_node_id in self._fingerprints
        ]
        for message in messages:
            message.content[RECORD] = asked
        self._sampled = {message.metadata.dst_node_id for message in messages}
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Open the sum of those who contributed and let the wrapped strategy step by their mean."""
        replies = list(replies)
        done = {
            self._fingerprints[reply.metadata.src_node_id]: reply
            for reply in replies
            if not reply.has_error()
        }
        failed = [reply for reply in replies if reply.has_error()]
        # Whoever did not reply may have contributed; who failed may have before it did.
        silent = self._sampled - {reply.metadata.src_node_id for reply in replies}
        awaited = {*done, *(self._fingerprints[node] for node in silent)}
        others = {self._fingerprints[reply.metadata.src_node_id] for reply in failed}
        try:
            opened = self._open(server_round, awaited, others)
        except RefusedError as error:
            _log.warning("round %d changes nothing: %s", server_round, error)
            for reply in failed:
                _log.warning("\t> node %d: %s", reply.metadata.src_node_id, reply.error.reason)
            return None, None
        made = self._step(opened.mean)
        counted = [self._stand_in(done[who], made) for who in opened.contributors if who in done]
        arrays, metrics = self._inner.aggregate_train(server_round, [*counted, *failed])
        if arrays is None:
            return None, metrics
        # A mean of counters is none: they stay as they were.
        stepped = {name: arrays[name].numpy() for name in real_arrays(self._current)}
        return with_real_arrays(self._current, stepped), metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Leave it to the wrapped strategy."""
        return self._inner.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Leave it to the wrapped strategy; metrics of an evaluation are not summed securely."""
        return self._inner.aggregate_evaluate(server_round, replies)

    def _running(self) -> Server:
        if self._server is None:
            raise RefusedError("the run has not begun", "Call SecureStrategy.start")
        return self._server

    def _finish(self) -> None:
        self._server = None

    def _meet(self, grid: Grid, timeout: float) -> dict[int, str]:
        """Return the fingerprints of the clients that are there, by node."""
        deadline = time.monotonic() + timeout
        while len(nodes := list(grid.get_node_ids())) < self._nodes:
            if time.monotonic() > deadline:
                raise TransportError(
                    f"{len(nodes)} of {self._nodes} nodes are connected", "Start the others"
                )
            _log.info("Waiting for nodes: %d of %d are connected", len(nodes), self._nodes)
            time.sleep(_POLL)
        told = self._ask(grid, dict.fromkeys(nodes, ""), question(HELLO), timeout)
        found = {}
        for node, answer in told.items():
            certificate = answer["certificate"]
            assert isinstance(certificate, bytes)
            who = PublicIdentity.from_der(certificate)
            if self._participants is None or who in self._participants:
                found[node] = who.fingerprint
        if len(set(found.values())) < len(found):
            raise InputError("two nodes have the same identity", "Give each node one of its own")
        return found

    def _ask(
        self, grid: Grid, nodes: dict[int, str], asked: ConfigRecord, timeout: float
    ) -> dict[int, ConfigRecord]:
        """Ask every one of ``nodes`` and return their answers.

        Raises:
            RefusedError: one of them does not answer, or says no.
        """
        messages = [
            Message(RecordDict({RECORD: asked}), dst_node_id=node, message_type=MessageType.TRAIN)
            for node in nodes
        ]
        replies = list(grid.send_and_receive(messages, timeout=timeout))
        answers = {
            reply.metadata.src_node_id: reply.content.config_records[RECORD]
            for reply in replies
            if not reply.has_error()
        }
        if len(answers) < len(nodes):
            reasons = [str(reply.error.reason) for reply in replies if reply.has_error()]
            raise RefusedError(
                f"{len(nodes) - len(answers)} of {len(nodes)} clients do not take part: "
                f"{'; '.join(reasons) or 'no answer'}",
                "See to these nodes, or leave them out",
            )
        return answers

    def _open(self, server_round: int, awaited: set[str], failed: set[str]) -> Aggregate:
        server = self._running()
        if len(awaited) < server.terms.minimum:
            raise RefusedError(
                f"{len(awaited)} contributed, and {server.terms.minimum} are the minimum",
                "See why the others failed",
            )
        opened = server.aggregate(server_round - 1, sorted(awaited | failed), sorted(awaited))
        event = event_of(server.terms, server_round)
        if event is not None and self._privacy is not None:
            spent = accounting.epsilon([event], self._privacy.delta, self._privacy.relation)
            _log.info("round %d: a client's data: %s", server_round, spent)
        for who, reason in opened.dropped.items():
            _log.warning("round %d: %s is not in the sum: %s", server_round, who[:16], reason)
        return opened

    def _step(self, mean: NDArray[np.float64]) -> ArrayRecord:
        before = real_arrays(self._current)
        arrays: list[NDArray[Any]] = list(before.values())
        after = unflatten(flatten(arrays) + mean, arrays)
        return with_real_arrays(self._current, dict(zip(before, after, strict=True)))

    def _stand_in(self, reply: Message, made: ArrayRecord) -> Message:
        """Put the mean model into a reply: the mean over such replies is that model again."""
        shown = MetricRecord({self._weighted_by: 1.0})
        for record in reply.content.metric_records.values():
            shown.update(record)
        reply.content = RecordDict({self._key: made, "metrics": shown})
        return reply
