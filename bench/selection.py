"""What goes by the order of numbers: which operations, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tercet.function.lookup import lookup
from tercet.function.maximum import reduce_max
from tercet.function.sort import sort
from tercet.function.top import argmax, top_k
from tercet.protocol.base import Protocol, Share
from tercet.protocol.counting import Counting, count_rounds, zeros
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.protocol.rounds import Steps

#: Rows on which a cost is counted.
ROWS = 64
#: Numbers of a row.
COUNTS = (10, 100, 1000)


@dataclass(frozen=True)
class Selection:
    """An operation over the last axis of its argument."""

    name: str
    run: Callable[[Protocol, Share], Steps[Share]]
    gives: str
    domain: str


_PACKED = "\\|x\\| < 2^(60-w) - 1 units, n <= 2^w <= 65,536"

SELECTIONS: Sequence[Selection] = (
    Selection(
        "max, min",
        lambda p, x: reduce_max(p, x, (1,), 62, "f"),
        "values",
        "\\|x\\| < 2^(b-2) units",
    ),
    Selection(
        "argmax, argmin", lambda p, x: argmax(p, x, 1, 16, "f"), "place of the first", _PACKED
    ),
    Selection(
        "top-k, k = 5",
        lambda p, x: top_k(p, x, 5, 16, "f"),
        "values and places, falling",
        f"{_PACKED}; k <= 100 above n = 4,096",
    ),
    Selection("sort", lambda p, x: sort(p, x, 1, 62, "f"), "values", "as max; n <= 4,096"),
    Selection(
        "argsort",
        lambda p, x: top_k(p, x, x.shape[1], 16, "f"),
        "places, or values and places; stable",
        f"{_PACKED}; n <= 4,096",
    ),
)


def cost(selection: Selection, count: int) -> tuple[float, int]:
    """Return kilobytes a row and rounds at 16 fractional bits."""
    counting = Counting(ReplicatedCost())
    rounds = count_rounds(selection.run(counting, Share((zeros((ROWS, count)),))))
    return counting.bytes / ROWS / 1e3, rounds


#: Rows and width of tables.
TABLES = ((100, 16), (4_096, 64), (30_522, 64), (30_522, 768), (262_144, 64))
#: Places that are looked up at once.
PLACES = 128


def lookup_cost(count: int, width: int) -> tuple[float, int]:
    """Return kilobytes a place and rounds at 16 fractional bits."""
    counting = Counting(ReplicatedCost())
    index, table = Share((zeros((1, PLACES)),)), Share((zeros((count, width)),))
    rounds = count_rounds(lookup(counting, index, table, 0, 16, 62, "f"))
    return counting.bytes / PLACES / 1e3, rounds


_HEAD = """
## By the order of numbers

All exact, along one axis, of equal numbers the first: what NumPy's stable sort gives. Places are
secret whole numbers, which a lookup, a comparison, arithmetic or the output may take; they are not
divided. KB a row between the workers and rounds, for rows of 10, 100 and 1,000 numbers and 64 rows
(b = 62; narrowed where "b" stands in the domain). Beyond the domain, which reaches 2^24 at f = 20
and 65,536 numbers, what is found is another number than the largest, and its place.

| operation | gives | domain | KB | rounds |
|---|---|---|---|---|
"""

_TAIL = """
Refused by name: several sort keys, sorting one array along another, running maxima, ranking the
rows of a batch. The network is Batcher's; of top-k and argmax only the part that the answer needs
is run, on numbers that carry their place in bits below the last one.
"""


_LOOKUPS = """
## Lookups at secret places

Exact; in a table of up to 262,144 rows, or in one for each row of the batch (take_along_axis). A
place below 0 or beyond the table counts as its first or last row, but for what a framework does
with negative places before. A place in n rows is spelled by two one-hot vectors of A and B
entries, A B >= n: the first takes B neighbouring rows out of the table, the second one of them.
Bytes a place: 33 (A + B) for the products of bits and numbers and 24 B w for the resend, w the
width; B is the power of two that makes them least. Each place costs n w multiply-adds, as an
embedding by one-hot vectors does. Beside a copy of the table, no array is larger than A or B w for
each place.

| table | KB a place | rounds |
|---|---|---|
"""


def section() -> str:
    """Return the section of the page."""
    lines = [_HEAD]
    for selection in SELECTIONS:
        costs = [cost(selection, n) for n in COUNTS]
        lines.append(
            f"| {selection.name} | {selection.gives} | {selection.domain} "
            f"| {' / '.join(f'{c:.3g}' for c, _ in costs)} "
            f"| {' / '.join(str(r) for _, r in costs)} |\n"
        )
    lines += [_TAIL, _LOOKUPS]
    for count, width in TABLES:
        sent, rounds = lookup_cost(count, width)
        lines.append(f"| {count:,} x {width} | {sent:.3g} | {rounds} |\n")
    return "".join(lines)
