"""A trained state becomes a shared model, without being opened."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import numpy as np

from tercet.crypto.identity import PublicIdentity
from tercet.program.program import Role
from tercet.protocol.replicated.sharing import Summand
from tercet.service.package import Programs
from tercet.service.registry import Registry
from tercet.service.shares import read_summands, write_shares
from tercet.service.training_messages import File, ShareDigests


def trained_id(agreement: bytes) -> bytes:
    """Return the id of the model that a training makes: the same at all three workers."""
    return hashlib.sha256(b"tercet trained model v1\0" + agreement).digest()[:16]


async def share_trained(
    registry: Registry,
    index: int,
    agreement: bytes,
    name: str,
    version: int,
    owner: PublicIdentity,
    programs: Programs,
    final: File,
) -> bytes:
    """Share the model in a final state under its owner's name; return its id.

    Harmless if it is shared: a worker may have been killed after it had been.

    Raises:
        WorkerError: if the state's file is damaged.
        StorageError: if the disk refuses.
    """
    model, program = trained_id(agreement), programs.serving
    assert program is not None
    if any(m.id == model for m in registry.models(prepared=True)):
        registry.commit_too(model)
        return model
    path = registry.path(model)

    def write() -> ShareDigests:
        pair, _ = read_summands(Path(final.path), final.id, index, 0, final.digests)
        arrays: tuple[dict[str, bytes], ...] = ({}, {})
        for _, weight in program.named(Role.WEIGHT):
            state = programs.package.weights[weight.name]
            for summand, held in zip(arrays, pair, strict=True):
                words = held.expand(state, weight.type.shape)
                summand[weight.name] = np.ascontiguousarray(words).astype("<u8").tobytes()
        path.unlink(missing_ok=True)  # of an attempt that was cut short
        weights = (Summand(arrays=arrays[0]), Summand(arrays=arrays[1]))
        return write_shares(
            path, model, index, program.scale, weights, programs.package.serving_constants
        )

    digests = await asyncio.to_thread(write)
    registry.prepare(
        model, name, version, (owner.name, owner.fingerprint), programs.package.serving, digests
    )
    registry.commit_too(model)
    return model
