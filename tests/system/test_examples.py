"""The examples of models that are no networks run, and give what plaintext gives."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
DIFFERENCE = r"largest difference from plaintext: (\S+)"


@pytest.mark.parametrize(
    ("name", "pattern", "least", "most"),
    [
        ("logistic_regression", DIFFERENCE, 0, 2e-4),
        ("pca", DIFFERENCE, 0, 1e-3),
        ("kmeans", r"same cluster as in plaintext: (\S+)", 1, 1),
    ],
)
def test_example(name: str, pattern: str, least: float, most: float) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(pattern, done.stdout)
    assert found, done.stdout
    assert least <= float(found[1]) <= most
