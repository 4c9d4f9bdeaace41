"""The trainings whose programs a worker has: how they stand, and what they rest on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tercet.crypto.identity import PublicIdentity
from tercet.errors import NotFoundError, RefusedError, WorkerError
from tercet.service.agreement import Nonces
from tercet.service.agreements import Agreements
from tercet.service.audit import Event
from tercet.service.package import Programs, read_package
from tercet.service.registry import Registry
from tercet.service.sharings import Sharings, Stored
from tercet.service.trained import trained_id
from tercet.service.training_messages import File, Position, Standing, TrainJob, TrainSteps
from tercet.service.training_store import PROPOSED, RUNNING, Kept, TrainingStore
from tercet.service.training_terms import TrainingTerms

_log = logging.getLogger("tercet.worker")


@dataclass
class Run:
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


class Runs:
    """The trainings of one worker.

    Args:
        registry: its durable state.
        agreements: what parties have agreed on.
        sharings: what owners have contributed.
        folder: of checkpoints.
    """

    def __init__(
        self, registry: Registry, agreements: Agreements, sharings: Sharings, folder: Path
    ) -> None:
        self.store = TrainingStore(registry, folder)
        self.agreements = agreements
        self._sharings = sharings
        self.all = {kept.agreement: self._restored(kept) for kept in self.store.trainings()}
        self._trained = {trained_id(agreement): agreement for agreement in self.all}
        #: Called with a training whose status has changed.
        self.changed: Callable[[Run], None] = lambda _: None

    def add(
        self, agreement: bytes, terms: TrainingTerms, package: bytes, programs: Programs
    ) -> None:
        """Keep the programs of a training."""
        self.store.add(agreement, package)
        self.all.setdefault(agreement, Run(agreement, terms, package, PROPOSED, "", programs))
        self._trained[trained_id(agreement)] = agreement

    async def programs(self, run: Run) -> Programs:
        """Return the checked programs of a training; they are read once after a start."""
        if run.programs is None:
            run.programs = await asyncio.to_thread(read_package, run.package)
        return run.programs

    def known(self, agreement: bytes) -> Run:
        """Return a training.

        Raises:
            NotFoundError: if its programs are not here.
        """
        run = self.all.get(agreement)
        if run is None:
            raise NotFoundError(
                "the programs of the training are not here", "Who proposed it attaches them"
            )
        return run

    def terms(self, party: PublicIdentity, digest: bytes) -> TrainingTerms:
        """Return the terms of a training that concerns ``party``."""
        (agreed,) = self.agreements.show(party, digest)
        terms = self.agreements.document(agreed.digest)
        if not isinstance(terms, TrainingTerms):
            raise RefusedError("the agreement is not about a training", "Name one that is")
        return terms

    def contributions(self, terms: TrainingTerms) -> tuple[Stored, list[Stored]]:
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

    def check_steps(self, asked: TrainSteps) -> Run:
        """Say no to steps that must not be taken, or whose results must not be kept.

        Raises:
            NotFoundError, RefusedError: if the training is not to be run here (any more).
        """
        run = self.known(asked.agreement)
        if run.status != RUNNING:
            raise WorkerError(
                f"the training {run.terms.name!r} is {run.status} here", "A party can run it"
            )
        self.agreements.require(asked.agreement)
        self.contributions(run.terms)
        return run

    def check_model(self, model: bytes) -> None:
        """Say no to a prediction of a trained model whose agreement does not hold any more.

        Raises:
            RefusedError: if it does not.
        """
        if (agreement := self._trained.get(model)) is not None:
            self.agreements.require(agreement)

    def program_digest(self, asked: TrainSteps) -> str:
        """Return the digest that the session of some steps runs under."""
        run = self.known(asked.agreement)
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
        _, data = self.contributions(terms)
        package = b"" if asked.start == run.position else run.package
        end = asked.start.step + asked.steps
        save = end == terms.steps or end % terms.checkpoint == 0
        return TrainJob(
            0, run.agreement, package, self.program_digest(asked), nonces, asked.start,
            self.state_file(run, asked.start), asked.id, asked.steps, terms.seed, terms.metrics,
            end == terms.steps,
            [
                File(str(d.path), d.told.contribution.id, d.digests, d.told.contribution.tensors)
                for d in data
            ],
            terms.columns, str(self.store.path(asked.id)) if save else "",
        )  # fmt: skip

    def state_file(self, run: Run, position: Position) -> File | None:
        """Return the file of a state, if it is held on disk."""
        if position == (0, run.terms.states.id):
            stored = self._sharings.by_id(run.terms.states.id)
            given = stored.told.contribution
            return File(str(stored.path), given.id, stored.digests, given.tensors)
        for held, digests in self.store.checkpoints(run.agreement):
            if held == position and run.programs is not None:
                path = str(self.store.path(held.chunk))
                return File(path, held.chunk, digests, run.programs.states)
        return None

    def final(self, run: Run) -> Position:
        """Return the state at the end of a training.

        Raises:
            NotFoundError: if it is not kept.
        """
        held = [p for p, _ in self.store.checkpoints(run.agreement) if p.step == run.terms.steps]
        if not held:
            raise NotFoundError("the trained model is not kept here", "Train it again")
        return held[-1]

    def standing(self, run: Run) -> Standing:
        """Return what the peers are told of a training."""
        held = [p for p, _ in self.store.checkpoints(run.agreement)]
        return Standing(run.agreement, run.status, [Position(0, run.terms.states.id), *held])

    def set_status(
        self, run: Run, status: str, message: str, party: PublicIdentity | None = None
    ) -> None:
        """Write down how a training stands, and tell the peers."""
        event = self.event(run, "train", party, status, message)
        self.store.set_status(run.agreement, status, message, event)
        run.status, run.message = status, message
        _log.info("training %s: %s %s", run.terms.name, status, message)
        self.changed(run)

    @staticmethod
    def event(
        run: Run, action: str, party: PublicIdentity | None, outcome: str, detail: str = ""
    ) -> Event:
        """Return what the audit log says of a training."""
        who = ("", "") if party is None else (party.name, party.fingerprint)
        return Event(*who, action, run.agreement.hex(), outcome, name=run.terms.name, detail=detail)

    def _restored(self, kept: Kept) -> Run:
        terms = self.agreements.document(kept.agreement)
        assert isinstance(terms, TrainingTerms)
        return Run(kept.agreement, terms, kept.package, kept.status, kept.message)
