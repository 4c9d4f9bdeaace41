"""Agreements: documents that their parties sign, as one worker keeps them.

A document names who must sign it. A worker keeps the document under its digest and every signature
that it has verified itself; the agreement holds once all have signed, as long as nobody withdraws
and all are still on the worker's lists. Signatures are over the digest, so nothing of a document
can change under them, and a document names its three workers, so that it means nothing elsewhere.
``require`` is asked before the first protocol message of what was agreed and again before
anything is released. A withdrawal is final: whoever changes their mind proposes anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import msgspec

from tercet.crypto.identity import PublicIdentity
from tercet.errors import NotFoundError, RefusedError
from tercet.program.program import MALFORMED
from tercet.service import audit
from tercet.service.aggregation_terms import AggregationTerms
from tercet.service.audit import Event
from tercet.service.messages import Agreed, Sign
from tercet.service.registry import Registry
from tercet.service.terms import MAX_DOCUMENT, Terms, document_digest
from tercet.service.training_terms import TrainingTerms

_log = logging.getLogger("tercet.worker")

#: Every kind of document that a worker understands; their tags tell them apart.
Document: TypeAlias = TrainingTerms | AggregationTerms

APPROVAL, WITHDRAWAL = "agreement", "withdrawal"
#: Agreements that one identity may have proposed here.
MAX_PROPOSED = 1000
#: Signatures that a process remembers to have verified.
_MAX_VERIFIED = 100_000
_SCHEMA = """
CREATE TABLE IF NOT EXISTS agreements (
    digest BLOB PRIMARY KEY, document BLOB NOT NULL, proposer TEXT NOT NULL, time REAL NOT NULL);
CREATE TABLE IF NOT EXISTS signatures (
    digest BLOB NOT NULL, signer TEXT NOT NULL, purpose TEXT NOT NULL,
    certificate BLOB NOT NULL, signature BLOB NOT NULL, time REAL NOT NULL,
    PRIMARY KEY (digest, signer, purpose));
"""


class Agreements:
    """The agreements of one worker.

    Args:
        registry: its durable state.
        workers: fingerprints of the three workers, in order.
        listed: returns who is on this worker's lists now.
        changed: called with the digest of an agreement that was signed or withdrawn.
    """

    def __init__(
        self,
        registry: Registry,
        workers: Sequence[str],
        listed: Callable[[], Iterable[PublicIdentity]],
        changed: Callable[[bytes], None] = lambda _: None,
    ) -> None:
        self._registry = registry
        self._db = registry.database
        self._workers = tuple(workers)
        self._listed = listed
        self._changed = changed
        self._verified: set[tuple[bytes, str, bytes]] = set()
        self._db.executescript(_SCHEMA)

    def propose(self, proposer: PublicIdentity, document: bytes) -> Agreed:
        """Keep a document for its parties to sign; harmless if it is there.

        Raises:
            RefusedError: if it makes no sense, is for other workers, or is one too many.
        """
        terms = read_document(document)
        if terms.workers != self._workers:
            raise RefusedError(
                "the document names other workers",
                "Propose it to the three workers that it names, in their order",
            )
        digest = document_digest(document)
        if not self.known(digest):
            (count,) = self._db.execute(
                "SELECT count(*) FROM agreements WHERE proposer = ?", (proposer.fingerprint,)
            ).fetchone()
            if count >= MAX_PROPOSED:
                raise RefusedError(
                    f"{count} agreements that you proposed are kept here",
                    f"{MAX_PROPOSED} are the most",
                )
            with self._registry.transaction() as db:
                db.execute(
                    "INSERT INTO agreements VALUES (?, ?, ?, ?)",
                    (digest, document, proposer.fingerprint, time.time()),
                )
                audit.append(db, [_event(proposer, "propose", digest, terms)])
            _log.info("%s proposed %s: %s", proposer.name, digest.hex()[:16], terms.name)
        return self._state(digest)

    def sign(self, signer: PublicIdentity, asked: Sign) -> Agreed:
        """Take a party's signature of an agreement, or of its withdrawal; harmless if it is there.

        Raises:
            NotFoundError: if there is no such agreement.
            RefusedError: if the caller is none of those who sign it, or somebody withdrew.
            IdentityError: if the signature is not the caller's.
        """
        terms = self.document(asked.digest)
        if signer.fingerprint not in terms.signers:
            raise RefusedError(
                f"the agreement {_short(asked.digest)} does not ask {signer.name} to sign",
                "Only those whom it names can approve or withdraw",
            )
        purpose = WITHDRAWAL if asked.withdraw else APPROVAL
        signer.verify(purpose, asked.digest, asked.signature)
        if not asked.withdraw:
            self.check_withdrawn(asked.digest)
        if signer.fingerprint not in self._signed(asked.digest, purpose):
            with self._registry.transaction() as db:
                db.execute(
                    "INSERT INTO signatures VALUES (?, ?, ?, ?, ?, ?)",
                    (
                        asked.digest, signer.fingerprint, purpose, signer.certificate,
                        asked.signature, time.time(),
                    ),
                )  # fmt: skip
                action = "withdraw" if asked.withdraw else "approve"
                audit.append(db, [_event(signer, action, asked.digest, terms)])
            _log.info("%s: %s of %s", signer.name, purpose, _short(asked.digest))
            self._changed(asked.digest)
        return self._state(asked.digest)

    def show(self, reader: PublicIdentity, digest: bytes = b"") -> list[Agreed]:
        """Return the agreements that concern ``reader``, by age; with ``digest`` only that one.

        Raises:
            NotFoundError: if ``digest`` is not of one that concerns it.
        """
        rows = self._db.execute(
            "SELECT digest, document, proposer FROM agreements ORDER BY time"
        ).fetchall()
        found = [
            self._state(row[0])
            for row in rows
            if not digest or row[0] == digest
            if reader.fingerprint in {row[2], *read_document(row[1]).parties()}
        ]
        if digest and not found:
            raise _unknown(digest)
        return found

    def document(self, digest: bytes) -> Document:
        """Return what was proposed under ``digest``.

        Raises:
            NotFoundError: if nothing was.
        """
        row = self._db.execute(
            "SELECT document FROM agreements WHERE digest = ?", (digest,)
        ).fetchone()
        if row is None:
            raise _unknown(digest)
        return read_document(row[0])

    def known(self, digest: bytes) -> bool:
        """Whether something was proposed under ``digest``."""
        row = self._db.execute("SELECT 1 FROM agreements WHERE digest = ?", (digest,)).fetchone()
        return row is not None

    def require(self, digest: bytes) -> Document:
        """Return the terms of an agreement that holds now, after verifying every signature.

        Raises:
            NotFoundError: if there is none.
            RefusedError: naming who has not signed, has withdrawn or is not accepted any more.
        """
        terms = self.document(digest)
        self.check_withdrawn(digest)
        listed = {identity.fingerprint for identity in self._listed()}
        signed = self._signed(digest, APPROVAL)
        for fingerprint in terms.signers:
            if fingerprint not in signed:
                raise RefusedError(
                    f"the agreement {_short(digest)} is not signed by {fingerprint[:16]}",
                    "Its holder approves it first: `tercet approve`",
                    "agreement",
                )
            self._verify(digest, fingerprint, *signed[fingerprint])
            if fingerprint not in listed:
                identity = PublicIdentity.from_der(signed[fingerprint][0])
                raise RefusedError(
                    f"{identity}, who signed the agreement {_short(digest)}, is not on this "
                    "worker's lists any more",
                    "Its operator can list it again",
                    "agreement",
                )
        return terms

    def identity(self, fingerprint: str) -> PublicIdentity:
        """Return who on this worker's lists has this key.

        Raises:
            RefusedError: if nobody has.
        """
        for identity in self._listed():
            if identity.fingerprint == fingerprint:
                return identity
        raise RefusedError(
            f"{fingerprint[:16]} is not on this worker's lists", "Its operator can list it"
        )

    def _verify(self, digest: bytes, signer: str, certificate: bytes, signature: bytes) -> None:
        """Verify a stored signature, once in the life of this process: a round asks thrice."""
        if (digest, signer, signature) not in self._verified:
            PublicIdentity.from_der(certificate).verify(APPROVAL, digest, signature)
            if len(self._verified) >= _MAX_VERIFIED:
                self._verified.clear()
            self._verified.add((digest, signer, signature))

    def check_withdrawn(self, digest: bytes) -> None:
        """Refuse an agreement that somebody has withdrawn from.

        Raises:
            RefusedError: naming who has.
        """
        for certificate, signature in self._signed(digest, WITHDRAWAL).values():
            identity = PublicIdentity.from_der(certificate)
            identity.verify(WITHDRAWAL, digest, signature)
            raise RefusedError(
                f"{identity} has withdrawn from the agreement {_short(digest)}",
                "Propose another one, without what is withdrawn",
                "agreement",
            )

    def _signed(self, digest: bytes, purpose: str) -> dict[str, tuple[bytes, bytes]]:
        rows = self._db.execute(
            "SELECT signer, certificate, signature FROM signatures "
            "WHERE digest = ? AND purpose = ? ORDER BY time",
            (digest, purpose),
        )
        return {signer: (certificate, signature) for signer, certificate, signature in rows}

    def _state(self, digest: bytes) -> Agreed:
        document, proposer, created = self._db.execute(
            "SELECT document, proposer, time FROM agreements WHERE digest = ?", (digest,)
        ).fetchone()
        signed, withdrawn = (tuple(self._signed(digest, p)) for p in (APPROVAL, WITHDRAWAL))
        return Agreed(digest, document, proposer, signed, withdrawn, created)


def read_document(document: bytes) -> Document:
    """Return the checked terms in a document.

    Raises:
        RefusedError: if it is malformed or makes no sense.
    """
    if len(document) > MAX_DOCUMENT:
        raise RefusedError(
            f"a document of {len(document)} bytes", f"{MAX_DOCUMENT} bytes are the most"
        )
    try:
        terms: Document = msgspec.msgpack.decode(document, type=Document)
    except MALFORMED as error:
        raise RefusedError(
            f"not a document of this version: {error}",
            "Use the same version of Tercet on both sides",
        ) from None
    terms.check()
    return terms


def _event(who: PublicIdentity, action: str, digest: bytes, terms: Terms) -> Event:
    return Event(who.name, who.fingerprint, action, digest.hex(), "done", name=terms.name)


def _short(digest: bytes) -> str:
    return digest.hex()[:16]


def _unknown(digest: bytes) -> NotFoundError:
    return NotFoundError(
        f"no agreement {_short(digest)} of yours is kept here",
        "`tercet agreements` lists those that concern you",
    )
