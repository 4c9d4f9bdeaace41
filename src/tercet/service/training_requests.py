"""What parties ask of a worker about a training: run it, cancel it, tell how it stands, open it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from tercet.crypto.identity import PublicIdentity
from tercet.errors import RefusedError, WorkerError
from tercet.protocol.replicated.sharing import expand
from tercet.runtime.chunk import open_state
from tercet.service.package import check_fit, package_digest, read_package
from tercet.service.registry import Registry
from tercet.service.shares import read_summands
from tercet.service.trained import trained_id
from tercet.service.training_messages import Ask, Attach, Fetched, Progress
from tercet.service.training_runs import Runs
from tercet.service.training_store import CANCELLED, DONE, PROPOSED, RUNNING, STOPPED


class TrainingRequests:
    """Answers parties.

    Args:
        index: this worker.
        registry: its durable state.
        runs: its trainings.
        forget: lets the data plane let go of a training.
    """

    def __init__(
        self, index: int, registry: Registry, runs: Runs, forget: Callable[[bytes], None]
    ) -> None:
        self._index = index
        self._registry = registry
        self._runs = runs
        self._forget = forget

    async def attach(self, party: PublicIdentity, asked: Attach) -> None:
        """Keep the programs that an agreement names; harmless if they are there.

        Raises:
            NotFoundError: if no such agreement concerns the caller.
            RefusedError, ProgramError, IntegrityError: if they are others, or malformed.
        """
        terms = self._runs.terms(party, asked.digest)
        if package_digest(asked.package) != terms.program:
            raise RefusedError(
                "these are not the programs that the agreement names", "Propose them anew"
            )
        if asked.digest not in self._runs.all:
            programs = await asyncio.to_thread(read_package, asked.package)
            self._runs.add(asked.digest, terms, asked.package, programs)

    async def run(self, party: PublicIdentity, asked: Ask) -> Progress:
        """Begin or resume a training; harmless if it runs or is done.

        Raises:
            NotFoundError: if its programs or contributions are not here.
            RefusedError: if the agreement does not hold or does not fit what is here.
        """
        self._runs.terms(party, asked.digest)
        run = self._runs.known(asked.digest)
        if run.status not in (RUNNING, DONE):
            self._runs.agreements.require(asked.digest)
            programs = await self._runs.programs(run)
            states, data = self._runs.contributions(run.terms)
            check_fit(programs, run.terms, states.told, [d.told for d in data])
            run.failures, run.position = 0, None
            self._runs.set_status(run, RUNNING, "", party)
        return self.progress(party, asked)

    def cancel(self, party: PublicIdentity, asked: Ask) -> Progress:
        """Stop a training; ``run`` resumes it from its last checkpoint.

        Raises:
            NotFoundError: if there is none that concerns the caller.
        """
        self._runs.terms(party, asked.digest)
        run = self._runs.known(asked.digest)
        if run.status in (RUNNING, STOPPED):
            self._runs.set_status(run, CANCELLED, f"cancelled by {party.name}", party)
            self._forget(run.agreement)
        return self.progress(party, asked)

    def progress(self, party: PublicIdentity, asked: Ask) -> Progress:
        """Tell a party how a training stands.

        Raises:
            NotFoundError: if no such agreement concerns the caller.
        """
        terms = self._runs.terms(party, asked.digest)
        run = self._runs.all.get(asked.digest)
        if run is None:
            return Progress(PROPOSED, "its programs are not here", 0, terms.steps)
        held = [p.step for p, _ in self._runs.store.checkpoints(run.agreement)]
        saved = terms.steps if run.status == DONE else max(held, default=0)
        model = trained_id(run.agreement)
        label = next((m.label for m in self._registry.models() if m.id == model), "")
        metrics = self._runs.store.metrics(run.agreement, asked.since)
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
        terms = self._runs.terms(party, asked.digest)
        self._runs.agreements.require(asked.digest)
        if party.fingerprint not in terms.receivers:
            raise RefusedError(
                f"the agreement opens no model to {party.name}",
                "What it releases, and to whom, is part of what all have signed",
            )
        run = self._runs.known(asked.digest)
        if run.status != DONE:
            raise RefusedError(f"the training is {run.status}, not done", "Run it to its end first")
        await self._runs.programs(run)
        file = self._runs.state_file(run, self._runs.final(run))
        if file is None:
            raise WorkerError("the programs were not read", "Run the training again")
        pair, _ = await asyncio.to_thread(
            read_summands, Path(file.path), file.id, self._index, 0, file.digests
        )
        opened = {name: file.tensors[name] for name in terms.weights}
        state = {name: expand(pair, name, tensor.shape) for name, tensor in opened.items()}
        self._registry.enter(self._runs.event(run, "fetch", party, DONE))
        return Fetched(opened, open_state(state, terms.weights))
