"""One table of rules: for each JAX primitive how it becomes instructions.

A rule is called only if an operand is secret; what depends on known values alone is evaluated
(``known.py``). To support another primitive, write its rule and add a row.
"""

from __future__ import annotations

from tercet.frontend.rules.arithmetic import ARITHMETIC
from tercet.frontend.rules.comparing import COMPARING
from tercet.frontend.rules.functions import FUNCTIONS
from tercet.frontend.rules.indexing import INDEXING
from tercet.frontend.rules.ordering import ORDERING
from tercet.frontend.rules.products import PRODUCTS
from tercet.frontend.rules.rule import Rule
from tercet.frontend.rules.shaping import SHAPING
from tercet.frontend.rules.windows import WINDOWS

RULES: dict[str, Rule] = {
    **ARITHMETIC,
    **COMPARING,
    **FUNCTIONS,
    **INDEXING,
    **ORDERING,
    **PRODUCTS,
    **SHAPING,
    **WINDOWS,
}

__all__ = ["RULES", "Rule"]
