"""The first request of a shared model beside the next ones.

    python -m bench.first [--json FILE]

Once right after the model was shared, and then after each restart of the workers with the model
in their stores. The first request of a new client includes its TLS connections and its question
what the model is.
"""

from __future__ import annotations

import statistics

import tercet
from bench.common import Part, Target, main, times, trained_digits
from bench.nodes import Nodes

RESTARTS = 3
NEXT = 20


def run() -> Part:
    """Run the benchmark."""
    part = Part("first", "the first request after start and the next, one image")
    model, digits = trained_digits()
    x = digits.x_test[:1]
    with Nodes() as nodes:
        tercet.share(model, nodes.owner_side, "digits", sample=digits.x_train[:256])
        tercet.serve("digits", nodes.owner_side)
        for number in range(RESTARTS + 1):
            if number:
                nodes.stop()
                nodes.start()
            with tercet.connect(nodes.client_side) as client:
                (first,) = times(lambda c=client: c.predict("digits", x), 1, warm=0)  # type: ignore[misc]
                later = times(lambda c=client: c.predict("digits", x), NEXT, warm=0)  # type: ignore[misc]
            part.rows.append(
                {
                    "after": f"restart {number}" if number else "sharing",
                    "first_ms": first * 1e3,
                    "second_ms": later[0] * 1e3,
                    "next_median_ms": statistics.median(later) * 1e3,
                    "first_minus_next_ms": (first - statistics.median(later)) * 1e3,
                }
            )
    worst = max(row["first_minus_next_ms"] for row in part.rows)
    part.targets.append(Target("first request over the next, worst", worst / 1e3, 1, "s"))
    return part


if __name__ == "__main__":
    main(run, __doc__)
