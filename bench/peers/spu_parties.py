"""SPU's three parties on loopback, for the scripts that run in SPU's own environment."""

from __future__ import annotations

import multiprocessing
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import spu
from spu.utils import frontend

PARTIES = 3
PATIENCE = 60
SECRET = spu.Visibility.VIS_SECRET


def config() -> Any:
    """Return SPU's defaults for ABY3 on 64 bits."""
    return spu.RuntimeConfig(protocol=spu.ProtocolKind.ABY3, field=spu.FieldType.FM64)


class Program:
    """A compiled function: its code and the names of its results."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], inputs: list[str],
        outputs: list[str],
    ) -> None:  # fmt: skip
        executable, _ = frontend.compile(
            frontend.Kind.JAX,
            function,
            arguments,
            {},
            inputs,
            [SECRET] * len(inputs),
            lambda _: outputs,
        )
        self.code = executable.SerializeToString()
        self.outputs = outputs


class Parties:
    """Three processes that keep what they are handed and run what they are asked for."""

    def __init__(self, programs: dict[Any, Program]) -> None:
        context = multiprocessing.get_context("spawn")
        ports, self._io = _free_ports(), spu.Io(PARTIES, config())
        self._pipes, self._processes = [], []
        given = {key: (p.code, p.outputs) for key, p in programs.items()}
        for rank in range(PARTIES):
            here, there = context.Pipe()
            self._pipes.append(here)
            self._processes.append(
                context.Process(target=_party, args=(rank, ports, given, there), daemon=True)
            )
            self._processes[-1].start()

    def ask(self, key: Any, values: dict[str, np.ndarray]) -> tuple[list[np.ndarray], float]:
        """Share ``values``, run program ``key`` (None runs none); return results and seconds."""
        shares = {n: self._io.make_shares(v, SECRET) for n, v in values.items()}
        for rank, pipe in enumerate(self._pipes):
            pipe.send((key, {name: share[rank] for name, share in shares.items()}))
        for pipe in self._pipes:
            if not pipe.poll(PATIENCE):
                raise TimeoutError("A party of SPU does not answer")
        answers = [pipe.recv() for pipe in self._pipes]
        results = zip(*(shares for shares, _ in answers), strict=True)
        return [self._io.reconstruct(list(r)) for r in results], max(t for _, t in answers)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join(5)


def _party(
    rank: int, ports: list[int], programs: dict[Any, tuple[bytes, list[str]]], pipe: Any
) -> None:
    link = spu.link.Desc()
    for number, port in enumerate(ports):
        link.add_party(f"party{number}", f"127.0.0.1:{port}")
    runtime = spu.Runtime(spu.link.create_brpc(link, rank), config())
    executables = {}
    for key, (code, _) in programs.items():
        executables[key] = spu.Executable()
        executables[key].ParseFromString(code)
    while True:
        key, values = pipe.recv()
        for name, share in values.items():
            runtime.set_var(name, share)
        if key is None:
            pipe.send(([], 0.0))
            continue
        started = time.perf_counter()
        runtime.run(executables[key])
        computed = time.perf_counter() - started
        pipe.send(([runtime.get_var(name) for name in programs[key][1]], computed))


def _free_ports() -> list[int]:
    """Return ports that were free a moment ago."""
    sockets = [socket.socket() for _ in range(PARTIES)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
