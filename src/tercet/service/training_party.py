"""A party's side of a training: attaching its programs, running it, watching it, its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError, IntegrityError
from tercet.protocol.replicated.sharing import combine
from tercet.ring.fixed import decode
from tercet.service.config import WORKERS
from tercet.service.connection import most_telling
from tercet.service.parties import TIMEOUT, Agreement, Party
from tercet.service.training_messages import Ask, Attach, Fetched, Metric, Progress
from tercet.service.training_store import CANCELLED, DONE, PROPOSED, RUNNING, STOPPED
from tercet.service.training_terms import TrainingTerms

_UPLOAD_TIMEOUT = 300.0


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """How a training stands at the three workers together.

    Attributes:
        status: ``proposed``, ``running``, ``cancelled``, ``stopped`` or ``done``.
        message: why, if it does not run.
        step: steps that all three have done.
        steps: steps in all.
        seconds: until it is done, as it went lately; None if nobody knows yet.
        checkpoint: steps at the last checkpoint of all three.
        metrics: for each opened metric ``(last step, mean over rows and steps since the last)``.
        model: label of the trained model, if it is shared.
    """

    status: str
    message: str
    step: int
    steps: int
    seconds: float | None
    checkpoint: int
    metrics: dict[str, list[tuple[int, float]]]
    model: str


class TrainingParty(Party):
    """A party of trainings. Close it, or use it in a ``with`` statement."""

    def attach(self, agreement: Agreement, package: bytes) -> None:
        """Give the workers the programs that an agreement names.

        Raises:
            RefusedError: if they are others.
        """
        body = Attach(agreement.digest, package)
        self._connection.ask_all(
            "/v1/training/attach", [body] * WORKERS, type(None), _UPLOAD_TIMEOUT
        )

    def run(self, agreement: Agreement) -> None:
        """Begin or resume a training at all three workers; it goes on without this process.

        Raises:
            RefusedError: if the agreement does not hold, or does not fit what is there.
            NotFoundError: if something that it names is not there.
        """
        self._all("run", agreement)

    def cancel(self, agreement: Agreement) -> None:
        """Stop a training at all workers that can be reached; ``run`` resumes it.

        Raises:
            TransportError: if none can: one is enough to stop all three.
        """
        told = self._connection.ask_each(
            "/v1/training/cancel", [Ask(agreement.digest)] * WORKERS, Progress, TIMEOUT
        )
        failures = [t for t in told if isinstance(t, BaseException)]
        if len(failures) == WORKERS:
            raise most_telling(failures)

    def progress(self, agreement: Agreement, since: int = 0) -> TrainingProgress:
        """Return how a training stands, with metrics of steps from ``since`` on."""
        terms = agreement.terms
        if not isinstance(terms, TrainingTerms):
            raise InputError(f"{terms.name!r} is no training", "Name an agreement on one")
        told = self._all("progress", agreement, since)
        status, message = _status(told)
        step = min(t.step for t in told)
        seconds = max(t.seconds for t in told)
        left = None if not seconds else (told[0].steps - step) * seconds
        rows = terms.batch_size
        return TrainingProgress(
            status,
            message,
            step,
            told[0].steps,
            left if status == RUNNING else None,
            min(t.checkpoint for t in told),
            _metrics([t.metrics for t in told], rows),
            told[0].model,
        )

    def fetch(self, agreement: Agreement) -> dict[str, NDArray[np.float64]]:
        """Return the trained weights that the agreement opens to this identity, by state.

        Raises:
            RefusedError: if it opens none, or the training is not done.
            IntegrityError: if a worker tampers, or the workers tell of different things.
        """
        told = self._connection.ask_all(
            "/v1/training/fetch", [Ask(agreement.digest)] * WORKERS, Fetched, _UPLOAD_TIMEOUT
        )
        tensors = told[0].tensors
        if any(t.tensors != tensors for t in told):
            raise IntegrityError("the workers hold different models", "Tell their operators")
        parts = zip(*(t.parts for t in told), strict=True)
        return {
            name: decode(combine(summands, tensor.shape), tensor.scale)
            for (name, tensor), summands in zip(tensors.items(), parts, strict=True)
        }

    def _all(self, what: str, agreement: Agreement, since: int = 0) -> list[Progress]:
        return self._connection.ask_all(
            f"/v1/training/{what}", [Ask(agreement.digest, since)] * WORKERS, Progress, TIMEOUT
        )


def _status(told: Sequence[Progress]) -> tuple[str, str]:
    """Return the status that says most: what stops one worker stops all."""
    for status in (STOPPED, CANCELLED, PROPOSED, RUNNING, DONE):
        for one in told:
            if one.status == status:
                return status, one.message
    return told[0].status, told[0].message


def _metrics(told: Sequence[Sequence[Metric]], rows: int) -> dict[str, list[tuple[int, float]]]:
    """Put together what all three workers tell of the same steps."""
    held = [{(m.name, m.chunk): m for m in metrics} for metrics in told]
    opened: dict[str, list[tuple[int, float]]] = {}
    for key, metric in held[0].items():
        if all(key in h for h in held):
            total = decode(combine([h[key].part for h in held], (1,)), metric.scale)
            count = rows * (metric.last - metric.first)
            opened.setdefault(metric.name, []).append((metric.last, float(total[0]) / count))
    return opened
