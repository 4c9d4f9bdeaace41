"""The one place where a secret leaves the sharing."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.protocol.base import Share
from tercet.protocol.replicated.sharing import OutputPart, output_part


def reveal(share: Share) -> OutputPart:
    """Return this worker's part of a result, for its receiver and for nobody else.

    The caller has checked policy, agreement and count. ``share`` is fresh from a resend or a
    fresh truncation, so that the three summands tell their sum and nothing else.
    """
    return output_part(share)


def release_stored(summand: bytes, other_digest: bytes) -> OutputPart:
    """Return the same part of a result of which this worker has stored just that."""
    return OutputPart(summand, other_digest)


def release(shares: Sequence[Share]) -> list[OutputPart]:
    """Return this worker's parts of several results: see ``reveal``."""
    return [reveal(share) for share in shares]
