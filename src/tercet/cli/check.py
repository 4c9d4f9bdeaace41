"""``tercet check``: what a model will need, before anything of it is shared."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from tercet.errors import ConfigError, TercetError, UnsupportedOperation
from tercet.preflight.report import Layer, Operation, Preflight, Verdict, decimals


def load_model(model: str) -> Any:
    """Return what MODEL names: the path of a file, or the object in ``script.py:name``.

    Raises:
        ConfigError: if there is no such script or object.
    """
    path, colon, name = model.rpartition(":")
    if not colon or not path.endswith(".py"):
        return model
    if not Path(path).is_file():
        raise ConfigError(f"There is no script {path}", "Name it as script.py:model")
    try:
        names = runpy.run_path(path)
    except TercetError:
        raise
    except Exception as error:  # the user's own script may raise anything
        raise ConfigError(f"{path} ended with {type(error).__name__}: {error}") from error
    if name not in names:
        raise ConfigError(f"{path} has no {name!r}", "Assign the model to a name at its top level")
    return names[name]


def show_check(model: str, sample: Any | None, batch: int, scale: int, as_json: bool) -> bool:
    """Print the report on MODEL for ``batch`` rows; return whether it can be shared."""
    from tercet.api import check
    from tercet.preflight.check import refusal

    try:
        loaded = load_model(model)
    except UnsupportedOperation as error:
        if not error.layers:
            raise
        report = refusal(error.layers, batch, scale)  # the script's own tercet.trace
    else:
        report = check(loaded, sample=sample, batch=batch, scale=scale)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        _show(report)
    return report.supported


def _show(report: Preflight) -> None:
    console = Console()
    measured = any(layer.largest is not None for layer in report.layers)
    table = Table("layer", "kind", "runs", "bytes", "rounds", "time")
    if measured:
        table.add_column("largest value")
    for layer in report.layers:
        cells = [layer.name, layer.kind, _verdict(layer)]
        priced = report.bytes is not None
        cells += (
            [f"{layer.bytes:,}", str(layer.rounds), f"{layer.share:.0%}"] if priced else [""] * 3
        )
        if measured:
            cells.append("" if layer.largest is None else f"{layer.largest:.4g}")
        table.add_row(*cells)
    if report.bytes is not None:
        table.add_section()
        table.add_row("total", "", f"{report.batch} rows", f"{report.bytes:,}", str(report.rounds))
    console.print(table)
    _show_operations(console, report)
    if report.lan_seconds is not None and report.wan_seconds is not None:
        console.print(
            f"Estimated: {decimals(report.lan_seconds)} on a LAN (0.25 ms one way, 1 Gbit/s), "
            f"{decimals(report.wan_seconds)} on a WAN (20 ms, 100 Mbit/s); of these "
            f"{decimals(report.compute_seconds or 0)} products of matrices"
        )
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    if report.proposed_scale not in (None, report.scale):
        console.print(f"Everything fits with {report.proposed_scale} fractional bits (--scale)")
    if report.error:
        console.print(report.error, markup=False)


def _show_operations(console: Console, report: Preflight) -> None:
    """Print what each layer does that is a plain function or not supported."""
    shown = [x for x in report.layers if x.kind == "function" or x.verdict is Verdict.REFUSED]
    table = Table("layer", "operation", "written at", "times", "runs")
    for layer in shown:
        for one in layer.operations:
            table.add_row(layer.name, one.name, one.place, str(one.count), _verdict(one))
    if table.row_count:
        console.print(table)


def _verdict(layer: Layer | Operation) -> str:
    if layer.verdict is Verdict.REFUSED:
        reason = layer.reason
        if isinstance(layer, Operation):  # layer and place stand beside it
            reason = reason.partition(" uses ")[2] or reason
        return f"not supported: {reason}. {layer.remedy}"
    if layer.verdict is Verdict.APPROXIMATED:
        return f"approximated: {', '.join(layer.functions)} ({layer.error})"
    return str(layer.verdict)
