"""Programs as a frontend emits them, built by hand, with random weights."""

from __future__ import annotations

import numpy as np

from tercet.program.builder import Builder
from tercet.program.program import Program, Role


class Model:
    """Emits layers as a frontend does: products truncated at once, comparisons at full width."""

    def __init__(self, shape: tuple[int, ...], scale: int = 16, seed: int = 0) -> None:
        self.builder = Builder(scale)
        self.scale = scale
        self.arrays: dict[str, np.ndarray] = {}
        self.rng = np.random.default_rng(seed)
        self.x = self.builder.input("x", Role.INPUT, (-1, *shape))

    def emit(self, op: str, *args: int, **attrs: int | tuple[int, ...]) -> int:
        return self.builder.emit(op, *args, **attrs)

    def shape(self, x: int) -> tuple[int, ...]:
        return self.builder.type_of(x).shape

    def array(
        self, name: str, shape: tuple[int, ...], role: Role = Role.WEIGHT, spread: float = 0.5
    ) -> int:
        self.arrays[name] = self.rng.uniform(-spread, spread, shape)
        return self.builder.input(name, role, shape)

    def truncate(self, x: int, shift: int | None = None) -> int:
        return self.emit("truncate", x, shift=self.scale if shift is None else shift)

    def conv(
        self,
        x: int,
        name: str,
        channels: int,
        size: int = 3,
        groups: int = 1,
        stride: int = 1,
        dilation: int = 1,
    ) -> int:
        self.builder.source = name
        kernel = self.array(f"{name}/kernel", (size, size, self.shape(x)[-1] // groups, channels))
        attrs = {"strides": (stride, 1), "low": (0, 1), "high": (1, 0)} if stride > 1 else {
            "strides": (1, 1), "low": (0, 0), "high": (0, 0)
        }  # fmt: skip
        attrs |= {"input_dilation": (1, 1), "kernel_dilation": (1, dilation)}
        return self.truncate(self.emit("conv", x, kernel, groups=groups, **attrs))

    def dense(self, x: int, name: str, units: int) -> int:
        self.builder.source = name
        kernel = self.array(f"{name}/kernel", (self.shape(x)[-1], units))
        return self.truncate(self.emit("matmul", x, kernel))

    def bias(self, x: int, name: str) -> int:
        return self.emit("add", x, self.array(f"{name}/bias", self.shape(x)[-1:]))

    def batch_norm(self, x: int, name: str) -> int:
        self.builder.source = name
        rank = len(self.shape(x))
        gamma = self.array(f"{name}/gamma", (1,) * (rank - 1) + self.shape(x)[-1:], spread=2)
        x = self.truncate(self.emit("mul", x, gamma))
        return self.emit("add", x, self.array(f"{name}/beta", self.shape(x)[-1:]))

    def average_pool(self, x: int, name: str, size: int = 2) -> int:
        self.builder.source = name
        rank = len(self.shape(x))
        window = (1, size, size, 1)
        zero = (0,) * rank
        x = self.emit("window_sum", x, window=window, strides=window, low=zero, high=zero)
        if size & (size - 1):
            bits = 24
            multiplier = round(2**bits / size**2)
        else:
            multiplier, bits = 1, 2 * (size.bit_length() - 1)
        return self.truncate(self.emit("scale", x, multiplier=multiplier, bits=bits), bits)

    def relu(self, x: int, name: str = "relu") -> int:
        self.builder.source = name
        return self.emit("relu", x, shift=0, bits=62)

    def flatten(self, x: int) -> int:
        _, *rest = self.shape(x)
        return self.emit("reshape", x, shape=(-1, int(np.prod(rest))))

    def finish(self, output: int) -> tuple[Program, dict[str, np.ndarray]]:
        return self.builder.finish(output), self.arrays


def post_cnn() -> tuple[Program, dict[str, np.ndarray]]:
    """The measuring stick: three times convolution, average pool and ReLU, then a dense layer."""
    model = Model((28, 28, 1))
    x = model.x
    for number, channels in enumerate((16, 32, 64), 1):
        x = model.bias(model.conv(x, f"conv{number}", channels), f"conv{number}")
        x = model.relu(model.average_pool(x, f"pool{number}"), f"relu{number}")
    x = model.flatten(x)
    return model.finish(model.bias(model.dense(x, "dense", 10), "dense"))
