"""Flower's own processes on loopback, offline: a SuperLink, SuperNodes, and the command line."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "flower_app"
LIMIT = 240
OFFLINE = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DISABLE_METRICS_COLLECTION": "1",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Flower:
    """A SuperLink and what belongs to it, with its files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._home = folder / "home"
        self._home.mkdir()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.port = free_port()

    def spawn(self, name: str, *command: object) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [str(BIN / str(command[0])), *map(str, command[1:])],
                stdout=log, stderr=log, env=self._environment(), start_new_session=True,
            )  # fmt: skip

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def superlink(self, *options: object, connection: str) -> None:
        """Start the SuperLink; ``connection`` is what the command line needs to know of it."""
        (self._home / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n[superlink.here]\n'
            f'address = "127.0.0.1:{self.port}"\n{connection}\n'
        )
        self.spawn(
            "superlink", "flower-superlink", "--host", "127.0.0.1", "--port", self.port,
            "--disable-runtime-dependency-installation", *options,
        )  # fmt: skip
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert time.monotonic() < deadline, self.log("superlink")
                time.sleep(0.1)

    def flwr(self, *arguments: object) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *map(str, arguments)],
            capture_output=True, text=True, timeout=LIMIT, env=self._environment(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *options: object, **config: object) -> str:
        """Run the app and return what it logs."""
        text = " ".join(f"{key.replace('_', '-')}={value!r}" for key, value in config.items())
        return self.flwr("run", APP, "here", "--stream", "--run-config", text, *options)

    def stop(self) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _environment(self) -> dict[str, str]:
        path = f"{BIN}:{os.environ['PATH']}"
        return dict(os.environ, **OFFLINE, FLWR_HOME=str(self._home), PATH=path)


@contextmanager
def simulation(folder: Path) -> Iterator[Flower]:
    """A SuperLink that simulates the nodes."""
    flower = Flower(folder)
    try:
        flower.superlink("--simulation", "--insecure", connection="insecure = true")
        yield flower
    finally:
        flower.stop()


@contextmanager
def deployment(folder: Path, node_configs: list[str]) -> Iterator[Flower]:
    """A SuperLink with TLS and node authentication, and a SuperNode for each configuration."""
    flower = Flower(folder)
    _certificates(folder)
    try:
        flower.superlink(
            "--ssl-ca-certfile", folder / "ca.pem", "--ssl-certfile", folder / "server.pem",
            "--ssl-keyfile", folder / "server.key", "--enable-supernode-auth",
            connection=f'root-certificates = "{folder / "ca.pem"}"',
        )  # fmt: skip
        for number, config in enumerate(node_configs):
            key = _node_key(folder / f"node-{number}")
            flower.flwr("supernode", "register", f"{key}.pub", "here")
            flower.spawn(
                f"node-{number}", "flower-supernode", "--root-certificates", folder / "ca.pem",
                "--superlink", f"127.0.0.1:{flower.port}", "--auth-supernode-private-key", key,
                "--host", "127.0.0.1", "--port", free_port(), "--node-config", config,
            )  # fmt: skip
        yield flower
    finally:
        flower.stop()


def _node_key(path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    path.write_bytes(private)
    path.chmod(0o600)
    Path(f"{path}.pub").write_bytes(public)
    return path


def _certificates(folder: Path) -> None:
    """Write a certificate authority and a server's certificate, which Flower's TLS needs."""
    authority, server = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("ca", "localhost")
    ]
    now = datetime.datetime.now(datetime.UTC)
    alternatives = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    for name, key, file in zip(names, (authority, server), ("ca", "server"), strict=True):
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(file == "ca", None), critical=True)
        )
        if file == "server":
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(authority, hashes.SHA256())
        (folder / f"{file}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
