"""Where the values of a step come from: weights alone, or something that knows the labels."""

from __future__ import annotations

from tercet.program.builder import Builder

#: Of weights alone these make weights again: nothing that moves from row to row.
_WEIGHTS_STAY = frozenset(
    {
        "reshape", "transpose", "broadcast", "slice", "pad", "reverse", "neg", "sum", "add", "sub",
        "concat", "shift_left", "scale", "round",
    }
)  # fmt: skip


class Origins:
    """Tells of each handle of a builder what it depends on; inputs are marked when declared."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._weights: set[int] = set()
        self._labels: set[int] = set()
        self._seen = 0

    def mark_weight(self, handle: int) -> None:
        """Say that an input is a weight."""
        self._weights.add(handle)

    def mark_labels(self, handle: int) -> None:
        """Say that an input holds the labels."""
        self._labels.add(handle)

    def is_weight(self, handle: int) -> bool:
        """Whether a value is linear in weights alone."""
        self._follow(handle)
        return handle in self._weights

    def is_cotangent(self, handle: int) -> bool:
        """Whether a value depends on the labels: a gradient does, the forward pass does not."""
        self._follow(handle)
        return handle in self._labels

    def _follow(self, handle: int) -> None:
        for at in range(self._seen, handle + 1):
            made = self._builder.instruction(at)
            if any(a in self._labels for a in made.args):
                self._labels.add(at)
            if made.op in _WEIGHTS_STAY and all(a in self._weights for a in made.args):
                self._weights.add(at)
        self._seen = max(self._seen, handle + 1)
