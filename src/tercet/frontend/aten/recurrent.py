"""LSTM, GRU and plain recurrent layers, whole.

All steps' products with the input are one product. The gates that take a sigmoid are computed by
one call, so that a step has as few rounds as it can: the order of the weights' rows is the model
owner's to change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tercet.frontend.aten.operation import Item, Operation, Refused
from tercet.frontend.foreign import Foreign

#: (input's part, state's part, state) -> state; a state is a tuple of arrays, the output first.
_Cell = Callable[[Foreign, Foreign, tuple[Foreign, ...]], tuple[Foreign, ...]]


def _lstm_cell(x: Foreign, h: Foreign, state: tuple[Foreign, ...]) -> tuple[Foreign, ...]:
    """Step with the gates in the order i, f, o, g."""
    import jax
    import jax.numpy as jnp

    gates, width = x + h, h.shape[-1] // 4
    i, f, o = jnp.split(jax.nn.sigmoid(gates[:, : 3 * width]), 3, -1)
    c = f * state[1] + i * jnp.tanh(gates[:, 3 * width :])
    return o * jnp.tanh(c), c


def _gru_cell(x: Foreign, h: Foreign, state: tuple[Foreign, ...]) -> tuple[Foreign, ...]:
    """Step with the gates in the order r, z, n."""
    import jax
    import jax.numpy as jnp

    width = h.shape[-1] // 3
    r, z = jnp.split(jax.nn.sigmoid(x[:, : 2 * width] + h[:, : 2 * width]), 2, -1)
    n = jnp.tanh(x[:, 2 * width :] + r * h[:, 2 * width :])
    return (n + z * (state[0] - n),)


def _plain_cell(function: str) -> _Cell:
    def cell(x: Foreign, h: Foreign, state: tuple[Foreign, ...]) -> tuple[Foreign, ...]:
        import jax
        import jax.numpy as jnp

        return ((jnp.tanh if function == "tanh" else jax.nn.relu)(x + h),)

    return cell


def _sigmoids_first(w: Foreign) -> Foreign:
    """Return the rows of an LSTM's weight in the order i, f, o, g instead of i, f, g, o."""
    import jax.numpy as jnp

    i, f, g, o = jnp.split(w, 4, 0)
    return jnp.concatenate([i, f, o, g], 0)


def _direction(
    x: Foreign,
    state: tuple[Foreign, ...],
    weights: Sequence[Foreign],
    cell: _Cell,
    backwards: bool,
) -> tuple[Foreign, tuple[Foreign, ...]]:
    """Run one layer in one direction over ``x`` (time, rows, features)."""
    import jax

    w_in, w_state, *biases = weights
    inner = x @ w_in.T
    if biases:
        inner = inner + biases[0]

    def step(held: tuple[Foreign, ...], row: Foreign) -> tuple[tuple[Foreign, ...], Foreign]:
        from_state = held[0] @ w_state.T
        if biases:
            from_state = from_state + biases[1]
        held = cell(row, from_state, held)
        return held, held[0]

    final, outputs = jax.lax.scan(step, state, inner, reverse=backwards)
    return outputs, final


def _layers(
    x: Foreign,
    states: tuple[Foreign, ...],
    weights: Sequence[Foreign],
    cell: _Cell,
    has_biases: bool,
    layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Foreign, tuple[Foreign, ...]]:
    import jax.numpy as jnp

    if train and dropout:
        raise Refused("in training mode (export the module after module.eval())")
    ways, held = 1 + bidirectional, 4 if has_biases else 2
    if len(weights) != layers * ways * held:
        raise Refused("with projections")
    if x.ndim == 2:
        raise Refused("on input without a batch axis")
    if batch_first:
        x = jnp.swapaxes(x, 0, 1)
    finals: list[tuple[Foreign, ...]] = []
    for layer in range(layers):
        outputs = []
        for way in range(ways):
            number = layer * ways + way
            output, final = _direction(
                x,
                tuple(s[number] for s in states),
                weights[number * held : (number + 1) * held],
                cell,
                bool(way),
            )
            outputs.append(output)
            finals.append(final)
        x = outputs[0] if ways == 1 else jnp.concatenate(outputs, -1)
    if batch_first:
        x = jnp.swapaxes(x, 0, 1)
    return x, tuple(jnp.stack(parts) for parts in zip(*finals, strict=True))


def _lstm(
    x: Foreign, states: Sequence[Foreign], weights: Sequence[Foreign], *options: Item
) -> tuple[Foreign, ...]:
    ordered = [_sigmoids_first(w) for w in weights]
    output, (h, c) = _layers(x, tuple(states), ordered, _lstm_cell, *options)
    return output, h, c


def _single(cell: _Cell) -> Operation:
    """Return the row of a layer whose state is one array."""

    def function(
        x: Foreign, state: Foreign, weights: Sequence[Foreign], *options: Item
    ) -> tuple[Foreign, Foreign]:
        output, (h,) = _layers(x, (state,), weights, cell, *options)
        return output, h

    return Operation(function)


RECURRENT: dict[str, Operation] = {
    "lstm.input": Operation(_lstm),
    "gru.input": _single(_gru_cell),
    "rnn_tanh.input": _single(_plain_cell("tanh")),
    "rnn_relu.input": _single(_plain_cell("relu")),
}
