"""Every exception that Tercet raises, each with a remedy.

An error says what happened and where (a layer, a file, a worker, an index) and what to do about
it. No message ever holds a secret: no value, share, key or seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class TercetError(Exception):
    """Base of all errors of Tercet: ``message`` says what happened, ``remedy`` what to do."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        """Join the message and its remedy."""
        return f"{self.message}. {self.remedy}" if self.remedy else self.message


class InputError(TercetError, ValueError):
    """A value, shape, dtype or range that the caller gave does not fit."""


class RangeError(TercetError):
    """A value inside a guarded model left the range that it is compared in: no result."""


class ModelError(TercetError):
    """A model cannot be read or has an operation that Tercet does not support."""


class UnsupportedOperation(ModelError):
    """Operations of a model have no rule; names the layers and what would work instead.

    ``layers`` tells of every operation, where the whole model was looked through.
    """

    layers: Sequence[Any] = ()


class ProgramError(TercetError):
    """A program is malformed: refused by ``verify`` before anything runs."""


class ConfigError(TercetError):
    """A configuration file or a command-line option is wrong."""


class IdentityError(TercetError):
    """A key or a certificate is missing, malformed or kept carelessly."""


class SecurityError(TercetError):
    """Something that would weaken a guarantee was refused (a stream used twice, a replay)."""


class IntegrityError(TercetError):
    """Parties disagree: an inconsistent sharing, a tampered output, unequal digests."""


class TransportError(TercetError):
    """The network between processes failed: a time-out, a refused or a broken connection."""


class PeerLost(TransportError):
    """The connection to another worker ended while something waited for it."""


class FrameError(TransportError):
    """A peer sent bytes that are not a well-formed frame of the agreed size."""


class WorkerError(TercetError):
    """A worker could not do what was asked of it (unknown model, worker lost, worker busy)."""


class BusyError(WorkerError):
    """A worker has as many requests under way as it takes: ask again after ``seconds``."""

    def __init__(self, message: str, remedy: str = "", seconds: int = 1) -> None:
        super().__init__(message, remedy)
        self.seconds = seconds


class StorageError(WorkerError):
    """A worker's disk refuses to write: nothing was stored, counted or changed there."""


class RefusedError(TercetError):
    """A worker's policy says no: not on its list, exhausted, wrong program, too many rows.

    ``reason`` is one word for a worker's metrics.
    """

    def __init__(self, message: str, remedy: str = "", reason: str = "other") -> None:
        super().__init__(message, remedy)
        self.reason = reason


class NotFoundError(TercetError):
    """No model of that name is shared on the workers."""
