"""Losses of Keras: for each the gradient at the model's output, as a row adds it to the mean.

A loss is never computed to be differentiated: p - y is the gradient of a cross-entropy, and its
logarithm is needed by nobody unless the loss itself is asked for as a metric. Labels are real
numbers, one-hot where there are classes: their owner encodes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from tercet.errors import ModelError, UnsupportedOperation
from tercet.frontend.derivatives import larger, relu, softmax
from tercet.frontend.foreign import Foreign
from tercet.frontend.primitives import bind

#: Of the model's output and the labels, both (rows, ...).
Pointwise: TypeAlias = Callable[[Foreign, Foreign], Foreign]


@dataclass(frozen=True)
class Loss:
    """What a step needs of a loss.

    Attributes:
        final: the activation that the model must end in, which the loss takes over; ``""`` if the
            loss takes the output as it is.
        slope: gradient of one row's loss at the output (at the logits, if ``final`` is named).
        value: the rows' losses.
        classes: whether labels are one-hot over the last axis.
    """

    final: str
    slope: Pointwise
    value: Pointwise
    classes: bool = False


def _size(x: Foreign) -> float:
    count = 1
    for d in x.shape[1:-1]:
        count *= d
    return 1.0 / count


def _axis(x: Foreign) -> tuple[int, ...]:
    return (x.ndim - 1,)


def _rest(x: Foreign) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _smooth(y: Foreign, amount: float) -> Foreign:
    return y if not amount else y * (1.0 - amount) + amount / y.shape[-1]


def _smooth_two(y: Foreign, amount: float) -> Foreign:
    return y if not amount else y * (1.0 - amount) + amount / 2.0


def _cross_entropy(final: str, smoothing: float) -> Loss:
    def slope(z: Foreign, y: Foreign) -> Foreign:
        return (softmax(z, _axis(z)) - _smooth(y, smoothing)) * _size(z)

    def value(z: Foreign, y: Foreign) -> Foreign:
        logarithm = bind("log_softmax", z, axes=_axis(z))[0]
        return -(logarithm * _smooth(y, smoothing)).sum(_rest(z)) * _size(z)

    return Loss(final, slope, value, classes=True)


def _binary(final: str, smoothing: float) -> Loss:
    def slope(z: Foreign, y: Foreign) -> Foreign:
        import jax

        p = jax.lax.logistic(z)
        return (p - _smooth_two(y, smoothing)) * (_size(z) / z.shape[-1])

    def value(z: Foreign, y: Foreign) -> Foreign:
        each = bind("softplus", z)[0] - z * _smooth_two(y, smoothing)
        return each.sum(_rest(z)) * (_size(z) / z.shape[-1])

    return Loss(final, slope, value)


def _mean(slope: Pointwise, value: Pointwise) -> Loss:
    """Return the loss that is a mean over the last axis of something of each number."""
    return Loss(
        "",
        lambda z, y: slope(z, y) * (_size(z) / z.shape[-1]),
        lambda z, y: value(z, y).sum(_rest(z)) * (_size(z) / z.shape[-1]),
    )


def _sign(z: Foreign, y: Foreign) -> Foreign:
    import jax

    above, below = (jax.numpy.where(d > 0.0, 1.0, 0.0) for d in (z - y, y - z))
    return above - below


def _absolute(x: Foreign) -> Foreign:
    return 2.0 * relu(x) - x


def _huber(delta: float) -> Loss:
    def clipped(z: Foreign, y: Foreign) -> Foreign:
        return -larger(-larger(z - y, -delta), -delta)

    def value(z: Foreign, y: Foreign) -> Foreign:
        inside = clipped(z, y)
        return inside * (z - y) - 0.5 * inside * inside

    return _mean(clipped, value)


def loss_of(model: Foreign) -> Loss:
    """Return the loss that ``model`` was compiled with.

    Raises:
        ModelError: if it was not compiled, or for several losses.
        UnsupportedOperation: if the loss is none of those above.
    """
    import keras

    given = getattr(model, "loss", None)
    if not getattr(model, "compiled", False) or given is None:
        raise ModelError(
            f"Model {model.name!r} is not compiled", "model.compile(optimizer=..., loss=...)"
        )
    if isinstance(given, (list, tuple, dict)):
        raise ModelError(
            f"Model {model.name!r} has several losses", "Compile it with one loss and no weights"
        )
    if getattr(model._compile_loss, "_user_loss_weights", None) is not None:
        raise ModelError(f"Model {model.name!r} weighs its loss", "Compile it without loss_weights")
    loss = keras.losses.get(given)
    settings = dict(getattr(loss, "_fn_kwargs", {}))
    name = getattr(loss, "fn", loss)
    name = getattr(name, "__name__", str(name))
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if reduction not in ("sum_over_batch_size", "mean"):
        raise UnsupportedOperation(
            f"a loss with reduction {reduction!r}", "Use the mean, sum_over_batch_size"
        )
    logits = bool(settings.get("from_logits", False))
    smoothing = float(settings.get("label_smoothing", 0.0))
    if settings.get("axis", -1) != -1 or settings.get("ignore_class") is not None:
        raise UnsupportedOperation(
            f"loss {name} over another axis than the last, or ignoring a class",
            "Put the classes last and leave out rows without a class",
        )
    if name in ("categorical_crossentropy", "sparse_categorical_crossentropy"):
        return _cross_entropy("" if logits else "softmax", smoothing)
    if name == "binary_crossentropy":
        return _binary("" if logits else "logistic", smoothing)
    if name == "mean_squared_error":
        return _mean(lambda z, y: 2.0 * (z - y), lambda z, y: (z - y) * (z - y))
    if name == "mean_absolute_error":
        return _mean(_sign, lambda z, y: _absolute(z - y))
    if name == "huber":
        return _huber(float(settings.get("delta", 1.0)))
    raise UnsupportedOperation(
        f"Model {model.name!r} is compiled with loss {name}, which is not supported yet",
        "Use a categorical, sparse categorical or binary cross-entropy, the mean squared or "
        "absolute error, or Huber's loss",
    )


#: Metrics that a step can add up over its rows.
METRICS = ("loss", "accuracy")


def hits(z: Foreign, y: Foreign) -> Foreign:
    """Return for each row 1 if its class has the largest score, for one-hot labels."""
    import jax

    top = z[:, 0]
    for n in range(1, z.shape[-1]):
        top = larger(z[:, n], top)
    return jax.numpy.where((z * y).sum(-1) - top > -(2.0**-10), 1.0, 0.0)
