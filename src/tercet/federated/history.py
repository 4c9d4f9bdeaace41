"""What a run did, round by round: for the terminal while it runs, as a plot afterwards."""

from __future__ import annotations

import html
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tercet.errors import ConfigError, InputError
from tercet.privacy.accounting import Guarantee
from tercet.privacy.figures import embed, new_figure


class Round(NamedTuple):
    """One round.

    Attributes:
        number: from 1.
        contributors: names of those whose updates are in the mean; empty if the round failed.
        absent: who is not in it, and why.
        accuracy: on the validation data after the round, in [0, 1]; None without.
        guarantee: what user-level noise has guaranteed so far; None without noise.
        seconds: from its start to the new model.
        amplified: the same guarantee against those who see the models alone, and not who took part
            in which round; None unless participants are sampled.
    """

    number: int
    contributors: tuple[str, ...]
    absent: dict[str, str]
    accuracy: float | None
    guarantee: Guarantee | None
    seconds: float
    amplified: Guarantee | None = None


class History(NamedTuple):
    """All rounds of a run, in their order."""

    rounds: list[Round]

    def plot(self, path: str | Path) -> None:
        """Write accuracy and epsilon by round to a .png or .html file.

        The page has the picture and the figures in it and needs no network.

        Raises:
            InputError: the name ends otherwise.
            ConfigError: the file cannot be written, or matplotlib is not installed.
        """
        path = Path(path)
        if path.suffix not in {".png", ".html"}:
            raise InputError(f"{path} is neither .png nor .html", "Name one of the two")
        figure = new_figure(8, 4)
        accuracies = [(r.number, r.accuracy) for r in self.rounds if r.accuracy is not None]
        epsilons = [(r.number, r.guarantee.epsilon) for r in self.rounds if r.guarantee]
        left = figure.subplots()
        left.set(xlabel="round", ylabel="accuracy", ylim=(0, 1))
        left.plot(*zip(*accuracies, strict=True), "o-") if accuracies else None
        if epsilons:
            right = left.twinx()
            right.set(ylabel="epsilon")
            right.plot(*zip(*epsilons, strict=True), "s--", color="tab:red")
            right.set_ylim(bottom=0)
        try:
            if path.suffix == ".png":
                figure.savefig(path, dpi=110)
            else:
                path.write_text(self._page(embed(figure)), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error}", "Name another file") from None

    def _page(self, picture: str) -> str:
        rows = "".join(
            f"<tr><td>{r.number}</td><td>{_percent(r.accuracy)}</td>"
            f"<td>{html.escape(str(r.guarantee or ''))}</td>"
            f"<td>{html.escape(str(r.amplified or ''))}</td><td>{len(r.contributors)}</td>"
            f"<td>{html.escape('; '.join(f'{n}: {why}' for n, why in r.absent.items()))}</td></tr>"
            for r in self.rounds
        )
        return (
            "<!doctype html><meta charset=utf-8><title>Federated training</title>"
            "<style>body{font:1em sans-serif;margin:2em}td,th{padding:.2em .8em;text-align:left}"
            f"</style><h1>Federated training</h1>{picture}<table><tr><th>round</th>"
            "<th>accuracy</th><th>privacy of a participant</th>"
            "<th>against who sees the models alone</th><th>contributors</th>"
            f"<th>absent</th></tr>{rows}</table>"
        )


class Terminal:
    """Shows a run in the terminal: a bar of the participants, a line for each finished round."""

    def __init__(self, rounds: int, *, quiet: bool = False) -> None:
        self._rounds = rounds
        self._progress = Progress(
            TextColumn("round {task.fields[number]} of {task.fields[rounds]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
            console=Console(highlight=False, quiet=quiet),
            transient=True,
        )
        self._bar = self._progress.add_task("", number=1, rounds=rounds, what="", total=None)

    def __enter__(self) -> Terminal:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def begin(self, number: int, participants: int) -> None:
        """Show that a round begins."""
        self._progress.update(self._bar, completed=0, total=participants, number=number, what="")

    def heard(self, name: str, failure: str | None) -> None:
        """Show that a participant has contributed, or why it has not."""
        if failure is not None:
            self._progress.console.print(f"{name}: {failure}", markup=False)
        self._progress.update(self._bar, advance=1, what=name)

    def end(self, made: Round) -> None:
        """Show what a round came to."""
        parts = [f"round {made.number:3d} of {self._rounds}"]
        if made.accuracy is not None:
            parts.append(f"accuracy {_percent(made.accuracy)}")
        if made.guarantee is not None:
            parts.append(f"epsilon {made.guarantee.epsilon:.3f}")
        if made.amplified is not None:
            parts.append(f"(models alone: {made.amplified.epsilon:.3f})")
        everybody = len(made.contributors) + len(made.absent)
        parts.append(f"{len(made.contributors)} of {everybody} contributed")
        parts.append(f"{made.seconds:.1f} s")
        self._progress.console.print("   ".join(parts), markup=False)


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.2f} %"
