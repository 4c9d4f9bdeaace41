"""Sums of clipped per-example gradients of a JAX function.

``jax.vmap`` of ``jax.grad`` does the work, but for one thing: the gradient of a convolution with
respect to its kernel becomes, per example, a convolution with a group for each example, which XLA
runs slowly on a CPU. It is rewritten as one batched matrix product over image patches.
"""

from __future__ import annotations

import itertools
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

    first = jax.tree.map(lambda rows: rows[0], examples)
    fast = _with_patches(loss, parameters, first)
    gradients = jax.vmap(jax.grad(fast), in_axes=(None, 0))(parameters, examples)
    squares = [jnp.sum(jnp.square(g), axis=tuple(range(1, g.ndim))) for g in gradients]
    norm = jnp.sqrt(sum(squares))
    good = mask & jnp.isfinite(norm)
    factor = jnp.where(good, clip_norm / jnp.maximum(norm, clip_norm), 0.0)

    def total(gradient: Foreign) -> Foreign:
        # 0 * nan is nan: what is left out must be zero before the product.
        kept = jnp.where(good.reshape(-1, *[1] * (gradient.ndim - 1)), gradient, 0.0)
        return jnp.tensordot(factor, kept, 1)

    return [total(g) for g in gradients]


def _with_patches(
    loss: Callable[..., Foreign], parameters: list[Foreign], example: Foreign
) -> Callable[..., Foreign]:
    """Return ``loss`` with the backward pass of its convolutions rewritten."""
    import jax

    closed = jax.make_jaxpr(loss)(parameters, example)

    def run(parameters: list[Foreign], example: Foreign) -> Foreign:
        (result,) = _evaluate(closed, jax.tree.leaves((parameters, example)))
        return result

    return run


def _evaluate(closed: Foreign, values: list[Foreign]) -> list[Foreign]:
    """Evaluate a closed jaxpr, replacing convolutions, also those of nested functions."""
    from jax.extend import core

    jaxpr = closed.jaxpr
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*closed.consts, *values], strict=True))

    def read(atom: Foreign) -> Foreign:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, equation.params.get("jaxpr")
        inputs = [read(atom) for atom in equation.invars]
        if name == "conv_general_dilated" and _is_plain(equation.params):
            outputs = [_convolution(equation.params)(*inputs)]
        elif name in {"jit", "pjit"} and inner is not None:
            outputs = _evaluate(inner, inputs)
        else:
            names = list(
                dict.fromkeys(a for a in equation.invars if not isinstance(a, core.Literal))
            )
            alone = jaxpr.replace(
                constvars=[],
                invars=names,
                outvars=equation.outvars,
                eqns=[equation],
                debug_info=jaxpr.debug_info.with_unknown_names(),
            )
            function = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))
            outputs = function(*[known[a] for a in names])
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _is_plain(params: dict[str, Any]) -> bool:
    groups = params["feature_group_count"], params["batch_group_count"]
    return groups == (1, 1) and set(params["lhs_dilation"]) <= {1}


def _convolution(params: dict[str, Any]) -> Callable[[Foreign, Foreign], Foreign]:
    """Return a convolution whose gradient by the kernel is a product over patches."""
    import jax

    def apply(x: Foreign, kernel: Foreign) -> Foreign:
        names = ("window_strides", "padding", "rhs_dilation", "dimension_numbers", "precision")
        same = {name: params[name] for name in names}
        return jax.lax.conv_general_dilated(
            x, kernel, **same, preferred_element_type=params["preferred_element_type"]
        )

    def forward(x: Foreign, kernel: Foreign) -> tuple[Foreign, tuple[Foreign, Foreign]]:
        return apply(x, kernel), (x, kernel)

    def backward(kept: tuple[Foreign, Foreign], change: Foreign) -> tuple[Foreign, Foreign]:
        x, kernel = kept
        _, pull = jax.vjp(lambda x: apply(x, kernel), x)
        return pull(change)[0], _kernel_gradient(params, x, change, kernel.shape)

    made: Foreign = jax.custom_vjp(apply)
    made.defvjp(forward, backward)
    return made  # type: ignore[no-any-return, unused-ignore]


def _kernel_gradient(
    params: dict[str, Any], x: Foreign, change: Foreign, shape: tuple[int, ...]
) -> Foreign:
    """Return the kernel's gradient: for each offset in the window, inputs times changes."""
    import jax
    import jax.numpy as jnp

    numbers = params["dimension_numbers"]
    x = jnp.transpose(x, numbers.lhs_spec)  # (rows, channels, *space)
    change = jnp.transpose(change, numbers.out_spec)  # (rows, filters, *space)
    x = jax.lax.pad(
        x,
        jnp.zeros((), x.dtype),
        [(0, 0, 0), (0, 0, 0), *((a, b, 0) for a, b in params["padding"])],
    )
    window = [shape[axis] for axis in numbers.rhs_spec[2:]]
    strides, space = params["window_strides"], change.shape[2:]
    patches = []
    for offset in itertools.product(*map(range, window)):
        start = [o * d for o, d in zip(offset, params["rhs_dilation"], strict=True)]
        stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, space, strides, strict=True)]
        patches.append(jax.lax.slice(x, (0, 0, *start), (*x.shape[:2], *stop), (1, 1, *strides)))
    rows, channels = x.shape[:2]
    left = jnp.stack(patches, 1).reshape(rows, len(patches) * channels, -1)
    right = jnp.swapaxes(change.reshape(*change.shape[:2], -1), 1, 2)
    product = jnp.sum(jnp.matmul(left, right), 0).reshape(*window, channels, -1)
    order = [0] * len(shape)
    last = len(shape) - 1
    for place, axis in zip(numbers.rhs_spec, [last, last - 1, *range(last - 1)], strict=True):
        order[place] = axis
    return jnp.transpose(product, order)
