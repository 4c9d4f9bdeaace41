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

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tercet.errors import InputError
from tercet.program.program import Program
from tercet.service.client import Client, check_input
from tercet.service.cluster import Cluster, LocalCluster
from tercet.service.messages import Description, Policy
from tercet.service.owner import Owner

if TYPE_CHECKING:
    import keras

__all__ = [
    "Client",
    "Cluster",
    "Description",
    "LocalCluster",
    "Lowered",
    "connect",
    "lower",
    "remove",
    "serve",
    "share",
    "stop",
]


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
) -> Description:
    """Serve a shared model to the workers' clients, until a limit is reached or ``stop``.

    Returns at once. Counting starts afresh.

    Args:
        name: the model.
        cluster: where it is shared.
        max_requests: requests to answer in all; no limit if ``None``.
        max_rows: rows to answer in all; no limit if ``None``.

    Raises:
        NotFoundError: if it is not shared: share it first.
    """
    with Owner(cluster.config, cluster.owner) as owner:
        return owner.serve(name, Policy(True, max_requests, max_rows))


def stop(name: str, cluster: Cluster) -> Description:
    """Stop serving a model; it stays shared."""
    with Owner(cluster.config, cluster.owner) as owner:
        return owner.stop(name)


def remove(name: str, cluster: Cluster) -> None:
    """Delete a model from the three workers."""
    with Owner(cluster.config, cluster.owner) as owner:
        owner.remove(name)


def connect(cluster: Cluster) -> Client:
    """Return a client of the cluster's models."""
    return Client(cluster.config, cluster.client)
