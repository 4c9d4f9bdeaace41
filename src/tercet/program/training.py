"""The step of a training as a program: what lives from step to step, and what each step brings.

A program that trains has a concrete batch size and mixes rows. Its inputs are

* ``STATE``: secret, lives from step to step: weights, optimizer slots, batch norm statistics;
* ``DATA``: secret rows of this step, the batch size first: ``x`` and ``y``;
* ``STEP``: public numbers of this step, which each worker derives by itself (``StepInput``);
* ``NOISE``: what each worker adds to a private sum (``program.private``), its own summand;
* ``PUBLIC``: constants of the architecture.

Its outputs are the new value of every STATE input, in their order, at their scales and shapes (an
unchanged one may be the input itself), then the metrics. A new state is a valid replicated
sharing, fit to be stored and used by the next step; it does not end in a resend, so one comes
before it is released. Metrics end in a resend.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from tercet.errors import ProgramError
from tercet.program.builder import role_form
from tercet.program.private import GRID, MAX_ROOM, PrivateSum
from tercet.program.program import MALFORMED, Input, Program, Role
from tercet.program.types import Form
from tercet.program.verify import MAX_BYTES, require_resend, verify_body, verify_sizes

_REMEDY = "Trace the model again with this version of Tercet"
#: Fractional bits of contributed rows: a float32 in [0, 1) is within 2^-23.
DATA_SCALE = 22
#: Most entries of a table.
MAX_STEPS = 1 << 22
#: Most elements of what a step brings from public data.
MAX_STEP_ELEMENTS = 1 << 26
MAX_METRICS = 64


class Kind(StrEnum):
    """How a public number of a step follows from public data."""

    TABLE = "table"  # values[step], the last one from the end on
    MASK = "mask"  # 1 / keep with probability ``keep``, else 0, from the public seed
    PRESENT = "present"  # 1 for each row that was sampled, then 0 for those that pad the step
    SIGNS = "signs"  # 0 or 2, from what the workers draw once a session's state and rows are fixed


class StepInput(msgspec.Struct, frozen=True):
    """How each worker derives one STEP input by itself.

    Attributes:
        name: the input of the program.
        kind: what it is.
        values: one number a step (TABLE), encoded with the input's scale.
        keep: probability that an element is not zero (MASK).
    """

    name: str
    kind: Kind
    values: tuple[float, ...] = ()
    keep: float = 0.0


class Training(msgspec.Struct, frozen=True):
    """One step, the names of its metrics and how its public numbers are derived.

    ``metrics`` names the outputs after the state: sums over the rows of the batch, at the
    program's scale, of shape ``(1,)``. With ``privacy`` its rows are sampled and its gradients
    clipped and noisy.
    """

    program: Program
    metrics: tuple[str, ...]
    step_inputs: tuple[StepInput, ...]
    privacy: PrivateSum | None = None

    @property
    def batch_size(self) -> int:
        """Rows of a step."""
        return self.program.named(Role.DATA)[0][1].type.shape[0]

    @property
    def checked(self) -> bool:
        """Whether a step checks its rows by random signs."""
        return any(i.kind is Kind.SIGNS for i in self.step_inputs)

    def inputs(self, role: Role) -> tuple[Input, ...]:
        """Return the inputs with ``role``, in order."""
        return tuple(i for _, i in self.program.named(role))

    def digest(self) -> str:
        """Return the hex SHA-256 that agreements name and sessions run under."""
        rest = msgspec.msgpack.encode((self.metrics, self.step_inputs, self.privacy))
        content = b"tercet training\0" + bytes.fromhex(self.program.digest()) + rest
        return hashlib.sha256(content).hexdigest()


def encode_training(training: Training) -> bytes:
    """Return the wire form (msgpack)."""
    return msgspec.msgpack.encode(training)


def decode_training(data: bytes) -> Training:
    """Return the verified training in ``data``.

    Raises:
        ProgramError: if the bytes are not a well-formed, well-typed training.
    """
    if len(data) > 2 * MAX_BYTES:
        raise ProgramError(f"a training of {len(data)} bytes", f"At most {2 * MAX_BYTES} bytes")
    try:
        training = msgspec.msgpack.decode(data, type=Training)
    except MALFORMED as error:
        raise ProgramError(f"not a training: {error}", _REMEDY) from None
    verify_training(training)
    return training


def verify_training(training: Training) -> None:
    """Check that ``training`` is well-formed: roles, types, outputs, and what each step brings.

    Raises:
        ProgramError: naming what is at fault.
    """
    program = training.program
    types = verify_body(program, _verify_inputs)
    states = training.inputs(Role.STATE)
    if len(set(training.metrics)) != len(training.metrics) or len(training.metrics) > MAX_METRICS:
        raise ProgramError(f"{len(training.metrics)} metrics, or equal names", _REMEDY)
    if len(program.outputs) != len(states) + len(training.metrics):
        raise ProgramError(
            f"{len(program.outputs)} outputs for {len(states)} states and "
            f"{len(training.metrics)} metrics",
            _REMEDY,
        )
    for state, output in zip(states, program.outputs, strict=False):
        if types[output] != state.type:
            raise ProgramError(
                f"state {state.name!r} of type {state.type} becomes {types[output]}", _REMEDY
            )
    for output in program.outputs[len(states) :]:
        kind = types[output]
        if kind.form is not Form.SHARE or kind.scale != program.scale or kind.shape != (1,):
            raise ProgramError(f"a metric of type {kind}, not one shared number", _REMEDY)
        require_resend(program, output)
    _verify_step_inputs(training)
    _verify_privacy(training)


def _verify_inputs(program: Program) -> None:
    verify_sizes(program)
    batch = None
    for value in program.inputs:
        shape, form, role = value.type.shape, value.type.form, value.role
        if role not in (Role.STATE, Role.DATA, Role.STEP, Role.NOISE, Role.PUBLIC):
            raise ProgramError(f"input {value.name!r} of role {role} in a training", _REMEDY)
        if form is not role_form(role):
            raise ProgramError(f"input {value.name!r} of form {form}", _REMEDY)
        if any(d < 0 for d in shape):
            raise ProgramError(f"input {value.name!r} with a symbolic batch", _REMEDY)
        if role is Role.DATA:
            if not shape or batch not in (None, shape[0]):
                raise ProgramError(f"input {value.name!r} of another number of rows", _REMEDY)
            batch = shape[0]
    if batch is None or not program.trains:
        raise ProgramError("a training without data or without state", _REMEDY)


def _verify_step_inputs(training: Training) -> None:
    wanted = {i.name: i for i in training.inputs(Role.STEP)}
    given = [i.name for i in training.step_inputs]
    if len(given) != len(wanted) or set(given) != set(wanted):
        raise ProgramError("public numbers of a step without a derivation, or too many", _REMEDY)
    total = 0
    for value in training.step_inputs:
        kind = wanted[value.name].type
        size = 1
        for d in kind.shape:
            size *= d
        total += size
        limit = 2.0 ** (62 - kind.scale)
        if value.kind is Kind.TABLE:
            fits = kind.shape == () and 0 < len(value.values) <= MAX_STEPS
            fits = fits and all(abs(v) < limit for v in value.values)
        elif value.kind is Kind.PRESENT:
            fits = kind.shape == (training.batch_size, 1) and kind.scale == 0
            fits = fits and training.privacy is not None and not value.values
        elif value.kind is Kind.SIGNS:
            fits = kind.scale == 0 and training.privacy is not None and not value.values
        else:
            fits = 0.0 < value.keep <= 1.0 and 1.0 / value.keep < limit and not value.values
        if not fits:
            raise ProgramError(f"the derivation of {value.name!r} does not fit", _REMEDY)
    if total > MAX_STEP_ELEMENTS:
        raise ProgramError(f"{total} public numbers a step", f"At most {MAX_STEP_ELEMENTS}")


def _verify_privacy(training: Training) -> None:
    privacy, noise = training.privacy, training.inputs(Role.NOISE)
    if privacy is None:
        if noise:
            raise ProgramError("noise without a private sum", _REMEDY)
        return
    privacy.check()
    if training.metrics:
        raise ProgramError("a private training with a metric, which has no noise", _REMEDY)
    if training.batch_size > privacy.rows:
        raise ProgramError(f"{training.batch_size} rows of {privacy.rows}", _REMEDY)
    if training.batch_size > MAX_ROOM:
        raise ProgramError(
            f"{training.batch_size} rows in a private step", f"Take at most {MAX_ROOM} rows a step"
        )
    present = [s for s in training.step_inputs if s.kind is Kind.PRESENT]
    if not noise or len(present) != 1 or any(i.type.scale != GRID for i in noise):
        raise ProgramError("a private sum without its noise, or rows not marked", _REMEDY)
    if not training.checked:
        raise ProgramError("rows that are not checked by signs that the workers draw", _REMEDY)
