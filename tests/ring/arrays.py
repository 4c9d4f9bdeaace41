"""Arrays of ring elements for the tests, extreme ones included."""

import numpy as np
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

EXTREMES = np.array([0, 1, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)

# The isa fixture holds for all examples of a test, and an example is not slow because of the data.
relaxed = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def words(seed: int, *shape: int) -> NDArray[np.uint64]:
    """Uniform elements, a quarter of them replaced by extreme ones."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2**64, shape, dtype=np.uint64)
    return np.where(rng.random(shape) < 0.25, rng.choice(EXTREMES, shape), values)
