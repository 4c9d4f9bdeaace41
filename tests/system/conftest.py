"""The post's CNN, trained once for the folder, saved, and the digits that ship."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tercet.data import Digits, load_digits

os.environ.setdefault("KERAS_BACKEND", "jax")


@pytest.fixture(scope="session")
def digits() -> Digits:
    return load_digits()


@pytest.fixture(scope="session")
def trained(digits: Digits):
    from tercet.frontend.digits import train_digits

    return train_digits(digits.x_train, digits.y_train)


@pytest.fixture(scope="session")
def saved(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.keras"
    trained.save(path)
    return path
