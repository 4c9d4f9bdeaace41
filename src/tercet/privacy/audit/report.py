"""The audit of one model, and its report: one HTML file that needs no network."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tercet.errors import ConfigError, InputError
from tercet.privacy.audit import canary, inversion, membership
from tercet.privacy.audit.canary import LowerBound
from tercet.privacy.audit.membership import Roc
from tercet.privacy.figures import embed, new_figure

FPRS = (0.001, 0.01, 0.1)
"""False positive rates at which the report states how many members are found."""


class Audit(NamedTuple):
    """What the attacks found.

    Attributes:
        name: the model's.
        members, others: how many records of each kind.
        curves: by attack.
        bound: lower bound on epsilon, if members were chosen by coins.
        claimed: the epsilon that is claimed, if any.
        images: inverted images (classes, height, width, channels); None for other models.
    """

    name: str
    members: int
    others: int
    curves: dict[str, Roc]
    bound: LowerBound
    claimed: float | None
    images: NDArray[np.float32] | None


Records = tuple[NDArray[Any], NDArray[Any]]


def audit(
    model: Any,
    members: Records,
    others: Records,
    *,
    references: Sequence[Any] = (),
    claimed: float | None = None,
    delta: float = 1e-5,
) -> Audit:
    """Attack ``model``, a Keras classifier on the JAX backend.

    Args:
        model: returns probabilities or logits, shape (n, classes).
        members: x and y of records that it was trained on.
        others: x and y of records of the same kind that it was not trained on.
        references: two or more models of the kind, trained on neither; with them the
            likelihood-ratio attack runs too.
        claimed: the epsilon that training is said to have.
        delta: of that claim.

    Raises:
        InputError: records and model do not belong together.
    """
    x, y = (np.concatenate([a, b]) for a, b in zip(members, others, strict=True))
    inside = len(members[0])
    score = membership.confidence(model, x, y)
    scores = {"loss": score}
    if references:
        known = [membership.confidence(reference, x, y) for reference in references]
        scores["likelihood ratio"] = membership.likelihood_ratio(score, known)
    best = list(scores.values())[-1]
    shape = model.input_shape[1:]
    return Audit(
        model.name,
        inside,
        len(x) - inside,
        {name: membership.roc(s[:inside], s[inside:]) for name, s in scores.items()},
        canary.lower_bound(best[:inside], best[inside:], delta),
        claimed,
        inversion.invert(model, model.output_shape[-1]) if len(shape) == 3 else None,
    )


def load_records(path: str | Path) -> Records:
    """Return x and y of an .npz file.

    Raises:
        InputError: the file is none, or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["x"], file["y"].reshape(-1)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot read {path}: {error}", "Give an .npz file with x and y") from None


def write_report(found: Audit, path: str | Path) -> None:
    """Write the report.

    Raises:
        ConfigError: the file cannot be written, or matplotlib is not installed.
    """
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{curve.auc:.3f}</td>"
        + "".join(f"<td>{100 * curve.tpr_at(fpr):.1f} %</td>" for fpr in FPRS)
        + "</tr>"
        for name, curve in found.curves.items()
    )
    heads = "".join(f"<th>found at {100 * fpr:g} % false alarms</th>" for fpr in FPRS)
    bound = found.bound
    claim = "none" if found.claimed is None else f"{found.claimed:g}"
    refuted = found.claimed is not None and bound.epsilon > found.claimed
    images = ""
    if found.images is not None:
        images = (
            "<h2>Model inversion</h2><p>The image that the model takes most for each class. What "
            "can be recognised here, the model gives away.</p>" + _figure(_draw_images, found)
        )
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Audit of {html.escape(found.name)}</title>
<style>body{{font:16px/1.5 sans-serif;max-width:50em;margin:2em auto;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{border:1px solid #bbb;padding:.3em .7em;text-align:right}}
img{{max-width:100%}}.bad{{color:#a00;font-weight:bold}}</style></head><body>
<h1>Audit of {html.escape(found.name)}</h1>
<p>{found.members} records of the training set, {found.others} others.</p>
<h2>Membership inference</h2>
<table><tr><th>attack</th><th>AUC</th>{heads}</tr>{rows}</table>
<p>An area under the curve of 0.5 is guessing. What counts for a single person is how many are found
at few false alarms.</p>
{_figure(_draw_curves, found)}
<h2>Lower bound on epsilon</h2>
<table><tr><th>shown, with {100 * bound.confidence:.0f} % confidence</th><td>at least
{bound.epsilon:.3f}</td></tr><tr><th>claimed</th><td>{claim}</td></tr>
<tr><th>delta</th><td>{bound.delta:g}</td></tr>
<tr><th>guesses right</th><td>{bound.correct} of {bound.guesses}</td></tr></table>
{'<p class="bad">The claim is refuted.</p>' if refuted else ""}
<p>One-run audit (Steinke, Nasr, Jagielski 2023). It holds if each record was put into the training
set, or left out, by a fair coin of its own. A low bound does not prove privacy: another attack
may find more.</p>
{images}
</body></html>
"""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}", "Name another --output") from None


def _draw_curves(figure: Any, found: Audit) -> None:
    linear, logarithmic = figure.subplots(1, 2)
    for axes in (linear, logarithmic):
        for name, curve in found.curves.items():
            axes.plot(curve.fpr, curve.tpr, label=f"{name}, AUC {curve.auc:.3f}")
        axes.plot([1e-4, 1], [1e-4, 1], ":", color="grey", label="guessing")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
    logarithmic.set(xscale="log", yscale="log", xlim=(1e-3, 1), ylim=(1e-3, 1))
    linear.legend()


def _draw_images(figure: Any, found: Audit) -> None:
    assert found.images is not None
    columns = min(len(found.images), 10)
    grid = figure.subplots(-(-len(found.images) // columns), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, (axes, image) in enumerate(zip(grid.flat, found.images, strict=False)):
        shown = image if image.shape[-1] == 3 else image[..., 0]
        axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
        axes.set_title(str(number))


def _figure(draw: Any, found: Audit) -> str:
    figure = new_figure(9, 4)
    draw(figure, found)
    return embed(figure)
