"""The output: a share at the program's scale, freshly re-randomised.

A truncation leaves summands that are not uniform given the value: its third summand keeps bits
of v, the summand that it split off, and from v and the result follow the rounding, hence
something of the low bits of the untruncated value, which the receiver of a prediction has no
business to learn. A resend makes the three summands uniform but for their sum, and a truncation
can do the same by itself (``truncate_fresh``).
"""

from __future__ import annotations

from tercet.errors import ProgramError
from tercet.program.passes.rewrite import Array, Arrays, Rewrite, count_uses, definition
from tercet.program.program import Program
from tercet.program.types import Form


def finish_output(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with each output at scale f and made by ``reshare`` or ``truncate_fresh``.

    Raises:
        ProgramError: if an output is public or a bit.
    """
    rewrite = Rewrite(program, arrays)
    for number, instruction in rewrite.numbered():
        rewrite.values[number] = rewrite.copy(instruction)
    uses = count_uses(program)
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
            value = rewrite.emit(source, "truncate_fresh", value, shift=excess)
        elif excess == 0 and made is not None and made.op == "truncate" and uses[output] == 1:
            value = rewrite.emit(
                source, "truncate_fresh", rewrite.values[made.args[0]], **made.attrs
            )
        else:
            if excess:
                value = rewrite.emit(source, "shift_left", value, bits=-excess)
            if excess or made is None or made.op not in ("reshare", "truncate_fresh"):
                value = rewrite.emit(source, "reshare", value)
        rewrite.values[output] = value
    return rewrite.finish()
