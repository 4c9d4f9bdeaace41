"""``tercet doctor``."""

from __future__ import annotations

import dataclasses
import json
import time

import click

from tercet.service.cluster import Cluster
from tercet.service.doctor import examine

_PAUSE = 0.5


def show_examination(cluster: Cluster, as_json: bool, wait: float) -> bool:
    """Print a line a check, and a remedy for each that fails; return whether all is well.

    Args:
        cluster: what to examine.
        as_json: print one JSON object.
        wait: seconds to repeat it, before printing, while something is wrong.
    """
    deadline = time.monotonic() + wait
    while True:
        checks = examine(cluster.config, cluster.caller)
        well = all(check.ok for check in checks)
        if well or time.monotonic() > deadline:
            break
        time.sleep(_PAUSE)
    if as_json:
        print(json.dumps({"ok": well, "checks": [dataclasses.asdict(c) for c in checks]}))
        return well
    for check in checks:
        mark = click.style("ok  ", fg="green") if check.ok else click.style("FAIL", fg="red")
        click.echo(f"{mark} {check.worker or 'all':10} {check.what:12} {check.told}")
        if not check.ok:
            click.echo(f"     -> {check.remedy}")
    return well
