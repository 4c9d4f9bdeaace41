"""A worker's control process: requests, policy, storage, agreement with the other two.

The way of a prediction: who asks (TLS) -> policy -> agreement with the peers -> worker 0's order
-> durable count -> data plane -> this worker's part of the result, to whoever asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from tercet import __version__
from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import (
    BusyError,
    ConfigError,
    IntegrityError,
    RefusedError,
    StorageError,
    TercetError,
    TransportError,
    WorkerError,
)
from tercet.program.types import bind_shape
from tercet.runtime.batch import INPUT_NAME
from tercet.service.agreement import Agreement, Nonces, UnderWay
from tercet.service.agreements import Agreements
from tercet.service.arena import Arena
from tercet.service.batches import Batches, Waiting
from tercet.service.checks import binding, check_id, check_pair, check_size, pair_digests
from tercet.service.config import WORKERS, ClusterConfig, split_address
from tercet.service.counts import Request
from tercet.service.dataplane import Peer, Setup
from tercet.service.dataprocess import DataProcess
from tercet.service.failures import to_error
from tercet.service.leaving import Leaving
from tercet.service.lines import Lines
from tercet.service.logs import Style
from tercet.service.messages import (
    Accepted,
    Answer,
    Cancel,
    Counted,
    Description,
    Done,
    Farewell,
    Inventory,
    Job,
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
from tercet.service.rates import Rates
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
from tercet.service.trainings import Means, Trainings

_log = logging.getLogger("tercet.worker")

#: Requests of one client that may be under way at a time, and of all clients by default.
MAX_OPEN = 64
#: Bytes of shares that one client's requests under way may have here: sixteen full requests.
MAX_HELD = 1 << 30
MAX_QUEUE = 512
#: Seconds that requests under way have when the worker is told to stop.
STOP_SECONDS = 10.0
#: Seconds for which an owner's answer waits until all three workers are ready with what was asked.
SETTLE_SECONDS = 10.0
_SETTLE_POLL = 0.005
#: Longest wait that a busy worker asks for.
_MAX_RETRY = 60
_TICK = 1.0
_CHANGED = "the model's policy changed during the request"


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
        self._max_queue = max_queue
        self._stopping = False
        self._open: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._running: dict[bytes, bytes] = {}  # counted requests and their models
        self._answered: Counter[bytes] = Counter()
        self._who: dict[bytes, str] = {}
        self._rates = Rates()
        self.metrics = Metrics()
        self.registry = Registry(state, self._changed)
        self.links = PeerLinks(index, identity, cluster.worker, self._received, self._link_changed)
        self.lines = Lines(self._names, self._peers, self.links.send)
        self._leaving = Leaving(
            self.links.send, lambda: self.links.connected, lambda: not self._running
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
        self.training_requests = TrainingRequests(index, self.registry, self._runs, self._forget)
        self.trainings = Trainings(
            index,
            self.registry,
            self._runs,
            self._agreement,
            Means(self.links.send, self._train, self._forget, self._reload, self._missing),
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
        self._stopping = True
        deadline = time.monotonic() + STOP_SECONDS
        while self._under_way() and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self._leaving.part(deadline)

    async def stop(self) -> None:
        """End links and data plane; what waits is refused."""
        if self._ticker is not None:
            self._ticker.cancel()
            await asyncio.gather(self._ticker, return_exceptions=True)
        await self.trainings.stop()
        await self._batches.stop(self._gone())
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
            answered=self._answered[model.id],
            running=sum(m == model.id for m in self._running.values()),
        )

    def show_metrics(self) -> bytes:
        """Return all metrics as text."""
        models = self.registry.models()
        states = {
            "shared": len(models),
            "served": sum(m.policy.serving for m in models),
            "faulty": sum(bool(self._fault(m)) for m in models),
        }
        return self.metrics.show(self._under_way(), not self.waits(), states)

    async def predict(self, client: PublicIdentity, request: Predict) -> Answer:
        """Answer one request, or refuse it.

        Raises:
            NotFoundError, RefusedError: by the model's policy.
            IntegrityError: if digests or shares do not belong together.
            TransportError, WorkerError: if a worker is missing, busy or fails meanwhile.
        """
        started = time.monotonic()
        try:
            check_id(request.id)
            model, answer = await self._predict(client, request)
        except TercetError as error:
            self.metrics.refused(error)
            raise
        seconds = time.monotonic() - started
        # In the next turn of the loop: the answer leaves first.
        asyncio.get_running_loop().call_soon(self._tell, client.name, model, request, seconds)
        return answer

    def _tell(self, client: str, model: Model, request: Predict, seconds: float) -> None:
        """Tell log and metrics of a request that was answered."""
        self.metrics.answered(request.rows, seconds)
        _log.info(
            "answered %s for %s on %s: %d rows",
            request.id.hex()[:8],
            client,
            model.label,
            request.rows,
        )

    async def _predict(self, client: PublicIdentity, request: Predict) -> tuple[Model, Answer]:
        try:
            self._batches.check_new(request.id)
            model = self._admit(client.fingerprint, request)
        except UnderWay:
            raise
        except TercetError as error:
            self._agreement.refuse(request.id, error)
            raise
        size = _size(request)
        self._open[client.fingerprint] += 1
        self._held[client.fingerprint] += size
        try:
            bound = binding(
                "predict",
                request.model.hex(),
                request.program_digest,
                str(request.rows),
                client.fingerprint,
            )
            digests = await pair_digests(self.index, request.shares)
            try:
                nonces = await self._agreement.agree(request.id, bound, digests)
            except TercetError as error:
                if not isinstance(error, UnderWay):
                    self._batches.close(request.id)
                raise
            try:
                answer = await self._answer(client, request, nonces)
                self._answered[model.id] += 1
            finally:
                self._running.pop(request.id, None)
                self._leaving.check()
        finally:
            self._open[client.fingerprint] -= 1
            self._held[client.fingerprint] -= size
            if not self._open[client.fingerprint]:
                del self._open[client.fingerprint], self._held[client.fingerprint]
        return model, answer

    async def _answer(
        self, client: PublicIdentity, request: Predict, nonces: tuple[bytes, bytes, bytes]
    ) -> Answer:
        """Wait for the batch, and note in the audit log what became of a counted request."""
        self._who[request.id] = client.name
        asked = Request(request.id, request.model, client.fingerprint, request.rows, client.name)
        outcome = "failed: the worker stopped"
        try:
            answer: Answer = await self._batches.answer(
                Waiting(request, client.fingerprint, nonces)
            )
            model = self.registry.by_id(request.model)
            model.check_client(client.fingerprint)
            if model.digest != request.program_digest:
                raise RefusedError(_CHANGED, "Ask again")
            outcome = "answered"
        except TercetError as error:
            outcome = f"failed: {type(error).__name__}"
            raise
        else:
            return answer
        finally:
            if self._who.pop(request.id, None) is None:  # it was counted
                self.registry.note(asked, outcome)

    def _admit(self, client: str, request: Predict) -> Model:
        """Check all that can be checked before asking the peers."""
        if self._stopping:
            raise self._gone()
        if self._open[client] >= MAX_OPEN:
            raise self._busy(f"{MAX_OPEN} requests of this client are under way")
        if self._held[client] + _size(request) > MAX_HELD:
            raise self._busy(f"{self._held[client]} bytes of this client are under way")
        if (waiting := self._under_way()) >= self._max_queue:
            raise self._busy(f"worker {self.name} has {waiting} requests under way")
        check_pair(request.shares)
        if missing := self._missing():
            raise TransportError(
                f"worker {self.name} waits for {', '.join(missing)}",
                "Try again when they are back (`tercet status`)",
            )
        model = self._current(request)
        self._runs.check_model(model.id)
        check_size(model.program, request.rows)
        self.registry.admit(request.id, model, client, request.rows)
        if (fault := self._plane().loaded.get(model.id)) is not None:
            raise to_error(fault, f"worker {self.name} cannot use model {model.name!r}")
        shape = bind_shape(model.program.input_shape(), request.rows)
        for summand in request.shares:
            summand.check({INPUT_NAME: shape})
        if model.policy.max_rate is not None:
            self._rates.take(model.id, client, model.policy.max_rate)
        return model

    def _current(self, request: Predict) -> Model:
        """Return the model of a request, if it still runs the program that the request names."""
        model = self.registry.by_id(request.model)
        if request.program_digest != model.digest:
            raise IntegrityError(
                f"model {model.name!r} runs another program than the request names",
                "Connect again; if it stays so, the workers disagree: tell their operators",
            )
        return model

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
            return
        model = self._current(request)
        self.registry.admit(request.id, model, waiting.client, request.rows, ahead)
        waiting.change = model.change

    def _count(self, batch: Sequence[Waiting]) -> None:
        """Count a batch durably."""
        first = batch[0].request
        if isinstance(first, TrainSteps):  # nothing is counted: masks are new for each chunk
            return
        requests = [
            Request(
                w.request.id, w.request.model, w.client, w.request.rows,
                self._who.get(w.request.id, ""),
            )
            for w in batch
        ]  # fmt: skip
        try:
            change = self._current(first).change
            if any(w.change != change for w in batch):  # while the peers' acceptances were awaited
                raise RefusedError(_CHANGED, "Ask again")
            self.registry.count(requests, change)
        except StorageError:
            self.metrics.disk_refused()
            raise
        for w in batch:
            self._who.pop(w.request.id, None)
            self._running[w.request.id] = w.request.model

    def _cancel(self, digest: str, nonces: Nonces, reason: str) -> None:
        """Tell the peers, who may have begun, that a session does not run here."""
        with contextlib.suppress(WorkerError):  # the data plane has gone, and its links with it
            self._plane().send(Cancel(digest, nonces, reason))

    def _submit(self, batch: Sequence[Waiting], nonces: Nonces) -> asyncio.Future[Done]:
        first = batch[0].request
        if isinstance(first, TrainSteps):
            return self._plane().submit(self._runs.job(first, nonces))
        inputs = [
            (w.request.rows, w.request.shares) for w in batch if isinstance(w.request, Predict)
        ]
        running = self._plane().submit(Job(0, first.model, first.program_digest, nonces, inputs))
        running.add_done_callback(self._ran)
        return running

    def _release(self, batch: Sequence[Waiting], done: Done) -> Sequence[object]:
        first = batch[0].request
        if isinstance(first, TrainSteps):
            self._runs.check_steps(first)
            return [done]
        self.registry.check_release(first.model)
        self._runs.check_model(first.model)
        return [Answer(p, done.seconds, done.bytes_sent, done.rounds) for p in done.parts]

    async def _train(self, asked: TrainSteps, nonces: Nonces) -> Done:
        """Take some agreed steps of a training, in their turn among the batches."""
        done: Done = await self._batches.answer(Waiting(asked, "", nonces))
        return done

    def _agreement_changed(self, digest: bytes) -> None:
        self.trainings.agreement_changed(digest)

    def _forget(self, agreement: bytes) -> None:
        if self._data is not None:
            self._data.send(Unload(agreement))

    def _ran(self, running: asyncio.Future[Done]) -> None:
        if not running.cancelled() and running.exception() is None:
            self.metrics.ran(running.result())

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

    def _under_way(self) -> int:
        return self._open.total()

    def _busy(self, message: str) -> BusyError:
        # Requests under way are answered side by side: half of them are in its mean already.
        seconds = min(_MAX_RETRY, max(1, math.ceil(self.metrics.mean)))
        return BusyError(message, f"Busy: try again in {seconds} s", seconds)

    def _gone(self) -> WorkerError:
        return WorkerError(f"worker {self.name} is shutting down", "Try again later")

    def _plane(self) -> DataProcess:
        if self._data is None:
            raise WorkerError(f"worker {self.name} is not running", "Start it")
        return self._data

    def _load(self, model: Model) -> Load:
        return Load(model.id, model.encoded, str(self.registry.path(model.id)), model.digests)

    def _loads(self) -> list[Load]:
        return [self._load(m) for m in self.registry.models()]


def _size(request: Predict) -> int:
    return sum(len(array) for summand in request.shares for array in summand.arrays.values())
