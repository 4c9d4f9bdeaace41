"""The public face: share a model, serve it, ask it.

    import tercet

    with tercet.LocalCluster() as cluster:
        tercet.share(model, cluster, name="digits")
        tercet.serve("digits", cluster, max_requests=3)
        client = tercet.connect(cluster)
        client.predict("digits", images)

Machine-learning frameworks are imported by ``share`` and ``lower`` alone.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.crypto.identity import PublicIdentity
from tercet.errors import InputError
from tercet.program.program import Program
from tercet.program.serving import Mode, Release
from tercet.service.client import Client, TopK, check_input
from tercet.service.cluster import Cluster, LocalCluster
from tercet.service.messages import Description, Policy
from tercet.service.owner import Owner
from tercet.service.training_party import TrainingProgress
from tercet.training.parties import Training, fit, propose
from tercet.training.parties import find as find_training

if TYPE_CHECKING:
    import keras

__all__ = [
    "Client",
    "Cluster",
    "Description",
    "LocalCluster",
    "Lowered",
    "TopK",
    "Training",
    "TrainingProgress",
    "connect",
    "find_training",
    "fit",
    "lower",
    "propose",
    "remove",
    "serve",
    "share",
    "stop",
]

#: Who may ask: an identity, the path of a certificate, or a fingerprint (64 hexadecimal digits).
ClientName: TypeAlias = PublicIdentity | str | Path


class Lowered(NamedTuple):
    """A model ready to be shared: its program and its weights, still in the clear."""

    program: Program
    arrays: dict[str, NDArray[np.float64]]


def lower(
    model: keras.Model | str | Path,
    *,
    sample: ArrayLike | None = None,
    scale: int = 16,
    guard: bool = False,
) -> Lowered:
    """Trace a Keras model and lower it to the program that the workers will run.

    Args:
        model: a live Keras 3 model on any backend, or the path of a .keras, .h5 or .hdf5 file.
        sample: typical inputs, (rows, ...): the model is run on them in the clear, here, and
            comparisons are narrowed to the ranges seen with a margin of 16. Without it they take
            the full width, which is always right and costs about a third more.
        scale: fractional bits f, 8 to 20.
        guard: let whoever asks know, by one bit a row, that a value left the range in which it
            is compared, and the answer is void. Needs a sample; who asks must accept it. It costs
            about twice the bytes and rounds again (docs/protocols.md).

    Raises:
        ModelError: if the model cannot be read.
        UnsupportedOperation: naming the layer, the operation and what would work instead.
        InputError: if ``sample`` does not fit the model.
    """
    from tercet.frontend.keras import trace_keras
    from tercet.program import passes
    from tercet.runtime.calibrate import calibrate

    if not 8 <= scale <= 20:
        raise InputError(f"{scale} fractional bits", "Use 8 to 20; 16 is the default")
    traced = trace_keras(model, scale=scale)
    program, arrays = passes.lower(traced.program, traced.arrays)
    if sample is not None:
        rows = check_input(sample, program.input_shape(), "the sample")
        program = passes.narrow(program, calibrate(program, arrays, rows))
    if guard:
        program = passes.guard(program)
    return Lowered(program, dict(arrays))


def share(
    model: keras.Model | str | Path | Lowered,
    cluster: Cluster,
    name: str,
    *,
    sample: ArrayLike | None = None,
    scale: int = 16,
    guard: bool = False,
) -> Description:
    """Share a model under ``name`` with the three workers; it is not served yet.

    Under a name that exists this makes the next version (``Description.version``); the earlier
    ones stay as they are, as ``name@1`` and so on, and are served on if they were.

    The weights leave this process only as shares. See ``lower`` for the arguments.

    Raises:
        As ``lower``, and RefusedError, TransportError or WorkerError of the workers.
    """
    if not isinstance(model, Lowered):
        model = lower(model, sample=sample, scale=scale, guard=guard)
    with Owner(cluster.config, cluster.owner) as owner:
        return owner.share(name, model.program, model.arrays)


def serve(
    name: str,
    cluster: Cluster,
    *,
    max_requests: int | None = None,
    max_rows: int | None = None,
    expires: datetime.datetime | float | None = None,
    clients: Sequence[ClientName] | None = None,
    max_rate: int | None = None,
    output: str = "raw",
    top: int = 0,
    decimals: int | None = None,
    clamp: tuple[float, float] | None = None,
) -> Description:
    """Serve a shared model to the workers' clients, until a limit is reached or ``stop``.

    Returns at once. Counting starts afresh. Each worker enforces all of it for itself; output
    mode, rounding and clamping are computed under sharing, so that nothing else is released.

    Args:
        name: the model: its newest version, or ``name@2``.
        cluster: where it is shared.
        max_requests: requests to answer in all; no limit if ``None``.
        max_rows: rows to answer in all; no limit if ``None``.
        expires: when to stop: a time with a time zone, or seconds from now.
        clients: who may ask, of the clients that the workers accept: identities, certificate
            files or fingerprints; all if ``None``.
        max_rate: requests a minute of one client.
        output: ``raw`` scores, ``softmax`` probabilities, ``argmax`` (the index of the largest) or
            ``top_k`` (the ``top`` largest with their indices), over the last axis.
        top: how many classes with ``top_k``.
        decimals: decimal places that are released of scores.
        clamp: least and greatest input value; values beyond count as the bound.

    Raises:
        NotFoundError: if it is not shared: share it first.
        InputError, RefusedError: if the policy makes no sense for the model.
    """
    if output not in tuple(Mode):
        raise InputError(f"output {output!r}", f"Use one of {', '.join(Mode)}")
    bounds = None if clamp is None else (float(clamp[0]), float(clamp[1]))
    policy = Policy(
        serving=True,
        max_requests=max_requests,
        max_rows=max_rows,
        expires=_moment(expires),
        clients=None if clients is None else tuple(sorted({_fingerprint(c) for c in clients})),
        max_rate=max_rate,
        release=Release(Mode(output), top, decimals, bounds),
    )
    policy.check()
    with Owner(cluster.config, cluster.owner) as owner:
        return owner.serve(name, policy)


def _moment(expires: datetime.datetime | float | None) -> float | None:
    if expires is None:
        return None
    if isinstance(expires, datetime.datetime):
        if expires.tzinfo is None:
            raise InputError("an expiry without a time zone", "Use datetime.now(UTC) + ...")
        return expires.timestamp()
    if not expires > 0:
        raise InputError(f"an expiry {expires} s from now", "Give a positive number of seconds")
    return time.time() + expires


def _fingerprint(client: ClientName) -> str:
    if isinstance(client, PublicIdentity):
        return client.fingerprint
    if isinstance(client, str) and re.fullmatch("[0-9a-fA-F]{64}", client):
        return client.lower()
    return PublicIdentity.load(client).fingerprint


def stop(name: str, cluster: Cluster) -> Description:
    """Stop serving ``name@2``, or every version of ``name``; it stays shared."""
    with Owner(cluster.config, cluster.owner) as owner:
        return owner.stop(name)


def remove(name: str, cluster: Cluster) -> None:
    """Delete ``name@2``, or every version of ``name``, from the three workers."""
    with Owner(cluster.config, cluster.owner) as owner:
        owner.remove(name)


def connect(cluster: Cluster) -> Client:
    """Return a client of the cluster's models."""
    return Client(cluster.config, cluster.client)
