"""The task: softmax regression on digits, in NumPy. Put your own model and data here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from tercet.data import Digits, load_digits

Arrays = dict[str, np.ndarray]


def initial() -> Arrays:
    """Return the model before training."""
    return {"kernel": np.zeros((784, 10), np.float32), "bias": np.zeros(10, np.float32)}


def hospital(partition: int, partitions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a hospital's images and labels: no two have the same mixture of digits."""
    digits = load_digits()
    order = np.argsort(digits.y_train, kind="stable")
    common, rare = order[partition::partitions][::2], np.array_split(order, partitions)[partition]
    mine = np.concatenate([common, rare])
    return digits.x_train[mine].reshape(-1, 784), digits.y_train[mine]


def train(
    model: Mapping[str, np.ndarray], x: np.ndarray, y: np.ndarray, proximal: float = 0.0
) -> Arrays:
    """Return the model after some steps of gradient descent."""
    kernel, bias = model["kernel"].astype(np.float64), model["bias"].astype(np.float64)
    start, hot = kernel.copy(), np.eye(10)[y]
    for _ in range(20):
        error = (softmax(x @ kernel + bias) - hot) / len(x)
        kernel -= 0.5 * (x.T @ error + proximal * (kernel - start))
        bias -= 0.5 * error.sum(0)
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def accuracy(model: Mapping[str, np.ndarray], digits: Digits | None = None) -> float:
    """Return the share of test images that the model names rightly."""
    digits = digits or load_digits()
    scores = digits.x_test.reshape(-1, 784) @ model["kernel"] + model["bias"]
    return float((scores.argmax(1) == digits.y_test).mean())


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
