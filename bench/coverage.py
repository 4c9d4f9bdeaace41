"""Writes ``docs/coverage.md``: which Keras layers, PyTorch modules and JAX primitives run.

python -m bench.coverage
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Protocol

from tercet.frontend.aten import OPERATIONS
from tercet.frontend.hints import HINTS, describe
from tercet.frontend.rules import RULES

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"

#: Rules of these names are no primitives: the frontend recognises or makes them.
_OWN = {
    "gelu", "gelu_tanh", "silu", "softplus", "mish", "softmax", "log_softmax", "scan_row",
    "scan_stack",
}  # fmt: skip
#: Primitives whose result is approximated, to the error in functions.md.
_APPROXIMATED = {
    "div", "erf", "erfc", "exp", "exp2", "expm1", "log", "log1p", "logistic", "pow", "rsqrt",
    "sqrt", "tanh",
}  # fmt: skip

#: Hints for what is no primitive of JAX.
_NOT_JAX = {"dtype", "scan", "to_integer", "topk", "rand", "rand_like", "randn_like"}


class Case(Protocol):
    """What both tables state of a row."""

    error: float
    note: str
    approximated: bool


_HEAD = """\
# What runs

Written by `python -m bench.coverage`; a test holds it to the code. A model runs if every primitive
that its trace applies to secret values has a rule, so a layer of one's own needs no registration;
`tercet check MODEL` tells. "Yes" means exact but for fixed-point rounding; "approximated" means
that a function of [functions.md](functions.md) is among its operations.

Models are of float32 and of whole numbers. Weights, declared inputs and arithmetic in float64,
float16, bfloat16 or complex numbers, and strings, are refused before sharing, with the layer or
argument. What is asked about, and samples, may be any real numbers of NumPy: they are converted.

## Keras layers

Each row is one test (`tests/coverage`): random weights and inputs, f = 16, the largest error
relative to the spread of the output (at least 1).

| layer | runs | error below |
|---|---|---|
"""

_TORCH = """
## PyTorch modules

Each row is one test, as above. A module comes through `torch.export`, live or as a .pt2 file.

| module | runs | error below |
|---|---|---|
"""

_ATEN = """
### ATen operations

What is not here is taken apart by PyTorch's own decompositions, and refused by name if something
is left.

"""

_PRIMITIVES = """
## JAX primitives

For plain functions (`tercet.trace`), and under everything above.

| primitive | runs | what to do instead |
|---|---|---|
"""


def page() -> str:
    """Return the text of the page."""
    # Keras runs on what is chosen before it is imported.
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from tests.coverage import cases, torch_cases

    lines = [_HEAD, *map(_row, cases.CASES.items())]
    lines += [_TORCH, *map(_row, torch_cases.CASES.items())]
    names = sorted({name.partition(".")[0] for name in OPERATIONS})
    lines += [_ATEN, textwrap.fill(", ".join(names), 100), "\n", _PRIMITIVES]
    for name in sorted(set(RULES) - _OWN):
        lines.append(f"| {name} | {'approximated' if name in _APPROXIMATED else 'yes'} | |\n")
    lines.append("| scan | yes, unrolled | |\n")
    for name in sorted(set(HINTS) - set(RULES) - _NOT_JAX):
        readable, remedy = describe(name)
        lines.append(f"| {readable} | no | {remedy} |\n")
    return "".join(lines)


def _row(case: tuple[str, Case]) -> str:
    name, row = case
    runs = "approximated" if row.approximated else "yes"
    note = f" ({row.note})" if row.note else ""
    return f"| {name} | {runs}{note} | {row.error:g} |\n"


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
