"""What crosses between clients, workers and their processes for training, as typed structures."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from tercet.program.types import Shape
from tercet.protocol.replicated.sharing import OutputPart


class ShareDigests(msgspec.Struct, frozen=True):
    """SHA-256 of a stored sharing: of this worker's two summands and of the public arrays."""

    first: bytes
    second: bytes
    public: bytes


class Tensor(msgspec.Struct, frozen=True):
    """Shape and fractional bits of a shared array."""

    shape: Shape
    scale: int


class File(msgspec.Struct, frozen=True):
    """A stored sharing: its file, the id in it, its digests and the arrays that it holds."""

    path: str
    id: bytes
    digests: ShareDigests
    tensors: dict[str, Tensor]


class Position(NamedTuple):
    """A state of a training: after ``step`` steps, the last of them in chunk ``chunk``.

    Steps that are repeated give other shares of (nearly) the same numbers: only states with the
    same chunk belong together.
    """

    step: int
    chunk: bytes


class Attach(msgspec.Struct, frozen=True):
    """A party of agreement ``digest``: these are the programs (``package.Package``) it names."""

    digest: bytes
    package: bytes


class Ask(msgspec.Struct, frozen=True):
    """A party of agreement ``digest``: run it, cancel it, open its model, tell how it stands.

    ``since``: tell only metrics of steps after it.
    """

    digest: bytes
    since: int = 0


class Fetched(msgspec.Struct, frozen=True):
    """This worker's parts of the trained weights, in the order of ``tensors``."""

    tensors: dict[str, Tensor]
    parts: list[OutputPart]


class Metric(msgspec.Struct, frozen=True):
    """This worker's part of a metric's sum over the rows of steps ``first`` to before ``last``."""

    name: str
    scale: int
    first: int
    last: int
    chunk: bytes
    part: OutputPart


class Progress(msgspec.Struct, frozen=True):
    """How a training stands at one worker.

    Attributes:
        status: ``proposed`` (not run yet), ``running``, ``cancelled``, ``stopped`` (something
            refused to go on: ``message``) or ``done``.
        message: why, if it does not run.
        step: steps done.
        steps: steps in all.
        seconds: that a step took lately; 0 if none ran since this worker started.
        checkpoint: steps at the last checkpoint.
        metrics: parts of those that the agreement opens.
        model: label of the trained model, if it is shared.
    """

    status: str
    message: str
    step: int
    steps: int
    seconds: float = 0.0
    checkpoint: int = 0
    metrics: list[Metric] = []
    model: str = ""


# Between workers, on their control link.


class TrainSteps(msgspec.Struct, frozen=True, tag=True):
    """From worker 0: take ``steps`` steps of the training ``agreement`` from ``start`` on."""

    id: bytes
    agreement: bytes
    start: Position
    steps: int

    @property
    def model(self) -> bytes:
        """What steps may be joined with: nothing but others of this training."""
        return self.agreement

    @property
    def rows(self) -> int:
        """So many that no two chunks are joined."""
        return 1 << 20


class FinishTraining(msgspec.Struct, frozen=True, tag=True):
    """From worker 0: the training has come to its end; its model is ``version`` of its name."""

    id: bytes
    agreement: bytes
    end: Position
    version: int


class Standing(msgspec.Struct, frozen=True, tag=True):
    """How a training stands here, and the states that I hold of it."""

    agreement: bytes
    status: str
    held: list[Position]


# Between the two processes of one worker.


class TrainJob(msgspec.Struct, frozen=True, tag=True):
    """Control: take some steps of a training.

    Attributes:
        number: of the job.
        agreement: digest of the agreement.
        package: its programs, encoded; empty if the data plane should have them.
        digest: of the training in it.
        nonces: of the session.
        start: where from: the data plane has that state, or finds it in ``state``.
        state: the file of ``start``, if there is one.
        chunk: id of this chunk: the new state's.
        steps: how many.
        seed: the training's public seed.
        opened: metrics to open.
        last: whether the training ends with it.
        data: the contributions.
        columns: whether they are columns of the same rows.
        save: path of a checkpoint to write; empty for none.
    """

    number: int
    agreement: bytes
    package: bytes
    digest: str
    nonces: tuple[bytes, bytes, bytes]
    start: Position
    state: File | None
    chunk: bytes
    steps: int
    seed: bytes
    opened: tuple[str, ...]
    last: bool
    data: list[File]
    columns: bool
    save: str = ""
