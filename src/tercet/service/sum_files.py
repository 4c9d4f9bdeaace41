"""The files of stored sums: this worker's first summand, which is what it may have to release.

The other summand is not kept but for its digest, which is what the receiver gets of it.
"""

from __future__ import annotations

import os
from pathlib import Path

from tercet.errors import StorageError, WorkerError
from tercet.protocol.replicated.sharing import output_digest
from tercet.service.shares import sync_folder

SUFFIX = ".sum"


def write_sum(path: Path, summand: memoryview) -> None:
    """Write a summand to a file, whole or not at all, durably.

    Raises:
        StorageError: if the disk refuses; nothing is left then.
    """
    partial = path.with_suffix(".partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(summand)
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, path)
        sync_folder(path.parent)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"the worker's disk refuses to store the sum: {error}",
            "Tell its operator to make room, then contribute again",
        ) from None


def read_sum(path: Path, digest: bytes) -> bytes:
    """Return what ``write_sum`` wrote, whose digest (``output_digest``) was noted.

    Raises:
        WorkerError: if it is missing or damaged.
    """
    again = "Restore the file from this worker's backup, or go on with the next round"
    try:
        summand = path.read_bytes()
    except OSError as error:
        raise WorkerError(f"the sum in {path.name} cannot be read: {error}", again) from None
    if output_digest(summand) != digest:
        raise WorkerError(f"{path.name} does not hold what was stored: it is damaged", again)
    return summand
