"""Scaled dot-product attention, whole: its softmax is the one of the language."""

from __future__ import annotations

import math

from tercet.frontend.aten.operation import Operation, Refused
from tercet.frontend.foreign import Foreign

#: Where a mask says no: far enough below every score, and held by fixed point.
_MASKED = -1e9


def _attention(
    q: Foreign,
    k: Foreign,
    v: Foreign,
    mask: Foreign | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Foreign:
    """Attend by queries (..., L, E) to keys (..., S, E) and values (..., S, Ev)."""
    import jax
    import jax.numpy as jnp

    if dropout:
        raise Refused("in training mode (export the module after module.eval())")
    if enable_gqa:
        k = jnp.repeat(k, q.shape[-3] // k.shape[-3], -3)
        v = jnp.repeat(v, q.shape[-3] // v.shape[-3], -3)
    factor = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = (q * factor) @ jnp.swapaxes(k, -1, -2)
    if causal:
        mask = jnp.tril(jnp.ones(scores.shape[-2:], bool))
    if mask is not None:
        scores = jnp.where(mask, scores, _MASKED) if mask.dtype == bool else scores + mask
    return jax.nn.softmax(scores, axis=-1) @ v


ATTENTION: dict[str, Operation] = {"scaled_dot_product_attention": Operation(_attention)}
