"""Everything that crosses between clients, owners and workers, as typed structures.

All of it travels as msgpack inside mutual TLS and is validated on arrival. Shares travel inside
``Summand`` and ``OutputPart``, whose text forms show nothing.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from tercet.errors import WorkerError
from tercet.program.types import Shape
from tercet.protocol.replicated.sharing import OutputPart, Summand

T = TypeVar("T")

REQUEST_ID_BYTES = 16


class Policy(msgspec.Struct, frozen=True):
    """What a model's owner allows: whole requests and rows in all; ``None`` is no limit."""

    serving: bool = False
    max_requests: int | None = None
    max_rows: int | None = None


class Failure(msgspec.Struct, frozen=True):
    """An error on its way to the caller: the class of exception, what happened, what to do."""

    kind: str
    message: str
    remedy: str


class Prepare(msgspec.Struct, frozen=True):
    """Owner: store my share of a model's weights, not yet visible under its name."""

    id: bytes
    name: str
    program: bytes
    weights: tuple[Summand, Summand]
    public: dict[str, bytes] = {}


class Commit(msgspec.Struct, frozen=True):
    """Owner: the prepared model ``id`` stands under its name from now on."""

    id: bytes


class Change(msgspec.Struct, frozen=True):
    """Owner: serve ``name`` under ``policy``, with counts afresh; or ``stop`` or ``remove`` it.

    The three workers compare it before they act, so that they keep the same policy.
    """

    id: bytes
    name: str
    policy: Policy | None = None
    remove: bool = False


class Describe(msgspec.Struct, frozen=True):
    """Anyone accepted: what is ``name``?"""

    name: str


class Description(msgspec.Struct, frozen=True):
    """What a client must know of a model to ask it; equal at all three workers but for counts.

    ``guarded``: with each row comes one bit, whether a value left its window.
    ``used`` counts are durable and start afresh with each policy. ``answered`` counts what this
    worker has answered since it started; ``running`` what it has counted and not answered yet.
    """

    id: bytes
    name: str
    owner: str
    program_digest: str
    input_shape: Shape
    output_shape: Shape
    scale: int
    policy: Policy
    used_requests: int = 0
    used_rows: int = 0
    guarded: bool = False
    answered: int = 0
    running: int = 0


class Predict(msgspec.Struct, frozen=True):
    """Client: run model ``model`` on ``rows`` rows, whose shares are ``shares``."""

    id: bytes
    model: bytes
    program_digest: str
    rows: int
    shares: tuple[Summand, Summand]


class Answer(msgspec.Struct, frozen=True):
    """A worker's part of a prediction, and what it took."""

    part: OutputPart
    seconds: float
    bytes_sent: int
    rounds: int


class Status(msgspec.Struct, frozen=True):
    """A worker about itself; ``clock`` is its time in seconds since the epoch (UTC)."""

    name: str
    index: int
    version: str
    ready: bool
    waiting_for: list[str]
    uptime: float
    models: list[Description] = []
    clock: float = 0.0


# Between workers, on their control link.


class Offer(msgspec.Struct, frozen=True, tag=True):
    """I have received ``id``; ``binding`` is what was asked, ``digest`` our common summand's."""

    id: bytes
    binding: bytes
    digest: bytes
    nonce: bytes


class Withdraw(msgspec.Struct, frozen=True, tag=True):
    """``id`` is refused here, for ``reason``: it must not run anywhere."""

    id: bytes
    reason: Failure


class Run(msgspec.Struct, frozen=True, tag=True):
    """From worker 0: batch number ``batch`` shall be these requests."""

    batch: int
    ids: list[bytes]


class Accepted(msgspec.Struct, frozen=True, tag=True):
    """Of batch ``batch`` I have counted these, and refuse the others."""

    batch: int
    ids: list[bytes]


PeerMessage = Offer | Withdraw | Run | Accepted


# Between the two processes of one worker.


class Load(msgspec.Struct, frozen=True, tag=True):
    """Control: hold this model's shares (files as the registry wrote them)."""

    model: bytes
    program: bytes
    path: str


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Control: forget this model."""

    model: bytes


class Job(msgspec.Struct, frozen=True, tag=True):
    """Control: run a model on a batch of agreed and counted requests."""

    number: int
    model: bytes
    digest: str
    nonces: tuple[bytes, bytes, bytes]
    requests: list[tuple[int, tuple[Summand, Summand]]]


class Done(msgspec.Struct, frozen=True, tag=True):
    """Data plane: the parts of a job, in order."""

    number: int
    parts: list[OutputPart]
    seconds: float
    bytes_sent: int
    rounds: int


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Data plane: a job failed."""

    number: int
    reason: Failure


class Links(msgspec.Struct, frozen=True, tag=True):
    """Data plane: the peers that are connected now."""

    connected: list[int]


class Loaded(msgspec.Struct, frozen=True, tag=True):
    """Data plane: a model's shares are there, or why not."""

    model: bytes
    fault: Failure | None = None


Command = Load | Unload | Job
Event = Done | Failed | Links | Loaded


def decode(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Return the validated structure in ``data``.

    Raises:
        WorkerError: if it is malformed.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, OverflowError) as error:
        raise WorkerError(
            f"malformed {kind.__name__} message: {error}",
            "Use the same version of Tercet on both sides",
        ) from None


encode = msgspec.msgpack.encode
