"""One picture of the results: every figure against its target, and how cost grows with images.

python -m bench.plot      (needs matplotlib and bench/results/*.json)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from bench.common import RESULTS


def draw() -> Path:
    """Draw what the parts have saved; return the picture's path."""
    results: dict[str, Any] = {}
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and {"name", "rows", "targets"} <= content.keys():
            results[content["name"]] = content
    figure, (bars, growth) = plt.subplots(1, 2, figsize=(15, 7), width_ratios=(3, 2))
    _targets(bars, results)
    _growth(growth, results.get("growth"))
    figure.tight_layout()
    path = RESULTS / "bench.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _targets(axes: Any, results: dict[str, Any]) -> None:
    labels, ratios, colours = [], [], []
    for name, result in results.items():
        for target in result["targets"]:
            measured, reach = target["measured"], target["reach"]
            share = reach / measured if target["least"] else measured / reach
            labels.append(f"{name}: {target['what']}  {measured:.3g} {target['unit']}")
            ratios.append(max(share, 1e-3))
            colours.append("tab:green" if target["met"] else "tab:red")
    axes.barh(labels[::-1], ratios[::-1], color=colours[::-1])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("part of the target that is used (less is better; 1 is the target)")
    axes.set_title("Measured against target")
    axes.tick_params(axis="y", labelsize=8)


def _growth(axes: Any, result: Any) -> None:
    axes.set_title("The post's CNN: cost against images")
    if not result:
        axes.set_axis_off()
        return
    rows = result["rows"]
    images = [row["images"] for row in rows]
    seconds = [row["median_ms"] / 1e3 for row in rows]
    low = [row["p10_ms"] / 1e3 for row in rows]
    high = [row["p90_ms"] / 1e3 for row in rows]
    megabytes = [row["kilobytes_an_image"] * row["images"] / 1e3 for row in rows]
    axes.fill_between(images, low, high, alpha=0.3)
    axes.loglog(images, seconds, "o-", label="seconds (median, p10 to p90)")
    axes.loglog(
        images,
        [seconds[0] * n / images[0] for n in images],
        "k--",
        linewidth=1,
        label="in proportion to the first",
    )
    axes.loglog(images, megabytes, "s-", label="MB between the workers")
    axes.loglog(
        images, [row["data_plane_peak_MB"] for row in rows], "^-", label="MB of memory, data plane"
    )
    axes.set_xticks(images, [str(n) for n in images])
    axes.set_xlabel("images of a request")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()


if __name__ == "__main__":
    print(draw())
