"""Text that came from elsewhere, made fit for logs and error messages."""

from __future__ import annotations

from typing import Final

MAX_TEXT: Final = 500
"""Most characters of a peer's text that are kept."""


def printable(text: str) -> str:
    """Return the text on one line, without control characters, at most ``MAX_TEXT`` long."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT]).strip()
