"""SGD steps with SPU, ABY3 among three parties on loopback; run in SPU's own environment.

    python -m bench.peers.spu_training WORK.npz

Weights and rows are shared and programs compiled beforehand. The gradient is JAX's own, from the
cotangent of the logits (softmax less labels): the loss itself is not computed. It is that of the
sum over rows, divided at the end: divided at the beginning, the gradients of the biases of
convolutions, sums of 86,528 rounded numbers, are all error. Nothing is encrypted on the wire.
"""

from __future__ import annotations

import sys
from typing import Any

import jax

from bench.peers.common import Weights, report
from bench.peers.spu_cnn import logits_of
from bench.peers.spu_parties import Parties, Program
from bench.peers.work import RATE, Work, load_works, measure_step


def dense(weights: dict[str, Any], x: Any) -> Any:
    """Return the logits of (n, 784) rows."""
    for layer in ("dense0", "dense1"):
        x = jax.nn.relu(x @ weights[f"{layer}_kernel"] + weights[f"{layer}_bias"])
    return x @ weights["dense2_kernel"] + weights["dense2_bias"]


def program(work: Work) -> Program:
    """Return the compiled step; its results are the new weights by name, in order."""
    network = logits_of if work.name == "cnn" else dense

    def step(weights: dict[str, Any], x: Any, y: Any) -> list[Any]:
        z, backward = jax.vjp(lambda w: network(w, x), weights)
        (gradients,) = backward(jax.nn.softmax(z) - y)
        return [weights[n] - (RATE / len(work.y)) * gradients[n] for n in sorted(weights)]

    names = sorted(work.weights)
    inputs = [*(f"{work.name} {n}" for n in names), f"{work.name} x", f"{work.name} y"]
    outputs = [f"{work.name} new {n}" for n in names]
    return Program(step, (work.weights, work.x, work.y), inputs, outputs)


def run(parties: Parties, work: Work) -> dict[str, Any]:
    """Time a step and return the report of it."""
    values = {**work.weights, "x": work.x, "y": work.y}
    parties.ask(None, {f"{work.name} {n}": v for n, v in values.items()})
    moved: Weights = {}

    def step() -> float:
        results, seconds = parties.ask(work.name, {})
        moved.update(zip(sorted(work.weights), results, strict=True))
        return seconds

    return measure_step(work, step, lambda: moved)


def main() -> None:
    """Run the parties and print the report."""
    works = load_works(sys.argv[1])
    parties = Parties({work.name: program(work) for work in works})
    try:
        report([run(parties, work) for work in works])
    finally:
        parties.close()


if __name__ == "__main__":
    main()
