"""The predictions under way at one worker: admission, agreement, count, answer.

What a request must pass is checked on arrival, before the peers hear of it, and again when its
batch is formed; ``batches`` decides when.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tercet.crypto.identity import PublicIdentity
from tercet.errors import (
    BusyError,
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
from tercet.service.batches import Batches, Waiting
from tercet.service.checks import binding, check_id, check_pair, check_size, pair_digests
from tercet.service.counts import Request
from tercet.service.failures import to_error
from tercet.service.messages import Answer, Done, Failure, Job, Predict
from tercet.service.metrics import Metrics
from tercet.service.model import Model
from tercet.service.rates import Rates
from tercet.service.registry import Registry

_log = logging.getLogger("tercet.worker")

#: Requests of one client that may be under way at a time.
MAX_OPEN = 64
#: Bytes of shares that one client's requests under way may have here: sixteen full requests.
MAX_HELD = 1 << 30
#: Longest wait that a busy worker asks for.
_MAX_RETRY = 60
_CHANGED = "the model's policy changed during the request"


@dataclass(frozen=True)
class Means:
    """What predictions need of the worker around them.

    Attributes:
        missing: names the peers that are not connected.
        loaded: the models that the data plane has tried to load, each with its fault if it failed.
        check_model: refuses a model whose training may not be asked; by id.
        over: called when a counted request is over.
    """

    missing: Callable[[], list[str]]
    loaded: Callable[[], Mapping[bytes, Failure | None]]
    check_model: Callable[[bytes], None]
    over: Callable[[], None]


class Predictions:
    """This worker's part in predictions.

    Args:
        index: this worker.
        name: its name, for messages to people.
        registry: models, policies, counts.
        agreement: compares requests with the peers.
        batches: orders and runs what was agreed.
        metrics: hears of every outcome.
        max_queue: requests that may be under way at a time.
        means: the worker's other parts.
    """

    def __init__(
        self,
        index: int,
        name: str,
        registry: Registry,
        agreement: Agreement,
        batches: Batches,
        metrics: Metrics,
        max_queue: int,
        means: Means,
    ) -> None:
        self._index = index
        self._name = name
        self._registry = registry
        self._agreement = agreement
        self._batches = batches
        self._metrics = metrics
        self._max_queue = max_queue
        self._means = means
        self._stopping = False
        self._open: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._who: dict[bytes, str] = {}  # agreed, not counted yet
        self._rates = Rates()
        #: Counted requests and their models.
        self.running: dict[bytes, bytes] = {}
        #: Requests answered since the start, by model.
        self.answered: Counter[bytes] = Counter()

    def stop(self) -> None:
        """Take no more requests."""
        self._stopping = True

    def under_way(self) -> int:
        """Return how many requests have arrived and are not answered."""
        return self._open.total()

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
            self._metrics.refused(error)
            raise
        seconds = time.monotonic() - started
        # In the next turn of the loop: the answer leaves first.
        asyncio.get_running_loop().call_soon(self._tell, client.name, model, request, seconds)
        return answer

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
            digests = await pair_digests(self._index, request.shares)
            try:
                nonces = await self._agreement.agree(request.id, bound, digests)
            except TercetError as error:
                if not isinstance(error, UnderWay):
                    self._batches.close(request.id)
                raise
            try:
                answer = await self._answer(client, request, nonces)
                self.answered[model.id] += 1
            finally:
                self.running.pop(request.id, None)
                self._means.over()
        finally:
            self._open[client.fingerprint] -= 1
            self._held[client.fingerprint] -= size
            if not self._open[client.fingerprint]:
                del self._open[client.fingerprint], self._held[client.fingerprint]
        return model, answer

    async def _answer(self, client: PublicIdentity, request: Predict, nonces: Nonces) -> Answer:
        """Wait for the batch, and note in the audit log what became of a counted request."""
        self._who[request.id] = client.name
        asked = Request(request.id, request.model, client.fingerprint, request.rows, client.name)
        outcome = "failed: the worker stopped"
        try:
            answer: Answer = await self._batches.answer(
                Waiting(request, client.fingerprint, nonces)
            )
            model = self._registry.by_id(request.model)
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
                self._registry.note(asked, outcome)

    def _tell(self, client: str, model: Model, request: Predict, seconds: float) -> None:
        """Tell log and metrics of a request that was answered."""
        self._metrics.answered(request.rows, seconds)
        _log.info(
            "answered %s for %s on %s: %d rows",
            request.id.hex()[:8],
            client,
            model.label,
            request.rows,
        )

    def _admit(self, client: str, request: Predict) -> Model:
        """Check all that can be checked before asking the peers."""
        if self._stopping:
            raise stopping(self._name)
        if self._open[client] >= MAX_OPEN:
            raise self._busy(f"{MAX_OPEN} requests of this client are under way")
        if self._held[client] + _size(request) > MAX_HELD:
            raise self._busy(f"{self._held[client]} bytes of this client are under way")
        if (waiting := self.under_way()) >= self._max_queue:
            raise self._busy(f"worker {self._name} has {waiting} requests under way")
        check_pair(request.shares)
        if missing := self._means.missing():
            raise TransportError(
                f"worker {self._name} waits for {', '.join(missing)}",
                "Try again when they are back (`tercet status`)",
            )
        model = self._current(request)
        self._means.check_model(model.id)
        check_size(model.program, request.rows)
        self._registry.admit(request.id, model, client, request.rows)
        if (fault := self._means.loaded().get(model.id)) is not None:
            raise to_error(fault, f"worker {self._name} cannot use model {model.name!r}")
        shape = bind_shape(model.program.input_shape(), request.rows)
        for summand in request.shares:
            summand.check({INPUT_NAME: shape})
        if model.policy.max_rate is not None:
            self._rates.take(model.id, client, model.policy.max_rate)
        return model

    def _current(self, request: Predict) -> Model:
        """Return the model of a request, if it still runs the program that the request names."""
        model = self._registry.by_id(request.model)
        if request.program_digest != model.digest:
            raise IntegrityError(
                f"model {model.name!r} runs another program than the request names",
                "Connect again; if it stays so, the workers disagree: tell their operators",
            )
        return model

    # What the batches ask for.

    def accept(self, waiting: Waiting, request: Predict, ahead: Sequence[int]) -> None:
        """Admit an agreed request to its batch, behind others with ``ahead`` rows.

        Raises:
            TercetError: if the model's policy refuses it now.
        """
        model = self._current(request)
        self._registry.admit(request.id, model, waiting.client, request.rows, ahead)
        waiting.change = model.change

    def count(self, batch: Sequence[Waiting], first: Predict) -> None:
        """Count a batch durably; ``first`` is its first request.

        Raises:
            RefusedError: if the policy is another one than when they were admitted.
            StorageError: if the disk refuses.
        """
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
            self._registry.count(requests, change)
        except StorageError:
            self._metrics.disk_refused()
            raise
        for w in batch:
            self._who.pop(w.request.id, None)
            self.running[w.request.id] = w.request.model

    def job(self, batch: Sequence[Waiting], first: Predict, nonces: Nonces) -> Job:
        """Return what the data plane runs for a batch."""
        inputs = [
            (w.request.rows, w.request.shares) for w in batch if isinstance(w.request, Predict)
        ]
        return Job(0, first.model, first.program_digest, nonces, inputs)

    def ran(self, running: asyncio.Future[Done]) -> None:
        """Let the metrics hear of a batch that has run."""
        if not running.cancelled() and running.exception() is None:
            self._metrics.ran(running.result())

    def release(self, first: Predict, done: Done) -> Sequence[Answer]:
        """Return the answer to each request of a batch.

        Raises:
            TercetError: if the model was stopped meanwhile.
        """
        self._registry.check_release(first.model)
        self._means.check_model(first.model)
        return [Answer(p, done.seconds, done.bytes_sent, done.rounds) for p in done.parts]

    def _busy(self, message: str) -> BusyError:
        # Requests under way are answered side by side: half of them are in its mean already.
        seconds = min(_MAX_RETRY, max(1, math.ceil(self._metrics.mean)))
        return BusyError(message, f"Busy: try again in {seconds} s", seconds)


def stopping(name: str) -> WorkerError:
    """Return the error for what reaches a worker that stops."""
    return WorkerError(f"worker {name} is shutting down", "Try again later")


def _size(request: Predict) -> int:
    return sum(len(array) for summand in request.shares for array in summand.arrays.values())
