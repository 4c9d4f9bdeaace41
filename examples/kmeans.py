"""Which cluster a secret row belongs to: its number is released, no distance is.

    python examples/kmeans.py

Three workers start on this machine, for trial only.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import tercet


def fit(x: np.ndarray, count: int, steps: int = 20) -> np.ndarray:
    """Return the centres (count, features) by Lloyd's algorithm."""
    centres = x[:: len(x) // count][:count]
    for _ in range(steps):
        nearest = ((x[:, None] - centres) ** 2).sum(-1).argmin(1)
        centres = np.stack([x[nearest == k].mean(0) for k in range(count)])
    return centres.astype(np.float32)


def nearest(x: jax.Array, centres: jax.Array) -> jax.Array:
    """Return the number of the nearest centre; |x|^2, in every distance, is left out."""
    return jnp.argmin(jnp.sum(centres**2, 1) - 2 * x @ centres.T, 1)


def main() -> None:
    rng = np.random.default_rng(3)
    middles = rng.normal(0, 3, (4, 6))
    x = np.concatenate([m + rng.normal(0, 0.5, (80, 6)) for m in middles])
    centres = fit(x, 4)
    new = middles[rng.integers(0, 4, 40)] + rng.normal(0, 0.5, (40, 6))

    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(tercet.trace(nearest, (6,), centres), cluster, "segments", sample=x)
        tercet.serve("segments", cluster, max_rows=40)
        with tercet.connect(cluster) as client:
            private = np.asarray(client.predict("segments", new)).reshape(-1)

    plain = ((new[:, None] - centres) ** 2).sum(-1).argmin(1)
    print(f"same cluster as in plaintext: {np.mean(private == plain):.3f}")


if __name__ == "__main__":
    main()
