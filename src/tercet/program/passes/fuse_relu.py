"""A truncation that only a comparison reads is done by the comparison.

``relu`` and ``negative`` take a shift of their own: the sign is read from the bits above the
shift of the untruncated value, exactly the sign of the truncated one, and the truncation runs
beside the tree of the comparison. That saves the two rounds of the truncation.
"""

from __future__ import annotations

from tercet.program.checks import RANGE_BITS
from tercet.program.passes.rewrite import Array, Arrays, Rewrite, count_uses, definition
from tercet.program.program import Program

_COMPARISONS = frozenset({"relu", "negative"})


def fuse_relu(program: Program, arrays: Arrays) -> tuple[Program, dict[str, Array]]:
    """Return ``program`` with each truncation of a single use moved into its comparison."""
    rewrite, uses = Rewrite(program, arrays), count_uses(program)
    for number, instruction in rewrite.numbered():
        if instruction.op in _COMPARISONS:
            (arg,) = instruction.args
            made = definition(program, arg)
            if made is not None and made.op == "truncate" and uses[arg] == 1:
                shift, bits = instruction.attrs["shift"], instruction.attrs["bits"]
                extra = made.attrs["shift"]
                assert isinstance(shift, int) and isinstance(bits, int) and isinstance(extra, int)
                shift += extra
                rewrite.values[number] = rewrite.emit(
                    instruction.source,
                    instruction.op,
                    rewrite.values[made.args[0]],
                    shift=shift,
                    bits=min(bits, RANGE_BITS - shift),
                )
                continue
        rewrite.values[number] = rewrite.copy(instruction)
    return rewrite.finish()
