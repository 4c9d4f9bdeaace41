"""What crosses for secure aggregation: participants, server, the three workers, the data plane."""

from __future__ import annotations

import msgspec

from tercet.protocol.replicated.sharing import OutputPart

# Between participants or the server and a worker.

#: Bytes of the length (little-endian) before the head of a contribution.
HEAD_BYTES = 4


class Contribute(msgspec.Struct, frozen=True):
    """Participant: the head of a contribution to round ``round`` of an agreement.

    ``seeds`` are this worker's two summands where they are seeds; the empty one follows the head
    as an array of ring elements (little-endian), which the worker reads when its turn has come.
    """

    id: bytes
    agreement: bytes
    round: int
    seeds: tuple[bytes, bytes]

    def __repr__(self) -> str:
        return "Contribute(<secret>)"


class AskSum(msgspec.Struct, frozen=True):
    """Server: close round ``round`` and give me your part of its sum.

    ``participants`` are fingerprints, ascending, of those who were to contribute; ``awaited`` of
    those among them for whom the round waits.
    """

    id: bytes
    agreement: bytes
    round: int
    participants: tuple[str, ...]
    awaited: tuple[str, ...]


class Told(msgspec.Struct, frozen=True):
    """A worker's part of a sum, and whose it is: equal at all three but for ``part``."""

    part: OutputPart
    contributors: tuple[str, ...]
    dropped: tuple[tuple[str, str], ...]


# Between workers, on their control link. ``epoch`` tells apart the attempts at one round: 16
# random bytes of worker 0. ``number`` counts what worker 0 announces of an epoch.


class Turn(msgspec.Struct, frozen=True, tag=True):
    """From worker 0: take in the body of contribution ``id`` now."""

    id: bytes


class Ready(msgspec.Struct, frozen=True, tag=True):
    """To worker 0: I hold contribution ``id``, and its summands are those of my peers."""

    id: bytes


class Fold(msgspec.Struct, frozen=True, tag=True):
    """From worker 0: check these contributions, ready at all three, and add those that pass."""

    agreement: bytes
    round: int
    epoch: bytes
    number: int
    ids: list[bytes]


class Close(msgspec.Struct, frozen=True, tag=True):
    """From worker 0: the round is over for request ``id``: sign its record."""

    agreement: bytes
    round: int
    epoch: bytes
    number: int
    id: bytes


class Signed(msgspec.Struct, frozen=True, tag=True):
    """My signature of a round's record (its digest) and of the summands that we two hold."""

    epoch: bytes
    record: bytes
    summands: bytes
    signature: bytes


class Holding(msgspec.Struct, frozen=True, tag=True):
    """What I have of the round that request ``id`` asks for, before (0) or after (1) its close.

    ``record`` is empty without a stored sum; ``summand`` is the digest of our common one.
    ``opened``: all three had stored it, and I may have given my part away.
    """

    id: bytes
    stage: int
    record: bytes
    summand: bytes
    opened: bool


class Restart(msgspec.Struct, frozen=True, tag=True):
    """I have let go of this attempt at a round: nothing of it is opened any more."""

    epoch: bytes


SumMessage = Turn | Ready | Fold | Close | Signed | Holding | Restart


# Between the two processes of one worker.


class SumDigests(msgspec.Struct, frozen=True):
    """Digests (``sharing.output_digest``) of this worker's two summands of a stored sum."""

    first: bytes
    second: bytes


class FoldJob(msgspec.Struct, frozen=True, tag=True):
    """Control: check these contributions of an epoch, and add those that pass.

    ``seeds`` are this worker's two summands of each; where one is empty, its ring elements lie in
    the shared memory, at the next of ``places``.
    """

    number: int
    epoch: bytes
    position: int
    digest: str
    nonces: tuple[bytes, bytes, bytes]
    words: int
    bound: int
    heaviest: int
    seeds: list[tuple[bytes, bytes]]
    places: list[int]

    def __repr__(self) -> str:
        return f"FoldJob({self.number}, <secret>)"


class FinishJob(msgspec.Struct, frozen=True, tag=True):
    """Control: add noise to the sum of an epoch and store it, durably, in file ``path``."""

    number: int
    epoch: bytes
    position: int
    digest: str
    nonces: tuple[bytes, bytes, bytes]
    words: int
    variance: int
    path: str


class DrawNoise(msgspec.Struct, frozen=True, tag=True):
    """Control: rounds of this size are to come: draw the noise of the next one ahead."""

    words: int
    variance: int


class DropSum(msgspec.Struct, frozen=True, tag=True):
    """Control: forget the sum of an epoch."""

    epoch: bytes


class Folded(msgspec.Struct, frozen=True, tag=True):
    """Data plane: whether each contribution of a job passed."""

    number: int
    passed: list[bool]


class Finished(msgspec.Struct, frozen=True, tag=True):
    """Data plane: a sum is stored."""

    number: int
    digests: SumDigests


SumCommand = FoldJob | FinishJob | DrawNoise | DropSum
SumEvent = Folded | Finished
