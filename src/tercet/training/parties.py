"""Proposing a training, running it, watching it, fetching what it releases."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tercet.crypto.prg import fresh
from tercet.errors import (
    InputError,
    NotFoundError,
    RefusedError,
    TercetError,
    TransportError,
    WorkerError,
)
from tercet.privacy.dp_sgd import Account
from tercet.program.training import MAX_STEPS
from tercet.service.cluster import Cluster
from tercet.service.contributor import Contributor
from tercet.service.messages import Deposited
from tercet.service.package import check_fit, package_digest, read_package
from tercet.service.parties import Agreement
from tercet.service.training_party import TrainingParty, TrainingProgress
from tercet.service.training_store import DONE, PROPOSED, RUNNING
from tercet.service.training_terms import SEED_BYTES, Reference, TrainingTerms
from tercet.training.consent import approve
from tercet.training.private import DPSGD, private_terms, room
from tercet.training.programs import trace

if TYPE_CHECKING:
    import keras

#: What is released at the end of a training.
PREDICTIONS, MODEL, METRICS = "predictions", "model", "metrics"
Watch = Callable[[TrainingProgress], None]

_POLL = 0.5
#: Seconds for which workers may be out of reach while a training is watched.
_PATIENCE = 120.0


class Training:
    """An agreed, or proposed, training as one of its parties sees it.

    Attributes:
        cluster: the three workers, and the identity of this party.
        agreement: as it stood when it was asked for last.
    """

    def __init__(self, cluster: Cluster, agreement: Agreement) -> None:
        self.cluster = cluster
        self.agreement = agreement

    @property
    def id(self) -> str:
        """The digest of the agreement, hexadecimal."""
        return self.agreement.id

    def refresh(self) -> Agreement:
        """Ask again who has signed."""
        with self._party() as party:
            self.agreement = party.find(self.id)
        return self.agreement

    def approve(
        self,
        *,
        account: Account | None = None,
        sampled: bool = False,
        model: keras.Model | None = None,
    ) -> Agreement:
        """Sign the agreement, whose terms the caller has read.

        Args:
            account, sampled, model: as for ``Client.approve``.

        Raises:
            NotFoundError: if there is no budget.
            RefusedError: if its epsilon is not what its noise gives, or would exceed the budget, or
                its programs are not the model's.
        """
        with self._party() as party:
            self.agreement = approve(party, self.agreement, account, sampled=sampled, model=model)
        return self.agreement

    def withdraw(self) -> Agreement:
        """Withdraw for good: nothing runs any more, and nothing more is released."""
        with self._party() as party:
            self.agreement = party.withdraw(self.agreement)
        return self.agreement

    def run(self) -> None:
        """Begin, or resume, the training: it goes on at the workers without this process.

        Raises:
            RefusedError: if somebody has not signed or has withdrawn.
            NotFoundError: if a contribution is gone.
        """
        with self._party() as party:
            party.run(self.agreement)

    def cancel(self) -> None:
        """Stop the training; ``run`` resumes it from its last checkpoint."""
        with self._party() as party:
            party.cancel(self.agreement)

    def progress(self, since: int = 0) -> TrainingProgress:
        """Return how it stands, with metrics of steps from ``since`` on."""
        with self._party() as party:
            return party.progress(self.agreement, since)

    def wait(self, watch: Watch = lambda _: None) -> TrainingProgress:
        """Wait until the training is done; calls ``watch`` now and then.

        Workers that are away for a while are waited for.

        Raises:
            WorkerError: if the training stops before its end; says why.
            TransportError: if a worker stays away.
        """
        lost: float | None = None
        told: dict[str, list[tuple[int, float]]] = {}
        step = 0
        with self._party() as party:
            while True:
                try:
                    progress = party.progress(self.agreement, step)
                    lost = None
                except TransportError:
                    lost = lost or time.monotonic()
                    if time.monotonic() > lost + _PATIENCE:
                        raise
                    time.sleep(_POLL)
                    continue
                if progress.step < step:  # it goes on from a checkpoint: all is told again
                    told, step = {}, 0
                    progress = replace(progress, metrics={})
                for name, values in progress.metrics.items():
                    new = [(s, v) for s, v in values if s <= progress.step]
                    told[name] = [*told.get(name, []), *new]
                step = max([v[-1][0] for v in told.values() if v], default=0)
                progress = replace(progress, metrics={n: list(v) for n, v in told.items()})
                watch(progress)
                if progress.status == DONE:
                    return progress
                if progress.status not in (RUNNING, PROPOSED):
                    raise WorkerError(
                        f"the training is {progress.status} after step {progress.step} of "
                        f"{progress.steps}: {progress.message}",
                        "Its checkpoints are kept: run it again once that is settled",
                    )
                time.sleep(_POLL)

    def fetch(self, model: keras.Model) -> keras.Model:
        """Set the variables of ``model`` to what was trained and is released to this party.

        Args:
            model: of the architecture that was trained, from the same code or file.

        Raises:
            RefusedError: if the agreement does not release it to this party, or it is not done.
            ModelError: if the model is another one.
        """
        from tercet.frontend.trained import load_trained

        with self._party() as party:
            weights = party.fetch(self.agreement)
        load_trained(model, weights)
        return model

    @contextmanager
    def _party(self) -> Iterator[TrainingParty]:
        with TrainingParty(self.cluster.config, self.cluster.caller) as party:
            yield party


def find(cluster: Cluster, name: str) -> Training:
    """Return the training of this agreement digest (8 digits or more) or name.

    Raises:
        NotFoundError: if none concerns this party.
    """
    with TrainingParty(cluster.config, cluster.caller) as party:
        return Training(cluster, party.find(name))


def propose(
    model: keras.Model,
    cluster: Cluster,
    data: Sequence[str],
    *,
    name: str,
    epochs: int,
    batch_size: int,
    columns: bool = False,
    release: str = PREDICTIONS,
    receivers: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
    checkpoint: int = 500,
    privacy: DPSGD | None = None,
    account: Account | None = None,
    sampled: bool = False,
) -> Training:
    """Propose to train ``model`` on contributions; every owner of data approves before it runs.

    The model's present weights are the initial state: they leave this process only as shares. The
    caller signs at once.

    Args:
        model: a compiled Keras model in a process whose Keras runs on JAX.
        cluster: the three workers; its owner identity owns the trained model.
        data: contributions, ``name`` or ``owner/name``, in order.
        name: of the trained model.
        epochs: passes over all rows.
        batch_size: rows of a step; what is left of an epoch is left out, other rows each time.
        columns: the contributions are columns of the same rows, not rows.
        release: ``predictions`` (the model stays shared; the caller may serve it), ``model``
            (that, and ``receivers`` may fetch it) or ``metrics`` (nothing else).
        receivers: fingerprints of those who may fetch the model; the caller if none is named.
        metrics: which of ``loss`` and ``accuracy`` are opened to all parties, as means over some
            steps; each tells something of the data. ``loss`` if it is None; none with ``privacy``.
        checkpoint: steps between two checkpoints.
        privacy: clip each row's gradient and add noise that no worker knows. A step then takes
            each row with probability ``batch_size`` / rows.
        account, sampled: as for ``Client.approve``, if the caller owns some of the data.

    Raises:
        NotFoundError, InputError, RefusedError: naming what does not fit.
        UnsupportedOperation: if a layer, the loss or the optimizer has no rule.
    """
    if release not in (PREDICTIONS, MODEL, METRICS):
        raise InputError(f"release {release!r}", f"Use {PREDICTIONS!r}, {MODEL!r} or {METRICS!r}")
    if receivers and release != MODEL:
        raise InputError(f"receivers with release {release!r}", f"Use release={MODEL!r}")
    if metrics is None:
        metrics = () if privacy else ("loss",)
    owner = cluster.owner
    with Contributor(cluster.config, owner) as contributor:
        given = _find_data(contributor.contributions(), data)
        steps = _steps(given, epochs, batch_size, columns)
        promised = None
        if privacy is not None:
            promised = private_terms(privacy, _rows(given, columns), batch_size, steps)
            batch_size = room(promised, steps)
        traced = trace(
            model,
            batch_size,
            steps,
            metrics,
            release != METRICS,
            promised.sum if promised else None,
        )
        start = f"{name[:60]}.start.{fresh(8).hex()}"
        states = contributor.deposit(start, traced.state, traced.tensors)
    signers = dict.fromkeys([owner.fingerprint, *(g.owner_key for g in given)])
    opened = tuple(receivers or (owner.fingerprint,)) if release == MODEL else ()
    terms = TrainingTerms(
        name=name,
        workers=_workers(cluster),
        signers=tuple(signers),
        program=package_digest(traced.package),
        states=_reference(states),
        data=tuple(map(_reference, given)),
        columns=columns,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        seed=fresh(SEED_BYTES),
        checkpoint=checkpoint,
        metrics=tuple(metrics),
        owner=owner.fingerprint,
        serving=release != METRICS,
        receivers=opened,
        weights=traced.weights if opened else (),
        privacy=promised,
    )
    try:
        check_fit(read_package(traced.package), terms, states, given)
        with TrainingParty(cluster.config, owner) as party:
            agreement = party.propose(terms)
            party.attach(agreement, traced.package)
            return Training(cluster, approve(party, agreement, account, sampled=sampled))
    except TercetError:
        with Contributor(cluster.config, owner) as contributor:
            contributor.remove(start)
        raise


def fit(
    model: keras.Model,
    cluster: Cluster,
    data: Sequence[str],
    *,
    name: str | None = None,
    epochs: int = 1,
    batch_size: int = 32,
    columns: bool = False,
    release: str = PREDICTIONS,
    metrics: Sequence[str] | None = None,
    checkpoint: int = 500,
    privacy: DPSGD | None = None,
    account: Account | None = None,
    sampled: bool = False,
    patience: float = 0.0,
    watch: Watch = lambda _: None,
) -> Training:
    """Train ``model`` on contributions, from the proposal to the end.

    With release ``model``, the variables of ``model`` are set to what was trained.

    Args:
        model: as for ``propose``, as are the other arguments.
        patience: seconds to wait until every owner of data has approved.
        watch: called with the progress now and then.

    Raises:
        RefusedError: if an owner has not approved in time, or withdraws; the proposal stands.
        As ``propose`` and ``Training.wait``.
    """
    training = propose(
        model, cluster, data, name=name or model.name, epochs=epochs, batch_size=batch_size,
        columns=columns, release=release, metrics=metrics, checkpoint=checkpoint, privacy=privacy,
        account=account, sampled=sampled,
    )  # fmt: skip
    await_approval(training, patience)
    training.run()
    training.wait(watch)
    if release == MODEL:
        training.fetch(model)
    return training


def await_approval(training: Training, patience: float) -> None:
    """Wait until all have signed.

    Raises:
        RefusedError: naming who has not, after ``patience`` seconds, or who has withdrawn.
    """
    deadline = time.monotonic() + patience
    while not training.refresh().holds:
        agreement = training.agreement
        if agreement.withdrawn or time.monotonic() >= deadline:
            who = ", ".join(s[:16] for s in sorted(agreement.withdrawn) or agreement.missing)
            what = "has withdrawn" if agreement.withdrawn else "has not approved yet"
            raise RefusedError(
                f"the training {training.id[:16]} does not run: {who} {what}",
                f"Each owner of data reads it and runs: tercet approve {training.id[:16]}",
            )
        time.sleep(_POLL)


def _find_data(held: Sequence[Deposited], names: Sequence[str]) -> list[Deposited]:
    """Return the contributions of these names.

    Raises:
        NotFoundError: if there is none of a name, or several.
    """
    found = []
    for name in names:
        known = [h for h in held if name in (h.full_name, h.contribution.name)]
        if len(known) != 1:
            what = "no contribution" if not known else "several contributions"
            raise NotFoundError(
                f"{what} {name!r}", "`tercet contributions` lists them as owner/name"
            )
        found += known
    if not found:
        raise InputError("a training on nothing", "Name the contributions to train on")
    return found


def _steps(given: Sequence[Deposited], epochs: int, batch_size: int, columns: bool) -> int:
    rows = _rows(given, columns)
    if not 1 <= batch_size <= rows:
        raise InputError(
            f"a batch of {batch_size} rows, and {rows} rows in all", "Choose a smaller batch"
        )
    steps = epochs * (rows // batch_size)
    if not 1 <= steps <= MAX_STEPS:
        raise InputError(f"{epochs} epochs, {steps} steps", f"Use 1 to {MAX_STEPS} steps")
    return steps


def _rows(given: Sequence[Deposited], columns: bool) -> int:
    counts = [g.contribution.rows for g in given]
    return counts[0] if columns else sum(counts)


def _workers(cluster: Cluster) -> tuple[str, str, str]:
    first, second, third = (w.identity.fingerprint for w in cluster.config.worker)
    return first, second, third


def _reference(told: Deposited) -> Reference:
    return Reference(told.contribution.id, told.digest, told.owner_key, told.full_name)


def load_model(path: str | Path) -> keras.Model:
    """Return the Keras model in a file, in safe mode, in a process whose Keras runs on JAX.

    Raises:
        ModelError: if it cannot be read.
    """
    from tercet.frontend import keras_files
    from tercet.frontend.keras import on_jax

    keras_files.check_file(Path(path))
    if not on_jax():
        raise InputError("training needs Keras on JAX", "Set KERAS_BACKEND=jax")
    return keras_files.load(Path(path), compiled=True)
