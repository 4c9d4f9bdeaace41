"""Sums of clipped per-example gradients of a JAX function.

``jax.vmap`` of ``jax.grad`` does the work, but for one thing: the gradient of a convolution with
respect to its kernel, per example, becomes a convolution with one group for each example, which
XLA runs slowly on a CPU. It is rewritten as one batched matrix product over image patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Foreign = Any
"""A value of JAX, which has no types here."""


def clipped_sum(
    loss: Callable[..., Foreign],
    parameters: list[Foreign],
    examples: Foreign,
    mask: Foreign,
    clip_norm: Foreign,
) -> list[Foreign]:
    """Return the sum of the clipped gradients of ``loss`` over examples where ``mask`` is true.

    Args:
        loss: ``loss(parameters, example)``, a scalar.
        parameters: arrays to differentiate by.
        examples: a pytree of arrays with a leading axis of examples.
        mask: booleans, one an example; padding is False and adds exactly zero.
        clip_norm: bound C of the L2 norm of one example's gradient over all parameters.

    Returns:
        One array for each parameter. Adding or removing one example moves all of them together by
        C at most in L2 norm (up to rounding), also if its gradient is not finite: it then counts
        as zero.
    """
    import jax
    import jax.numpy as jnp

    gradients = jax.vmap(jax.grad(loss), in_axes=(None, 0))(parameters, examples)
    squares = [jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in gradients]
    norm = jnp.sqrt(sum(squares))
    good = mask & jnp.isfinite(norm)
    factor = jnp.where(good, clip_norm / jnp.maximum(norm, clip_norm), 0.0)

    def total(gradient: Foreign) -> Foreign:
        # 0 * nan is nan: what is left out must be zero before the product.
        kept = jnp.where(good.reshape(-1, *[1] * (gradient.ndim - 1)), gradient, 0.0)
        return jnp.tensordot(factor, kept, 1)

    return [total(g) for g in gradients]
