"""ATen normalisations, whole."""

from __future__ import annotations

from collections.abc import Sequence

from tercet.frontend.aten.operation import (
    Image,
    Item,
    Operation,
    Refused,
    channels_last,
    images,
    plain,
)
from tercet.frontend.foreign import Foreign


def _normalised(x: Foreign, axes: tuple[int, ...], eps: float) -> Foreign:
    import jax
    import jax.numpy as jnp

    centred = x - jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return centred * jax.lax.rsqrt(variance + eps)


def _affine(x: Foreign, w: Foreign | None, b: Foreign | None) -> Foreign:
    if w is not None:
        x = x * w
    return x if b is None else x + b


def _layer_norm(
    x: Foreign,
    shape: Sequence[int],
    w: Foreign | None = None,
    b: Foreign | None = None,
    eps: float = 1e-5,
    *args: Item,
) -> Foreign:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return _affine(_normalised(x, axes, eps), w, b)


def _rms_norm(
    x: Foreign, shape: Sequence[int], w: Foreign | None = None, eps: float | None = None
) -> Foreign:
    import jax
    import jax.numpy as jnp

    axes = tuple(range(x.ndim - len(shape), x.ndim))
    mean = jnp.mean(jnp.square(x), axes, keepdims=True)
    return _affine(x * jax.lax.rsqrt(mean + (1.1920929e-07 if eps is None else eps)), w, None)


def _batch_norm(
    x: Item,
    w: Foreign | None,
    b: Foreign | None,
    mean: Foreign | None,
    variance: Foreign | None,
    training: bool,
    momentum: float,
    eps: float,
    *args: Item,
) -> Item:
    """Normalise by stored statistics: one factor and one summand for each channel."""
    import jax

    if training or mean is None or variance is None:
        raise Refused("by statistics of the batch (export the module after module.eval())")
    factor = jax.lax.rsqrt(variance + eps)
    if w is not None:
        factor = factor * w
    shift = -mean * factor if b is None else b - mean * factor
    if len(x.shape) == 2:
        return plain(x) * factor + shift
    return Image(channels_last(x, len(x.shape)) * factor + shift)


def _legit(
    x: Item,
    w: Foreign | None,
    b: Foreign | None,
    mean: Foreign,
    variance: Foreign,
    momentum: float,
    eps: float,
) -> tuple[Item, None, None]:
    return _batch_norm(x, w, b, mean, variance, False, momentum, eps), None, None


def _group_norm(
    x: Item,
    groups: int,
    w: Foreign | None = None,
    b: Foreign | None = None,
    eps: float = 1e-5,
    *args: Item,
) -> Item:
    array = channels_last(x, len(x.shape))
    rows, *space, channels = array.shape
    split = array.reshape((rows, *space, groups, channels // groups))
    axes = (*range(1, len(space) + 1), len(space) + 2)
    return Image(_affine(_normalised(split, axes, eps).reshape(array.shape), w, b))


def _instance_norm(
    x: Item,
    w: Foreign | None,
    b: Foreign | None,
    mean: Foreign | None,
    variance: Foreign | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    *args: Item,
) -> Item:
    if not use_input_stats:
        return _batch_norm(x, w, b, mean, variance, False, momentum, eps)
    array = channels_last(x, len(x.shape))
    return Image(_affine(_normalised(array, tuple(range(1, array.ndim - 1)), eps), w, b))


NORMALISING: dict[str, Operation] = {
    "layer_norm": Operation(_layer_norm),
    "rms_norm": Operation(_rms_norm),
    "batch_norm": images(_batch_norm),
    "_native_batch_norm_legit_no_training": images(_legit),
    "group_norm": images(_group_norm),
    "instance_norm": images(_instance_norm),
}
