"""Sign windows: how many bits a comparison looks at, from calibrated ranges.

The tree of a comparison costs in proportion to its bits: 28 instead of 46 saves a third. On a
sample the owner measures how large the values compared get and takes the smallest window that
holds ``MARGIN`` times as much.

What a window tells: it is part of the program, which workers read, so that they learn a coarse
bound (one of a few powers of two) on the activations of the owner's sample at that place. It
depends on nothing that a client sends.

What lies beyond it: a value outside the window gets a sign that means nothing. A ReLU then
returns 0 for a large positive value or lets a large negative one pass, without notice; nobody
learns more by it, but the prediction is wrong. Hence the margin, and hence a sample that looks
like what will be asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from tercet.errors import ProgramError
from tercet.program.checks import RANGE_BITS
from tercet.program.functions import FUNCTION_OPERATIONS
from tercet.program.program import Attribute, Instruction, Program
from tercet.program.verify import verify

#: The widths on offer; few, so that the choice says little about the model.
WINDOWS = (24, 28, 32, 40, 48)
#: How many times the calibrated bound a window holds.
MARGIN = 16
#: Operations that compare a value with 0, and those that compare two values with each other.
DIFFERENCES = frozenset({"maximum", "reduce_max", "max_pool", "softmax", "log_softmax", "sort"})
TRUNCATIONS = frozenset({"truncate", "truncate_fresh"})
SIGNS = frozenset(
    {"relu", "negative", *(o.name for o in FUNCTION_OPERATIONS if "bits" in o.ints)} - DIFFERENCES
)


def narrow(program: Program, bounds: Mapping[int, int]) -> Program:
    """Return ``program`` with the windows of its comparisons set.

    Args:
        program: a lowered program.
        bounds: for the number of an instruction (0 for the first) the largest absolute value that
            it compares, in units of the last place after its shift. An instruction without a
            bound keeps its window.

    Raises:
        ProgramError: if a bound names something else than a comparison.
    """
    instructions = list(program.instructions)
    for number, bound in bounds.items():
        if (
            not 0 <= number < len(instructions)
            or instructions[number].op not in SIGNS | DIFFERENCES
        ):
            raise ProgramError(
                f"a calibrated range for instruction {number}, which compares nothing",
                "Calibrate the program that is narrowed",
            )
        made = instructions[number]
        attrs: dict[str, Attribute] = {**made.attrs, "bits": window(made, bound)}
        instructions[number] = msgspec.structs.replace(made, attrs=attrs)
    result = msgspec.structs.replace(program, instructions=tuple(instructions))
    verify(result)
    return result


def window(instruction: Instruction, bound: int) -> int:
    """Return the bits for a comparison of values up to ``bound``.

    A difference of two values is twice as large as they are. At most the whole range is taken.
    """
    shift = instruction.attrs.get("shift", 0)
    assert isinstance(shift, int)
    widest = RANGE_BITS - shift
    largest = bound * MARGIN * (2 if instruction.op in DIFFERENCES else 1)
    fitting = (bits for bits in WINDOWS if largest < 1 << (bits - 1))
    return min(next(fitting, widest), widest)
