"""The control process's handle on its data-plane process: starts it, feeds it, restarts it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable
from typing import Any

import msgspec

from tercet.errors import WorkerError
from tercet.service.dataplane import Setup
from tercet.service.failures import to_error
from tercet.service.messages import (
    Command,
    Done,
    Failed,
    Failure,
    Job,
    Links,
    Load,
    Loaded,
    Void,
    decode_event,
    encode,
)
from tercet.service.pipe import HEADER, message_size, write_framed
from tercet.service.sum_messages import (
    Finished,
    FinishJob,
    Folded,
    FoldJob,
)
from tercet.service.training_messages import TrainJob

_log = logging.getLogger("tercet.worker")

_RESTART_PAUSE = 0.5


class DataProcess:
    """Runs jobs in the order of ``submit``.

    ``models`` returns what a new process must load. ``connected`` holds the peers that it has
    links to, ``loaded`` the models that it has tried to load, each with its fault if it failed.
    """

    def __init__(
        self,
        setup: Setup,
        models: Callable[[], list[Load]],
    ) -> None:
        self._setup = setup
        self._models = models
        self._process: asyncio.subprocess.Process | None = None
        self._jobs: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._watcher: asyncio.Task[None] | None = None
        self.connected: set[int] = set()
        self.loaded: dict[bytes, Failure | None] = {}

    async def start(self) -> None:
        """Start the process."""
        await self._spawn()
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """End the process: it goes when its input ends, or is killed after 5 s."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.gather(self._watcher, return_exceptions=True)
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), 5)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    @property
    def pid(self) -> int:
        """Process id, for status and for tests."""
        assert self._process is not None
        return self._process.pid

    def send(self, command: Command) -> None:
        """Pass a command on.

        Raises:
            WorkerError: if the process is not there.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdin.is_closing():
            raise _gone()
        write_framed(process.stdin, encode(command))

    def void(self) -> None:
        """Let the jobs fail that have not begun; what runs fails by its links."""
        if self._jobs:
            with contextlib.suppress(WorkerError):  # the process has gone, and the jobs with it
                self.send(Void())

    def submit(self, job: Job | TrainJob) -> asyncio.Future[Done]:
        """Queue a job (its number is set here); the future fails if the job does."""
        return self._submit(job)

    def submit_fold(self, job: FoldJob) -> asyncio.Future[Folded]:
        """Queue a job on contributions, whose arrays lie in the shared memory."""
        return self._submit(job)

    def submit_finish(self, job: FinishJob) -> asyncio.Future[Finished]:
        """Queue the end of a sum."""
        return self._submit(job)

    def _submit(self, job: Job | TrainJob | FoldJob | FinishJob) -> asyncio.Future[Any]:
        self._number += 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        try:
            self.send(msgspec.structs.replace(job, number=self._number))
        except WorkerError as error:
            future.set_exception(error)
        else:
            self._jobs[self._number] = future
        return future

    async def _spawn(self) -> None:
        fds = (self._setup.listen_fd, self._setup.arena_fd)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tercet.service.dataplane",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=fds,
        )
        assert self._process.stdin is not None
        write_framed(self._process.stdin, encode(self._setup))
        for model in self._models():
            self.send(model)

    async def _watch(self) -> None:
        while True:
            assert self._process is not None
            assert self._process.stdout is not None
            try:
                await self._read(self._process.stdout)
            except (asyncio.IncompleteReadError, ConnectionError):
                code = await self._process.wait()
                _log.error("data-plane process ended with code %s; starting another", code)
            except Exception:  # nonsense on the pipe: start afresh
                _log.exception("data-plane process is out of step; starting another")
                self._process.kill()
                await self._process.wait()
            self.connected = set()
            self.loaded = {}
            jobs, self._jobs = self._jobs, {}
            for future in jobs.values():
                if not future.done():
                    future.set_exception(_gone())
            await self._respawn()

    async def _respawn(self) -> None:
        while True:
            await asyncio.sleep(_RESTART_PAUSE)
            try:
                await self._spawn()
            except (OSError, WorkerError):
                _log.exception("cannot start the data-plane process; trying again")
            else:
                return

    async def _read(self, output: asyncio.StreamReader) -> None:
        while True:
            size = message_size(await output.readexactly(HEADER.size))
            event = decode_event(await output.readexactly(size))
            if isinstance(event, Links):
                self.connected = set(event.connected)
                continue
            if isinstance(event, Loaded):
                self.loaded[event.model] = event.fault
                continue
            future = self._jobs.pop(event.number, None)
            if future is None or future.done():
                continue
            if isinstance(event, Failed):
                future.set_exception(to_error(event.reason))
            else:
                future.set_result(event)


def _gone() -> WorkerError:
    return WorkerError("the worker's data plane stopped", "It restarts by itself: try again")
