"""The data plane's part in secure aggregation: running sums, each in a thread of its own.

The jobs of one attempt at a round run in the order in which worker 0 announced them; other rounds
and predictions run beside them. A sum that something went wrong with is gone: the round starts
anew.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tercet.errors import TercetError, WorkerError
from tercet.net.transport import Transport
from tercet.protocol.replicated.packed import Packed
from tercet.protocol.replicated.sharing import output_digest
from tercet.runtime.aggregation import Checked, Half, RunningSum, fold, noisy_sum
from tercet.runtime.noise import NoiseAhead
from tercet.runtime.session import Session
from tercet.service.failures import to_failure
from tercet.service.messages import Failed
from tercet.service.sum_files import write_sum
from tercet.service.sum_messages import (
    DrawNoise,
    DropSum,
    Finished,
    FinishJob,
    Folded,
    FoldJob,
    SumCommand,
    SumDigests,
    SumEvent,
)

_log = logging.getLogger("tercet.dataplane")

_Job = FoldJob | FinishJob


class _Lane:
    """An attempt at a round: its thread, and its sum up to the next position."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1)
        self.total: RunningSum | None = None
        self.position = 0

    def take(self, position: int, words: int) -> RunningSum:
        """Return the sum that a job continues, which is gone unless the job puts it back.

        Raises:
            WorkerError: if it is not here, or jobs are missing in between.
        """
        total, self.total = self.total, None
        if position != self.position or (total is None and position):
            raise WorkerError(
                "the sum of this round was lost", "Contribute again: the round starts anew"
            )
        return RunningSum(words) if total is None else total

    def put(self, total: RunningSum) -> None:
        """Keep the sum for the next job."""
        self.total = total
        self.position += 1


class Sums:
    """Runs aggregation jobs.

    Args:
        name: this worker's.
        transport: the links to the two other workers.
        arena: the memory that the control process shares with this one.
        tell: passes an event to the control process.
        timeout: seconds to wait for one message of a peer.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        arena: memoryview,
        tell: Callable[[SumEvent | Failed], None],
        timeout: float,
    ) -> None:
        self._name = name
        self._transport = transport
        self._arena = arena
        self._tell = tell
        self._timeout = timeout
        self._lanes: dict[bytes, _Lane] = {}
        self._hashing = ThreadPoolExecutor(1)
        self._noise = NoiseAhead()

    def put(self, command: SumCommand) -> None:
        """Take a command; called from one thread."""
        if isinstance(command, DropSum):
            if (dropped := self._lanes.pop(command.epoch, None)) is not None:
                dropped.thread.shutdown(wait=False)
        elif isinstance(command, DrawNoise):
            self._noise.draw(command.words, command.variance)
        elif isinstance(command, FoldJob):
            lane = self._lanes.setdefault(command.epoch, _Lane())
            lane.thread.submit(self._run, command, lambda: self._fold(command, lane))
        else:
            last = self._lanes.pop(command.epoch, None) or _Lane()
            last.thread.submit(self._run, command, lambda: self._finish(command, last))
            last.thread.shutdown(wait=False)  # once it has finished

    def _run(self, job: _Job, work: Callable[[], SumEvent]) -> None:
        event: SumEvent | Failed
        try:
            event = work()
        except TercetError as error:
            _log.warning("aggregation job %d failed: %s", job.number, error)
            event = Failed(job.number, to_failure(error))
        except Exception as error:  # whatever it is, the caller must hear of it
            _log.exception("aggregation job %d failed", job.number)
            event = Failed(job.number, to_failure(error))
        self._tell(event)

    def _fold(self, job: FoldJob, lane: _Lane) -> Folded:
        total = lane.take(job.position, job.words)
        places = iter(job.places)
        halves = [
            [Half(s, b"" if s else self._array(next(places), job.words)) for s in pair]
            for pair in job.seeds
        ]
        pairs = [(first, second) for first, second in halves]
        checked = Checked(job.words, job.bound, job.heaviest)
        context = job.epoch + job.position.to_bytes(8, "little")
        with _Opened(self._name, self._transport, job) as session:
            passed = fold(session, total, pairs, checked, context, self._timeout)
        lane.put(total)
        return Folded(job.number, passed)

    def _array(self, place: int, words: int) -> memoryview:
        return self._arena[place : place + 8 * words]

    def _finish(self, job: FinishJob, lane: _Lane) -> Finished:
        total = lane.take(job.position, job.words)
        noise = self._noise.take(job.words, job.variance) if job.variance else None
        with _Opened(self._name, self._transport, job) as session:
            packed = noisy_sum(session, total, noise, self._timeout)
        digests = self._hashing.submit(_digests, packed)  # while the disk is busy
        write_sum(Path(job.path), packed.first.data)
        return Finished(job.number, digests.result())


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


def _digests(packed: Packed) -> SumDigests:
    return SumDigests(output_digest(packed.first.data), output_digest(packed.second.data))
