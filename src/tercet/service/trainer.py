"""Training in the data plane: the rows and the state that a worker holds of the one that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.errors import WorkerError
from tercet.program.program import Role
from tercet.program.training import Training
from tercet.protocol.base import Share
from tercet.protocol.replicated.sharing import Summand, expand
from tercet.runtime.chunk import Chunk, State, run_chunk
from tercet.runtime.noise import NoiseAhead
from tercet.runtime.sampling import Poisson, Shuffle
from tercet.runtime.session import Session
from tercet.runtime.training import noise_words
from tercet.service.messages import Done
from tercet.service.package import Programs, read_package
from tercet.service.shares import read_summands, write_shares
from tercet.service.training_messages import File, Position, TrainJob


@dataclass
class _Training:
    """What is held of the training that runs."""

    agreement: bytes
    programs: Programs
    rows: Rows
    sampler: Shuffle | Poisson
    position: Position | None = None
    state: State | None = None


class Trainer:
    """Runs chunks of one training at a time; another one takes its place."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._held: _Training | None = None
        self._noise = NoiseAhead()

    def _noise_of(self, training: Training) -> Callable[[], NDArray[np.int64]] | None:
        privacy = training.privacy
        if privacy is None:
            return None
        return lambda: self._noise.take(noise_words(training), privacy.share_variance)

    def forget(self, agreement: bytes) -> None:
        """Let go of a training."""
        if self._held is not None and self._held.agreement == agreement:
            self._held = None

    def prepare(self, job: TrainJob) -> None:
        """Get ready for a job.

        Raises:
            WorkerError: if a file is missing or damaged, or the state to start from is not here.
        """
        held = self._held
        if held is None or held.agreement != job.agreement:
            if not job.package:
                raise _not_held()
            self._held = None  # before as much again is read
            programs = read_package(job.package)
            if programs.training.digest() != job.digest:
                raise WorkerError("another training than was agreed on", "Restart the worker")
            rows = Rows([_read(f, self._index) for f in job.data], job.columns)
            sampler = _sampler(programs.training, job.seed, len(rows))
            held = self._held = _Training(job.agreement, programs, rows, sampler)
        if held.position != job.start or held.state is None:
            if job.state is None:
                raise _not_held()
            held.state, held.position = _read(job.state, self._index), job.start

    def run(self, session: Session, job: TrainJob, timeout: float) -> Done:
        """Take the steps of a job that was prepared, and write a checkpoint if it says so.

        Raises:
            TransportError: if a worker is lost.
            StorageError: if the disk refuses.
        """
        held = self._held
        assert held is not None and held.state is not None
        training, state = held.programs.training, held.state
        # Until all is done: a chunk that fails here may have gone through elsewhere.
        held.state = held.position = None
        names = [i.name for i in training.inputs(Role.DATA)]
        after, parts, measure = run_chunk(
            session,
            training,
            Chunk(job.start.step, job.steps, job.seed, job.opened, job.last),
            state,
            lambda step: held.rows.take(names, held.sampler.rows(step)),
            held.programs.constants,
            timeout,
            self._noise_of(training),
        )
        saved = None
        if job.save:
            pair = tuple(
                Summand(arrays={k: _bytes(s.parts[i]) for k, s in after.items()}) for i in range(2)
            )
            saved = write_shares(Path(job.save), job.chunk, self._index, 0, (pair[0], pair[1]), {})
        held.state, held.position = after, Position(job.start.step + job.steps, job.chunk)
        return Done(job.number, parts, measure.seconds, measure.bytes_sent, measure.rounds, saved)


class Rows:
    """The rows of all contributions, joined as they are asked for.

    Args:
        parts: the arrays of each contribution.
        columns: whether these are columns of the same rows, or else rows.
    """

    def __init__(self, parts: Sequence[State], columns: bool) -> None:
        self._parts = parts
        self._columns = columns
        lengths = [next(iter(p.values())).shape[0] for p in parts]
        self._starts = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self._starts[1] if self._columns else self._starts[-1])

    def take(self, names: Sequence[str], rows: NDArray[np.int64]) -> dict[str, Share]:
        """Return the shares of some rows of each named array, in the order of ``rows``."""
        join = self._beside if self._columns else self._below
        return {name: Share((join(name, 0, rows), join(name, 1, rows))) for name in names}

    def _beside(self, name: str, part: int, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        found = [p[name].parts[part][rows] for p in self._parts if name in p]
        return np.concatenate(found, -1)

    def _below(self, name: str, part: int, rows: NDArray[np.int64]) -> NDArray[np.uint64]:
        first = self._parts[0][name].parts[part]
        taken = np.empty((len(rows), *first.shape[1:]), np.uint64)
        for number, held in enumerate(self._parts):
            start, end = self._starts[number : number + 2]
            mine = (rows >= start) & (rows < end)
            taken[mine] = held[name].parts[part][rows[mine] - start]
        return taken


def _sampler(training: Training, seed: bytes, rows: int) -> Shuffle | Poisson:
    if training.privacy is None:
        return Shuffle(seed, rows, training.batch_size)
    if training.privacy.rows != rows:
        raise WorkerError("a private training of another number of rows", "Propose it anew")
    return Poisson(seed, training.privacy, training.batch_size)


def _read(file: File, index: int) -> State:
    pair, _ = read_summands(Path(file.path), file.id, index, 0, file.digests)
    return {name: expand(pair, name, t.shape) for name, t in file.tensors.items()}


def _not_held() -> WorkerError:
    return WorkerError(
        "the state to go on from is not held here",
        "The training goes on from its last checkpoint by itself",
    )


def _bytes(words: NDArray[np.uint64]) -> bytes:
    return np.ascontiguousarray(words).astype("<u8", copy=False).tobytes()
