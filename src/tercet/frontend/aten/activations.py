"""ATen activations, and what does nothing at prediction."""

from __future__ import annotations

from tercet.frontend.aten.elementwise import clamp
from tercet.frontend.aten.operation import Item, Operation, Refused, elements
from tercet.frontend.foreign import Foreign


def _nn(name: str) -> Operation:
    """Return the row of an operation that ``jax.nn`` has under ``name``."""

    def function(x: Foreign, *args: Item) -> Item:
        import jax

        return getattr(jax.nn, name)(x)

    return elements(function)


def _gelu(x: Foreign, *, approximate: str = "none") -> Foreign:
    import jax

    return jax.nn.gelu(x, approximate=approximate == "tanh")


def _mish(x: Foreign) -> Foreign:
    import jax
    import jax.numpy as jnp

    return x * jnp.tanh(jax.nn.softplus(x))


def _softplus(x: Foreign, beta: float = 1, threshold: float = 20) -> Foreign:
    # Above the threshold PyTorch returns x, which differs by less than exp(-20).
    import jax

    return jax.nn.softplus(x) if beta == 1 else jax.nn.softplus(x * beta) / beta


def _elu(x: Foreign, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Foreign:
    import jax.numpy as jnp

    below = jnp.where(x > 0, 0.0, x)
    inner = below if input_scale == 1 else below * input_scale
    result = jnp.where(x > 0, x, alpha * jnp.expm1(inner))
    return result if scale == 1 else result * scale


def _celu(x: Foreign, alpha: float = 1) -> Foreign:
    return _elu(x, alpha, 1, 1 / alpha)


def _selu(x: Foreign) -> Foreign:
    return _elu(x, 1.6732632423543772, 1.0507009873554805)


def _hardtanh(x: Foreign, least: float = -1, most: float = 1) -> Foreign:
    return clamp(x, least, most)


def _relu6(x: Foreign) -> Foreign:
    return clamp(x, 0.0, 6.0)


def _hardsigmoid(x: Foreign) -> Foreign:
    return _relu6(x + 3) * (1 / 6)


def _hardswish(x: Foreign) -> Foreign:
    return x * _hardsigmoid(x)


def _leaky(x: Foreign, slope: Item = 0.01) -> Foreign:
    import jax.numpy as jnp

    return jnp.where(x >= 0, x, x * slope)


def _prelu(x: Foreign, slope: Foreign) -> Foreign:
    """``slope`` has one number, or one a channel along axis 1."""
    if slope.ndim == 1 and x.ndim > 1:
        slope = slope.reshape((-1, *(1,) * (x.ndim - 2)))
    return _leaky(x, slope)


def _hardshrink(x: Foreign, size: float = 0.5) -> Foreign:
    import jax.numpy as jnp

    return jnp.where((x >= -size) & (x <= size), 0.0, x)


def _softshrink(x: Foreign, size: float = 0.5) -> Foreign:
    import jax.numpy as jnp

    return jnp.maximum(x - size, 0) - jnp.maximum(-x - size, 0)


def _threshold(x: Foreign, threshold: float, value: float) -> Foreign:
    import jax.numpy as jnp

    return jnp.where(x > threshold, x, value)


def _tanhshrink(x: Foreign) -> Foreign:
    import jax.numpy as jnp

    return x - jnp.tanh(x)


def _dropout(x: Foreign, rate: float = 0.5, train: bool = False) -> Foreign:
    if train and rate:
        raise Refused("in training mode (export the module after module.eval())")
    return x


ACTIVATIONS: dict[str, Operation] = {
    "relu": _nn("relu"),
    "relu6": elements(_relu6),
    "sigmoid": _nn("sigmoid"),
    "log_sigmoid": _nn("log_sigmoid"),
    "silu": _nn("silu"),
    "gelu": elements(_gelu),
    "mish": elements(_mish),
    "softplus": elements(_softplus),
    "elu": elements(_elu),
    "celu": elements(_celu),
    "selu": elements(_selu),
    "hardtanh": elements(_hardtanh),
    "hardsigmoid": elements(_hardsigmoid),
    "hardswish": elements(_hardswish),
    "leaky_relu": elements(_leaky),
    "prelu": Operation(_prelu),
    "_prelu_kernel": elements(_leaky),
    "hardshrink": elements(_hardshrink),
    "softshrink": elements(_softshrink),
    "tanhshrink": elements(_tanhshrink),
    "threshold": elements(_threshold),
    "dropout": elements(_dropout),
    "feature_dropout": elements(_dropout),
    "alpha_dropout": elements(_dropout),
}
