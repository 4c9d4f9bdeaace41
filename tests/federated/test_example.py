"""The example of the hospitals, in short."""

from __future__ import annotations

import importlib.util
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "hospitals_federated.py"


def test_hospitals(tmp_path: Path, capsys) -> None:
    spec = importlib.util.spec_from_file_location("hospitals_federated", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    plot = tmp_path / "plot.html"
    found = example.main(["--hospitals", "4", "--rounds", "2", "--plot", str(plot)])
    plain, secure, private = found.values()
    assert abs(plain - secure) < 0.01
    assert plain > 0.6
    assert private > 0.15
    assert plot.stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "round   2 of 2   accuracy" in said
    assert "each hospital has spent epsilon 7.99" in said
