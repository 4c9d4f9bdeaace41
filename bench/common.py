"""What the parts of the benchmark share: timing, tables, targets, JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
#: Largest error of a logit against plaintext Keras.
ERROR_BOUND = 2e-3

Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A figure to reach: at most ``reach``, or at least if ``least``."""

    what: str
    measured: float
    reach: float
    unit: str
    least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.measured >= self.reach if self.least else self.measured <= self.reach


@dataclass
class Part:
    """What one part of the benchmark has measured."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print the rows, the targets and the notes."""
        console = Console(width=None if Console().is_terminal else 190, highlight=False)
        table = Table(
            *_columns(self.rows), title=f"{self.name}: {self.title}", title_justify="left"
        )
        for row in self.rows:
            table.add_row(*(_text(row.get(c)) for c in _columns(self.rows)))
        console.print(table)
        for target in self.targets:
            console.print(line(target))
        for note in self.notes:
            console.print(f"  note: {note}")

    def save(self, path: Path) -> None:
        """Write everything as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        figures = asdict(self) | {"machine": machine()}
        for target, built in zip(self.targets, figures["targets"], strict=True):
            built["met"] = target.met
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def line(target: Target) -> str:
    """Return a target and what was measured as one line."""
    sign = ">=" if target.least else "<="
    verdict = "met" if target.met else "NOT MET"
    return (
        f"  {target.what}: {target.measured:.4g} {target.unit} "
        f"(reach {sign} {target.reach:.4g} {target.unit}): {verdict}"
    )


def main(run: Callable[[], Part], about: str | None) -> None:
    """Run one part as a program: print it, and write its JSON if asked to."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    finish(run(), arguments.json)


def finish(part: Part, path: Path | None) -> None:
    """Print a part and write its JSON if there is a path."""
    part.show()
    if path is not None:
        part.save(path)


def machine() -> dict[str, Any]:
    """Describe what the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [v for v in cpuinfo.read_text().splitlines() if v.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def times(function: Callable[[], Any], repeats: int, warm: int = 2) -> list[float]:
    """Return the seconds of each of ``repeats`` calls, after ``warm`` that do not count."""
    for _ in range(warm):
        function()
    result = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        result.append(time.perf_counter() - started)
    return result


def spread(seconds: Sequence[float], name: str = "") -> Row:
    """Return median, 10 % and 90 % quantile in milliseconds."""
    prefix = f"{name}_" if name else ""
    return {
        f"{prefix}median_ms": statistics.median(seconds) * 1e3,
        f"{prefix}p10_ms": float(np.quantile(seconds, 0.1)) * 1e3,
        f"{prefix}p90_ms": float(np.quantile(seconds, 0.9)) * 1e3,
    }


def keras_seconds(model: Any, x: Any, repeats: int) -> float:
    """Return the median of plaintext Keras: called directly or compiled, whichever is faster."""
    return min(
        statistics.median(times(lambda: np.asarray(model(x)), repeats)),
        statistics.median(times(lambda: model.predict_on_batch(x), repeats)),
    )


def trained_digits() -> tuple[Any, Any]:
    """Return the post's CNN after an epoch, and the digits; trained once for all parts of a run."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    from tercet.data import load_digits
    from tercet.frontend.digits import train_digits

    digits = load_digits()
    path = RESULTS / "digits.keras"
    if path.exists():
        return keras.models.load_model(path), digits
    model = train_digits(digits.x_train, digits.y_train)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model, digits


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from this one, itself excluded."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *descendants(child)]
    return found


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process ever had in use (VmHWM)."""
    for entry in Path(f"/proc/{pid}/status").read_text().splitlines():
        if entry.startswith("VmHWM:"):
            return int(entry.split()[1]) * 1024
    return 0


def worker_peaks(pids: Iterable[int]) -> tuple[int, int]:
    """Return the peaks of the worker that needs most: its data plane, and all its processes."""
    pids = list(pids)
    planes = [sum(map(peak_bytes, descendants(p))) for p in pids]
    return max(planes), max(q + peak_bytes(p) for p, q in zip(pids, planes, strict=True))


def _columns(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row))


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)
