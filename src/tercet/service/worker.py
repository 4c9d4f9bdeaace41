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
from tercet.program.program import Program, Role
from tercet.program.types import Shape, bind_shape
from tercet.program.verify import decode as decode_program
from tercet.program.verify import verify_release
from tercet.protocol.replicated.sharing import Summand
from tercet.runtime.batch import INPUT_NAME
from tercet.service.agreement import Agreement, UnderWay
from tercet.service.batches import Batches, Waiting
from tercet.service.config import WORKERS, ClusterConfig, split_address
from tercet.service.dataplane import Peer, Setup
from tercet.service.dataprocess import DataProcess
from tercet.service.failures import to_error
from tercet.service.messages import (
    REQUEST_ID_BYTES,
    Accepted,
    Answer,
    Change,
    Description,
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
from tercet.service.registry import Model, Registry

_log = logging.getLogger("tercet.worker")

MAX_ROWS = 65_536
#: Requests of one client that may be under way at a time.
MAX_OPEN = 64
#: Seconds within which a model's shares must reach all three workers.
SHARE_TIMEOUT = 600.0
#: Bytes from which hashing leaves the event loop.
_LARGE = 1 << 20


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
        self._open: Counter[str] = Counter()
        self._running: dict[bytes, bytes] = {}  # counted requests and their models
        self._answered: Counter[bytes] = Counter()
        self.links = PeerLinks(index, identity, cluster.worker, self._received, self._link_changed)
        self._agreement = Agreement(index, self._names, self.links.send)
        self._batches = Batches(
            index,
            self.links.send,
            self._accept,
            self._count,
            lambda job: self._plane().submit(job),
            self.registry.check_release,
        )
        peers = []
        for peer in self._peers:
            host, port = split_address(cluster.worker[peer].data_address)
            peers.append(Peer(peer, host, port, cluster.worker[peer].certificate))
        self._setup = Setup(index, self.name, "", "", peers, data_fd)
        self._data: DataProcess | None = None

    async def start(self, certificate: str, key: str) -> None:
        """Start the data plane and the links; paths are this worker's own key files."""
        setup = msgspec.structs.replace(self._setup, certificate=certificate, key=key)
        self._data = DataProcess(setup, self._loads)
        await self._data.start()
        self._batches.start()
        self.links.start()

    async def stop(self) -> None:
        """End links and data plane; what waits is refused."""
        gone = WorkerError(f"worker {self.name} is shutting down", "Try again later")
        await self._batches.stop(gone)
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
            [self._describe(m) for m in self.registry.models()],
            time.time(),
        )

    def describe(self, name: str) -> Description:
        """Describe one model."""
        return self._describe(self.registry.by_name(name))

    def _describe(self, model: Model) -> Description:
        return msgspec.structs.replace(
            model.describe(),
            answered=self._answered[model.id],
            running=sum(m == model.id for m in self._running.values()),
        )

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
        for summand in request.weights:
            summand.check(_shapes(program, Role.WEIGHT) or {"": (1,)})
        public = Summand(arrays=request.public)
        public.check(_shapes(program, Role.PUBLIC))
        binding = _binding(
            "share", request.name, program.digest(), owner.fingerprint, public.digest().hex()
        )
        digests = await self._digests(request.weights)
        await self._agreement.agree(request.id, binding, digests, SHARE_TIMEOUT)
        await asyncio.to_thread(
            self.registry.write_shares, request.id, request.weights, request.public
        )
        self.registry.prepare(
            request.id, request.name, (owner.name, owner.fingerprint), request.program
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
            self._agreement.refuse(asked.id, error)
            raise
        binding = _binding("change", model.id.hex(), owner.fingerprint, repr(asked))
        await self._agreement.agree(asked.id, binding, dict.fromkeys(self._peers, b""))
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
        _check_id(request.id)
        self._admit_client(client.fingerprint)
        self._open[client.fingerprint] += 1
        try:
            try:
                self._batches.check_new(request.id)
                model = self._admit(request)
            except UnderWay:
                raise
            except TercetError as error:
                self._agreement.refuse(request.id, error)
                raise
            binding = _binding(
                "predict",
                request.model.hex(),
                request.program_digest,
                str(request.rows),
                client.fingerprint,
            )
            digests = await self._digests(request.shares)
            try:
                nonces = await self._agreement.agree(request.id, binding, digests)
            except TercetError as error:
                if not isinstance(error, UnderWay):
                    self._batches.close(request.id)
                raise
            try:
                answer = await self._batches.answer(Waiting(request, client.fingerprint, nonces))
                self._answered[model.id] += 1
            finally:
                self._running.pop(request.id, None)
        finally:
            self._open[client.fingerprint] -= 1
        _log.info(
            "answered %s for %s on %r: %d rows",
            request.id.hex()[:8],
            client.name,
            model.name,
            request.rows,
        )
        return answer

    def _admit_client(self, client: str) -> None:
        if self._open[client] >= MAX_OPEN:
            raise WorkerError(
                f"{MAX_OPEN} requests of this client are under way", "Busy: try again in a second"
            )

    def _admit(self, request: Predict) -> Model:
        """Check all that can be checked before asking the peers."""
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
        self.registry.admit(request.id, model, request.rows)
        if (fault := self._plane().loaded.get(model.id)) is not None:
            raise to_error(fault, f"worker {self.name} cannot use model {model.name!r}")
        shape = bind_shape(self._program(model).input_shape(), request.rows)
        for summand in request.shares:
            summand.check({INPUT_NAME: shape})
        return model

    # What comes from the peers.

    def _received(self, peer: int, message: PeerMessage) -> None:
        if isinstance(message, Run | Accepted):
            self._batches.received(peer, message)
        elif isinstance(message, Withdraw):
            refusal = to_error(message.reason, self._names[peer])
            if not self._batches.withdraw(message.id, refusal):
                self._agreement.withdrawn(message.id, refusal)
        else:
            self._agreement.offered(peer, message)

    def _link_changed(self, peer: int, up: bool) -> None:
        if not up:
            self._agreement.peer_lost(peer)
            self._batches.fail(
                TransportError(
                    f"worker {self._names[peer]} was lost during the request",
                    "Try again when it is back (`tercet status`)",
                )
            )

    def _accept(self, waiting: Waiting, ahead: Sequence[int]) -> None:
        request = waiting.request
        self.registry.admit(request.id, self.registry.by_id(request.model), request.rows, ahead)

    def _count(self, batch: Sequence[Waiting]) -> None:
        self.registry.count(
            [(w.request.id, w.request.model, w.client, w.request.rows) for w in batch]
        )
        self._running |= {w.request.id: w.request.model for w in batch}

    # Small things.

    def _missing(self) -> list[str]:
        data = self._data.connected if self._data is not None else set()
        return [
            self._names[p] for p in self._peers if p not in self.links.connected or p not in data
        ]

    async def _digests(self, pair: tuple[Summand, Summand]) -> dict[int, bytes]:
        """Return for each peer the digest of the summand that it holds too."""

        def both() -> dict[int, bytes]:
            first, second = pair
            return {
                (self.index - 1) % WORKERS: first.digest(),
                (self.index + 1) % WORKERS: second.digest(),
            }

        large = any(len(a) > _LARGE for s in pair for a in s.arrays.values())
        return await asyncio.to_thread(both) if large else both()

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


def _shapes(program: Program, role: Role) -> dict[str, Shape]:
    return {given.name: given.type.shape for _, given in program.named(role)}


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
