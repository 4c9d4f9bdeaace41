"""Errors across processes: which exceptions may travel, and how they are put together again."""

from __future__ import annotations

from tercet import errors
from tercet.errors import TercetError, WorkerError
from tercet.service.messages import Failure

_CLASSES: dict[str, type[TercetError]] = {
    c.__name__: c
    for c in vars(errors).values()
    if isinstance(c, type) and issubclass(c, TercetError)
}

_STATUS = {
    "NotFoundError": 404,
    "RefusedError": 403,
    "IdentityError": 403,
    "InputError": 400,
    "ProgramError": 400,
    "IntegrityError": 409,
}


#: Characters of a text that travels: it may quote what somebody sent, and goes to the peers too.
MAX_TEXT = 2000


def to_failure(error: BaseException) -> Failure:
    """Return what of ``error`` may leave this process.

    Only Tercet's own errors carry their text, which never holds a secret, up to ``MAX_TEXT``
    characters; of anything else the caller learns that it happened.
    """
    if isinstance(error, TercetError):
        return Failure(type(error).__name__, error.message[:MAX_TEXT], error.remedy[:MAX_TEXT])
    return Failure("WorkerError", "internal error", "See the worker's log")


def to_error(failure: Failure, where: str = "") -> TercetError:
    """Return the exception that ``failure`` describes, prefixed by where it came from."""
    kind = _CLASSES.get(failure.kind, WorkerError)
    message = f"{where}: {failure.message}" if where else failure.message
    return kind(message, failure.remedy)


def http_status(failure: Failure) -> int:
    """Return the HTTP status that goes with a failure."""
    return _STATUS.get(failure.kind, 503)
