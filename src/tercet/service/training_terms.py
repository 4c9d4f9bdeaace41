"""The terms of a training run on shares: what every data owner signs before it begins."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from tercet.errors import ProgramError, RefusedError
from tercet.program.private import PrivateSum
from tercet.service.messages import REQUEST_ID_BYTES, check_fingerprint
from tercet.service.terms import Terms

MAX_STEPS = 10_000_000
#: Rows of one step.
MAX_BATCH = 1 << 16
SEED_BYTES = 32
_MAX_NAMES = 10_000
_DIGEST = re.compile("[0-9a-f]{64}")


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stored sharing that a document names: nothing else can take its place.

    Attributes:
        id: its id, drawn at random by its owner and never used again.
        digest: of its description (``sharings.Sharing.digest``).
        owner: fingerprint of its owner.
        name: what its owner calls it.
    """

    id: bytes
    digest: bytes
    owner: str
    name: str


class PrivacyTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What each owner of data gets: differential privacy of every row (add or remove one).

    Attributes:
        sum: how gradients are clipped, with what noise, and how many rows a step samples.
        delta: the delta of both epsilons.
        epsilon: towards parties and workers: the seed of the sampling is public to them.
        sampled_epsilon: towards those who get the model and do not know the seed.
    """

    sum: PrivateSum
    delta: float
    epsilon: float
    sampled_epsilon: float


class TrainingTerms(Terms, frozen=True, kw_only=True, tag="training"):
    """A training run.

    Attributes:
        program: digest of the programs (``package.Package``): the model, its loss, its optimizer
            and, if it is served, its prediction.
        states: the initial values of its states.
        data: the contributions, in order. With ``columns`` they are columns of the same rows, in
            the order of a public list of ids that all owners have; else they are rows.
        epochs: passes over all rows, for people; ``steps`` is what runs.
        steps: steps in all.
        batch_size: rows of a step; with ``privacy``, those that it has room for.
        seed: 32 bytes from which everybody computes the public shuffle and dropout masks.
        checkpoint: steps from one checkpoint to the next.
        metrics: which of the program's metrics are opened, as means over the steps since the last
            time, to all parties; none otherwise.
        owner: fingerprint of who asked for the run. With ``serving`` it owns the trained model,
            which stays shared: it may serve it under a policy of its own.
        serving: whether the trained model may be asked.
        receivers: fingerprints of those to whom the trained ``weights`` are opened.
        weights: names of the states that the receivers get; the optimizer's stay shared.
        privacy: what noise guarantees; None if the training adds none.
    """

    program: str
    states: Reference
    data: tuple[Reference, ...]
    columns: bool = False
    epochs: int
    steps: int
    batch_size: int
    seed: bytes
    checkpoint: int
    metrics: tuple[str, ...] = ()
    owner: str
    serving: bool = False
    receivers: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    privacy: PrivacyTerms | None = None

    def parties(self) -> frozenset[str]:
        """Return the signers, the one who asked and those who receive the model."""
        return frozenset((*self.signers, self.owner, *self.receivers))

    def check(self) -> None:
        """Refuse what makes no sense, or leaves out the consent of a data owner.

        Raises:
            RefusedError: naming what is wrong.
        """
        super().check()
        for fingerprint in (self.owner, *self.receivers):
            check_fingerprint(fingerprint)
        _check_range("epochs", self.epochs, MAX_STEPS)
        _check_range("steps", self.steps, MAX_STEPS)
        _check_range("rows a step", self.batch_size, MAX_BATCH)
        _check_range("steps a checkpoint", self.checkpoint, MAX_STEPS)
        if len(self.seed) != SEED_BYTES:
            raise RefusedError(f"a seed of {len(self.seed)} bytes", f"Draw {SEED_BYTES}")
        if not _DIGEST.fullmatch(self.program):
            raise RefusedError("a program without its digest", "Use Tercet's own client")
        if not 1 <= len(self.data) <= _MAX_NAMES:
            raise RefusedError(
                f"a training on {len(self.data)} contributions", "Name those to train on"
            )
        if bool(self.receivers) != bool(self.weights):
            raise RefusedError(
                "a model for nobody, or nothing for a receiver",
                "Name both the receivers and the weights, or neither",
            )
        for named in (self.metrics, self.weights, self.receivers):
            _check_names(named)
        if self.privacy is not None:
            self._check_privacy(self.privacy)
        references = (self.states, *self.data)
        if len({r.id for r in references}) < len(references):
            raise RefusedError("a contribution named twice", "Name each once")
        for reference in references:
            check_fingerprint(reference.owner)
            if len(reference.id) != REQUEST_ID_BYTES:
                raise RefusedError("a malformed contribution id", "Use Tercet's own client")
            if reference.owner not in self.signers:
                raise RefusedError(
                    f"the owner of {reference.name[:80]!r} is not asked to sign",
                    "Every owner of what a training uses signs its agreement",
                )

    def _check_privacy(self, privacy: PrivacyTerms) -> None:
        try:
            privacy.sum.check()
        except ProgramError as error:
            raise RefusedError(error.message, error.remedy) from None
        if self.metrics:
            raise RefusedError(
                "metrics of a private training: they would be opened without noise",
                "Propose it with metrics=()",
            )
        if not (0 < privacy.delta < 1 and 0 <= privacy.sampled_epsilon <= privacy.epsilon):
            raise RefusedError(
                f"epsilon {privacy.epsilon} and {privacy.sampled_epsilon} at delta {privacy.delta}",
                "Use Tercet's own client",
            )


def _check_range(what: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise RefusedError(f"{value} {what}", f"Use 1 to {most}")


def _check_names(names: Sequence[str]) -> None:
    if len(names) > _MAX_NAMES or len(set(names)) < len(names):
        raise RefusedError(f"a list of {len(names)} names", "Name each once")
