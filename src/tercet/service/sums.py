"""The data plane's part in secure aggregation: running sums, in a thread of their own.

Jobs run one after the other in the order in which worker 0 announced them, apart from predictions,
which they do not delay. A sum that something went wrong with is gone: the round starts anew.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.discrete_gaussian import discrete_gaussian
from tercet.crypto.prg import fresh_stream
from tercet.errors import TercetError, WorkerError
from tercet.net.transport import Transport
from tercet.protocol.base import Share, Words
from tercet.protocol.replicated.sharing import Summand, expand
from tercet.runtime.aggregation import TENSOR, Checked, Half, RunningSum, fold, noisy_sum
from tercet.runtime.batch import release
from tercet.runtime.session import Session
from tercet.service.failures import to_failure
from tercet.service.messages import Failed, ShareDigests
from tercet.service.shares import read_summands, write_shares
from tercet.service.sum_messages import (
    DrawNoise,
    DropSum,
    Finished,
    FinishJob,
    Folded,
    FoldJob,
    Released,
    ReleaseJob,
    SumCommand,
    SumEvent,
)

_log = logging.getLogger("tercet.dataplane")

_Job = FoldJob | FinishJob | ReleaseJob
_Noise = NDArray[np.int64]


class Sums:
    """Runs aggregation jobs.

    Args:
        name: this worker's.
        transport: the links to the two other workers.
        tell: passes an event to the control process.
        timeout: seconds to wait for one message of a peer.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        tell: Callable[[SumEvent | Failed], None],
        timeout: float,
    ) -> None:
        self._name = name
        self._index = transport.index
        self._transport = transport
        self._tell = tell
        self._timeout = timeout
        self._commands: queue.SimpleQueue[tuple[SumCommand, list[bytearray]]] = queue.SimpleQueue()
        self._sums: dict[bytes, tuple[RunningSum, int]] = {}
        self._drawing = ThreadPoolExecutor(1)
        self._noise: tuple[tuple[int, int], Future[_Noise]] | None = None

    def start(self) -> None:
        """Begin to take commands."""
        threading.Thread(target=self._serve, daemon=True).start()

    def put(self, command: SumCommand, bodies: list[bytearray]) -> None:
        """Queue a command and the arrays that came with it."""
        self._commands.put((command, bodies))

    def _serve(self) -> None:
        while True:
            command, bodies = self._commands.get()
            if isinstance(command, DropSum):
                self._sums.pop(command.epoch, None)
            elif isinstance(command, DrawNoise):
                self._draw(command.words, command.variance)
            else:
                self._tell(self._run(command, bodies))
            del bodies  # they may be large, and the next ones long in coming

    def _run(self, job: _Job, bodies: list[bytearray]) -> SumEvent | Failed:
        try:
            if isinstance(job, FoldJob):
                return self._fold(job, bodies)
            if isinstance(job, FinishJob):
                return self._finish(job)
            return self._release(job)
        except TercetError as error:
            _log.warning("aggregation job %d failed: %s", job.number, error)
            return Failed(job.number, to_failure(error))
        except Exception as error:  # whatever it is, the caller must hear of it
            _log.exception("aggregation job %d failed", job.number)
            return Failed(job.number, to_failure(error))

    def _fold(self, job: FoldJob, bodies: list[bytearray]) -> Folded:
        total = self._take(job.epoch, job.position, job.words)
        coming = iter(bodies)
        halves = [[Half(s, b"" if s else next(coming)) for s in pair] for pair in job.seeds]
        pairs = [(first, second) for first, second in halves]
        checked = Checked(job.words, job.bound, job.heaviest)
        context = job.epoch + job.position.to_bytes(8, "little")
        with _Opened(self._name, self._transport, job) as session:
            passed = fold(session, total, pairs, checked, context, self._timeout)
        self._sums[job.epoch] = total, job.position + 1
        return Folded(job.number, passed)

    def _finish(self, job: FinishJob) -> Finished:
        total = self._take(job.epoch, job.position, job.words)
        noise = self._drawn(job.words, job.variance) if job.variance else None
        with _Opened(self._name, self._transport, job) as session:
            share = noisy_sum(session, total, noise, self._timeout)
        first, second = (Summand(arrays={TENSOR: _encoded(p)}) for p in share.parts)
        digests = write_shares(Path(job.path), job.id, self._index, 0, (first, second), {})
        if job.variance:
            self._draw(job.words, job.variance)
        return Finished(job.number, digests.first, digests.second, digests.public)

    def _release(self, job: ReleaseJob) -> Released:
        digests = ShareDigests(job.first, job.second, job.public)
        pair, _ = read_summands(Path(job.path), job.id, self._index, 0, digests)
        share: Share = expand(pair, TENSOR, (job.words,))
        return Released(job.number, release(share))

    def _take(self, epoch: bytes, position: int, words: int) -> RunningSum:
        """Return the sum that a job continues, which is gone unless the job puts it back.

        Raises:
            WorkerError: if it is not here, or jobs are missing in between.
        """
        total, reached = self._sums.pop(epoch, (None, 0))
        if position != reached or (total is None and position):
            raise WorkerError(
                "the sum of this round was lost", "Contribute again: the round starts anew"
            )
        return RunningSum(words) if total is None else total

    def _draw(self, words: int, variance: int) -> None:
        """Draw noise of this kind ahead, so that its time tells nothing of it."""
        if variance and (self._noise is None or self._noise[0] != (words, variance)):
            future = self._drawing.submit(discrete_gaussian, words, variance, fresh_stream().words)
            self._noise = (words, variance), future

    def _drawn(self, words: int, variance: int) -> _Noise:
        """Return noise that is used for nothing else."""
        self._draw(words, variance)
        assert self._noise is not None
        _, future = self._noise
        self._noise = None
        return future.result()


class _Opened:
    """A session that is closed at the end, and ended at the peers if something goes wrong."""

    def __init__(self, name: str, transport: Transport, job: FoldJob | FinishJob) -> None:
        self._name = name
        self._session = Session(transport, job.nonces, job.digest)

    def __enter__(self) -> Session:
        return self._session

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is not None:
            self._session.abort(f"{kind.__name__} at {self._name}")
        self._session.close()


def _encoded(words: Words) -> bytes:
    return np.ascontiguousarray(words).astype("<u8", copy=False).tobytes()
