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
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tercet.crypto.identity import PublicIdentity
from tercet.crypto.prg import fresh
from tercet.errors import (
    BusyError,
    NotFoundError,
    RefusedError,
    TercetError,
    TransportError,
    WorkerError,
)
from tercet.protocol.replicated.sharing import expand
from tercet.runtime.chunk import open_state
from tercet.service.agreement import Agreement, Nonces
from tercet.service.agreements import Agreements
from tercet.service.audit import Event
from tercet.service.checks import binding, check_id
from tercet.service.config import WORKERS
from tercet.service.failures import to_failure
from tercet.service.messages import REQUEST_ID_BYTES, Done, PeerMessage
from tercet.service.package import Programs, check_fit, package_digest, read_package
from tercet.service.registry import Registry
from tercet.service.shares import read_summands
from tercet.service.sharings import Sharings
from tercet.service.trained import share_trained, trained_id
from tercet.service.training_messages import (
    Ask,
    Attach,
    Fetched,
    File,
    FinishTraining,
    Metric,
    Position,
    Progress,
    Standing,
    TrainJob,
    TrainSteps,
)
from tercet.service.training_store import (
    CANCELLED,
    DONE,
    PROPOSED,
    RUNNING,
    STOPPED,
    Kept,
    TrainingStore,
)
from tercet.service.training_terms import TrainingTerms

_log = logging.getLogger("tercet.worker")

#: Seconds that a chunk should take: predictions wait as long at most.
CHUNK_SECONDS = 0.5
#: Steps of the first chunk, whose time nobody knows yet.
_FIRST_STEPS = 2
_MAX_STEPS = 10_000
#: Failures in a row that may pass, such as a worker that is lost and comes back.
MAX_FAILURES = 20
_PAUSE = 0.5
_IDLE = 1.0


@dataclass(frozen=True)
class Place:
    """Which worker this is, the names of the three, and the folder of checkpoints."""

    index: int
    names: Sequence[str]
    folder: Path


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


@dataclass
class _Run:
    """A training whose programs are here.

    ``position`` is that of the state in the data plane, if it is known; ``step`` the last that was
    done, for people; ``seconds`` what a step took lately.
    """

    agreement: bytes
    terms: TrainingTerms
    package: bytes
    status: str
    message: str
    programs: Programs | None = None
    position: Position | None = None
    step: int = 0
    seconds: float = 0.0
    failures: int = 0
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Trainings:
    """The trainings of one worker."""

    def __init__(
        self,
        place: Place,
        registry: Registry,
        agreements: Agreements,
        sharings: Sharings,
        agreement: Agreement,
        means: Means,
    ) -> None:
        self._index = place.index
        self._names = place.names
        self._peers = [p for p in range(WORKERS) if p != place.index]
        self._registry = registry
        self._store = TrainingStore(registry, place.folder)
        self._agreements = agreements
        self._sharings = sharings
        self._agreement = agreement
        self._means = means
        self._standing: dict[int, dict[bytes, Standing]] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._runs = {kept.agreement: self._restored(kept) for kept in self._store.trainings()}
        self._trained = {trained_id(r.agreement): r.agreement for r in self._runs.values()}

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

    # What parties ask.

    async def attach(self, party: PublicIdentity, asked: Attach) -> None:
        """Keep the programs that an agreement names; harmless if they are there.

        Raises:
            NotFoundError: if no such agreement concerns the caller.
            RefusedError, ProgramError, IntegrityError: if they are others, or malformed.
        """
        terms = self._terms(party, asked.digest)
        if package_digest(asked.package) != terms.program:
            raise RefusedError(
                "these are not the programs that the agreement names", "Propose them anew"
            )
        if asked.digest in self._runs:
            return
        programs = await asyncio.to_thread(read_package, asked.package)
        self._store.add(asked.digest, asked.package)
        self._runs.setdefault(
            asked.digest, _Run(asked.digest, terms, asked.package, PROPOSED, "", programs)
        )
        self._trained[trained_id(asked.digest)] = asked.digest

    async def run(self, party: PublicIdentity, asked: Ask) -> Progress:
        """Begin or resume a training; harmless if it runs or is done.

        Raises:
            NotFoundError: if its programs or contributions are not here.
            RefusedError: if the agreement does not hold or does not fit what is here.
        """
        self._terms(party, asked.digest)
        run = self._known(asked.digest)
        if run.status not in (RUNNING, DONE):
            self._agreements.require(asked.digest)
            if run.programs is None:
                run.programs = await asyncio.to_thread(read_package, run.package)
            states, data = self._contributions(run.terms)
            check_fit(run.programs, run.terms, states.told, [d.told for d in data])
            run.failures, run.position = 0, None
            self._set(run, RUNNING, "", party)
        return self.progress(party, asked)

    def cancel(self, party: PublicIdentity, asked: Ask) -> Progress:
        """Stop a training; ``run`` resumes it from its last checkpoint.

        Raises:
            NotFoundError: if there is none that concerns the caller.
        """
        self._terms(party, asked.digest)
        run = self._known(asked.digest)
        if run.status in (RUNNING, STOPPED):
            self._set(run, CANCELLED, f"cancelled by {party.name}", party)
            self._means.forget(run.agreement)
        return self.progress(party, asked)

    def progress(self, party: PublicIdentity, asked: Ask) -> Progress:
        """Tell a party how a training stands.

        Raises:
            NotFoundError: if no such agreement concerns the caller.
        """
        terms = self._terms(party, asked.digest)
        run = self._runs.get(asked.digest)
        if run is None:
            return Progress(PROPOSED, "its programs are not here", 0, terms.steps)
        held = [p.step for p, _ in self._store.checkpoints(run.agreement)]
        saved = terms.steps if run.status == DONE else max(held, default=0)
        model = trained_id(run.agreement)
        label = next((m.label for m in self._registry.models() if m.id == model), "")
        metrics = self._store.metrics(run.agreement, asked.since)
        return Progress(
            run.status,
            run.message,
            max(run.step, saved),
            terms.steps,
            run.seconds,
            saved,
            metrics,
            label,
        )

    async def fetch(self, party: PublicIdentity, asked: Ask) -> Fetched:
        """Return this worker's parts of the trained weights, in the order of the agreement.

        Raises:
            RefusedError: if the agreement does not name the caller as a receiver, does not hold
                any more, or the training is not done.
        """
        self._terms(party, asked.digest)
        terms = self._agreements.require(asked.digest)
        if party.fingerprint not in terms.receivers:
            raise RefusedError(
                f"the agreement opens no model to {party.name}",
                "What it releases, and to whom, is part of what all have signed",
            )
        run = self._known(asked.digest)
        if run.status != DONE:
            raise RefusedError(f"the training is {run.status}, not done", "Run it to its end first")
        if run.programs is None:
            run.programs = await asyncio.to_thread(read_package, run.package)
        file = self._state_file(run, self._final(run))
        if file is None:
            raise WorkerError("the programs were not read", "Run the training again")
        pair, _ = await asyncio.to_thread(
            read_summands, Path(file.path), file.id, self._index, 0, file.digests
        )
        opened = {name: file.tensors[name] for name in terms.weights}
        state = {name: expand(pair, name, tensor.shape) for name, tensor in opened.items()}
        self._registry.enter(self._event(run, "fetch", party, DONE))
        return Fetched(opened, open_state(state, terms.weights))

    # What the rest of the worker tells and asks.

    def agreement_changed(self, digest: bytes) -> None:
        """A party signed or withdrew: what must not go on stops, and is not kept."""
        run = self._runs.get(digest)
        if run is None:
            return
        try:
            self._agreements.require(digest)
        except RefusedError as error:
            if run.status not in (RUNNING, CANCELLED, STOPPED, DONE):
                return
            if run.status != DONE:
                self._set(run, STOPPED, error.message)
            self._store.keep_only(digest, [])
            self._store.forget_metrics(digest)
            self._means.forget(digest)

    def tick(self) -> None:
        """Do what time asks for; called every second or so."""
        self._store.sweep()

    def link_changed(self, peer: int, up: bool) -> None:
        """Tell a peer that has come how the trainings stand here; forget what a lost one held."""
        self._standing.pop(peer, None)
        if up:
            for run in self._runs.values():
                self._tell(run, [peer])

    def received(self, peer: int, message: TrainSteps | FinishTraining | Standing) -> None:
        """Take a message of a peer; only worker 0 leads."""
        if isinstance(message, Standing):
            self._standing.setdefault(peer, {})[message.agreement] = message
            self._prune(message.agreement)
            self._wake.set()
        elif peer == 0:
            self._spawn(self._taken(message))

    def check_steps(self, asked: TrainSteps) -> _Run:
        """Say no to steps that must not be taken, or whose results must not be kept.

        Raises:
            NotFoundError, RefusedError: if the training is not to be run here (any more).
        """
        run = self._known(asked.agreement)
        if run.status != RUNNING:
            raise WorkerError(
                f"the training {run.terms.name!r} is {run.status} here", "A party can run it"
            )
        self._agreements.require(asked.agreement)
        self._contributions(run.terms)
        return run

    def check_model(self, model: bytes) -> None:
        """Say no to a prediction of a trained model whose agreement does not hold any more.

        Raises:
            RefusedError: if it does not.
        """
        if (agreement := self._trained.get(model)) is not None:
            self._agreements.require(agreement)

    def program_digest(self, asked: TrainSteps) -> str:
        """Return the digest that the session of some steps runs under."""
        run = self._known(asked.agreement)
        if run.programs is None:
            raise WorkerError("the programs were not read", "Run the training again")
        return run.programs.training.digest()

    def job(self, asked: TrainSteps, nonces: Nonces) -> TrainJob:
        """Return the job of agreed steps.

        Raises:
            As ``check_steps``.
        """
        run = self.check_steps(asked)
        terms = run.terms
        _, data = self._contributions(terms)
        end = asked.start.step + asked.steps
        save = end == terms.steps or end % terms.checkpoint == 0
        return TrainJob(
            0, run.agreement, run.package, self.program_digest(asked), nonces, asked.start,
            self._state_file(run, asked.start), asked.id, asked.steps, terms.seed, terms.metrics,
            end == terms.steps,
            [
                File(str(d.path), d.told.contribution.id, d.digests, d.told.contribution.tensors)
                for d in data
            ],
            terms.columns, str(self._store.path(asked.id)) if save else "",
        )  # fmt: skip

    # Leading: worker 0 alone.

    async def _lead(self) -> None:
        """Take the oldest training that can go on a chunk further, again and again."""
        while True:
            run = next((r for r in self._runs.values() if self._ready(r)), None)
            if run is None:
                self._wake.clear()
                try:
                    async with asyncio.timeout(_IDLE):
                        await self._wake.wait()
                except TimeoutError:
                    continue
                continue
            message = self._next(run)
            try:
                for peer in self._peers:
                    self._means.send(peer, message)
            except TransportError:
                await asyncio.sleep(_PAUSE)
                continue
            failures = run.failures
            await self._taken(message)
            if run.failures > failures:
                await asyncio.sleep(_PAUSE)

    def _ready(self, run: _Run) -> bool:
        """Whether all three are to run it, or some have still to hear that it is done."""
        states = self._states(run)
        if len(states) < WORKERS or self._means.missing():
            return False
        statuses = {s.status for s in states}
        if not statuses <= {RUNNING, DONE} or statuses == {DONE}:
            return False
        return run.position is not None or self._common(run) is not None

    def _next(self, run: _Run) -> TrainSteps | FinishTraining:
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

    def _states(self, run: _Run) -> list[Standing]:
        told = [self._standing.get(p, {}).get(run.agreement) for p in self._peers]
        return [self._own(run), *(s for s in told if s is not None)]

    def _common(self, run: _Run) -> Position | None:
        """Return the latest state that all three hold; one that is done needs none."""
        going = [s for s in self._states(run) if s.status != DONE]
        held = set.intersection(*({Position(*p) for p in s.held} for s in going))
        return max(held, default=None)

    # A chunk, and the end, at every worker.

    async def _taken(self, message: TrainSteps | FinishTraining) -> None:
        """Do what worker 0 announced; note what stops it."""
        run = self._runs.get(message.agreement)
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

    async def _steps(self, asked: TrainSteps) -> None:
        run = self._known(asked.agreement)
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
            run.position = None
            done = await self._means.train(asked, nonces)
            self._record(run, asked, done)
            run.seconds = (time.monotonic() - started) / asked.steps
        if done.saved is not None:
            self._tell(run, self._peers)
            self._prune(run.agreement)

    async def _admit(self, asked: TrainSteps) -> None:
        """Say no to steps before the peers are asked."""
        check_id(asked.id)
        run = self.check_steps(asked)
        if missing := self._means.missing():
            raise TransportError(f"waits for {', '.join(missing)}", "It will be tried again")
        if run.programs is None:
            run.programs = await asyncio.to_thread(read_package, run.package)
        if asked.start != run.position and self._state_file(run, asked.start) is None:
            raise WorkerError("the state to go on from is not held here", "It will be tried again")

    def _record(self, run: _Run, asked: TrainSteps, done: Done) -> None:
        """Write down what came of a chunk."""
        assert run.programs is not None
        end = Position(asked.start.step + asked.steps, asked.id)
        scale = run.programs.training.program.scale
        metrics = [
            Metric(name, scale, asked.start.step, end.step, asked.id, part)
            for name, part in zip(run.terms.metrics, done.parts, strict=True)
        ]
        self._store.record(run.agreement, asked.start.step, end, done.saved, metrics)
        run.position, run.step = end, end.step

    async def _finish(self, asked: FinishTraining) -> None:
        """End a training: share its model, if that is agreed, and delete what nobody may have."""
        try:
            check_id(asked.id)
            run = self._known(asked.agreement)
            self._agreements.require(asked.agreement)
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
        file = self._state_file(run, asked.end)
        if file is None:
            raise WorkerError("the final state is not held here", "It will be tried again")
        if run.terms.serving:
            if run.programs is None:
                run.programs = await asyncio.to_thread(read_package, run.package)
            owner = self._agreements.identity(run.terms.owner)
            model = await share_trained(
                self._registry, self._index, run.agreement, run.terms.name, asked.version, owner,
                run.programs, file,
            )  # fmt: skip
            self._means.moved([model])
        run.position = None
        self._set(run, DONE, "")
        self._means.forget(run.agreement)
        kept = [asked.end] if run.terms.receivers else []
        self._store.keep_only(run.agreement, kept)

    # Small things.

    def _restored(self, kept: Kept) -> _Run:
        terms = self._agreements.document(kept.agreement)
        assert isinstance(terms, TrainingTerms)
        return _Run(kept.agreement, terms, kept.package, kept.status, kept.message)

    def _failed(self, run: _Run, error: Exception) -> None:
        """Go on from the last checkpoint after what may pass; stop at anything else."""
        run.position, run.step = None, 0
        run.failures += 1
        passing = isinstance(error, TransportError | BusyError) or type(error) is WorkerError
        if not passing or run.failures >= MAX_FAILURES:
            self._set(run, STOPPED, to_failure(error).message)
            self._means.forget(run.agreement)

    def _set(
        self, run: _Run, status: str, message: str, party: PublicIdentity | None = None
    ) -> None:
        event = self._event(run, "train", party, status, message)
        self._store.set_status(run.agreement, status, message, event)
        run.status, run.message = status, message
        _log.info("training %s: %s %s", run.terms.name, status, message)
        self._tell(run, self._peers)
        self._wake.set()

    @staticmethod
    def _event(
        run: _Run, action: str, party: PublicIdentity | None, outcome: str, detail: str = ""
    ) -> Event:
        who = ("", "") if party is None else (party.name, party.fingerprint)
        return Event(*who, action, run.agreement.hex(), outcome, name=run.terms.name, detail=detail)

    def _own(self, run: _Run) -> Standing:
        held = [p for p, _ in self._store.checkpoints(run.agreement)]
        return Standing(run.agreement, run.status, [Position(0, run.terms.states.id), *held])

    def _tell(self, run: _Run, peers: Sequence[int]) -> None:
        mine = self._own(run)
        for peer in peers:
            try:
                self._means.send(peer, mine)
            except TransportError:
                continue  # told when its link stands

    def _prune(self, agreement: bytes) -> None:
        """Delete checkpoints before the latest that all three hold."""
        run = self._runs.get(agreement)
        if run is None or run.status == DONE or len(self._states(run)) < WORKERS:
            return
        latest = self._common(run)
        if latest is not None:
            held = [p for p, _ in self._store.checkpoints(agreement)]
            self._store.keep_only(agreement, [p for p in held if p.step >= latest.step])

    def _terms(self, party: PublicIdentity, digest: bytes) -> TrainingTerms:
        """Return the terms of a training that concerns ``party``."""
        (agreed,) = self._agreements.show(party, digest)
        terms = self._agreements.document(agreed.digest)
        if not isinstance(terms, TrainingTerms):
            raise RefusedError("the agreement is not about a training", "Name one that is")
        return terms

    def _known(self, agreement: bytes) -> _Run:
        run = self._runs.get(agreement)
        if run is None:
            raise NotFoundError(
                "the programs of the training are not here", "Who proposed it attaches them"
            )
        return run

    def _contributions(self, terms: TrainingTerms) -> tuple[Any, list[Any]]:
        """Return the initial states and the data, as the agreement names them."""
        found = []
        for reference in (terms.states, *terms.data):
            stored = self._sharings.by_id(reference.id)
            if stored.told.digest != reference.digest:
                raise RefusedError(
                    f"{reference.name!r} is not the contribution that was agreed on",
                    "Propose the training anew",
                )
            found.append(stored)
        return found[0], found[1:]

    def _state_file(self, run: _Run, position: Position) -> File | None:
        """Return the file of a state, if it is held on disk."""
        if position == (0, run.terms.states.id):
            stored = self._sharings.by_id(run.terms.states.id)
            given = stored.told.contribution
            return File(str(stored.path), given.id, stored.digests, given.tensors)
        for held, digests in self._store.checkpoints(run.agreement):
            if held == position and run.programs is not None:
                path = str(self._store.path(held.chunk))
                return File(path, held.chunk, digests, run.programs.states)
        return None

    def _final(self, run: _Run) -> Position:
        held = [p for p, _ in self._store.checkpoints(run.agreement) if p.step == run.terms.steps]
        if not held:
            raise NotFoundError("the trained model is not kept here", "Train it again")
        return held[-1]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
