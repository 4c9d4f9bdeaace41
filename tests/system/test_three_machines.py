"""The README's walk-through as printed, and three workers on networks of their own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tercet.data import Digits
from tercet.errors import TransportError
from tercet.net.sockets import bind

ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
TERCET = [sys.executable, "-m", "tercet.cli"]


def walk_through() -> list[tuple[int, str]]:
    """The README's blocks in order: terminal and commands."""
    section = (ROOT / "README.md").read_text().split("## Three machines\n")[1].split("\n## ")[0]
    blocks = re.findall(r"^```sh\n# terminal (\d): \w+\n(.*?)^```", section, re.M | re.S)
    return [(int(number), commands) for number, commands in blocks]


def free(port: int) -> bool:
    with contextlib.suppress(TransportError), bind("localhost", port):
        return True
    return False


def with_free_ports(blocks: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Replace the printed ports that are busy here."""
    printed = sorted({int(p) for _, b in blocks for p in re.findall(r"\b40\d\d\b", b)})
    assert len(printed) == 6
    replaced = {}
    for port in printed:
        other = port
        while not free(other) or other in replaced.values():
            other += 100
        replaced[port] = other
    return [(n, re.sub(r"\b40\d\d\b", lambda m: str(replaced[int(m[0])]), b)) for n, b in blocks]


class Terminal:
    """A shell that is fed commands as they are printed."""

    def __init__(self, folder: Path) -> None:
        self.shell = subprocess.Popen(
            ["bash", "-e"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env=dict(os.environ, PATH=PATH, KERAS_BACKEND="jax"),
            start_new_session=True,
        )

    def run(self, commands: str) -> str:
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{commands}\necho finished\n")
        self.shell.stdin.flush()
        said = ""
        for line in self.shell.stdout:
            if line == "finished\n":
                return said
            said += line
        raise AssertionError(f"{commands}\nended with\n{said}")

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.shell.pid, signal.SIGTERM)
        self.shell.communicate(timeout=20)


def test_the_walk_through_as_printed(tmp_path: Path, digits: Digits) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    terminals = {n: Terminal(tmp_path) for n in (1, 2, 3)}
    try:
        said = ""
        for number, commands in with_free_ports(walk_through()):
            said = terminals[number].run(commands)
            if "doctor" in commands:
                assert "FAIL" not in said
                assert "digits@1 is served for 3 requests" in said
        scores = [line.split() for line in said.splitlines() if "rows in" not in line]
        assert [np.argmax([float(s) for s in row]) for row in scores] == [7, 2, 1]
        assert list(digits.y_test[:3]) == [7, 2, 1]
        for terminal in terminals.values():
            assert "worker" in terminal.run("jobs")
            terminal.run("kill %1; wait %1")
    finally:
        for terminal in terminals.values():
            terminal.close()
    private = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.key"))
    assert private == [
        "three/greg/greg.key",
        "three/julia/julia.key",
        "three/julia/owner.key",
        "three/me/client.key",
        "three/me/me.key",
    ]


NAMES = ("julia", "greg", "me")


def ip(*arguments: str, space: str = "") -> None:
    where = ["-n", space] if space else []
    subprocess.run(["ip", *where, *arguments], check=True, capture_output=True, timeout=10)


@pytest.fixture
def network() -> Iterator[str]:
    """Four machines: a hub, at which owner and client sit, and one for each worker."""
    if shutil.which("ip") is None:
        pytest.skip("needs the command ip (Debian package iproute2)")
    prefix = f"tercet-{os.getpid()}-"
    try:
        ip("netns", "add", f"{prefix}hub")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine does not allow network namespaces: {error.stderr.decode()}")
    made = [f"{prefix}hub"]
    try:
        hub = made[0]
        ip("link", "set", "lo", "up", space=hub)
        ip("link", "add", "bridge", "type", "bridge", space=hub)
        ip("addr", "add", "10.77.0.254/24", "dev", "bridge", space=hub)
        ip("link", "set", "bridge", "up", space=hub)
        for number, name in enumerate(NAMES, 1):
            space = prefix + name
            ip("netns", "add", space)
            made.append(space)
            ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", space,
               space=hub)  # fmt: skip
            ip("link", "set", name, "master", "bridge", space=hub)
            ip("link", "set", name, "up", space=hub)
            ip("addr", "add", f"10.77.0.{number}/24", "dev", "eth0", space=space)
            ip("link", "set", "eth0", "up", space=space)
            ip("link", "set", "lo", "up", space=space)
        yield prefix
    finally:
        for space in made:
            ip("netns", "delete", space)


def test_three_networks(network: str, saved: Path, digits: Digits, tmp_path: Path) -> None:
    def tercet(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ip", "netns", "exec", f"{network}hub", *TERCET, *map(str, arguments)],
            cwd=tmp_path,
            env=dict(os.environ, TERCET_CLUSTER="cluster.toml"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def doctor(*arguments: object) -> tuple[int, dict[tuple[str, str], dict[str, object]]]:
        done = tercet("doctor", "--json", *arguments)
        checks = json.loads(done.stdout)["checks"]
        return done.returncode, {(c["worker"], c["what"]): c for c in checks}

    for name in (*NAMES, "owner", "client"):
        assert tercet("keygen", name).returncode == 0
    workers = [a for n, name in enumerate(NAMES, 1)
               for a in ("--worker", f"{name}.crt=10.77.0.{n}:4000,4001")]  # fmt: skip
    assert tercet("cluster", "new", *workers).returncode == 0
    processes = []
    log = (tmp_path / "log").open("w")
    try:
        for name in NAMES:
            (tmp_path / f"{name}.toml").write_text(
                f'name = "{name}"\ncluster = "cluster.toml"\ncertificate = "{name}.crt"\n'
                f'key = "{name}.key"\nstate = "{name}-state"\n'
                'owners = ["owner.crt"]\nclients = ["client.crt"]\n'
            )
            command = ["ip", "netns", "exec", network + name, *TERCET]
            command += ["worker", "--config", f"{name}.toml"]
            processes.append(subprocess.Popen(command, cwd=tmp_path, stderr=log))
        code, checks = doctor("--wait", 30)
        assert code == 0, checks
        assert set(checks) == {("", "models")} | {
            (name, what)
            for name in NAMES
            for what in (
                "reach", "certificate", "version", "clock", "latency", "bandwidth", "links",
                "ready", *(f"line to {other}" for other in NAMES if other != name),
            )
        }  # fmt: skip
        assert tercet("share", saved, "--name", "digits").returncode == 0
        assert tercet("serve", "digits").returncode == 0
        np.save(tmp_path / "x.npy", digits.x_test[:3])
        ask = ("predict", "digits", "x.npy", "--output", "y.npy")
        done = tercet(*ask)
        assert done.returncode == 0, done.stderr
        assert list(np.load(tmp_path / "y.npy").argmax(1)) == list(digits.y_test[:3])

        ip("link", "set", "greg", "down", space=f"{network}hub")  # somebody pulls a cable
        done = tercet(*ask)
        assert done.returncode == 1
        assert "greg" in done.stderr
        code, checks = doctor()
        assert code == 1
        assert not checks["greg", "reach"]["ok"]
        assert "10.77.0.2:4000" in str(checks["greg", "reach"]["remedy"])
        assert checks["julia", "reach"]["ok"]
        ip("link", "set", "greg", "up", space=f"{network}hub")
        code, checks = doctor("--wait", 60)
        assert code == 0, checks
        (tmp_path / "y.npy").unlink()
        assert tercet(*ask).returncode == 0
        assert list(np.load(tmp_path / "y.npy").argmax(1)) == list(digits.y_test[:3])
    finally:
        for process in processes:
            process.terminate()
        assert [p.wait(20) for p in processes] == [0, 0, 0]
        log.close()
