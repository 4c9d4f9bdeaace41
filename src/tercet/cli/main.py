"""``tercet``: the command line. Each command is thin; errors are one line with a remedy."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path
from typing import NoReturn

import click
import numpy as np

from tercet import __version__
from tercet.cli.agreements import IDENTITY
from tercet.cli.privacy import privacy
from tercet.cli.training import COMMANDS
from tercet.errors import InputError, TercetError

CLUSTER = click.option(
    "--cluster",
    "cluster_path",
    envvar="TERCET_CLUSTER",
    required=True,
    type=click.Path(dir_okay=False),
    help="cluster.toml; identities lie beside it. Or set TERCET_CLUSTER.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Encrypted deep learning on three workers that see neither the model nor the data."""


cli.add_command(privacy)
for _command in COMMANDS:
    cli.add_command(_command)


@cli.command()
@click.option("--data", type=click.Path(), help="A full mnist.npz instead of the part that ships.")
def demo(data: str | None) -> None:
    """Train the post's CNN, share it with three local workers, classify three images."""
    from tercet.cli.demo import run_demo

    run_demo(data)


@cli.command(hidden=True)
@CLUSTER
@click.option("--data", type=click.Path())
def demo_client(cluster_path: str, data: str | None) -> None:
    """Play the client of the demo, in a process of its own."""
    from tercet.cli.demo import run_client

    run_client(cluster_path, data)


@cli.command()
@click.argument("name")
@click.option("--directory", default=".", type=click.Path(file_okay=False), show_default=True)
def keygen(name: str, directory: str) -> None:
    """Make an identity: NAME.key, which is private, and NAME.crt, which is to be given away."""
    from tercet.crypto.identity import Identity

    identity = Identity.generate(name)
    certificate, key = identity.save(directory)
    click.echo(f"{certificate}  give this to the others\n{key}  keep this to yourself")
    click.echo(f"fingerprint {identity.fingerprint}")


@cli.command()
@click.option("--config", required=True, type=click.Path(dir_okay=False), help="Its TOML file.")
@click.option("--control-fd", type=int, hidden=True)
@click.option("--data-fd", type=int, hidden=True)
@click.option("--with-parent", is_flag=True, hidden=True)
def worker(config: str, control_fd: int | None, data_fd: int | None, with_parent: bool) -> None:
    """Run one worker until it is told to stop."""
    from tercet.service.main import run

    run(config, control_fd, data_fd, with_parent)


@cli.command()
@click.option("--directory", default="tercet-local", type=click.Path(), show_default=True)
def local(directory: str) -> None:
    """Run three workers on this machine until Ctrl-C: for trial only."""
    import signal

    from tercet.service.cluster import CLUSTER_FILE, LocalCluster

    folder = Path(directory)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty", "Name another --directory, or delete it")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with LocalCluster(directory=folder):
        click.echo(f"export TERCET_CLUSTER={folder.resolve() / CLUSTER_FILE}")
        click.echo("Ready. Ctrl-C stops the three workers.")
        try:
            signal.pause()
        except KeyboardInterrupt:
            click.echo("stopping")


@cli.command()
@click.argument("model", type=click.Path())
@CLUSTER
@click.option("--name", required=True, help="Name under which the model is shared.")
@click.option("--sample", type=click.Path(), help=".npy of typical inputs: cheaper comparisons.")
@click.option("--guard", is_flag=True, help="Tell who asks if a value left the sample's range.")
@click.option("--scale", default=16, show_default=True, help="Fractional bits.")
def share(
    model: str, cluster_path: str, name: str, sample: str | None, guard: bool, scale: int
) -> None:
    """Share MODEL with the workers: a .keras, .h5 or .pt2 file, or script.py:name."""
    from tercet import api
    from tercet.cli.check import load_model

    cluster = api.Cluster.load(cluster_path)
    rows = _load_array(sample) if sample else None
    shared = api.share(load_model(model), cluster, name, sample=rows, guard=guard, scale=scale)
    click.echo(f"{shared.full_name} is shared, program {shared.program_digest[:16]}")


@cli.command()
@click.argument("name")
@CLUSTER
@IDENTITY
@click.option("--max-requests", type=click.IntRange(1), help="Requests to answer in all.")
@click.option("--max-rows", type=click.IntRange(1), help="Rows to answer in all.")
@click.option("--max-rate", type=click.IntRange(1), help="Requests a minute of one client.")
@click.option(
    "--expires", metavar="WHEN", help="Seconds from now, or a time such as 2030-01-31T12:00+00:00."
)
@click.option(
    "--client",
    "clients",
    multiple=True,
    help="Who may ask: a certificate or a fingerprint. Repeat for more; default: everybody listed.",
)
@click.option(
    "--output",
    type=click.Choice(["raw", "softmax", "argmax", "top_k"]),
    default="raw",
    show_default=True,
    help="What is released.",
)
@click.option("--top", type=click.IntRange(1), default=None, help="Classes with --output top_k.")
@click.option("--decimals", type=click.IntRange(0, 9), help="Decimal places of released scores.")
@click.option("--clamp", type=float, nargs=2, help="Least and greatest input value.")
def serve(
    name: str,
    cluster_path: str,
    identity: str | None,
    max_requests: int | None,
    max_rows: int | None,
    max_rate: int | None,
    expires: str | None,
    clients: tuple[str, ...],
    output: str,
    top: int | None,
    decimals: int | None,
    clamp: tuple[float, float] | None,
) -> None:
    """Serve the shared model NAME (its newest version, or NAME@2) to the workers' clients."""
    from tercet import api
    from tercet.cli.status import policy_words

    served = api.serve(
        name,
        api.Cluster.load(cluster_path, identity),
        max_requests=max_requests,
        max_rows=max_rows,
        expires=_when(expires),
        clients=clients or None,
        max_rate=max_rate,
        output=output,
        top=top or 0,
        decimals=decimals,
        clamp=clamp,
    )
    terms = policy_words(served.policy)
    click.echo(f"{served.name}@{served.version} is served " + (terms or "without a limit"))


@cli.command()
@click.argument("name")
@CLUSTER
@IDENTITY
def stop(name: str, cluster_path: str, identity: str | None) -> None:
    """Stop serving NAME; it stays shared."""
    from tercet import api

    api.stop(name, api.Cluster.load(cluster_path, identity))
    click.echo(f"{name} is not served any more")


@cli.command()
@click.argument("name")
@CLUSTER
@IDENTITY
def remove(name: str, cluster_path: str, identity: str | None) -> None:
    """Delete the model NAME from the workers."""
    from tercet import api

    api.remove(name, api.Cluster.load(cluster_path, identity))
    click.echo(f"{name} is removed")


@cli.command()
@click.argument("name")
@click.argument("inputs", type=click.Path())
@CLUSTER
@IDENTITY
@click.option("--output", type=click.Path(dir_okay=False), help="Write a .npy file.")
@click.option("--accept-guard", is_flag=True, help="Let a guarded model open one bit a row to you.")
def predict(
    name: str,
    inputs: str,
    cluster_path: str,
    identity: str | None,
    output: str | None,
    accept_guard: bool,
) -> None:
    """Ask model NAME about the rows of INPUTS, a .npy file."""
    from tercet import api

    rows = _load_array(inputs)
    with api.connect(api.Cluster.load(cluster_path, identity)) as client:
        result = client.predict(name, rows, accept_guard=accept_guard)
        cost = client.last_cost
    if isinstance(result, api.TopK):
        columns = np.stack((result.indices, result.scores), -1)  # float64: index, score
    else:
        columns = result
    if output:
        np.save(output, columns, allow_pickle=False)
    else:
        np.savetxt(sys.stdout, columns.reshape(len(columns), -1), fmt="%.6g")
    if cost is not None:
        click.echo(
            f"{len(result)} rows in {cost.seconds * 1e3:.1f} ms, {cost.bytes / 1e3:.0f} KB "
            f"between the workers, {cost.rounds} rounds",
            err=True,
        )


@cli.command()
@CLUSTER
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(cluster_path: str, as_json: bool) -> None:
    """Show the three workers and their models; exit code 1 unless all are ready."""
    from tercet.cli.status import show_status
    from tercet.service.cluster import Cluster

    sys.exit(0 if show_status(Cluster.load(cluster_path), as_json) else 1)


@cli.command()
@CLUSTER
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
@click.option("--wait", default=0.0, help="Seconds to wait until all is well.")
def doctor(cluster_path: str, as_json: bool, wait: float) -> None:
    """Examine the three workers from here; exit code 1 if something is wrong."""
    from tercet.cli.doctor import show_examination
    from tercet.service.cluster import Cluster

    sys.exit(0 if show_examination(Cluster.load(cluster_path), as_json, wait) else 1)


@cli.group()
def cluster() -> None:
    """Make the public file that names three workers."""


@cluster.command("new")
@click.option(
    "--worker",
    "workers",
    required=True,
    multiple=True,
    metavar="CRT=HOST:PORT,DATAPORT",
    help="Certificate and ports of a worker; three times.",
)
@click.option("--output", default="cluster.toml", type=click.Path(), show_default=True)
def cluster_new(workers: tuple[str, ...], output: str) -> None:
    """Write cluster.toml from the three workers' certificates and addresses.

    HOST:PORT takes requests, DATAPORT on the same host the messages of the other two workers.
    """
    from tercet.cli.cluster import write_cluster

    write_cluster(workers, Path(output))


@cli.command()
@click.argument("model", type=click.Path())
@click.option(
    "--data",
    "--sample",
    "sample",
    type=click.Path(),
    help=".npy of typical inputs: ranges are measured, and what may overflow is told.",
)
@click.option("--batch", default=1, show_default=True, type=click.IntRange(1))
@click.option("--scale", default=16, show_default=True, help="Fractional bits.")
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def check(model: str, sample: str | None, batch: int, scale: int, as_json: bool) -> None:
    """Tell, layer by layer, whether MODEL is supported and what a request will cost.

    MODEL is a .keras, .h5 or .pt2 file, or script.py:name for a model, module or traced function
    that a script of yours makes. The exit code is 0 if it can be shared, else 1.
    """
    from tercet.cli.check import show_check

    rows = _load_array(sample) if sample else None
    sys.exit(0 if show_check(model, rows, batch, scale, as_json) else 1)


@cli.command()
@click.argument("worker")
@CLUSTER
@click.option(
    "--identity",
    default="owner",
    show_default=True,
    help="NAME.crt and NAME.key beside cluster.toml: an owner, worker or operator.",
)
def metrics(worker: str, cluster_path: str, identity: str) -> None:
    """Print the metrics of WORKER in the format of Prometheus."""
    from tercet.cli.status import show_metrics
    from tercet.crypto.identity import Identity
    from tercet.service.config import load_cluster

    folder = Path(cluster_path).parent
    reader = Identity.load(folder / f"{identity}.crt", folder / f"{identity}.key")
    click.echo(show_metrics(load_cluster(cluster_path), reader, worker), nl=False)


@cli.command("audit-log")
@click.option("--config", required=True, type=click.Path(dir_okay=False), help="Its TOML file.")
@click.option("--verify", is_flag=True, help="Check the chain; print its head only.")
def audit_log(config: str, verify: bool) -> None:
    """Print a worker's audit log, on its own machine, or check that nothing in it was changed."""
    from tercet.service import audit
    from tercet.service.config import load_worker

    last = None
    for entry in audit.read(Path(load_worker(config).state)):
        if verify:
            audit.check(last, entry)
        else:
            click.echo(entry.text)
        last = entry
    if verify:
        number, head = (last.number, last.hash.hex()) if last else (0, "none")
        click.echo(f"{number} entries, all in order; head {head}")


@cli.command()
@click.argument("model", type=click.Path())
@click.option("--members", required=True, type=click.Path(), help=".npz, x and y: trained on.")
@click.option("--non-members", required=True, type=click.Path(), help=".npz: not trained on.")
@click.option("--reference", multiple=True, type=click.Path(), help="A model trained on neither.")
@click.option("--epsilon", type=float, help="What is claimed.")
@click.option("--delta", default=1e-5, show_default=True, type=float, help="Of the claim.")
@click.option("--output", default="audit.html", show_default=True, type=click.Path(dir_okay=False))
def audit(
    model: str,
    members: str,
    non_members: str,
    reference: tuple[str, ...],
    epsilon: float | None,
    delta: float,
    output: str,
) -> None:
    """Attack MODEL, a Keras classifier: which records was it trained on, what does it show?"""
    from tercet.cli.audit import run_audit

    run_audit(model, members, non_members, reference, epsilon, delta, output)


def _when(text: str | None) -> datetime.datetime | float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        pass
    try:
        return datetime.datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is no time", "Give seconds or 2030-01-31T12:00+00:00") from None


def _load_array(path: str) -> np.ndarray:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {error}", "Give a .npy file of numbers") from None


def main() -> NoReturn:
    """Run the command line; Tercet's own errors end it with one line and exit code 1."""
    try:
        cli(standalone_mode=True)
    except TercetError as error:
        click.echo(click.style("error: ", fg="red") + str(error), err=True)
    sys.exit(1)
