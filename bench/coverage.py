"""Writes ``docs/coverage.md``: which Keras layers and JAX primitives run.

python -m bench.coverage
"""

from __future__ import annotations

import os
from pathlib import Path

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

_HEAD = """\
# What runs

Written by `python -m bench.coverage`; a test holds it to the code. A Keras model runs if every
primitive that its trace applies to secret values has a rule, so a layer of one's own needs no
registration. "Yes" means exact but for fixed-point rounding; "approximated" means that a function
of [functions.md](functions.md) is among its operations.

## Keras layers

Each row is one test (`tests/coverage`): random weights and inputs, f = 16, the largest error
relative to the spread of the output (at least 1).

| layer | runs | error below |
|---|---|---|
"""


def page() -> str:
    """Return the text of the page."""
    # Keras runs on what is chosen before it is imported.
    os.environ.setdefault("KERAS_BACKEND", "jax")
    from tests.coverage.cases import CASES

    lines = [_HEAD]
    for name, case in CASES.items():
        runs = "approximated" if case.approximated else "yes"
        note = f" ({case.note})" if case.note else ""
        lines.append(f"| {name} | {runs}{note} | {case.error:g} |\n")
    lines.append("\n## JAX primitives\n\n| primitive | runs |\n|---|---|\n")
    for name in sorted(set(RULES) - _OWN):
        lines.append(f"| {name} | {'approximated' if name in _APPROXIMATED else 'yes'} |\n")
    lines.append("| scan | yes, unrolled |\n")
    lines.append("\n## Refused\n\n| primitive | name | what to do instead |\n|---|---|---|\n")
    for name in sorted(set(HINTS) - set(RULES) - {"scan", "to_integer"}):
        readable, remedy = describe(name)
        lines.append(f"| {name} | {readable} | {remedy} |\n")
    return "".join(lines)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page())


if __name__ == "__main__":
    main()
