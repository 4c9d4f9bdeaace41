"""A party's side of agreements: proposing, reading, approving and withdrawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec

from tercet.crypto.identity import Identity
from tercet.errors import InputError, IntegrityError, NotFoundError
from tercet.service.agreements import APPROVAL, WITHDRAWAL, Document, read_document
from tercet.service.config import WORKERS, ClusterConfig
from tercet.service.connection import Connection
from tercet.service.messages import Agreed, Propose, Show, Sign
from tercet.service.terms import document_digest

TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """An agreement as all three workers hold it.

    Attributes:
        digest: what is signed; hexadecimal in ``id``.
        terms: the document, decoded.
        signed: fingerprints of those whose signature all three workers have verified.
        withdrawn: fingerprints of those who have withdrawn at any worker.
    """

    digest: bytes
    terms: Document
    signed: frozenset[str]
    withdrawn: frozenset[str]

    @property
    def id(self) -> str:
        """The digest, hexadecimal."""
        return self.digest.hex()

    @property
    def missing(self) -> tuple[str, ...]:
        """Fingerprints of those who have still to sign."""
        return tuple(s for s in self.terms.signers if s not in self.signed)

    @property
    def holds(self) -> bool:
        """Whether all have signed and nobody has withdrawn."""
        return not self.missing and not self.withdrawn


class Party:
    """Speaks to the workers as one who agrees. Close it, or use it in a ``with`` statement."""

    def __init__(self, cluster: ClusterConfig, identity: Identity) -> None:
        self._connection = Connection(cluster, identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def propose(self, terms: Document) -> Agreement:
        """Leave a document with the three workers, for its parties to sign.

        Raises:
            RefusedError: if it makes no sense.
        """
        document = msgspec.msgpack.encode(terms)
        return self._same(
            self._connection.ask_all(
                "/v1/agreements/propose", [Propose(document)] * WORKERS, Agreed, TIMEOUT
            )
        )

    def agreements(self) -> list[Agreement]:
        """Return those that concern this identity and that all three workers hold, by age."""
        told = self._connection.ask_all("/v1/agreements", [Show()] * WORKERS, list[Agreed], TIMEOUT)
        held = [{a.digest: a for a in answer} for answer in told]
        return [
            self._same([h[digest] for h in held])
            for digest in held[0]
            if all(digest in h for h in held)
        ]

    def find(self, text: str) -> Agreement:
        """Return the agreement of this digest (or how it begins) or, the latest of, this name.

        Raises:
            NotFoundError: if there is none.
            InputError: if several digests begin like that.
        """
        mine = self.agreements()
        begun = [a for a in mine if a.id.startswith(text.lower())] if len(text) >= 8 else []
        if len(begun) > 1:
            raise InputError(f"{len(begun)} agreements begin with {text}", "Give more digits")
        named = begun or [a for a in mine if a.terms.name == text]
        if not named:
            raise NotFoundError(
                f"no agreement {text!r} concerns you", "`tercet agreements` lists those that do"
            )
        return named[-1]

    def approve(self, agreement: Agreement) -> Agreement:
        """Sign an agreement, whose terms the caller has read.

        Raises:
            RefusedError: if it does not ask this identity, or somebody has withdrawn.
        """
        return self._sign(agreement, withdraw=False)

    def withdraw(self, agreement: Agreement) -> Agreement:
        """Withdraw from an agreement, for good: what runs under it stops, nothing more is released.

        One worker that hears of it is enough to stop all three.
        """
        return self._sign(agreement, withdraw=True)

    def _sign(self, agreement: Agreement, withdraw: bool) -> Agreement:
        purpose = WITHDRAWAL if withdraw else APPROVAL
        signature = self._connection.identity.sign(purpose, agreement.digest)
        asked = Sign(agreement.digest, signature, withdraw)
        return self._same(
            self._connection.ask_all("/v1/agreements/sign", [asked] * WORKERS, Agreed, TIMEOUT)
        )

    @staticmethod
    def _same(told: Sequence[Agreed]) -> Agreement:
        """Put together what three workers say of one agreement.

        Raises:
            IntegrityError: if a worker shows another document than its digest says.
        """
        first = told[0]
        for answer in told:
            if answer.digest != first.digest or document_digest(answer.document) != first.digest:
                raise IntegrityError(
                    "a worker shows another document than was proposed",
                    "Do not sign; tell the workers' operators",
                )
        return Agreement(
            first.digest,
            read_document(first.document),
            frozenset.intersection(*(frozenset(a.signed) for a in told)),
            frozenset.union(*(frozenset(a.withdrawn) for a in told)),
        )
