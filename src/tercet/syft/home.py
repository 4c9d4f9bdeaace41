"""The folder in which the processes of one user find the keys of a cluster on this machine.

Trust is pinned keys, so all processes that name the same three workers need the same
``cluster.toml`` and the same identities. They are made on first use, in a folder that only its
user may enter.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from tercet.errors import ConfigError, IdentityError
from tercet.service.config import split_address
from tercet.service.processes import CLUSTER_FILE, lay_out

#: Names of the workers in order of their addresses.
NAMES = ("alice", "bob", "carol")
LOOPBACK = "127.0.0.1"

_DATA_OFFSET = 1000
_LAST_PORT = (1 << 16) - 1


def home() -> Path:
    """Return Tercet's per-user folder: ``TERCET_HOME``, or ``tercet`` in the XDG data folder."""
    if given := os.environ.get("TERCET_HOME"):
        return Path(given).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME", "")
    # The XDG specification says to ignore a relative path.
    base = Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share"
    return base / "tercet"


def canonical(address: str) -> str:
    """Return ``host:port`` with one spelling for this machine.

    Raises:
        ConfigError: if it is not an address.
    """
    host, port = split_address(address)
    host = host.lower()
    if host in ("localhost", LOOPBACK, "::1"):
        host = LOOPBACK
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cluster_folder(addresses: Sequence[str]) -> Path:
    """Return the folder of the cluster of these three addresses, made if it is not there yet.

    Args:
        addresses: in any order; canonical.

    Raises:
        IdentityError: if others have access to the folder.
        ConfigError: if it cannot be made.
    """
    ordered = sorted(addresses, key=split_address)
    name = hashlib.sha256("\n".join(ordered).encode()).hexdigest()[:16]
    clusters = home() / "clusters"
    try:
        _private(home())
        _private(clusters)
        with (clusters / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed
            folder = clusters / name
            if not (folder / CLUSTER_FILE).exists():
                _make(folder, ordered)
        _private(folder)
    except OSError as error:
        raise ConfigError(
            f"cannot keep keys in {clusters}: {error.strerror}",
            "Name a folder of yours: export TERCET_HOME=...",
        ) from None
    return folder


def _make(folder: Path, addresses: Sequence[str]) -> None:
    """Fill a new folder and give it its name last, so that nobody meets half of it."""
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed here
    _private(new)
    lay_out(new, list(zip(NAMES, addresses, _data_addresses(addresses), strict=True)))
    os.rename(new, folder)


def _data_addresses(addresses: Sequence[str]) -> list[str]:
    """Return an address for protocol messages for each worker: its port + 1000, or the next free.

    The same for everybody who names the same workers.
    """
    taken, found = set(addresses), []
    for address in addresses:
        host, colon, text = address.rpartition(":")
        port = int(text) + _DATA_OFFSET
        port = port if port <= _LAST_PORT else int(text) - _DATA_OFFSET
        while f"{host}{colon}{port}" in taken:
            port -= 1
        taken.add(f"{host}{colon}{port}")
        found.append(f"{host}{colon}{port}")
    return found


def _private(folder: Path) -> None:
    """Make a folder that only this user may enter, or check that it is one."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid():
        raise IdentityError(
            f"the folder {folder} belongs to another user",
            "Name one of yours: export TERCET_HOME=...",
        )
    if status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise IdentityError(
            f"others on this machine have access to {folder}, where keys lie "
            f"(mode {stat.S_IMODE(status.st_mode):04o})",
            f"Run: chmod 700 {folder}",
        )
