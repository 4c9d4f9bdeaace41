"""A worker's control process: requests, policy, storage, agreement with the other two.

The way of a prediction: who asks (TLS) -> policy -> agreement with the peers -> worker 0's order
-> durable count -> data plane -> this worker's part of the result, to whoever asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from tercet import __version__
from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import (
    ConfigError,
    StorageError,
    TercetError,
    TransportError,
    WorkerError,
)
from tercet.service.agreement import Agreement, Nonces
from tercet.service.agreements import Agreements
from tercet.service.arena import Arena
from tercet.service.batches import Batches, Waiting
from tercet.service.config import WORKERS, ClusterConfig, split_address
from tercet.service.dataplane import Peer, Setup
from tercet.service.dataprocess import DataProcess
from tercet.service.failures import to_error
from tercet.service.leaving import Leaving
from tercet.service.lines import Lines
from tercet.service.logs import Style
from tercet.service.messages import (
    Accepted,
    Cancel,
    Counted,
    Description,
    Done,
    Farewell,
    Inventory,
    Leave,
    Load,
    PeerMessage,
    Ping,
    Pong,
    Predict,
    Run,
    Status,
    TagKey,
    Unload,
    Withdraw,
)
from tercet.service.metrics import Metrics
from tercet.service.model import Model
from tercet.service.ownership import Ownership
from tercet.service.peers import PeerLinks
from tercet.service.predictions import Means, Predictions, stopping
from tercet.service.reconcile import Reconciler
from tercet.service.registry import Registry
from tercet.service.round_order import MEMORY
from tercet.service.round_records import Records
from tercet.service.round_store import RoundStore
from tercet.service.rounds import Rounds
from tercet.service.sharings import Sharings
from tercet.service.sum_messages import SumMessage
from tercet.service.training_messages import FinishTraining, Standing, TrainSteps
from tercet.service.training_requests import TrainingRequests
from tercet.service.training_runs import Runs
from tercet.service.trainings import Means as TrainingMeans
from tercet.service.trainings import Trainings

_log = logging.getLogger("tercet.worker")

#: Requests that may be under way at a time by default.
MAX_QUEUE = 512
#: Seconds that requests under way have when the worker is told to stop.
STOP_SECONDS = 10.0
#: Seconds for which an owner's answer waits until all three workers are ready with what was asked.
SETTLE_SECONDS = 10.0
_SETTLE_POLL = 0.005
_TICK = 1.0


class Worker:
    """One worker of three.

    Args:
        index: 0, 1 or 2.
        identity: its key.
        cluster: all three workers.
        state: folder of the registry.
        data_fd: listening socket of the data port.
        max_queue: requests that may be under way at a time.
        log: style of the data plane's log lines.
        listed: returns the identities on this worker's lists, as they stand.

    Raises:
        ConfigError: if the certificate is not the one that the cluster names.
    """

    def __init__(
        self,
        index: int,
        identity: Identity,
        cluster: ClusterConfig,
        state: Path,
        data_fd: int,
        max_queue: int = MAX_QUEUE,
        log: Style = "text",
        listed: Callable[[], Iterable[PublicIdentity]] = tuple,
    ) -> None:
        entry = cluster.worker[index]
        if entry.identity.fingerprint != identity.fingerprint:
            raise ConfigError(
                f"worker {entry.name} has another certificate than cluster.toml says",
                "Give everybody the same cluster.toml, with this worker's certificate",
            )
        self.index = index
        self.name = entry.name
        self._names = [w.name for w in cluster.worker]
        self._peers = [p for p in range(WORKERS) if p != index]
        self._started = time.monotonic()
        self.metrics = Metrics()
        self.registry = Registry(state, self._changed)
        self.links = PeerLinks(index, identity, cluster.worker, self._received, self._link_changed)
        self.lines = Lines(self._names, self._peers, self.links.send)
        self._leaving = Leaving(
            self.links.send, lambda: self.links.connected, lambda: not self.predictions.running
        )
        self._agreement = Agreement(index, self._names, self.links.send)
        self.ownership = Ownership(
            index, self.registry, self._agreement, self._peers, self._reload, self._settled
        )
        self.agreements = Agreements(
            self.registry,
            [w.identity.fingerprint for w in cluster.worker],
            listed,
            self._agreement_changed,
        )
        self.sharings = Sharings(index, self.registry, self._agreement, state / "sharings")
        workers = [w.identity for w in cluster.worker]
        self._arena = Arena(2 * MEMORY)
        self.rounds = Rounds(
            index,
            self._names,
            self.agreements,
            self._agreement,
            Records(index, identity, workers, self.links.send),
            RoundStore(self.registry, state / "sums"),
            self.links.send,
            self._plane,
            self._missing,
            self._arena,
        )
        self._reconciler = Reconciler(
            self.registry,
            self._names,
            self._peers,
            self.links.send,
            self._reload,
            self.ownership.under_way,
        )
        self._batches = Batches(
            index,
            self.links.send,
            self._accept,
            self._count,
            self._cancel,
            self._submit,
            self._release,
        )
        self._runs = Runs(self.registry, self.agreements, self.sharings, state / "trainings")
        self.predictions = Predictions(
            index,
            self.name,
            self.registry,
            self._agreement,
            self._batches,
            self.metrics,
            max_queue,
            Means(
                self._missing,
                lambda: self._plane().loaded,
                self._runs.check_model,
                self._leaving.check,
            ),
        )
        self.training_requests = TrainingRequests(index, self.registry, self._runs, self._forget)
        self.trainings = Trainings(
            index,
            self.registry,
            self._runs,
            self._agreement,
            TrainingMeans(self.links.send, self._train, self._forget, self._reload, self._missing),
        )
        peers = []
        for peer in self._peers:
            host, port = split_address(cluster.worker[peer].data_address)
            peers.append(Peer(peer, host, port, cluster.worker[peer].certificate))
        self._setup = Setup(index, self.name, "", "", peers, data_fd, self._arena.fd, log)
        self._data: DataProcess | None = None
        self._ticker: asyncio.Task[None] | None = None

    async def start(self, certificate: str, key: str) -> None:
        """Start the data plane and the links; paths are this worker's own key files."""
        setup = msgspec.structs.replace(self._setup, certificate=certificate, key=key)
        self._data = DataProcess(setup, self._loads)
        await self._data.start()
        self._batches.start()
        self.trainings.start()
        self.links.start()
        self._ticker = asyncio.create_task(self._tick())

    async def drain(self) -> None:
        """Take no more requests and wait for those under way, the peers' too.

        ``STOP_SECONDS`` at most.
        """
        self.predictions.stop()
        deadline = time.monotonic() + STOP_SECONDS
        while self.predictions.under_way() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self._leaving.part(deadline)

    async def stop(self) -> None:
        """End links and data plane; what waits is refused."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        await self.trainings.stop()
        await self._batches.stop(stopping(self.name))
        await self.links.stop()
        if self._data is not None:
            await self._data.stop()
        self.registry.close()

    # What anyone may know.

    def status(self, reader: str) -> Status:
        """Describe this worker to the holder of the key ``reader``."""
        waits = self.waits()
        return Status(
            self.name,
            self.index,
            __version__,
            not waits,
            waits,
            time.monotonic() - self._started,
            [self._describe(m, reader) for m in self.registry.models()],
            time.time(),
        )

    def describe(self, name: str, reader: str) -> Description:
        """Describe one model to the holder of the key ``reader``."""
        return self._describe(self.registry.by_name(name), reader)

    def _describe(self, model: Model, reader: str) -> Description:
        return msgspec.structs.replace(
            model.describe(reader, self._fault(model)),
            answered=self.predictions.answered[model.id],
            running=sum(m == model.id for m in self.predictions.running.values()),
        )

    def show_metrics(self) -> bytes:
        """Return all metrics as text."""
        models = self.registry.models()
        states = {
            "shared": len(models),
            "served": sum(m.policy.serving for m in models),
            "faulty": sum(bool(self._fault(m)) for m in models),
        }
        return self.metrics.show(self.predictions.under_way(), not self.waits(), states)

    # What comes from the peers.

    def _received(self, peer: int, message: PeerMessage) -> None:
        if isinstance(message, Run | Accepted):
            self._batches.received(peer, message)
        elif isinstance(message, Inventory | Counted):
            self._reconciler.received(peer, message)
        elif isinstance(message, SumMessage):
            self.rounds.received(peer, message)
        elif isinstance(message, TrainSteps | FinishTraining | Standing):
            self.trainings.received(peer, message)
        elif isinstance(message, Ping | Pong):
            self.lines.received(peer, message)
        elif isinstance(message, Leave | Farewell):
            self._leaving.received(peer, message)
        elif isinstance(message, Withdraw):
            refusal = to_error(message.reason, self._names[peer])
            self.rounds.withdraw(message.id, refusal)
            if not self._batches.withdraw(message.id, refusal):
                self._agreement.withdrawn(message.id, refusal)
        elif isinstance(message, TagKey):
            self._agreement.keyed(peer, message.key)
        else:
            self._agreement.offered(peer, message)

    def _link_changed(self, peer: int, up: bool) -> None:
        if up:
            self._agreement.linked(peer)
        else:
            if self._data is not None:
                self._data.void()
            self._agreement.peer_lost(peer)
            lost = TransportError(
                f"worker {self._names[peer]} was lost during the request",
                "Try again when it is back (`tercet status`)",
            )
            self._batches.fail(lost)
            self.rounds.peer_lost(lost)
        self._reconciler.link_changed(peer, up)
        self.trainings.link_changed(peer, up)

    # What the batches ask for.

    def _accept(self, waiting: Waiting, ahead: Sequence[int]) -> None:
        request = waiting.request
        if isinstance(request, TrainSteps):
            self._runs.check_steps(request)
        else:
            self.predictions.accept(waiting, request, ahead)

    def _count(self, batch: Sequence[Waiting]) -> None:
        """Count a batch durably; of a training nothing is: masks are new for each chunk."""
        first = batch[0].request
        if isinstance(first, Predict):
            self.predictions.count(batch, first)

    def _cancel(self, digest: str, nonces: Nonces, reason: str) -> None:
        """Tell the peers, who may have begun, that a session does not run here."""
        with contextlib.suppress(WorkerError):  # the data plane has gone, and its links with it
            self._plane().send(Cancel(digest, nonces, reason))

    def _submit(self, batch: Sequence[Waiting], nonces: Nonces) -> asyncio.Future[Done]:
        first = batch[0].request
        if isinstance(first, TrainSteps):
            return self._plane().submit(self._runs.job(first, nonces))
        running = self._plane().submit(self.predictions.job(batch, first, nonces))
        running.add_done_callback(self.predictions.ran)
        return running

    def _release(self, batch: Sequence[Waiting], done: Done) -> Sequence[object]:
        first = batch[0].request
        if isinstance(first, TrainSteps):
            self._runs.check_steps(first)
            return [done]
        return self.predictions.release(first, done)

    async def _train(self, asked: TrainSteps, nonces: Nonces) -> Done:
        """Take some agreed steps of a training, in their turn among the batches."""
        done: Done = await self._batches.answer(Waiting(asked, "", nonces))
        return done

    def _agreement_changed(self, digest: bytes) -> None:
        self.trainings.agreement_changed(digest)

    def _forget(self, agreement: bytes) -> None:
        if self._data is not None:
            self._data.send(Unload(agreement))

    # Small things.

    async def _tick(self) -> None:
        """Do what time asks for, whatever the disk says."""
        while True:
            await asyncio.sleep(_TICK)
            try:
                self.registry.flush()
                self._reconciler.tick()
                self.sharings.tick()
                self.rounds.tick()
                self.trainings.tick()
            except StorageError as error:
                self.metrics.disk_refused()
                _log.error("%s", error)
            except Exception:  # the next tick may fare better
                _log.exception("housekeeping failed")

    def _reload(self, models: Sequence[bytes]) -> None:
        """Let the data plane follow what was committed, changed or removed."""
        for model in models:
            command: Load | Unload
            try:
                command = self._load(self.registry.by_id(model))
            except TercetError:
                command = Unload(model)
            self._plane().loaded.pop(model, None)
            self._plane().send(command)

    async def _settled(self, models: Sequence[bytes]) -> None:
        """Wait until the peers hold these models alike and the data plane has loaded them.

        ``SETTLE_SECONDS`` at most, and not for a peer that is lost: what was done stands.

        Raises:
            WorkerError: if the data plane cannot load one.
        """
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            loaded = self._plane().loaded
            kept = [m for m in map(self.registry.find, models) if m is not None]
            for model in kept:
                if (fault := loaded.get(model.id)) is not None:
                    raise to_error(fault, f"worker {self.name} cannot use model {model.name!r}")
            if all(m.id in loaded for m in kept) and self._reconciler.agreed(models, kept):
                return
            await asyncio.sleep(_SETTLE_POLL)

    def _changed(self) -> None:
        self._reconciler.changed()

    def _missing(self) -> list[str]:
        data = self._data.connected if self._data is not None else set()
        return [
            self._names[p] for p in self._peers if p not in self.links.connected or p not in data
        ]

    def waits(self) -> list[str]:
        """Return what keeps this worker from being ready, in plain words.

        Ready means: peers connected, the same models at all three, all shares loaded.
        """
        if missing := self._missing():
            return missing
        loaded = self._plane().loaded
        shares = [
            f"the shares of {m.label}"
            for m in self.registry.models()
            if m.id not in loaded or loaded[m.id] is not None
        ]
        return [*shares, *self._reconciler.differences()]

    def _fault(self, model: Model) -> str:
        fault = self._data.loaded.get(model.id) if self._data is not None else None
        return fault.message if fault is not None else ""

    def _plane(self) -> DataProcess:
        if self._data is None:
            raise WorkerError(f"worker {self.name} is not running", "Start it")
        return self._data

    def _load(self, model: Model) -> Load:
        return Load(model.id, model.encoded, str(self.registry.path(model.id)), model.digests)

    def _loads(self) -> list[Load]:
        return [self._load(m) for m in self.registry.models()]
