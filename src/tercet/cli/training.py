"""``tercet contribute``, ``propose``, ``train`` and their kin."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from tercet.cli.agreements import (
    account_of,
    agreements,
    approve,
    budget_options,
    names_of,
    party_options,
    show_agreement,
    tell_spent,
    withdraw,
)
from tercet.crypto.identity import PublicIdentity
from tercet.errors import InputError
from tercet.service.cluster import Cluster
from tercet.service.contributor import Contributor
from tercet.service.training_party import TrainingProgress


@click.command()
@click.argument("name")
@click.argument("data", type=click.Path(dir_okay=False))
@click.option("--classes", type=click.IntRange(2), help="y are class numbers from 0 on.")
@party_options
def contribute(
    name: str, data: str, classes: int | None, cluster_path: str, identity: str | None
) -> None:
    """Contribute DATA under NAME, as shares: an .npz of x, labels y, and public row ids."""
    arrays = _load_arrays(data)
    cluster = Cluster.load(cluster_path, identity)
    ids = None if "ids" not in arrays else [str(i) for i in arrays["ids"]]
    with Contributor(cluster.config, cluster.owner) as owner:
        told = owner.contribute(name, arrays["x"], arrays.get("y"), classes=classes, ids=ids)
    click.echo(f"{told.full_name} is contributed: {told.contribution.rows} rows")


@click.command()
@click.option("--remove", "removed", help="Delete the contribution of yours that has this name.")
@party_options
def contributions(removed: str | None, cluster_path: str, identity: str | None) -> None:
    """List what data owners have contributed, or remove a contribution of yours."""
    cluster = Cluster.load(cluster_path, identity)
    with Contributor(cluster.config, cluster.owner) as owner:
        if removed:
            owner.remove(removed)
            click.echo(f"{removed} is removed")
            return
        held = owner.contributions()
    table = Table("contribution", "rows", "arrays", "digest")
    for told in held:
        given = told.contribution
        shapes = [
            f"{key} {' x '.join(map(str, t.shape))}" for key, t in sorted(given.tensors.items())
        ]
        table.add_row(
            told.full_name, str(given.rows or ""), ", ".join(shapes[:4]), told.digest.hex()[:16]
        )
    Console().print(table)


@click.command()
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--name", required=True, help="Of the trained model.")
@click.option("--data", multiple=True, required=True, help="A contribution. Repeat for more.")
@click.option("--epochs", default=1, show_default=True, type=click.IntRange(1))
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(1))
@click.option("--columns", is_flag=True, help="The contributions are columns of the same rows.")
@click.option(
    "--release",
    type=click.Choice(["predictions", "model", "metrics"]),
    default="predictions",
    show_default=True,
    help="What is released at the end.",
)
@click.option("--receiver", "receivers", multiple=True, help="Certificate of who gets the model.")
@click.option("--metric", "metrics", multiple=True, type=click.Choice(["loss", "accuracy"]))
@click.option("--clip-norm", type=float, help="Train with differential privacy: C of DP-SGD.")
@click.option("--noise-multiplier", type=float, help="The noise, in clipping norms.")
@click.option("--delta", default=1e-5, show_default=True, help="Of differential privacy.")
@click.option("--checkpoint", default=500, show_default=True, type=click.IntRange(1))
@budget_options
@party_options
def propose(
    model: str,
    name: str,
    data: tuple[str, ...],
    epochs: int,
    batch_size: int,
    columns: bool,
    release: str,
    receivers: tuple[str, ...],
    metrics: tuple[str, ...],
    clip_norm: float | None,
    noise_multiplier: float | None,
    delta: float,
    checkpoint: int,
    ledger: str | None,
    budget: str | None,
    sampled: bool,
    cluster_path: str,
    identity: str | None,
) -> None:
    """Propose to train MODEL, a compiled .keras file, on contributions of data."""
    from tercet.training.parties import load_model
    from tercet.training.parties import propose as propose_training
    from tercet.training.private import DPSGD

    if (clip_norm is None) != (noise_multiplier is None):
        raise InputError("differential privacy by half", "Give --clip-norm and --noise-multiplier")
    privacy = None
    if clip_norm is not None and noise_multiplier is not None:
        privacy = DPSGD(clip_norm, noise_multiplier, delta)
    cluster = Cluster.load(cluster_path, identity)
    account = account_of(ledger, budget, sampled, cluster.owner, name)
    training = propose_training(
        load_model(model),
        cluster,
        data,
        name=name,
        epochs=epochs,
        batch_size=batch_size,
        columns=columns,
        release=release,
        receivers=[PublicIdentity.load(r).fingerprint for r in receivers],
        metrics=metrics,
        checkpoint=checkpoint,
        privacy=privacy,
        account=account,
        sampled=sampled,
    )
    tell_spent(account)
    show_agreement(training.agreement, names_of(cluster))
    click.echo(f"Each of them reads it and runs: tercet approve {training.id[:16]}")


@click.command()
@click.argument("agreement")
@click.option("--detach", is_flag=True, help="Do not wait for the end.")
@party_options
def train(agreement: str, detach: bool, cluster_path: str, identity: str | None) -> None:
    """Run, or resume, the training of AGREEMENT and show how it goes; Ctrl-C leaves it running."""
    from tercet.training.parties import find

    training = find(Cluster.load(cluster_path, identity), agreement)
    training.run()
    if detach:
        click.echo(f"it runs; watch it with: tercet train {training.id[:16]}")
        return
    started = time.monotonic()
    with Watcher(training.agreement.terms.name) as watcher:
        done = training.wait(watcher.show)
    seconds = time.monotonic() - started
    click.echo(
        f"{done.steps} steps done, {seconds:.0f} s here; {done.model or 'no model'} is shared"
    )


@click.command()
@click.argument("agreement")
@party_options
def cancel(agreement: str, cluster_path: str, identity: str | None) -> None:
    """Stop the training of AGREEMENT; `tercet train` resumes it from its last checkpoint."""
    from tercet.training.parties import find

    find(Cluster.load(cluster_path, identity), agreement).cancel()
    click.echo("cancelled")


@click.command()
@click.argument("agreement")
@click.argument("model", type=click.Path(dir_okay=False))
@click.option("--output", required=True, type=click.Path(dir_okay=False), help="A .keras file.")
@party_options
def fetch(agreement: str, model: str, output: str, cluster_path: str, identity: str | None) -> None:
    """Write the trained weights into MODEL, the file that was proposed, as --output."""
    from tercet.training.parties import find, load_model

    training = find(Cluster.load(cluster_path, identity), agreement)
    training.fetch(load_model(model)).save(output)
    click.echo(f"{output} written")


COMMANDS: Sequence[click.Command] = (
    contribute, contributions, propose, agreements, approve, withdraw, train, cancel, fetch,
)  # fmt: skip


class Watcher:
    """A line in the terminal: steps, time left, and the metrics that are opened."""

    def __init__(self, name: str) -> None:
        self._progress = Progress(
            TextColumn(name),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed} of {task.total} steps"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
        )
        self._task = self._progress.add_task(name, total=None, told="")

    def __enter__(self) -> Watcher:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, progress: TrainingProgress) -> None:
        """Show how a training stands."""
        told = [f"{name} {values[-1][1]:.4f}" for name, values in progress.metrics.items()]
        if progress.seconds is not None:
            told.insert(0, f"{progress.seconds:.0f} s left")
        self._progress.update(
            self._task, completed=progress.step, total=progress.steps, told=", ".join(told)
        )


def _load_arrays(path: str) -> dict[str, np.ndarray[Any, Any]]:
    if not Path(path).exists():
        raise InputError(f"there is no file {path}", "Check the path")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.asarray(file[key]) for key in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"cannot read {path}: {error}", "Give an .npz file of numbers") from None
    if "x" not in arrays or set(arrays) - {"x", "y", "ids"}:
        raise InputError(
            f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}",
            "Save it with numpy.savez(path, x=..., y=...), and ids=... for columns",
        )
    return arrays
