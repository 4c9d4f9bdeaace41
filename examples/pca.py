"""Principal components of secret rows, by components that stay secret as well.

    python examples/pca.py

Three workers start on this machine, for trial only.
"""

from __future__ import annotations

import jax
import numpy as np

import tercet


def fit(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (features,) and the first components (features, count) of ``x``."""
    mean = x.mean(0)
    _, _, rows = np.linalg.svd(x - mean, full_matrices=False)
    return mean.astype(np.float32), rows[:count].T.astype(np.float32)


def main() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, (300, 3)) @ rng.normal(0, 1, (3, 20)) + rng.normal(0, 0.1, (300, 20))
    mean, components = fit(x[:250], 3)

    def project(rows: jax.Array) -> jax.Array:
        return (rows - mean) @ components  # captured arrays are secret weights

    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(tercet.trace(project, (20,)), cluster, "components")
        tercet.serve("components", cluster, max_rows=50)
        with tercet.connect(cluster) as client:
            private = client.predict("components", x[250:])

    plain = (x[250:] - mean) @ components
    print(f"largest difference from plaintext: {np.abs(private - plain).max():.1e}")
    rest = x[250:] - mean - private @ components.T
    print(f"variance explained: {1 - rest.var() / (x[250:] - mean).var():.3f}")


if __name__ == "__main__":
    main()
