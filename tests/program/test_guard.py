"""The guard says whether a value left its window: in the clear, and by three parties."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.errors import InputError, ProgramError
from tercet.program.builder import Builder
from tercet.program.passes import guard, lower, narrow
from tercet.program.program import Program, Role
from tercet.program.verify import verify, verify_release
from tercet.protocol.base import Share
from tercet.protocol.plaintext import Plaintext
from tercet.protocol.replicated.cost import ReplicatedCost
from tercet.protocol.rounds import finish
from tercet.ring.fixed import decode, encode
from tercet.runtime.estimate import estimate, totals
from tercet.runtime.interpreter import run
from tests.program.lowering_models import Model, post_cnn
from tests.trio import parties, reconstruct, share
from tests.trio import run as drive

EDGE = 2.0 ** (24 - 1 - 16)  # of a window of 24 bits at 16 fractional bits


def rectifier(bits: int = 24) -> tuple[Program, dict[str, np.ndarray]]:
    """relu(x w) with w = 1 on a window, the maximum over the row behind it on another."""
    model = Model((2, 3))
    x = model.truncate(model.emit("mul", model.x, model.array("w", (1,))))
    model.arrays["w"] = np.ones(1)
    x = model.emit("reduce_max", model.relu(x), axes=(1,), bits=62)
    program, arrays = lower(*model.finish(x))
    (relu,) = (n for n, i in enumerate(program.instructions) if i.op == "relu")
    (top,) = (n for n, i in enumerate(program.instructions) if i.op == "reduce_max")
    bound = (1 << bits - 1) // 16 - 1
    program = narrow(program, {relu: bound, top: (1 << 40 - 1) // 32 - 1})
    assert [i.attrs["bits"] for i in program.instructions if "bits" in i.attrs] == [bits, 40]
    return program, arrays


def clear(program: Program, arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    inputs = {n.name: Share((encode(arrays[n.name], n.type.scale),)) for n in program.inputs[1:]}
    inputs[program.inputs[0].name] = Share((encode(x, 16),))
    return decode(finish(run(program, Plaintext(), inputs, len(x))).parts[0], 16)  # type: ignore[arg-type]


def by_three(program: Program, arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    rng, trio = np.random.default_rng(1), parties()
    inputs: list[dict[str, Share]] = [{} for _ in range(3)]
    for given in program.inputs:
        array = x if given.role is Role.INPUT else arrays[given.name]
        for i, part in enumerate(share(encode(array, given.type.scale), rng)):
            inputs[i][given.name] = part
    results, _ = drive(lambda i: run(program, trio[i], inputs[i], len(x)))
    return decode(reconstruct(results), 16)


@pytest.mark.parametrize("evaluate", [clear, by_three])
def test_the_flag_of_each_row(evaluate: object) -> None:
    assert callable(evaluate)
    program, arrays = rectifier()
    guarded = guard(program)
    verify_release(guarded)
    inside, edge = 0.98 * EDGE, 1.01 * EDGE
    far = 2.0**13  # far beyond the window, where it would be taken for something inside
    rows = [inside, -inside, edge, -edge, far, -far, 2 * EDGE, 1.5 * EDGE, 0.0]
    x = np.zeros((len(rows), 2, 3))
    x[:, 1, 2] = rows
    result = evaluate(guarded, arrays, x)
    assert result.shape == (len(rows), 4)
    np.testing.assert_array_equal(result[:, -1], [0, 0, 1, 1, 1, 1, 1, 1, 0])
    np.testing.assert_allclose(result[:2, 2], [inside, 0], atol=2e-4)


def test_many_values_beyond_do_not_cancel() -> None:
    program, arrays = rectifier()
    x = np.random.default_rng(0).choice([-1.0, 1.0], (4, 2, 3)) * 2.0**13
    np.testing.assert_array_equal(by_three(guard(program), arrays, x)[:, -1], 1)


def test_the_window_of_a_difference_is_half() -> None:
    """A maximum compares differences: values of half the window may already be too far apart."""
    builder = Builder(16)
    x = builder.input("x", Role.INPUT, (-1, 2))
    top = builder.emit("reduce_max", x, axes=(1,), bits=24)
    program = builder.finish(builder.emit("reshare", top))
    rows = np.array([[0.49, -0.49], [0.51, 0.0], [0.0, -0.51]]) * EDGE
    np.testing.assert_array_equal(clear(guard(program), {}, rows)[:, -1], [0, 1, 1])


def test_nothing_to_guard() -> None:
    with pytest.raises(InputError, match="none of whose comparisons has a window"):
        guard(lower(*post_cnn())[0])


def test_what_it_costs() -> None:
    """The figures of docs/protocols.md."""
    program, _ = lower(*post_cnn())
    bound = (1 << 23) // 16 - 1
    relus = [n for n, i in enumerate(program.instructions) if i.op == "relu"]
    program = narrow(program, dict.fromkeys(relus, bound))
    plain = totals(estimate(program, 1, ReplicatedCost()))
    guarded = totals(estimate(guard(program), 1, ReplicatedCost()))
    assert guarded.rounds - plain.rounds == 14
    assert 1.8 < guarded.bytes / plain.bytes < 3.5


def test_a_second_output_of_another_shape_is_refused() -> None:
    model = Model((4,))
    a, b = model.emit("reshare", model.x), model.emit("reshare", model.x)
    with pytest.raises(ProgramError, match="flag of a guard"):
        verify(model.builder.finish(a, b))
