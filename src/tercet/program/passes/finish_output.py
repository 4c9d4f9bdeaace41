"""The output: a share at the program's scale, freshly re-randomised.

A truncation leaves summands that are not uniform given the value: its third summand keeps bits
of v, the summand that it split off, and from v and the result follow the rounding, hence
something of the low bits of the untruncated value, which the receiver of a prediction has no
business to learn. One resend makes the three summands uniform but for their sum.
"""

from __future__ import annotations

from tercet.errors import ProgramError
from tercet.program.passes.rewrite import Array, Arrays, Rewrite, definition
from tercet.program.program import Program
from tercet.program.types import Form


def finish_output(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with each output at scale f and made by a ``reshare``.

    Raises:
        ProgramError: if an output is public or a bit.
    """
    rewrite = Rewrite(program, arrays)
    for number, instruction in rewrite.numbered():
        rewrite.values[number] = rewrite.copy(instruction)
    for output in program.outputs:
        made, kind = definition(program, output), program.type_of(output)
        source = made.source if made else ""
        if kind.form not in (Form.SHARE, Form.PARTIAL):
            raise ProgramError(
                f"the model's output is {kind}, not a secret number",
                "Return something that depends on the input of the client, not a comparison",
            )
        value, excess = rewrite.values[output], kind.scale - program.scale
        if excess > 0:
            value = rewrite.emit(source, "truncate", value, shift=excess)
        elif excess < 0:
            value = rewrite.emit(source, "shift_left", value, bits=-excess)
        if excess or made is None or made.op != "reshare":
            value = rewrite.emit(source, "reshare", value)
        rewrite.values[output] = value
    return rewrite.finish()
