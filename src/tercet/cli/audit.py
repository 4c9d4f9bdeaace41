"""``tercet audit``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tercet.privacy.audit.report import FPRS, audit, load_records, write_report


def run_audit(
    model: str,
    members: str,
    others: str,
    references: tuple[str, ...],
    claimed: float | None,
    delta: float,
    output: str,
) -> None:
    """Attack the model in a file, print what was found and write the report."""
    found = audit(
        _load(model),
        load_records(members),
        load_records(others),
        references=[_load(path) for path in references],
        claimed=claimed,
        delta=delta,
    )
    write_report(found, output)
    table = Table("attack", "AUC", *(f"found at {100 * fpr:g} %" for fpr in FPRS))
    for name, curve in found.curves.items():
        rates = (f"{100 * curve.tpr_at(fpr):.1f} %" for fpr in FPRS)
        table.add_row(name, f"{curve.auc:.3f}", *rates)
    console = Console()
    console.print(table)
    console.print(
        f"epsilon is at least {found.bound.epsilon:.3f} at delta {delta:g} "
        f"({100 * found.bound.confidence:.0f} % confidence, if members were drawn by coins)"
    )
    console.print(f"report: {output}")


def _load(path: str) -> Any:
    import os

    os.environ.setdefault("KERAS_BACKEND", "jax")
    from tercet.frontend.keras_files import check_file, load

    check_file(Path(path))
    return load(Path(path))
