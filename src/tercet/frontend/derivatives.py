"""Functions of the language inside a trace of JAX, each with its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

from tercet.frontend.foreign import Foreign
from tercet.frontend.primitives import bind


@cache
def _relu() -> Foreign:
    import jax

    def positive(x: Foreign) -> Foreign:
        return bind("rectify", x)[0]

    def forward(x: Foreign) -> tuple[Foreign, Foreign]:
        y, bit = bind("rectify", x)
        return y, bit

    def backward(bit: Foreign, g: Foreign) -> tuple[Foreign]:
        return (bind("gate", bit, g)[0],)

    function: Foreign = jax.custom_vjp(positive)
    function.defvjp(forward, backward)
    return function


def relu(x: Foreign) -> Foreign:
    """Return max(x, 0); the gradient at 0 is 0."""
    return _relu()(x)


def larger(x: Foreign, y: Foreign) -> Foreign:
    """Return max(x, y); where they are equal the gradient goes to ``y``."""
    return y + relu(x - y)


@cache
def whole(name: str, slope: Callable[[Foreign, Foreign], Foreign]) -> Foreign:
    """Return a function of one array that stays one operation; ``slope(x, g)`` is its gradient."""
    import jax

    @partial(jax.custom_vjp, nondiff_argnums=(1,))
    def function(x: Foreign, axes: tuple[int, ...] | None) -> Foreign:
        return bind(name, x, **({} if axes is None else {"axes": axes}))[0]

    def forward(x: Foreign, axes: tuple[int, ...] | None) -> tuple[Foreign, Foreign]:
        y = function(x, axes)
        return y, (y if name == "softmax" else x)

    def backward(axes: tuple[int, ...] | None, kept: Foreign, g: Foreign) -> tuple[Foreign]:
        return (slope(kept, g) if axes is None else slope(kept, (g, axes)),)

    function.defvjp(forward, backward)
    return function


def softmax(x: Foreign, axes: tuple[int, ...]) -> Foreign:
    """Return the softmax over ``axes``."""
    return whole("softmax", _softmax_slope)(x, axes)


def _softmax_slope(y: Foreign, given: Foreign) -> Foreign:
    g, axes = given
    return y * (g - (y * g).sum(axes, keepdims=True))


def _log_softmax_slope(x: Foreign, given: Foreign) -> Foreign:
    g, axes = given
    return g - softmax(x, axes) * g.sum(axes, keepdims=True)


def _slope_of(function: Callable[[Foreign], Foreign]) -> Callable[[Foreign, Foreign], Foreign]:
    def slope(x: Foreign, g: Foreign) -> Foreign:
        import jax

        return jax.vjp(function, x)[1](g)[0]

    return slope


def _sigmoid(x: Foreign) -> Foreign:
    import jax

    return jax.lax.logistic(x)


def _gelu(x: Foreign) -> Foreign:
    import jax

    return 0.5 * x * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_tanh(x: Foreign) -> Foreign:
    import jax

    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + jax.lax.tanh(inner))


def _mish(x: Foreign) -> Foreign:
    import jax

    return x * jax.lax.tanh(_softplus(x))


def _softplus(x: Foreign) -> Foreign:
    return whole("softplus", SLOPES["softplus"])(x, None)


SLOPES: dict[str, Callable[[Foreign, Foreign], Foreign]] = {
    "softmax": _softmax_slope,
    "log_softmax": _log_softmax_slope,
    "softplus": lambda x, g: _sigmoid(x) * g,
    "silu": _slope_of(lambda x: x * _sigmoid(x)),
    "gelu": _slope_of(_gelu),
    "gelu_tanh": _slope_of(_gelu_tanh),
    "mish": _slope_of(_mish),
}


@dataclass(frozen=True)
class Convolution:
    """Attributes of a convolution, channels last, input not dilated; hashable."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    spread: tuple[int, ...]
    groups: int

    def __call__(self, x: Foreign, w: Foreign) -> Foreign:
        """Return the convolution of x (N, *spatial, C) with w (*window, C / groups, O)."""
        return _conv()(x, w, self)

    def bind(self, name: str, x: Foreign, y: Foreign, shape: tuple[int, ...]) -> Foreign:
        """Return the result of the convolution or of one of its gradients."""
        params = {f: getattr(self, f) for f in ("strides", "padding", "spread", "groups")}
        return bind(name, x, y, shape=shape, **params)[0]

    def shape(self, x: tuple[int, ...], w: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the result."""
        space = (
            (d + lo + hi - ((k - 1) * r + 1)) // s + 1
            for d, (lo, hi), k, r, s in zip(
                x[1:-1], self.padding, w[:-2], self.spread, self.strides, strict=True
            )
        )
        return (x[0], *space, w[-1])


@cache
def _conv() -> Foreign:
    import jax

    @partial(jax.custom_vjp, nondiff_argnums=(2,))
    def conv(x: Foreign, w: Foreign, how: Convolution) -> Foreign:
        return how.bind("conv", x, w, how.shape(x.shape, w.shape))

    def forward(x: Foreign, w: Foreign, how: Convolution) -> tuple[Foreign, Foreign]:
        return conv(x, w, how), (x, w)

    def backward(how: Convolution, kept: Foreign, g: Foreign) -> tuple[Foreign, Foreign]:
        x, w = kept
        return how.bind("conv_input", g, w, x.shape), how.bind("conv_kernel", x, g, w.shape)

    conv.defvjp(forward, backward)
    return conv
