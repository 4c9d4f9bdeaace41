"""The lines that the network layer writes to the log ``tercet.net``."""

from __future__ import annotations

import logging
from typing import Final

from tercet.net.text import printable

LOG: Final = logging.getLogger("tercet.net")


def refused(peer: str, reason: str) -> None:
    """Log, once, that a connection from ``peer`` (host:port) was refused, and why.

    The record carries ``peer`` and ``reason`` as attributes too, for structured logs.
    """
    reason = printable(reason)
    LOG.warning("refused %s: %s", peer, reason, extra={"peer": peer, "reason": reason})


def link_closed(worker: int, reason: str) -> None:
    """Log that a link was closed because of what the worker at its other end sent."""
    reason = printable(reason)
    LOG.warning(
        "closed the link to worker %d: %s",
        worker,
        reason,
        extra={"peer": f"worker {worker}", "reason": reason},
    )
