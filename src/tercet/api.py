"""The public face: share a model, serve it, ask it.

    import tercet

    with tercet.LocalCluster() as cluster:
        tercet.share(model, cluster, name="digits")
        tercet.serve("digits", cluster, max_requests=3)
        client = tercet.connect(cluster)
        client.predict("digits", images)

Machine-learning frameworks are imported by ``share``, ``lower``, ``check`` and ``trace`` alone.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.crypto.identity import PublicIdentity
from tercet.errors import InputError
from tercet.frontend.models import trace_model
from tercet.frontend.traced import Traced
from tercet.preflight.check import preflight
from tercet.preflight.report import Preflight
from tercet.program.program import Program
from tercet.program.serving import Mode, Release
from tercet.service.client import TopK, check_input
from tercet.service.cluster import Cluster, LocalCluster
from tercet.service.messages import Description, Policy
from tercet.service.owner import Owner
from tercet.service.training_party import TrainingProgress
from tercet.training.client import Client
from tercet.training.parties import Training, fit, propose
from tercet.training.parties import find as find_training
from tercet.training.private import DPSGD

__all__ = [
    "DPSGD",
    "Client",
    "Cluster",
    "Description",
    "LocalCluster",
    "Lowered",
    "Preflight",
    "TopK",
    "Traced",
    "Training",
    "TrainingProgress",
    "check",
    "connect",
    "find_training",
    "fit",
    "lower",
    "propose",
    "remove",
    "serve",
    "share",
    "stop",
    "trace",
]

#: Who may ask: an identity, the path of a certificate, or a fingerprint (64 hexadecimal digits).
ClientName: TypeAlias = PublicIdentity | str | Path


#: A keras.Model, a torch.nn.Module, an ExportedProgram, the path of a file, or what ``trace`` made.
Model: TypeAlias = Any


class Lowered(NamedTuple):
    """A model ready to be shared: its program and its weights, still in the clear."""

    program: Program
    arrays: dict[str, NDArray[np.float64]]


def trace(
    fn: Callable[..., Any],
    shape: Sequence[int],
    *weights: Any,
    scale: int = 16,
    name: str = "",
) -> Traced:
    """Trace a plain JAX function, to be shared, checked and asked like any other model.

        traced = tercet.trace(lambda x, w, b: jax.nn.sigmoid(x @ w + b), (30,), w, b)
        tercet.share(traced, cluster, "risk")

    Args:
        fn: ``fn(x, *weights)`` with x of shape (rows, *shape), float32, to one array (rows, ...).
            It must treat every row alike.
        shape: the shape of one row.
        weights: what the function takes besides: arrays, or lists and dictionaries of them.
        scale: fractional bits f, 8 to 20.
        name: of the model, in messages; the function's by default.

    All arrays are secret weights, those that ``fn`` captures as well. Numbers that stand in its
    code are public, as its architecture is; a captured array of one number is refused, since JAX
    takes it for such a number.

    Raises:
        ModelError: if it cannot be traced.
        UnsupportedOperation: naming the ``jax.named_scope``, the operation and what would work.
        InputError: if the shape or a weight makes no sense.
    """
    from tercet.frontend.function import trace_function

    _check_scale(scale)
    return trace_function(fn, shape, weights, scale=scale, name=name)


def lower(
    model: Model,
    *,
    example_inputs: Any = None,
    sample: ArrayLike | None = None,
    scale: int = 16,
    guard: bool = False,
) -> Lowered:
    """Trace a model and lower it to the program that the workers will run.

    Args:
        model: a live Keras 3 model on any backend, a live PyTorch module, an exported PyTorch
            program with an open batch size, what ``trace`` made of a function, or the path of a
            .keras, .h5, .hdf5 or .pt2 file.
        example_inputs: for a live PyTorch module one tensor (rows, ...), of which only shape and
            dtype matter; ``sample`` by default.
        sample: typical inputs, (rows, ...): the model is run on them in the clear, here, and
            comparisons are narrowed to the ranges seen with a margin of 16. Without it they take
            the full width, which is always right and costs about a third more.
        scale: fractional bits f, 8 to 20; what ``trace`` made has its own.
        guard: let whoever asks know, by one bit a row, that a value left the range in which it
            is compared, and the answer is void. Needs a sample; who asks must accept it. It costs
            about twice the bytes and rounds again (docs/protocols.md).

    Raises:
        ModelError: if the model cannot be read.
        UnsupportedOperation: naming the layer, the operation and what would work instead.
        InputError: if ``sample`` does not fit the model.
    """
    from tercet.program import passes
    from tercet.runtime.calibrate import calibrate

    _check_scale(scale)
    traced = trace_model(model, sample if example_inputs is None else example_inputs, scale=scale)
    program, arrays = passes.lower(traced.program, traced.arrays)
    if sample is not None:
        rows = check_input(sample, program.input_shape(), "the sample")
        program = passes.narrow(program, calibrate(program, arrays, rows))
    if guard:
        program = passes.guard(program)
    return Lowered(program, dict(arrays))


def check(
    model: Model,
    *,
    example_inputs: Any = None,
    sample: ArrayLike | None = None,
    batch: int = 1,
    scale: int = 16,
) -> Preflight:
    """Tell, before anything is shared, what of a model runs, how well, and what it will cost.

    Args:
        model: as for ``lower``.
        example_inputs: as for ``lower``.
        sample: typical inputs: the ranges of all values are recorded, comparisons narrowed, and
            what may overflow is told.
        batch: rows of the request that is costed.
        scale: fractional bits f, 8 to 20.

    Raises:
        ModelError: if the model as a whole has no form that Tercet takes.
        InputError: if ``sample`` does not fit the model.
    """
    _check_scale(scale)
    example = sample if example_inputs is None else example_inputs
    return preflight(model, example, sample, batch, scale)


def _check_scale(scale: int) -> None:
    if not 8 <= scale <= 20:
        raise InputError(f"{scale} fractional bits", "Use 8 to 20; 16 is the default")


def share(
    model: Model | Lowered,
    cluster: Cluster,
    name: str,
    *,
    example_inputs: Any = None,
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
        model = lower(model, example_inputs=example_inputs, sample=sample, scale=scale, guard=guard)
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
    """Return a client of the cluster's models, which may contribute data and approve trainings."""
    return Client(cluster.config, cluster.client)
