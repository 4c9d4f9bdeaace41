"""Products of something of worker 0 with something of workers 1 and 2.

Worker 0 lends its values: a mask that it shares with worker 1 stays there as worker 1's copy, and
the masked value goes to worker 2 as its copy; the two copies add up to the value and neither
tells anything of it. Each of the two applies the same linear form, whose coefficients both know,
to its copy and returns the result to worker 0 under a mask of the pair. What was returned by
worker 1 and by worker 2, and the sum of the masks, negated, are the three summands of a
replicated sharing. Two rounds for any number of products.
"""

from __future__ import annotations


def low_words(size: int, bits: int) -> int:
    """Return the number of uint64 in which ``size`` values of ``bits`` bits travel."""
    return -(-size * bits // 64)
