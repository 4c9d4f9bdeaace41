"""Checking a program that came from outside, before anything of it runs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tercet.errors import ProgramError
from tercet.program.checks import MAX_ELEMENTS, MAX_RANK, MAX_SCALE, multiply_extents
from tercet.program.operations import infer
from tercet.program.program import LANGUAGE_VERSION, MALFORMED, Program, Role
from tercet.program.types import Form, Type

MAX_INSTRUCTIONS = 100_000
MAX_INPUTS = 20_000
MAX_NAME = 200
#: Bytes of an encoded program.
MAX_BYTES = 1 << 26
#: Elements of all weights together.
MAX_WEIGHTS = 1 << 28
PROTOCOLS = ("replicated",)
#: Most characters of what a program says of itself that a message repeats.
_SHOWN = 80

_REMEDY = "Trace and share the model again with this version of Tercet"


def decode(data: bytes) -> Program:
    """Return the verified program in ``data`` (msgpack).

    Raises:
        ProgramError: if the bytes are not a well-formed, well-typed program.
    """
    if len(data) > MAX_BYTES:
        raise ProgramError(f"a program of {len(data)} bytes", f"At most {MAX_BYTES} bytes")
    try:
        program = msgspec.msgpack.decode(data, type=Program)
    except MALFORMED as error:
        raise ProgramError(f"not a program: {error}", _REMEDY) from None
    verify(program)
    return program


def verify(program: Program) -> None:
    """Check that ``program`` is well-formed: known operations, defined arguments, right types.

    It has the client's input and one output a row, and never mixes rows.

    Raises:
        ProgramError: naming the instruction at fault.
    """
    types = verify_body(program, _verify_inputs)
    if not 1 <= len(program.outputs) <= 2:
        raise ProgramError(
            f"program with {len(program.outputs)} outputs",
            "It has one, and the flag of a guard (rows, 1) if it is guarded",
        )
    for output in program.outputs:
        kind = types[output]
        if kind.form is not Form.SHARE or kind.scale != program.scale or kind.shape[:1] != (-1,):
            raise ProgramError(f"output of type {kind}, not a share of a row each", _REMEDY)
    if program.guarded and types[program.outputs[1]].shape != (-1, 1):
        raise ProgramError("the flag of a guard is not one number a row", _REMEDY)


def verify_body(program: Program, verify_inputs: Callable[[Program], None]) -> list[Type]:
    """Check everything but what inputs and outputs are for; return the type of each value.

    Raises:
        ProgramError: naming the instruction at fault.
    """
    if program.version != LANGUAGE_VERSION:
        raise ProgramError(
            f"program in language version {program.version}, not {LANGUAGE_VERSION}", _REMEDY
        )
    if program.protocol not in PROTOCOLS:
        raise ProgramError(
            f"program for protocol {program.protocol[:40]!r}", f"Use one of {', '.join(PROTOCOLS)}"
        )
    if not 1 <= program.scale <= MAX_SCALE // 2:
        raise ProgramError(f"{program.scale} fractional bits", "Use 1 to 24 fractional bits")
    if len(program.instructions) > MAX_INSTRUCTIONS or len(program.inputs) > MAX_INPUTS:
        raise ProgramError("program too long", f"At most {MAX_INSTRUCTIONS} instructions")
    verify_inputs(program)
    types = [i.type for i in program.inputs]
    for number, instruction in enumerate(program.instructions):
        place = f"instruction {number} ({instruction.op[:_SHOWN]})"
        if not all(0 <= a < len(types) for a in instruction.args):
            raise ProgramError(f"{place} uses a value that is not defined before it", _REMEDY)
        try:
            result = infer(instruction.op, [types[a] for a in instruction.args], instruction.attrs)
        except ProgramError as error:
            raise ProgramError(f"{place}: {error.message}", _REMEDY) from None
        if result != instruction.type:
            claimed = str(instruction.type)[:_SHOWN]
            raise ProgramError(f"{place} is {result}, not {claimed}", _REMEDY)
        types.append(result)
    for output in program.outputs:
        if not 0 <= output < len(types):
            raise ProgramError(f"output {output} is not defined", _REMEDY)
    return types


def verify_release(program: Program) -> None:
    """Check that the outputs of a verified program may be released: each is a fresh sharing.

    Only then do the three summands tell their sum and nothing else. A truncation's third summand,
    for one, keeps bits of what was cut off.

    Raises:
        ProgramError: if it does not.
    """
    for output in program.outputs:
        require_resend(program, output)


def require_resend(program: Program, output: int) -> None:
    """Raise unless value ``output`` is the result of a resend, alone or within a truncation."""
    last = output - len(program.inputs)
    if last < 0 or program.instructions[last].op not in ("reshare", "truncate_fresh"):
        raise ProgramError("the output does not end in a resend", _REMEDY)


def _verify_inputs(program: Program) -> None:
    verify_sizes(program)
    if len(program.named(Role.INPUT)) != 1:
        raise ProgramError("a program takes exactly one input from its client", _REMEDY)
    for value in program.inputs:
        shape, form = value.type.shape, value.type.form
        batched = value.role is Role.INPUT
        if value.role not in (Role.INPUT, Role.WEIGHT, Role.PUBLIC):
            raise ProgramError(f"input {value.name!r} of role {value.role}", _REMEDY)
        if form is not (Form.PUBLIC if value.role is Role.PUBLIC else Form.SHARE):
            raise ProgramError(f"input {value.name!r} of form {form}", _REMEDY)
        if (shape[:1] == (-1,)) is not batched or any(d < 0 for d in shape[batched:]):
            raise ProgramError(f"input {value.name!r} of shape {shape}", _REMEDY)


def verify_sizes(program: Program) -> None:
    """Check names, sizes and scales of the inputs of ``program``.

    Raises:
        ProgramError: naming the input at fault.
    """
    names = [i.name for i in program.inputs]
    if len(set(names)) != len(names) or not all(0 < len(n) <= MAX_NAME for n in names):
        raise ProgramError("inputs with empty, overlong or equal names", _REMEDY)
    # First of all: the size of a shape of a million dimensions is a number of megabytes.
    if any(len(i.type.shape) > MAX_RANK for i in program.inputs):
        raise ProgramError(f"an input of more than {MAX_RANK} dimensions", _REMEDY)
    sizes = [multiply_extents(i.type.shape)[0] for i in program.inputs]
    if sum(sizes) > MAX_WEIGHTS:
        raise ProgramError(
            f"{sum(sizes)} weights in all", f"At most {MAX_WEIGHTS} can be shared as one model"
        )
    for value, size in zip(program.inputs, sizes, strict=True):
        if not 0 < size <= MAX_ELEMENTS:
            raise ProgramError(f"input {value.name!r} of shape {value.type.shape}", _REMEDY)
        if not 0 <= value.type.scale <= MAX_SCALE:
            raise ProgramError(f"input {value.name!r} of scale {value.type.scale}", _REMEDY)
