"""What a worker counts about itself, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from tercet.errors import (
    BusyError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StorageError,
    TercetError,
    TransportError,
)
from tercet.service.messages import Done

METRICS_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
#: Weight of the latest request in the mean from which ``retry after`` is told.
_WEIGHT = 0.1

_KINDS: tuple[tuple[type[TercetError], str], ...] = (
    (BusyError, "busy"),
    (StorageError, "disk"),
    (NotFoundError, "unknown_model"),
    (IntegrityError, "integrity"),
    (TransportError, "worker_lost"),
)


class Metrics:
    """The counters of one worker; names and meaning are in docs/operations.md."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tercet_requests", "Predictions by outcome", ["outcome"], registry=self._registry
        )
        self._refusals = Counter(
            "tercet_refusals", "Refused requests by reason", ["reason"], registry=self._registry
        )
        self._rows = Counter("tercet_rows", "Rows answered", registry=self._registry)
        self._seconds = Histogram(
            "tercet_request_seconds",
            "From arrival to answer",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._batch_seconds = Histogram(
            "tercet_batch_seconds", "A batch at the data plane", buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._bytes = Counter(
            "tercet_protocol_sent_bytes", "Payload sent to the peers", registry=self._registry
        )
        self._rounds = Counter("tercet_protocol_rounds", "Rounds", registry=self._registry)
        self._queue = Gauge(
            "tercet_requests_under_way", "Arrived, not answered", registry=self._registry
        )
        self._ready = Gauge("tercet_ready", "1 if ready", registry=self._registry)
        self._models = Gauge("tercet_models", "Models by state", ["state"], registry=self._registry)
        self._disk = Counter(
            "tercet_disk_refusals", "Writes that the disk refused", registry=self._registry
        )
        self.mean = 0.1

    def answered(self, rows: int, seconds: float) -> None:
        """A prediction was answered."""
        self._requests.labels("answered").inc()
        self._rows.inc(rows)
        self._seconds.observe(seconds)
        self.mean += _WEIGHT * (seconds - self.mean)

    def refused(self, error: BaseException) -> None:
        """A prediction was refused or failed."""
        reason = next((word for kind, word in _KINDS if isinstance(error, kind)), "worker")
        if isinstance(error, RefusedError):
            reason = error.reason
        failed = reason in {"worker", "worker_lost", "disk"}
        self._requests.labels("failed" if failed else "refused").inc()
        self._refusals.labels(reason).inc()

    def ran(self, done: Done) -> None:
        """A batch has run."""
        self._batch_seconds.observe(done.seconds)
        self._bytes.inc(done.bytes_sent)
        self._rounds.inc(done.rounds)

    def disk_refused(self) -> None:
        """The disk refused a write."""
        self._disk.inc()

    def show(self, under_way: int, ready: bool, models: dict[str, int]) -> bytes:
        """Return all of it as text."""
        self._queue.set(under_way)
        self._ready.set(ready)
        for state, number in models.items():
            self._models.labels(state).set(number)
        return generate_latest(self._registry)
