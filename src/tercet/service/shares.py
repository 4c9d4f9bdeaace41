"""The files of shares: written whole or not at all, recognised when they are read again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from tercet.errors import RefusedError, StorageError, WorkerError
from tercet.program.program import Program, Role
from tercet.protocol.base import Share
from tercet.protocol.replicated.sharing import Summand, expand
from tercet.service.database import FORMAT_VERSION
from tercet.service.training_messages import ShareDigests

SUFFIX = ".safetensors"


def write_shares(
    path: Path,
    model: bytes,
    index: int,
    scale: int,
    weights: tuple[Summand, Summand],
    public: Mapping[str, bytes],
) -> ShareDigests:
    """Write shares to their file, durably, and return their digests.

    Args:
        path: the file.
        model: the id of the model or sharing, equal at all three workers.
        index: the worker that holds summands ``index`` and ``index + 1``.
        scale: fractional bits of the model's program; 0 for a sharing of several scales.
        weights: the two summands.
        public: public arrays by name.

    Raises:
        RefusedError: if there is such a file.
        StorageError: if the disk refuses; nothing is left then.
    """
    if path.exists():
        raise RefusedError("shares with this id are there", "Share them under a new id")
    arrays: dict[str, NDArray[np.uint8]] = {}
    for position, summand in enumerate(weights):
        if summand.seed:
            arrays[f"{position}:seed"] = np.frombuffer(summand.seed, np.uint8)
        for key, data in summand.arrays.items():
            arrays[f"{position}:array:{key}"] = np.frombuffer(data, np.uint8)
    for key, data in public.items():
        arrays[f"public:{key}"] = np.frombuffer(data, np.uint8)
    partial = path.with_suffix(".partial")
    try:
        save_file(arrays, partial, metadata=_label(model, index, scale))
        os.chmod(partial, 0o600)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise StorageError(
            f"the worker's disk refuses to store the shares: {error}",
            "Tell its operator to make room, then share it again",
        ) from None
    return share_digests(weights, public)


def share_digests(weights: tuple[Summand, Summand], public: Mapping[str, bytes]) -> ShareDigests:
    """Return the digests by which a stored sharing is recognised."""
    return ShareDigests(
        weights[0].digest(), weights[1].digest(), Summand(arrays=dict(public)).digest()
    )


def load_shares(
    path: Path, model: bytes, index: int, program: Program, digests: ShareDigests
) -> dict[str, Share | NDArray[np.uint64]]:
    """Return the shares of a program's weights, and its public arrays, from a model's file.

    Raises:
        WorkerError: if the file is missing, damaged, or not what was stored.
        IntegrityError: if it does not fit the program.
    """
    return _expand(program, *read_summands(path, model, index, program.scale, digests))


def read_summands(
    path: Path, stored_id: bytes, index: int, scale: int, digests: ShareDigests
) -> tuple[tuple[Summand, Summand], dict[str, bytes]]:
    """Return the two summands and the public arrays of a file that ``write_shares`` wrote.

    Raises:
        WorkerError: if the file is missing, damaged, or not what was stored.
    """
    again = "Restore the file from this worker's backup, or share it again"
    try:
        with safe_open(path, framework="numpy") as file:
            label = file.metadata()
            stored = {key: file.get_tensor(key).tobytes() for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise WorkerError(f"the shares in {path.name} cannot be read: {error}", again) from None
    if label != _label(stored_id, index, scale):
        raise WorkerError(f"{path.name} holds other shares, or another worker's", again)
    first, second = (
        Summand(
            stored.get(f"{p}:seed", b""),
            {k.split(":", 2)[2]: v for k, v in stored.items() if k.startswith(f"{p}:array:")},
        )
        for p in range(2)
    )
    public = {k.split(":", 1)[1]: v for k, v in stored.items() if k.startswith("public:")}
    if share_digests((first, second), public) != digests:
        raise WorkerError(f"{path.name} does not hold what was stored: it is damaged", again)
    return (first, second), public


def _expand(
    program: Program, weights: tuple[Summand, Summand], public: Mapping[str, bytes]
) -> dict[str, Share | NDArray[np.uint64]]:
    values: dict[str, Share | NDArray[np.uint64]] = {}
    for _, given in program.named(Role.WEIGHT):
        values[given.name] = expand(weights, given.name, given.type.shape)
    arrays = Summand(arrays=dict(public))
    for _, given in program.named(Role.PUBLIC):
        values[given.name] = arrays.expand(given.name, given.type.shape)
    return values


def _label(model: bytes, index: int, scale: int) -> dict[str, str]:
    return {
        "format": str(FORMAT_VERSION),
        "model": model.hex(),
        "summand": str(index),
        "scale": str(scale),
    }


def sync_folder(folder: Path) -> None:
    """Make a new name durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
