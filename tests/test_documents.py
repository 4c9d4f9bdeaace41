"""Pages say what the code does: tests that they name exist; log lines and metrics are told."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tercet.service import metrics as metrics_module
from tercet.service.metrics import Metrics

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "tercet"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
#: What is logged for a model whose policy has changed is told in words.
_IN_WORDS = {"model %s of %s: %s"}


def test_tests_that_pages_name_exist() -> None:
    tests = {
        path.relative_to(ROOT / "tests").as_posix(): set(
            re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
        )
        for path in ROOT.glob("tests/**/test_*.py")
    }
    missing = []
    for page in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")):
        file = ""
        for named, test in re.findall(
            r"`(?:tests/)?([\w/]*\.py)?(?:::(test_\w+))?`", page.read_text()
        ):
            file = named or file
            known = tests.get(file)
            if test and (known is None or test not in known):
                missing.append(f"{page.name}: {file}::{test}")
            elif named.rpartition("/")[2].startswith("test_") and known is None:
                missing.append(f"{page.name}: {named}")
    assert not missing


def logged(path: Path) -> Iterator[str]:
    """The formats of all log lines of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id in {"_log", "LOG"}
            and node.args
        ):
            text = node.args[0]
            assert isinstance(text, ast.Constant), f"{path}:{node.lineno}"
            yield text.value


def test_each_log_line_of_a_worker_is_told() -> None:
    section = OPERATIONS.split("\n## Log\n")[1].split("\n## ")[0]
    lines = [line for folder in ("service", "net") for path in (PACKAGE / folder).glob("*.py")
             for line in logged(path)]  # fmt: skip
    assert len(lines) > 30
    untold = []
    for line in set(lines) - _IN_WORDS - {"%s"}:
        pieces = [piece.strip(" :(@);'") for piece in re.split(r"%\S", line)]
        if not all(piece in section for piece in pieces):
            untold.append(line)
    assert not untold


def test_each_metric_is_told_and_each_that_is_told_is_there() -> None:
    metrics = Metrics()
    metrics.refused(ValueError())
    shown = metrics.show(0, True, {"shared": 0}).decode()
    there = set(re.findall(r"^# TYPE (\w+) (?:counter|gauge|histogram)$", shown, re.MULTILINE))
    there = {name for name in there if not name.endswith("_created")}
    section = OPERATIONS.split("\n## Metrics\n")[1].split("\n## ")[0]
    assert set(re.findall(r"`(tercet_\w+)(?:\{\w+\})?`", section)) == there
    raised = {"other"}
    for path in (PACKAGE / "service").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "RefusedError":
                raised |= {a.value for a in node.args[2:] if isinstance(a, ast.Constant)}
    raised |= {reason for _, reason in metrics_module._KINDS} | {"worker"}
    told = re.search(r"`tercet_refusals_total\{reason\}` \| (.*) \|", section)
    assert told
    assert set(re.findall(r"`(\w+)`", told[1])) == raised
