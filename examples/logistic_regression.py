"""A risk score by logistic regression: the hospital learns no weights, the owner no patients.

    python examples/logistic_regression.py

Three workers start on this machine, for trial only. A weight may be an argument of the function,
as here, or an array that it captures: both are secret.
"""

from __future__ import annotations

import jax
import numpy as np

import tercet


def fit(x: np.ndarray, y: np.ndarray, steps: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and intercept by Newton's method, ridge 1."""
    design = np.hstack([x, np.ones((len(x), 1))])
    w = np.zeros(design.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-design @ w))
        gradient = design.T @ (p - y) + w
        hessian = (design.T * (p * (1 - p))) @ design + np.eye(len(w))
        w -= np.linalg.solve(hessian, gradient)
    return w[:-1].astype(np.float32), w[-1:].astype(np.float32)


def probability(x: jax.Array, w: jax.Array, b: jax.Array) -> jax.Array:
    """Return the probability of class 1, (rows, 1)."""
    return jax.nn.sigmoid(x @ w[:, None] + b)


def main() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (600, 12))
    y = (x @ rng.normal(0, 1, 12) + rng.normal(0, 1, 600) > 0).astype(float)
    w, b = fit(x[:500], y[:500])

    model = tercet.trace(probability, (12,), w, b)
    with tercet.LocalCluster(quiet=True) as cluster:
        tercet.share(model, cluster, "risk", sample=x[:100])
        tercet.serve("risk", cluster, max_rows=100)
        with tercet.connect(cluster) as client:
            private = client.predict("risk", x[500:])[:, 0]

    plain = np.asarray(probability(x[500:], w, b))[:, 0]
    print(f"largest difference from plaintext: {np.abs(private - plain).max():.1e}")
    print(f"accuracy: {np.mean((private > 0.5) == y[500:]):.3f}")


if __name__ == "__main__":
    main()
