"""The example with PyTorch and Opacus, in short, in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "hospitals_opacus.py"


def test_hospitals_with_opacus() -> None:
    """DP-SGD at each hospital, charged as planned; the secure sums make one model that learns."""
    ran = subprocess.run(
        [sys.executable, EXAMPLE, "--rounds", "2", "--examples", "1500", "--epsilon", "8"],
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "round   2 of 2   3 of 3 contributed" in ran.stdout
    spent = re.search(r"epsilon ([0-9.]+) at delta 0.0001 \(PLD, sampling: Poisson", ran.stdout)
    accuracy = re.search(r"accuracy ([0-9.]+)%", ran.stdout)
    assert spent, ran.stdout
    assert accuracy, ran.stdout
    assert 7.9 < float(spent[1]) <= 8.0
    assert float(accuracy[1]) > 40
