"""A worker's control process: requests, policy, storage, agreement with the other two.

The way of a prediction: who asks (TLS) -> policy -> agreement with the peers -> worker 0's order
-> durable count -> data plane -> this worker's part of the result, to whoever asked.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tercet import __version__
from tercet.crypto.identity import Identity, PublicIdentity
from tercet.crypto.prg import SECRET_BYTES
from tercet.errors import (
    ConfigError,
    IntegrityError,
    RefusedError,
    TercetError,
    TransportError,
    WorkerError,
)
from tercet.program.program import Program
from tercet.program.types import bind_shape
from tercet.program.verify import decode as decode_program
from tercet.program.verify import verify_release
from tercet.protocol.replicated.sharing import Summand
from tercet.runtime.batch import INPUT_NAME
from tercet.service.agreement import QUEUE_TIMEOUT, Agreement, Nonces, join_nonces
from tercet.service.config import WORKERS, ClusterConfig, split_address
from tercet.service.dataplane import Peer, Setup
from tercet.service.dataprocess import DataProcess
from tercet.service.failures import to_error
from tercet.service.messages import (
    REQUEST_ID_BYTES,
    Answer,
    Cancel,
    Change,
    Description,
    Done,
    Job,
    Load,
    PeerMessage,
    Predict,
    Prepare,
    Run,
    Status,
    Unload,
    Withdraw,
)
from tercet.service.peers import PeerLinks
from tercet.service.registry import Model, Registry, expand_model
from tercet.service.scheduler import Queued, Scheduler

_log = logging.getLogger("tercet.worker")

MAX_ROWS = 65_536
#: Requests of one client that may be under way at a time.
MAX_OPEN = 64
#: Seconds within which a model's shares must reach all three workers.
SHARE_TIMEOUT = 600.0


class _Waiting:
    """A prediction between agreement and answer."""

    def __init__(self, request: Predict, client: str, nonces: Nonces) -> None:
        self.request = request
        self.client = client
        self.nonces = nonces
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


class Worker:
    """One worker of three.

    Args:
        index: 0, 1 or 2.
        identity: its key.
        cluster: all three workers.
        state: folder of the registry.
        data_fd: listening socket of the data port.

    Raises:
        ConfigError: if the certificate is not the one that the cluster names.
    """

    def __init__(
        self, index: int, identity: Identity, cluster: ClusterConfig, state: Path, data_fd: int
    ) -> None:
        entry = cluster.worker[index]
        if entry.identity.fingerprint != identity.fingerprint:
            raise ConfigError(
                f"worker {entry.name} has another certificate than cluster.toml says",
                "Give everybody the same cluster.toml, with this worker's certificate",
            )
        self.index = index
        self.name = entry.name
        self._names = [w.name for w in cluster.worker]
        self._peers = [p for p in range(WORKERS) if p != index]
        self._started = time.monotonic()
        self.registry = Registry(state)
        self._programs: dict[bytes, Program] = {}
        self._waiting: dict[bytes, _Waiting] = {}
        self._open: Counter[str] = Counter()
        self.links = PeerLinks(index, identity, cluster.worker, self._received, self._link_changed)
        self._agreement = Agreement(index, self._names, self.links.send, self._ordered)
        self._scheduler = Scheduler(self._announce)
        peers = []
        for peer in self._peers:
            host, port = split_address(cluster.worker[peer].data_address)
            peers.append(Peer(peer, host, port, cluster.worker[peer].certificate))
        self._setup = Setup(index, self.name, "", "", peers, data_fd)
        self._data: DataProcess | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, certificate: str, key: str) -> None:
        """Start the data plane and the links; paths are this worker's own key files."""
        setup = msgspec.structs.replace(self._setup, certificate=certificate, key=key)
        self._data = DataProcess(setup, self._loads)
        await self._data.start()
        self.links.start()

    async def stop(self) -> None:
        """End links and data plane; what waits is refused."""
        for waiting in self._waiting.values():
            _refuse(waiting, WorkerError(f"worker {self.name} is shutting down", "Try again later"))
        await self.links.stop()
        if self._data is not None:
            await self._data.stop()
        self.registry.close()

    # What owners and clients ask for.

    def status(self) -> Status:
        """Describe this worker."""
        missing = self._missing()
        return Status(
            self.name,
            self.index,
            __version__,
            not missing,
            missing,
            time.monotonic() - self._started,
            [m.describe() for m in self.registry.models()],
        )

    def describe(self, name: str) -> Description:
        """Describe one model."""
        return self.registry.by_name(name).describe()

    async def prepare(self, owner: PublicIdentity, request: Prepare) -> None:
        """Check a model, compare its shares with the peers and store it.

        Raises:
            ProgramError: if the program is malformed.
            IntegrityError: if shares are missing or do not belong together.
            RefusedError: if the name is in use.
        """
        _check_id(request.id)
        if (
            not 0 < len(request.name) <= 100
            or not request.name.isprintable()
            or "/" in request.name
        ):
            raise RefusedError(
                f"{request.name[:100]!r} is not a model name", "Use 1 to 100 characters without /"
            )
        program = decode_program(request.program)
        verify_release(program)
        _check_pair(request.weights)
        await asyncio.to_thread(expand_model, program, request.weights, request.public)
        public = hashlib.sha256()
        for key in sorted(request.public):
            public.update(f"{len(key)} {key} {len(request.public[key])} ".encode())
            public.update(request.public[key])
        binding = _binding(
            "share", request.name, program.digest(), owner.fingerprint, public.hexdigest()
        )
        digests = await asyncio.to_thread(self._digests, request.weights)
        await self._agreement.agree(request.id, binding, digests, SHARE_TIMEOUT)
        self._agreement.finish(request.id)
        await asyncio.to_thread(
            self.registry.prepare,
            request.id,
            request.name,
            (owner.name, owner.fingerprint),
            request.program,
            request.weights,
            request.public,
        )
        _log.info("model %r of %s prepared", request.name, owner.name)

    def commit(self, owner: PublicIdentity, model: bytes) -> Description:
        """Make a prepared model visible and load it."""
        committed = self.registry.commit(model, owner.fingerprint)
        self._plane().send(self._load(committed))
        _log.info("model %r of %s shared", committed.name, owner.name)
        return committed.describe()

    async def change(self, owner: PublicIdentity, asked: Change) -> Description:
        """Serve, stop or remove a model; only its owner may, and all three workers alike.

        Raises:
            NotFoundError: if the caller owns no model of that name.
            RefusedError: if a limit is below 1.
            IntegrityError: if the owner tells the workers different things.
        """
        _check_id(asked.id)
        try:
            for limit in (asked.policy.max_requests, asked.policy.max_rows) if asked.policy else ():
                if limit is not None and limit < 1:
                    raise RefusedError(f"a limit of {limit}", "Limits are at least 1")
            model = self.registry.by_name(asked.name, owner.fingerprint)
        except TercetError as error:
            self._agreement.withdraw(asked.id, error)
            raise
        binding = _binding("change", model.id.hex(), owner.fingerprint, repr(asked))
        await self._agreement.agree(asked.id, binding, dict.fromkeys(self._peers, b""))
        self._agreement.finish(asked.id)
        if asked.remove:
            self.registry.remove(model.id)
            self._programs.pop(model.id, None)
            self._plane().send(Unload(model.id))
            _log.info("model %r of %s removed", asked.name, owner.name)
            return model.describe()
        if asked.policy is None:
            self.registry.stop(model.id)
        else:
            self.registry.set_policy(model.id, asked.policy)
        _log.info("model %r of %s: %s", asked.name, owner.name, asked.policy or "stopped")
        return self.registry.by_id(model.id).describe()

    async def predict(self, client: PublicIdentity, request: Predict) -> Answer:
        """Answer one request, or refuse it.

        Raises:
            NotFoundError, RefusedError: by the model's policy.
            IntegrityError: if digests or shares do not belong together.
            TransportError, WorkerError: if a worker is missing or fails meanwhile.
        """
        try:
            self._admit_client(client.fingerprint)
            model = self._admit(request)
        except TercetError as error:
            self._agreement.withdraw(request.id, error)
            raise
        self._open[client.fingerprint] += 1
        try:
            binding = _binding(
                "predict",
                request.model.hex(),
                request.program_digest,
                str(request.rows),
                client.fingerprint,
            )
            nonces = await self._agreement.agree(request.id, binding, self._digests(request.shares))
            waiting = _Waiting(request, client.fingerprint, nonces)
            self._waiting[request.id] = waiting
            self._agreement.report_ready(request.id)
            async with asyncio.timeout(QUEUE_TIMEOUT):
                answer = await waiting.answer
        except TimeoutError:
            raise WorkerError("the request waited too long for its turn", "Try again") from None
        finally:
            self._open[client.fingerprint] -= 1
            self._waiting.pop(request.id, None)
            self._agreement.finish(request.id)
        _log.info(
            "answered %s for %s on %r: %d rows", request.id.hex()[:8], client.name, model.name,
            request.rows,
        )  # fmt: skip
        return answer

    def _admit_client(self, client: str) -> None:
        if self._open[client] >= MAX_OPEN:
            raise WorkerError(
                f"{MAX_OPEN} requests of this client are under way", "Busy: try again in a second"
            )

    def _admit(self, request: Predict) -> Model:
        """Check all that can be checked before asking the peers."""
        _check_id(request.id)
        _check_pair(request.shares)
        if missing := self._missing():
            raise TransportError(
                f"worker {self.name} waits for {', '.join(missing)}",
                "Try again when they are back (`tercet status`)",
            )
        model = self.registry.by_id(request.model)
        if request.program_digest != model.digest:
            raise IntegrityError(
                f"model {model.name!r} runs another program than the request names",
                "Connect again; if it stays so, the workers disagree: tell their operators",
            )
        if not 1 <= request.rows <= MAX_ROWS:
            raise RefusedError(f"{request.rows} rows", f"Send 1 to {MAX_ROWS} rows a request")
        self.registry.check(model, request.rows)
        if (fault := self._plane().loaded.get(model.id)) is not None:
            raise to_error(fault, f"worker {self.name} cannot use model {model.name!r}")
        shape = bind_shape(self._program(model).input_shape(), request.rows)
        for summand in request.shares:
            summand.check({INPUT_NAME: shape})
        return model

    # Agreement and order.

    def _received(self, peer: int, message: PeerMessage) -> None:
        if isinstance(message, Run):
            if peer == 0:
                self._start_batch(message.ids)
            return
        if isinstance(message, Withdraw):
            self._scheduler.drop(message.id)
        self._agreement.received(peer, message)
        refusal = self._agreement.refusal(message.id)
        waiting = self._waiting.get(message.id)
        if refusal is not None and waiting is not None:
            _refuse(waiting, refusal)

    def _link_changed(self, peer: int, up: bool) -> None:
        if up:
            return
        self._agreement.peer_lost(peer)
        for waiting in self._waiting.values():
            _refuse(
                waiting,
                TransportError(
                    f"worker {self._names[peer]} was lost during the request",
                    "Try again when it is back (`tercet status`)",
                ),
            )

    def _ordered(self, request: bytes) -> None:
        waiting = self._waiting.get(request)
        if waiting is not None:
            asked = waiting.request
            self._scheduler.add(Queued(request, asked.model, asked.rows))

    def _announce(self, ids: list[bytes]) -> None:
        try:
            for peer in self._peers:
                self.links.send(peer, Run(ids))
        except TransportError as error:
            self._fail(ids, error)
            self._scheduler.finished()
            return
        self._start_batch(ids)

    def _start_batch(self, ids: list[bytes]) -> None:
        """Count each request in the common order, then run those that the policy allows.

        Counts and order are the same at all three workers, hence so is what is refused. Should
        they differ after all (a worker was restored from a backup, say), ``Cancel`` tells the
        others at once that this one does not run the batch that they run.
        """
        asked = [w for w in (self._waiting.get(r) for r in ids) if w is not None]
        batch: list[_Waiting] = []
        for waiting in asked:
            request = waiting.request
            try:
                self.registry.count(request.id, request.model, waiting.client, request.rows)
            except TercetError as error:
                _refuse(waiting, error)
            else:
                batch.append(waiting)
        if asked and len(batch) < len(asked):
            nonces = join_nonces([w.nonces for w in asked])
            self._plane().send(Cancel(asked[0].request.program_digest, nonces))
        task = asyncio.create_task(self._run_batch(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_batch(self, batch: Sequence[_Waiting]) -> None:
        try:
            if batch:
                nonces = join_nonces([w.nonces for w in batch])
                requests = [(w.request.rows, w.request.shares) for w in batch]
                first = batch[0].request
                job = Job(0, first.model, first.program_digest, nonces, requests)
                done = await self._plane().submit(job)
                self.registry.check_release(first.model)
                for waiting, answer in zip(batch, _answers(done), strict=True):
                    if not waiting.answer.done():
                        waiting.answer.set_result(answer)
        except TercetError as error:
            for waiting in batch:
                _refuse(waiting, error)
        finally:
            if self.index == 0:
                self._scheduler.finished()

    def _fail(self, ids: Sequence[bytes], error: TercetError) -> None:
        for request in ids:
            if request in self._waiting:
                _refuse(self._waiting[request], error)

    # Small things.

    def _missing(self) -> list[str]:
        data = self._data.connected if self._data is not None else set()
        return [
            self._names[p] for p in self._peers if p not in self.links.connected or p not in data
        ]

    def _digests(self, pair: tuple[Summand, Summand]) -> dict[int, bytes]:
        """Return for each peer the digest of the summand that it holds too."""
        first, second = pair
        return {
            (self.index - 1) % WORKERS: first.digest(),
            (self.index + 1) % WORKERS: second.digest(),
        }

    def _plane(self) -> DataProcess:
        if self._data is None:
            raise WorkerError(f"worker {self.name} is not running", "Start it")
        return self._data

    def _program(self, model: Model) -> Program:
        if model.id not in self._programs:
            self._programs[model.id] = decode_program(model.program_bytes)
        return self._programs[model.id]

    def _load(self, model: Model) -> Load:
        return Load(model.id, model.program_bytes, str(self.registry.path(model.id)))

    def _loads(self) -> list[Load]:
        return [self._load(m) for m in self.registry.models()]


def _refuse(waiting: _Waiting, error: TercetError) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)


def _answers(done: Done) -> list[Answer]:
    return [Answer(p, done.seconds, done.bytes_sent, done.rounds) for p in done.parts]


def _check_id(request: bytes) -> None:
    if len(request) != REQUEST_ID_BYTES:
        raise RefusedError("a malformed request id", "Use Tercet's own client")


def _check_pair(pair: tuple[Summand, Summand]) -> None:
    """Refuse what is not a sharing here, before it could spoil a batch that others share."""
    for summand in pair:
        if summand.seed and not summand.arrays and len(summand.seed) == SECRET_BYTES:
            continue
        if summand.arrays and not summand.seed:
            continue
        raise IntegrityError(
            "a summand is neither a seed of 32 bytes nor a set of arrays",
            "Use Tercet's own client",
        )


def _binding(*parts: str) -> bytes:
    state = hashlib.sha256(b"tercet binding v1\0")
    for part in parts:
        state.update(len(part.encode()).to_bytes(8, "little"))
        state.update(part.encode())
    return state.digest()
