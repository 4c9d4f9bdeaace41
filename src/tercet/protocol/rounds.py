"""Rounds as generators: how a protocol step says what it sends, and how steps run side by side.

A protocol operation is a generator. Each ``yield`` is one round: it hands out what this party
sends to the next and the previous worker, and how many bytes it expects from each; what they sent
comes back from the ``yield``. Every party yields the same number of times, whether or not it
sends in a given round. Hence the rounds of an operation can be counted, operations can share
rounds (``together``), and one thread can drive many slices, each waiting for its own messages.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

Buffer: TypeAlias = NDArray[Any]


@dataclass(slots=True)
class Round:
    """What one party sends (arrays, in order) and expects (bytes) in one round."""

    to_next: list[Buffer] = field(default_factory=list)
    to_prev: list[Buffer] = field(default_factory=list)
    from_next: int = 0
    from_prev: int = 0


class Received(NamedTuple):
    """The bytes that came in one round."""

    from_next: memoryview
    from_prev: memoryview


#: What comes from a peer that sends nothing.
NOTHING: Final = memoryview(b"")

Steps: TypeAlias = Generator[Round, Received, T]


def words(message: memoryview, *shape: int) -> NDArray[np.uint64]:
    """Return the message as an uint64 array of ``shape`` (a view)."""
    array = np.frombuffer(message, np.uint64)
    return array if shape == array.shape else array.reshape(shape)


def done(value: T) -> Steps[T]:
    """Return the steps of an operation that needs no round."""
    return value
    yield  # makes this function a generator


def together(*operations: Steps[T]) -> Steps[Sequence[T]]:
    """Run independent operations side by side, one message a peer and round for all of them."""
    results: list[T | None] = [None] * len(operations)
    running: list[tuple[int, Steps[T], Round]] = []
    for number, operation in enumerate(operations):
        try:
            running.append((number, operation, next(operation)))
        except StopIteration as stop:
            results[number] = stop.value
    while running:
        if len(running) == 1:  # nothing to merge any more
            ((number, operation, part),) = running
            try:
                while True:
                    part = operation.send((yield part))
            except StopIteration as stop:
                results[number] = stop.value
            break
        merged = Round()
        for _, _, part in running:
            merged.to_next += part.to_next
            merged.to_prev += part.to_prev
            merged.from_next += part.from_next
            merged.from_prev += part.from_prev
        from_next, from_prev = yield merged
        before, running = running, []
        next_at = prev_at = 0
        for number, operation, part in before:
            next_end, prev_end = next_at + part.from_next, prev_at + part.from_prev
            received = Received(
                from_next[next_at:next_end] if part.from_next else NOTHING,
                from_prev[prev_at:prev_end] if part.from_prev else NOTHING,
            )
            next_at, prev_at = next_end, prev_end
            try:
                running.append((number, operation, operation.send(received)))
            except StopIteration as stop:
                results[number] = stop.value
    return results  # type: ignore[return-value]


def finish(operation: Steps[T]) -> T:
    """Run an operation that communicates with nobody (a plaintext or counting protocol)."""
    empty = Received(NOTHING, NOTHING)
    try:
        next(operation)
        while True:
            operation.send(empty)
    except StopIteration as stop:
        result: T = stop.value
        return result
