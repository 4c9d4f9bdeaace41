"""Running one worker: reads its configuration, opens its ports, serves until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from tercet.crypto.identity import Identity
from tercet.errors import ConfigError
from tercet.net.listener import Listener
from tercet.net.sockets import bind, from_fd
from tercet.net.tls import server_context
from tercet.service.config import (
    ClusterConfig,
    WorkerConfig,
    load_cluster,
    load_worker,
    split_address,
)
from tercet.service.http import Gate, application
from tercet.service.logs import set_up_logging
from tercet.service.roster import Lists, Roster, read_lists
from tercet.service.worker import Worker

_log = logging.getLogger("tercet.worker")


async def serve(
    path: str, config: WorkerConfig, control_fd: int | None, data_fd: int | None, parent: bool
) -> None:
    """Serve until SIGTERM or SIGINT or, with ``parent``, until standard input ends.

    Args:
        path: the worker's file, whose lists are read again when they change.
        config: what it said at the start.
        control_fd: listening socket inherited for the control port; bound here if ``None``.
        data_fd: the same for the data port.
        parent: whether the worker must not outlive the process that started it.
    """
    cluster = load_cluster(config.cluster)
    index = _index(cluster, config.name)
    identity = Identity.load(config.certificate, config.key)
    entry = cluster.worker[index]
    control = from_fd(control_fd) if control_fd is not None else bind(*split_address(entry.address))
    data = from_fd(data_fd) if data_fd is not None else bind(*split_address(entry.data_address))
    workers = [w.identity for w in cluster.worker]
    gate = Gate(workers, read_lists(config))
    worker = Worker(
        index, identity, cluster, Path(config.state), data.fileno(), config.max_queue, config.log,
        lambda: gate.members,
    )  # fmt: skip
    context = server_context(identity, gate.all)

    def accept(lists: Lists) -> None:
        nonlocal context
        context = server_context(identity, Gate(workers, lists).all)
        gate.change(lists)

    roster = Roster(path, accept)
    runner = web.AppRunner(application(worker, gate), access_log=None)
    await runner.setup()
    assert runner.server is not None
    listener = Listener(control, lambda: context, runner.server)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, roster.wake)
    if parent:
        loop.add_reader(sys.stdin.fileno(), lambda: _watch_parent(stopped))
    await worker.start(config.certificate, config.key)
    await listener.start()
    watching = asyncio.create_task(roster.watch())
    _log.info("worker %s serves on %s", config.name, entry.address)
    try:
        await stopped.wait()
    finally:
        _log.info("worker %s stops", config.name)
        watching.cancel()
        await listener.close()
        await worker.drain()
        await worker.stop()
        await runner.cleanup()
        data.close()


def _watch_parent(stopped: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 1):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stopped.set()


def _index(cluster: ClusterConfig, name: str) -> int:
    for index, entry in enumerate(cluster.worker):
        if entry.name == name:
            return index
    raise ConfigError(
        f"no worker {name!r} in cluster.toml",
        f"It names {', '.join(w.name for w in cluster.worker)}",
    )


def run(config_path: str, control_fd: int | None, data_fd: int | None, parent: bool) -> None:
    """Run a worker to its end (the body of ``tercet worker``)."""
    config = load_worker(config_path)
    set_up_logging(config.log, config.name)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(config_path, config, control_fd, data_fd, parent))
