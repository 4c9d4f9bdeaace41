"""Model inversion: the image that a model takes most for a class (Fredrikson et al., CCS 2015)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tercet.errors import InputError


def invert(
    model: Any,
    classes: int,
    *,
    steps: int = 200,
    rate: float = 0.05,
    smoothness: float = 2e-3,
    size: float = 1e-3,
) -> NDArray[np.float32]:
    """Return one image a class: gradient ascent on its log-probability under a simple prior.

    Args:
        model: a Keras classifier on the JAX backend with inputs (n, height, width, channels) in
            [0, 1].
        classes: number of classes.
        steps: steps of Adam, from a grey image.
        rate: its learning rate.
        smoothness: weight of the total variation.
        size: weight of the squared norm.

    Returns:
        Images of shape (classes, height, width, channels), in [0, 1].

    Raises:
        InputError: the model does not take images.
    """
    import jax
    import jax.numpy as jnp

    shape = model.input_shape[1:]
    if len(shape) != 3 or None in shape:
        raise InputError(f"inputs of shape {shape} are no images", "Invert image models only")
    weights = [jnp.array(v.value) for v in model.trainable_variables]
    fixed = [jnp.array(v.value) for v in model.non_trainable_variables]
    gives_probabilities = "softmax" in str(getattr(model.layers[-1], "activation", ""))

    def objective(images: Any) -> Any:
        out, _ = model.stateless_call(weights, fixed, images)
        scores = jnp.log(out + 1e-9) if gives_probabilities else jax.nn.log_softmax(out)
        down, right = jnp.diff(images, axis=1), jnp.diff(images, axis=2)
        prior = smoothness * (jnp.abs(down).sum() + jnp.abs(right).sum())
        return jnp.trace(scores) - prior - size * jnp.square(images).sum()

    gradient = jax.jit(jax.grad(objective))
    images = jnp.full((classes, *shape), 0.5)
    first = second = jnp.zeros_like(images)
    for step in range(1, steps + 1):
        slope = gradient(images)
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        move = (first / (1 - 0.9**step)) / (jnp.sqrt(second / (1 - 0.999**step)) + 1e-8)
        images = jnp.clip(images + rate * move, 0, 1)
    return np.asarray(images, np.float32)
