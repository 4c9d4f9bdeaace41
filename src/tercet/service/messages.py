"""Everything that crosses between clients, owners and workers, as typed structures.

All of it travels as msgpack inside mutual TLS and is validated on arrival. Shares travel inside
``Summand`` and ``OutputPart``, whose text forms show nothing.
"""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from tercet.errors import RefusedError, WorkerError
from tercet.program.program import MALFORMED
from tercet.program.serving import Release
from tercet.program.types import Shape
from tercet.protocol.replicated.sharing import OutputPart, Summand
from tercet.service.sum_messages import SumCommand, SumEvent, SumMessage
from tercet.service.training_messages import (
    FinishTraining,
    ShareDigests,
    Standing,
    Tensor,
    TrainJob,
    TrainSteps,
)

T = TypeVar("T")

REQUEST_ID_BYTES = 16
#: Rows of one request.
MAX_ROWS = 65_536
#: Bytes of a request. Summands that are sent as seeds are as large once they are expanded.
MAX_REQUEST = 256 << 20
#: Clients that one policy may name.
MAX_CLIENTS = 500
_FINGERPRINT = re.compile("[0-9a-f]{64}")


class Policy(msgspec.Struct, frozen=True):
    """What a model's owner allows; ``None`` is no limit.

    Attributes:
        serving: whether requests are answered at all.
        max_requests: whole requests in all.
        max_rows: rows in all.
        expires: seconds since the epoch (UTC) from which nothing is accepted any more.
        clients: fingerprints of those who may ask, of the clients that a worker accepts.
        max_rate: requests a minute of one client.
        release: what is done to inputs and scores, under sharing.
    """

    serving: bool = False
    max_requests: int | None = None
    max_rows: int | None = None
    expires: float | None = None
    clients: tuple[str, ...] | None = None
    max_rate: int | None = None
    release: Release = Release()

    def check(self) -> None:
        """Refuse what makes no sense for any model.

        Raises:
            RefusedError: naming the limit.
            InputError: naming the setting of ``release``.
        """
        for limit in (self.max_requests, self.max_rows, self.max_rate):
            if limit is not None and not 1 <= limit < 1 << 53:
                raise RefusedError(f"a limit of {limit}", "Limits are at least 1")
        if self.clients is not None:
            if not 1 <= len(self.clients) <= MAX_CLIENTS:
                raise RefusedError(
                    f"a list of {len(self.clients)} clients", f"Name 1 to {MAX_CLIENTS}"
                )
            for fingerprint in self.clients:
                check_fingerprint(fingerprint)
        if self.expires is not None and not 0 < self.expires < 1e12:
            raise RefusedError("an expiry that is not a time", "Give seconds since the epoch")
        self.release.check()


def check_fingerprint(fingerprint: str) -> None:
    """Refuse what is not the fingerprint of a public key.

    Raises:
        RefusedError: if it is not.
    """
    if not _FINGERPRINT.fullmatch(fingerprint):
        raise RefusedError(
            "an identity that is not a fingerprint of 64 hexadecimal digits",
            "`tercet keygen` prints it",
        )


class Failure(msgspec.Struct, frozen=True):
    """An error on its way to the caller: the class of exception, what happened, what to do."""

    kind: str
    message: str
    remedy: str


class Prepare(msgspec.Struct, frozen=True):
    """Owner: store my share of version ``version`` of ``name``, not yet visible."""

    id: bytes
    name: str
    version: int
    program: bytes
    weights: tuple[Summand, Summand]
    public: dict[str, bytes] = {}


class Commit(msgspec.Struct, frozen=True):
    """Owner: the prepared model ``id`` stands under its name and version from now on."""

    id: bytes


class Change(msgspec.Struct, frozen=True):
    """Owner: serve ``name`` under ``policy``, with counts afresh; or ``stop`` or ``remove`` it.

    ``name@version`` is that one. A bare name is the newest version to serve, every version that is
    served to stop, every version to remove. The three workers compare it before they act, so that
    they keep the same policy.
    """

    id: bytes
    name: str
    policy: Policy | None = None
    remove: bool = False


class Describe(msgspec.Struct, frozen=True):
    """Anyone accepted: what is ``name``? For its owner also: which version comes next?"""

    name: str


class Description(msgspec.Struct, frozen=True):
    """What a client must know of a model to ask it; equal at all three workers but for counts.

    ``guarded``: with each row comes one bit, whether a value left its window.
    ``used`` counts are durable and start afresh with each policy. ``answered`` counts what this
    worker has answered since it started; ``running`` what it has counted and not answered yet.
    ``program_digest`` and ``output_shape`` are those of the program that runs, as ``policy`` makes
    it of the shared one; ``input_scale`` is 0 if it takes whole numbers. ``policy.clients`` names
    the reader alone unless it is the owner.
    ``fault`` says why this worker cannot use its shares, if it cannot.
    """

    id: bytes
    name: str
    version: int
    owner: str
    program_digest: str
    input_shape: Shape
    output_shape: Shape
    scale: int
    input_scale: int
    policy: Policy
    used_requests: int = 0
    used_rows: int = 0
    guarded: bool = False
    fault: str = ""
    answered: int = 0
    running: int = 0

    @property
    def full_name(self) -> str:
        """Return ``owner/name@version``."""
        return f"{self.owner}/{self.name}@{self.version}"


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


class Contribution(msgspec.Struct, frozen=True):
    """What a stored sharing is, without its shares: equal at all three workers.

    Attributes:
        id: 16 random bytes of its owner, never used again.
        name: what its owner calls it.
        tensors: the arrays in it.
        rows: the first extent of every array, if they are rows; else 0.
        order: digest of the public ids of the rows, in order; empty if rows have none.
    """

    id: bytes
    name: str
    tensors: dict[str, Tensor]
    rows: int = 0
    order: bytes = b""


class Deposit(msgspec.Struct, frozen=True):
    """Owner: store my share of ``contribution``, not yet visible."""

    contribution: Contribution
    shares: tuple[Summand, Summand]


class Discard(msgspec.Struct, frozen=True):
    """Owner: delete the sharing that I call ``name``, if there is one."""

    name: str


class Deposited(msgspec.Struct, frozen=True):
    """A stored sharing, its owner (name and fingerprint), and the digest of all that."""

    contribution: Contribution
    owner: str
    owner_key: str
    digest: bytes
    created: float = 0.0

    @property
    def full_name(self) -> str:
        """Return ``owner/name``."""
        return f"{self.owner}/{self.contribution.name}"


class Propose(msgspec.Struct, frozen=True):
    """Anyone accepted: keep this document (``terms.Terms``, encoded) for its parties to sign."""

    document: bytes


class Sign(msgspec.Struct, frozen=True):
    """A party of agreement ``digest``: I stand by it or, with ``withdraw``, do not any more.

    ``signature`` is over the digest, for the purpose ``agreement`` or ``withdrawal``.
    """

    digest: bytes
    signature: bytes
    withdraw: bool = False


class Show(msgspec.Struct, frozen=True):
    """Anyone accepted: how do my agreements stand? ``digest``: this one alone."""

    digest: bytes = b""


class Agreed(msgspec.Struct, frozen=True):
    """An agreement as one worker holds it.

    ``signed`` and ``withdrawn`` are fingerprints of those who signed and of those who withdrew:
    it holds once all signers of ``document`` are in ``signed``, as long as nobody withdrew.
    """

    digest: bytes
    document: bytes
    proposer: str
    signed: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    created: float = 0.0


class Line(msgspec.Struct, frozen=True):
    """The line from a worker to ``peer``: seconds there and back, bytes a second to it."""

    peer: str
    latency: float
    bandwidth: float


# Between workers, on their control link.


class TagKey(msgspec.Struct, frozen=True, tag=True):
    """The key of the tags of what we hold in common, while this link stands."""

    key: bytes

    def __repr__(self) -> str:
        return "TagKey(<secret>)"


class Offer(msgspec.Struct, frozen=True, tag=True):
    """I have received ``id``; ``binding`` is what was asked, ``digest`` our common summand's.

    ``tag`` is what only the third worker can check: of the summand that I hold in common with it.
    """

    id: bytes
    binding: bytes
    digest: bytes
    nonce: bytes
    tag: bytes


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


class Held(msgspec.Struct, frozen=True):
    """A model as one worker holds it: ``change`` is the latest change of policy that it applied."""

    id: bytes
    committed: bool
    digest: str
    change: bytes
    used_requests: int
    used_rows: int


class Inventory(msgspec.Struct, frozen=True, tag=True):
    """All models that I hold, prepared ones too."""

    models: list[Held]


class CountedRequest(msgspec.Struct, frozen=True):
    """A request that was counted for a model, by its client's fingerprint."""

    id: bytes
    client: str
    rows: int


class Counted(msgspec.Struct, frozen=True, tag=True):
    """The latest requests that I counted for ``model`` since ``change``."""

    model: bytes
    change: bytes
    requests: list[CountedRequest]


class Ping(msgspec.Struct, frozen=True, tag=True):
    """Answer with the same number; ``load`` takes its time on the line."""

    number: int
    load: bytes


class Pong(msgspec.Struct, frozen=True, tag=True):
    """Your ping has come."""

    number: int


class Leave(msgspec.Struct, frozen=True, tag=True):
    """I stop, and take no more requests: say when you have answered those that were counted."""


class Farewell(msgspec.Struct, frozen=True, tag=True):
    """I need you no more."""


PeerMessage = (
    TagKey
    | Offer
    | Withdraw
    | Run
    | Accepted
    | Inventory
    | Counted
    | Ping
    | Pong
    | Leave
    | Farewell
    | TrainSteps
    | FinishTraining
    | Standing
    | SumMessage
)


# Between the two processes of one worker.


class Load(msgspec.Struct, frozen=True, tag=True):
    """Control: run ``program`` on this model's shares, whose file must have these digests."""

    model: bytes
    program: bytes
    path: str
    digests: ShareDigests


class Unload(msgspec.Struct, frozen=True, tag=True):
    """Control: forget this model, or the training of this agreement."""

    model: bytes


class Job(msgspec.Struct, frozen=True, tag=True):
    """Control: run a model on a batch of agreed and counted requests."""

    number: int
    model: bytes
    digest: str
    nonces: tuple[bytes, bytes, bytes]
    requests: list[tuple[int, tuple[Summand, Summand]]]


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Control: a job that the peers may have started will not run here: tell them at once."""

    digest: str
    nonces: tuple[bytes, bytes, bytes]
    reason: str


class Void(msgspec.Struct, frozen=True, tag=True):
    """Control: a peer was lost: it knows nothing of jobs that have not begun here."""


class Done(msgspec.Struct, frozen=True, tag=True):
    """Data plane: the parts of a job, in order; ``saved`` is recognised by these digests."""

    number: int
    parts: list[OutputPart]
    seconds: float
    bytes_sent: int
    rounds: int
    saved: ShareDigests | None = None


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


Command = Load | Unload | Job | TrainJob | Cancel | Void | SumCommand
Event = Done | Failed | Links | Loaded | SumEvent

# Made once: msgspec would work such a union out anew for every message, which takes longer than
# to decode one.
decode_peer_messages = msgspec.msgpack.Decoder(list[PeerMessage]).decode
decode_command = msgspec.msgpack.Decoder(Command).decode
decode_event = msgspec.msgpack.Decoder(Event).decode


def decode(data: bytes | bytearray | memoryview, kind: type[T]) -> T:
    """Return the validated structure in ``data``.

    Raises:
        WorkerError: if it is malformed.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except MALFORMED as error:
        raise WorkerError(
            f"malformed {kind.__name__} message: {error}",
            "Use the same version of Tercet on both sides",
        ) from None


encode = msgspec.msgpack.encode
