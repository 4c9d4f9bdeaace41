"""``tercet cluster new``: ``cluster.toml`` from certificates, so that nobody pastes PEM by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from tercet.crypto.identity import PublicIdentity
from tercet.errors import ConfigError
from tercet.service.config import ClusterConfig, WorkerEntry, split_address, write_toml


def write_cluster(workers: Sequence[str], output: Path) -> None:
    """Write the file and print whom it names.

    Args:
        workers: ``CRT=HOST:PORT,DATAPORT`` each, in order of their index. A worker's name is the
            one in its certificate.
        output: must not exist.

    Raises:
        ConfigError: if they do not make a cluster, or the file exists.
        IdentityError: if a certificate cannot be read.
    """
    config = ClusterConfig([_entry(text) for text in workers])
    config.check("the cluster")
    if output.exists():
        raise ConfigError(
            f"{output} exists and will not be overwritten", "Name another --output, or move it away"
        )
    write_toml(output, config)
    for entry in config.worker:
        click.echo(f"{entry.name:12} {entry.address:24} fingerprint {entry.identity.fingerprint}")
    click.echo(f"{output}  give this to everybody; compare the fingerprints by another channel")


def _entry(text: str) -> WorkerEntry:
    certificate, equals, rest = text.partition("=")
    address, comma, data_port = rest.rpartition(",")
    if not (certificate and equals and comma):
        raise ConfigError(
            f"{text!r} is not a worker",
            "Write CRT=HOST:PORT,DATAPORT: julia.crt=localhost:4000,4001",
        )
    split_address(address)
    data_address = f"{address.rpartition(':')[0]}:{data_port}"
    split_address(data_address)
    identity = PublicIdentity.load(certificate)
    return WorkerEntry(identity.name, address, data_address, identity.pem)
