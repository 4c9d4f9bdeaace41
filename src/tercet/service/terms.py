"""What parties agree on, as a document that each of them signs and each worker reads for itself."""

from __future__ import annotations

import hashlib

import msgspec

from tercet.errors import RefusedError
from tercet.service.messages import check_fingerprint

#: Bytes of a document.
MAX_DOCUMENT = 1 << 20
MAX_SIGNERS = 2000
_MAX_NAME = 100


class Terms(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True
):
    """What every kind of agreement says; each kind is a subclass with a tag of its own.

    Attributes:
        name: what it is about, for people: 1 to 100 characters without / and @.
        workers: fingerprints of the three workers, in order, who shall keep it.
        signers: fingerprints of those who must sign before it holds.
    """

    name: str
    workers: tuple[str, str, str]
    signers: tuple[str, ...]

    def parties(self) -> frozenset[str]:
        """Return the fingerprints of those who may read the document and ask how it stands."""
        return frozenset(self.signers)

    def check(self) -> None:
        """Refuse what makes no sense, whoever signs it.

        Raises:
            RefusedError: naming what is wrong.
        """
        name = self.name
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or set(name) & set("/@"):
            raise RefusedError(
                f"an agreement about {name[:_MAX_NAME]!r}", "Use 1 to 100 characters without / @"
            )
        if not 1 <= len(self.signers) <= MAX_SIGNERS or len(set(self.signers)) < len(self.signers):
            raise RefusedError(
                f"an agreement with {len(self.signers)} signers, each named once",
                f"Name 1 to {MAX_SIGNERS} different ones",
            )
        for fingerprint in (*self.signers, *self.workers):
            check_fingerprint(fingerprint)


def document_digest(document: bytes) -> bytes:
    """Return the digest by which a document is known and which its parties sign."""
    return hashlib.sha256(b"tercet agreement v1\0" + document).digest()
