"""Training on stored sharings, as parties have agreed on it: one worker's part.

Worker 0 leads: it names the next chunk of steps and the state to start from, which all three must
hold. Each worker checks for itself that the agreement holds and that it was asked to run it,
compares the chunk with the two others, which gives fresh nonces, and takes it in its turn among
the batches of predictions; it checks the agreement once more before anything of the result is kept
or released. Whatever a worker refuses stops all three.

Every few steps, as agreed, a chunk ends in a checkpoint: each worker writes its shares of the state
and tells the others. The one before goes once all three have the new one, so there is always one
that all three hold; after a loss of a worker the training goes on from the latest such one, by
itself, in new sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from tercet.crypto.prg import fresh
from tercet.errors import BusyError, RefusedError, TercetError, TransportError, WorkerError
from tercet.service.agreement import Agreement, Nonces
from tercet.service.checks import binding, check_id
from tercet.service.config import WORKERS
from tercet.service.failures import to_failure
from tercet.service.messages import REQUEST_ID_BYTES, Done, PeerMessage
from tercet.service.registry import Registry
from tercet.service.trained import share_trained
from tercet.service.training_messages import (
    FinishTraining,
    Metric,
    Position,
    Standing,
    TrainSteps,
)
from tercet.service.training_runs import Run, Runs
from tercet.service.training_store import DONE, RUNNING, STOPPED

_log = logging.getLogger("tercet.worker")

#: Seconds that a chunk should take: predictions wait as long at most.
CHUNK_SECONDS = 0.5
#: Steps of the first chunk, whose time nobody knows yet.
_FIRST_STEPS = 2
_MAX_STEPS = 10_000
#: Failures in a row that may pass, such as a worker that is lost and comes back.
MAX_FAILURES = 20
#: What worker 0 may have announced at a time; it announces one thing.
_MAX_TAKEN = 16
_PAUSE = 0.5
_IDLE = 1.0


@dataclass(frozen=True)
class Means:
    """What a worker lends to its trainings.

    Attributes:
        send: passes a message to a peer; raises TransportError if it is not connected.
        train: takes agreed steps in their turn.
        forget: lets the data plane let go of a training.
        moved: called with the ids of models that are new.
        missing: returns the names of the workers that are not linked.
    """

    send: Callable[[int, PeerMessage], None]
    train: Callable[[TrainSteps, Nonces], Awaitable[Done]]
    forget: Callable[[bytes], None]
    moved: Callable[[Sequence[bytes]], None]
    missing: Callable[[], list[str]]


class Trainings:
    """This worker's part in the trainings.

    Args:
        index: this worker.
        registry: its durable state.
        runs: its trainings.
        agreement: compares with the peers.
        means: what the rest of the worker does for it.
    """

    def __init__(
        self, index: int, registry: Registry, runs: Runs, agreement: Agreement, means: Means
    ) -> None:
        self._index = index
        self._peers = [p for p in range(WORKERS) if p != index]
        self._registry = registry
        self._runs = runs
        self._agreement = agreement
        self._means = means
        self._standing: dict[int, dict[bytes, Standing]] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[object]] = set()
        runs.changed = self._changed

    def start(self) -> None:
        """Begin to lead, if this is worker 0."""
        if self._index == 0:
            self._spawn(self._lead())

    async def stop(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What the rest of the worker tells and asks.

    def agreement_changed(self, digest: bytes) -> None:
        """A party signed or withdrew: what was withdrawn stops, and nothing of it is kept."""
        run = self._runs.all.get(digest)
        if run is None:
            return
        try:
            self._runs.agreements.check_withdrawn(digest)
        except RefusedError as error:
            if run.status != DONE:
                self._runs.set_status(run, STOPPED, error.message)
            self._runs.store.keep_only(digest, [])
            self._runs.store.forget_metrics(digest)
            self._means.forget(digest)

    def tick(self) -> None:
        """Do what time asks for; called every second or so."""
        self._runs.store.sweep()

    def link_changed(self, peer: int, up: bool) -> None:
        """Tell a peer that has come how the trainings stand here; forget what a lost one held."""
        self._standing.pop(peer, None)
        if up:
            for run in self._runs.all.values():
                self._tell(run, [peer])

    def received(self, peer: int, message: TrainSteps | FinishTraining | Standing) -> None:
        """Take a message of a peer; only worker 0 leads."""
        if not self._runs.agreements.known(message.agreement):
            _log.warning("a peer speaks of an agreement that was not proposed here")
        elif isinstance(message, Standing):
            self._standing.setdefault(peer, {})[message.agreement] = message
            self._prune(message.agreement)
            self._wake.set()
        elif peer == 0 and len(self._tasks) < _MAX_TAKEN:
            self._spawn(self._taken(message))

    # Leading: worker 0 alone.

    async def _lead(self) -> None:
        """Take the oldest training that can go on a chunk further, again and again."""
        while True:
            try:
                went = await self._lead_once()
            except Exception as error:  # what is wrong now may be right in a while
                _log.warning(
                    "no training goes on: %s", error, exc_info=not isinstance(error, TercetError)
                )
                went = False
            if not went:
                await asyncio.sleep(_PAUSE)

    async def _lead_once(self) -> bool:
        """Take a training a chunk further, or wait; return whether all went well."""
        run = next((r for r in self._runs.all.values() if self._ready(r)), None)
        if run is None:
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_IDLE):
                    await self._wake.wait()
            return True
        message = self._next(run)
        for peer in self._peers:
            self._means.send(peer, message)
        return await self._taken(message)

    def _ready(self, run: Run) -> bool:
        """Whether all three are to run it, or some have still to hear that it is done."""
        states = self._states(run)
        if len(states) < WORKERS or self._means.missing():
            return False
        statuses = {s.status for s in states}
        if not statuses <= {RUNNING, DONE} or statuses == {DONE}:
            return False
        return run.position is not None or self._common(run) is not None

    def _next(self, run: Run) -> TrainSteps | FinishTraining:
        terms, start = run.terms, run.position or self._common(run)
        assert start is not None
        new = fresh(REQUEST_ID_BYTES)
        if start.step >= terms.steps:
            owner = terms.owner
            version = self._registry.next_version(terms.name, owner)
            return FinishTraining(new, run.agreement, start, version)
        steps = _FIRST_STEPS
        if run.seconds:
            steps = max(1, min(_MAX_STEPS, int(CHUNK_SECONDS / run.seconds)))
        until = terms.checkpoint - start.step % terms.checkpoint
        return TrainSteps(new, run.agreement, start, min(steps, until, terms.steps - start.step))

    def _states(self, run: Run) -> list[Standing]:
        told = [self._standing.get(p, {}).get(run.agreement) for p in self._peers]
        return [self._runs.standing(run), *(s for s in told if s is not None)]

    def _common(self, run: Run) -> Position | None:
        """Return the latest state that all three hold; one that is done needs none."""
        going = [s for s in self._states(run) if s.status != DONE]
        held = set.intersection(*({Position(*p) for p in s.held} for s in going))
        return max(held, default=None)

    # A chunk, and the end, at every worker.

    async def _taken(self, message: TrainSteps | FinishTraining) -> bool:
        """Do what worker 0 announced, note what stops it; return whether it went well."""
        run = self._runs.all.get(message.agreement)
        try:
            if isinstance(message, TrainSteps):
                await self._steps(message)
            else:
                await self._finish(message)
        except TercetError as error:
            _log.warning("training %s: %s", message.agreement.hex()[:16], error.message)
            if run is not None and run.status == RUNNING:
                self._failed(run, error)
        except Exception as error:  # a fault in one chunk must not end the worker's part
            _log.exception("training %s", message.agreement.hex()[:16])
            if run is not None and run.status == RUNNING:
                self._failed(run, error)
        else:
            if run is not None:
                run.failures = 0
            return True
        return False

    async def _steps(self, asked: TrainSteps) -> None:
        run = self._runs.known(asked.agreement)
        async with run.busy:  # worker 0 may be ahead: the last chunk is not written down yet
            started = time.monotonic()
            try:
                await self._admit(asked)
            except TercetError as error:
                self._agreement.refuse(asked.id, error)
                raise
            bound = binding(
                "train", asked.agreement.hex(), str(asked.start.step), asked.start.chunk.hex(),
                str(asked.steps),
            )  # fmt: skip
            nonces = await self._agreement.agree(asked.id, bound, dict.fromkeys(self._peers, b""))
            try:
                done = await self._means.train(asked, nonces)
                self._record(run, asked, done)
            except BaseException:
                run.position = None
                raise
            run.seconds = (time.monotonic() - started) / asked.steps
        if done.saved is not None:
            self._tell(run, self._peers)
            self._prune(run.agreement)

    async def _admit(self, asked: TrainSteps) -> None:
        """Say no to steps before the peers are asked."""
        check_id(asked.id)
        run = self._runs.check_steps(asked)
        if missing := self._means.missing():
            raise TransportError(f"waits for {', '.join(missing)}", "It will be tried again")
        await self._runs.programs(run)
        if asked.start != run.position and self._runs.state_file(run, asked.start) is None:
            raise WorkerError("the state to go on from is not held here", "It will be tried again")

    def _record(self, run: Run, asked: TrainSteps, done: Done) -> None:
        """Write down what came of a chunk."""
        assert run.programs is not None
        end = Position(asked.start.step + asked.steps, asked.id)
        scale = run.programs.training.program.scale
        metrics = [
            Metric(name, scale, asked.start.step, end.step, asked.id, part)
            for name, part in zip(run.terms.metrics, done.parts, strict=True)
        ]
        self._runs.store.record(run.agreement, asked.start.step, end, done.saved, metrics)
        run.position, run.step = end, end.step

    async def _finish(self, asked: FinishTraining) -> None:
        """End a training: share its model, if that is agreed, and delete what nobody may have."""
        try:
            check_id(asked.id)
            run = self._runs.known(asked.agreement)
            self._runs.agreements.require(asked.agreement)
            if run.status not in (RUNNING, DONE):
                raise WorkerError(f"the training is {run.status} here", "A party can run it")
        except TercetError as error:
            self._agreement.refuse(asked.id, error)
            raise
        await self._agreement.agree(
            asked.id,
            binding(
                "finish", asked.agreement.hex(), str(asked.end.step), asked.end.chunk.hex(),
                str(asked.version),
            ),
            dict.fromkeys(self._peers, b""),
        )  # fmt: skip
        if run.status == DONE:
            return
        programs = await self._runs.programs(run)
        file = self._runs.state_file(run, asked.end)
        if file is None:
            raise WorkerError("the final state is not held here", "It will be tried again")
        if run.terms.serving:
            owner = self._runs.agreements.identity(run.terms.owner)
            model = await share_trained(
                self._registry, self._index, run.agreement, run.terms.name, asked.version, owner,
                programs, file,
            )  # fmt: skip
            self._means.moved([model])
        run.position = None
        self._runs.set_status(run, DONE, "")
        self._means.forget(run.agreement)
        kept = [asked.end] if run.terms.receivers else []
        self._runs.store.keep_only(run.agreement, kept)

    # Small things.

    def _failed(self, run: Run, error: Exception) -> None:
        """Go on from the last checkpoint after what may pass; stop at anything else."""
        run.position, run.step = None, 0
        run.failures += 1
        passing = isinstance(error, TransportError | BusyError) or type(error) is WorkerError
        if not passing or run.failures >= MAX_FAILURES:
            self._runs.set_status(run, STOPPED, to_failure(error).message)
            self._means.forget(run.agreement)

    def _changed(self, run: Run) -> None:
        self._tell(run, self._peers)
        self._wake.set()

    def _tell(self, run: Run, peers: Sequence[int]) -> None:
        mine = self._runs.standing(run)
        for peer in peers:
            try:
                self._means.send(peer, mine)
            except TransportError:
                continue  # told when its link stands

    def _prune(self, agreement: bytes) -> None:
        """Delete checkpoints before the latest that all three hold."""
        run = self._runs.all.get(agreement)
        if run is None or run.status == DONE or len(self._states(run)) < WORKERS:
            return
        latest = self._common(run)
        if latest is not None:
            held = [p for p, _ in self._runs.store.checkpoints(agreement)]
            self._runs.store.keep_only(agreement, [p for p in held if p.step >= latest.step])

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
