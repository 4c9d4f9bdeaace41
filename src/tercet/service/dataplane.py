"""The data-plane process of a worker: holds the links and the shares, runs sessions in order.

Started by the control process with inherited pipes on standard input and output and, for workers
1 and 2, the listening socket of the data port. Ends when its input does.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from tercet.crypto.identity import Identity, PublicIdentity
from tercet.errors import TercetError, TransportError, WorkerError
from tercet.net.link import TlsTransport
from tercet.net.sockets import from_fd
from tercet.program.program import Program
from tercet.program.verify import decode as decode_program
from tercet.program.verify import verify_release
from tercet.protocol.base import Share
from tercet.runtime.batch import run_batch, slice_rows
from tercet.runtime.session import Session
from tercet.service.arena import map_arena
from tercet.service.failures import to_failure
from tercet.service.logs import Style, set_up_logging
from tercet.service.messages import (
    Cancel,
    Command,
    Done,
    Event,
    Failed,
    Job,
    Links,
    Load,
    Loaded,
    Unload,
    Void,
    decode_command,
    encode,
)
from tercet.service.pipe import Incoming, write_message
from tercet.service.shares import load_shares
from tercet.service.sum_messages import SumCommand
from tercet.service.sums import Sums
from tercet.service.trainer import Trainer
from tercet.service.training_messages import TrainJob

_log = logging.getLogger("tercet.dataplane")

AnyJob = TypeVar("AnyJob", Job, TrainJob)

#: Seconds to wait for one message of a peer before a session is given up.
MESSAGE_TIMEOUT = 30.0
_LINK_CHECK = 0.1


class Peer(msgspec.Struct, frozen=True):
    """Where another worker's data port is, and whose key it must hold."""

    index: int
    host: str
    port: int
    certificate: str


class Setup(msgspec.Struct, frozen=True):
    """The first message: who this worker is."""

    index: int
    name: str
    certificate: str
    key: str
    peers: list[Peer]
    listen_fd: int
    arena_fd: int
    log: Style = "text"


@dataclass(frozen=True, slots=True)
class _Held:
    """A model as it is served, its digest, the rows of a slice, and each input but the client's."""

    program: Program
    digest: str
    step: int
    shares: dict[str, Share | NDArray[np.uint64]]


class DataPlane:
    """Loads models and runs jobs, one at a time, in the order in which they come."""

    def __init__(self, setup: Setup, incoming: Incoming, transport: TlsTransport) -> None:
        self._name = setup.name
        self._incoming = incoming
        self._ahead: deque[Command] = deque()  # read, not obeyed yet
        self._index = setup.index
        self._transport = transport
        self._models: dict[bytes, _Held] = {}
        self._trainer = Trainer(setup.index)
        self._lock = threading.Lock()
        self._sums = Sums(
            setup.name, transport, map_arena(setup.arena_fd), self._tell, MESSAGE_TIMEOUT
        )
        self._output = os.fdopen(os.dup(1), "wb")
        # Nothing else may write where the control process reads messages.
        os.dup2(2, 1)

    def serve(self) -> None:
        """Obey the control process until it closes the pipe."""
        threading.Thread(target=self._watch, daemon=True).start()
        while (command := self._next()) is not None:
            if isinstance(command, Load):
                self._tell(self._load(command))
            elif isinstance(command, Unload):
                self._models.pop(command.model, None)
                self._trainer.forget(command.model)
            elif isinstance(command, Cancel):
                self._cancel(command)
            elif isinstance(command, Job):
                self._run(command, self._predict)
            elif isinstance(command, TrainJob):
                self._run(command, self._train)

    def _next(self) -> Command | None:
        """Return the next command; ``None`` at the end of the pipe.

        Jobs that were voided while they waited are passed by: a peer that has come back since
        would let their first message wait until it times out.
        """
        while True:
            while not self._ahead or self._incoming.ready():
                message = self._incoming.read()
                if message is None:
                    return None
                command = decode_command(message)
                if isinstance(command, SumCommand):
                    self._sums.put(command)
                else:
                    self._ahead.append(command)
            command = self._ahead.popleft()
            voided = any(isinstance(later, Void) for later in self._ahead)
            if not (isinstance(command, Job | TrainJob) and voided):
                return command
            lost = TransportError("a worker was lost", "Try again when it is back")
            self._tell(Failed(command.number, to_failure(lost)))

    def _load(self, command: Load) -> Loaded:
        try:
            program = decode_program(command.program)
            verify_release(program)
            held = self._models.get(command.model)
            if held is not None:  # its owner changed the policy: the shares are the same
                shares = held.shares
            else:
                path, index = Path(command.path), self._index
                shares = load_shares(path, command.model, index, program, command.digests)
            self._models[command.model] = _Held(
                program, program.digest(), slice_rows(program), shares
            )
        except TercetError as error:
            _log.error("model %s: %s", command.model.hex()[:8], error)
            return Loaded(command.model, to_failure(error))
        except Exception as error:  # a fault of this model must not end the worker
            _log.exception("model %s", command.model.hex()[:8])
            return Loaded(command.model, to_failure(error))
        return Loaded(command.model)

    def _run(self, job: AnyJob, run: Callable[[AnyJob], None]) -> None:
        """Run a job; whatever it is that goes wrong, the caller must hear of it."""
        try:
            run(job)
        except BrokenPipeError:  # told, and nobody there to hear it
            raise
        except TercetError as error:
            _log.warning("job %d failed: %s", job.number, error)
            self._tell(Failed(job.number, to_failure(error)))
        except Exception as error:
            _log.exception("job %d failed", job.number)
            self._tell(Failed(job.number, to_failure(error)))

    def _predict(self, job: Job) -> None:
        """Run a batch and tell its parts; clearing up can wait."""
        with self._session(job.nonces, job.digest) as session:
            if job.model not in self._models:
                raise WorkerError("the model's shares are not loaded", "See the worker's log")
            held = self._models[job.model]
            if held.digest != job.digest:
                raise WorkerError("the model's policy changed meanwhile", "Ask again")
            parts, measure = run_batch(
                session, held.program, held.shares, job.requests, held.step, MESSAGE_TIMEOUT
            )
            self._tell(Done(job.number, parts, measure.seconds, measure.bytes_sent, measure.rounds))

    def _train(self, job: TrainJob) -> None:
        with self._session(job.nonces, job.digest) as session:
            self._trainer.prepare(job)
            self._tell(self._trainer.run(session, job, MESSAGE_TIMEOUT))

    @contextlib.contextmanager
    def _session(self, nonces: tuple[bytes, bytes, bytes], digest: str) -> Iterator[Session]:
        """Yield a fresh session; what goes wrong in it ends it at the peers, too."""
        session = Session(self._transport, nonces, digest)
        try:
            yield session
        except BrokenPipeError:  # it was over, and the control process has gone
            raise
        except BaseException as error:
            session.abort(f"{type(error).__name__} at {self._name}")
            raise
        finally:
            session.close()

    def _cancel(self, job: Cancel) -> None:
        """End a session that the peers may have begun, without a message of the protocol."""
        try:
            session = Session(self._transport, job.nonces, job.digest)
            session.abort(f"{self._name}: {job.reason}")
            session.close()
        except TercetError as error:
            _log.warning("a job could not be cancelled: %s", error)

    def _tell(self, event: Event) -> None:
        with self._lock:
            write_message(self._output, encode(event))

    def _watch(self) -> None:
        """Report links; end the session that runs when the control process has gone.

        Its peers may never begin it, and until this process ends no other can have its port.
        """
        told: set[int] | None = None
        pause = threading.Event()
        gone = select.poll()
        gone.register(sys.stdin.fileno(), 0)
        while not gone.poll(0):
            now = self._transport.connected()
            if now != told:
                try:
                    self._tell(Links(sorted(now)))
                except OSError:
                    return
                told = now
            pause.wait(_LINK_CHECK)
        self._transport.abort(f"the control process of {self._name} ended")


def main() -> None:
    """Run the data-plane process."""
    incoming = Incoming(sys.stdin.fileno())
    message = incoming.read()
    if message is None:
        return
    setup = msgspec.msgpack.decode(message, type=Setup)
    set_up_logging(setup.log, setup.name)
    transport = TlsTransport(
        setup.index,
        Identity.load(setup.certificate, setup.key),
        {p.index: (p.host, p.port, PublicIdentity.from_pem(p.certificate)) for p in setup.peers},
        from_fd(setup.listen_fd),
    )
    transport.start()
    try:
        DataPlane(setup, incoming, transport).serve()
    finally:
        transport.close()


if __name__ == "__main__":
    main()
