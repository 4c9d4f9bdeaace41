"""Configuration files: ``cluster.toml``, which is public, and one file a worker."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from tercet.crypto.identity import PublicIdentity
from tercet.errors import ConfigError, IdentityError

T = TypeVar("T")

WORKERS = 3


class WorkerEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker as everybody knows it: name, ``host:port`` of its two ports, certificate (PEM)."""

    name: str
    address: str
    data_address: str
    certificate: str

    @property
    def identity(self) -> PublicIdentity:
        """Return the worker's public identity."""
        return PublicIdentity.from_pem(self.certificate)


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The three workers in order of their index."""

    worker: list[WorkerEntry]

    def check(self, where: str) -> None:
        """Refuse anything but three different workers with well-formed addresses.

        Raises:
            ConfigError: naming ``where``.
        """
        if len(self.worker) != WORKERS:
            raise ConfigError(
                f"{where} names {len(self.worker)} workers", "A cluster has exactly three"
            )
        for what, values in (
            ("name", [w.name for w in self.worker]),
            ("address", [a for w in self.worker for a in (w.address, w.data_address)]),
        ):
            if len(set(values)) != len(values):
                raise ConfigError(f"{where} has the same {what} twice", "Give each its own")
        try:
            keys = {w.identity.fingerprint for w in self.worker}
        except IdentityError as error:
            raise ConfigError(f"{where}: {error.message}", error.remedy) from None
        if len(keys) != WORKERS:
            raise ConfigError(f"{where} names the same worker twice", "Each needs a key of its own")
        for worker in self.worker:
            split_address(worker.address)
            split_address(worker.data_address)


class WorkerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One worker's own settings. Paths are relative to the file's folder.

    ``owners``, ``clients`` and ``operators`` are certificate files, or folders of them, of those
    who may share models, ask them, and read health and metrics. They are read again when they
    change. ``log`` is the style of log lines; ``max_queue`` how many requests may be under way.
    """

    name: str
    cluster: str
    certificate: str
    key: str
    state: str
    owners: list[str] = []
    clients: list[str] = []
    operators: list[str] = []
    log: Literal["text", "json"] = "text"
    max_queue: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 512


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of ``host:port``.

    Raises:
        ConfigError: if it is something else.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"{address!r} is not an address", "Write host:port, e.g. localhost:4000")
    return host.strip("[]"), int(port)


def load_cluster(path: str | Path) -> ClusterConfig:
    """Read and check ``cluster.toml``.

    Raises:
        ConfigError: if it cannot be read or is not a cluster.
    """
    config = _load(Path(path), ClusterConfig)
    config.check(str(path))
    return config


def load_worker(path: str | Path) -> WorkerConfig:
    """Read a worker's file, its paths made absolute.

    Raises:
        ConfigError: if it cannot be read or has an unknown key.
    """
    config, folder = _load(Path(path), WorkerConfig), Path(path).resolve().parent

    def absolute(p: str) -> str:
        return str(folder / p)

    return msgspec.structs.replace(
        config,
        cluster=absolute(config.cluster),
        certificate=absolute(config.certificate),
        key=absolute(config.key),
        state=absolute(config.state),
        owners=[absolute(p) for p in config.owners],
        clients=[absolute(p) for p in config.clients],
        operators=[absolute(p) for p in config.operators],
    )


def write_toml(path: Path, config: Any) -> None:
    """Write a configuration structure as TOML (strings, whole numbers, lists and tables)."""

    def value(v: Any) -> str:
        if isinstance(v, list):
            return "[" + ", ".join(value(x) for x in v) + "]"
        if isinstance(v, int):
            return str(v)
        return '"' + str(v).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'

    lines: list[str] = []
    tables: list[str] = []
    for key, entry in msgspec.to_builtins(config).items():
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            for table in entry:
                tables += ["", f"[[{key}]]", *(f"{k} = {value(v)}" for k, v in table.items())]
        else:
            lines.append(f"{key} = {value(entry)}")
    path.write_text("\n".join(lines + tables).lstrip() + "\n", encoding="utf-8")


def _load(path: Path, kind: type[T]) -> T:
    try:
        with path.open("rb") as file:
            return msgspec.convert(tomllib.load(file), kind)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "Check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}", "See docs/operations.md for the format") from None
