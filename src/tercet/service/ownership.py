"""What owners ask of a worker: share a model, serve it, stop it, remove it.

Each is written down, compared with the two other workers, then done: see ``reconcile`` for a
worker that is killed in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from math import prod

from tercet.crypto.identity import PublicIdentity
from tercet.errors import BusyError, IntegrityError, RefusedError, TercetError
from tercet.program.program import Program, Role
from tercet.program.serving import serving_program
from tercet.program.types import Shape
from tercet.program.verify import decode as decode_program
from tercet.program.verify import verify_release
from tercet.protocol.replicated.sharing import Summand
from tercet.service.agreement import Agreement, patience
from tercet.service.checks import binding, check_id, check_pair, pair_digests
from tercet.service.messages import Change, Description, Prepare
from tercet.service.registry import Registry
from tercet.service.shares import write_shares

_log = logging.getLogger("tercet.worker")

_MAX_NAME = 100


class Ownership:
    """The part of worker ``index`` in what owners ask.

    Args:
        index: this worker.
        registry: what it holds.
        agreement: compares with the peers.
        peers: indices of the two others.
        moved: called with the ids of models that were committed, changed or removed.
        settled: waits until all three hold these models alike, ready for use.
    """

    def __init__(
        self,
        index: int,
        registry: Registry,
        agreement: Agreement,
        peers: Sequence[int],
        moved: Callable[[Sequence[bytes]], None],
        settled: Callable[[Sequence[bytes]], Awaitable[None]],
    ) -> None:
        self._index = index
        self._registry = registry
        self._agreement = agreement
        self._peers = peers
        self._moved = moved
        self._settled = settled
        self._changing: dict[bytes, list[bytes]] = {}

    def under_way(self) -> set[bytes]:
        """Return the ids of changes whose owners wait for an answer."""
        return set(self._changing)

    def next_version(self, owner: PublicIdentity, name: str) -> int:
        """Return the version that the owner's next model of this name may get."""
        return self._registry.next_version(name, owner.fingerprint)

    async def prepare(self, owner: PublicIdentity, request: Prepare) -> None:
        """Check a model, compare its shares with the peers and store it.

        Raises:
            ProgramError: if the program is malformed.
            IntegrityError: if shares are missing or do not belong together.
            RefusedError: if the name cannot be one or the version is in use.
            WorkerError: if the disk refuses.
        """
        check_id(request.id)
        try:
            program, public = self._checked(owner, request)
        except TercetError as error:
            self._agreement.refuse(request.id, error)
            raise
        bound = binding(
            "share",
            request.name,
            str(request.version),
            program.digest(),
            owner.fingerprint,
            public.digest().hex(),
        )
        digests = await pair_digests(self._index, request.weights)
        size = 8 * sum(prod(shape) for shape in _shapes(program, Role.WEIGHT).values())
        await self._agreement.agree(request.id, bound, digests, patience(size))
        stored = await asyncio.to_thread(
            write_shares,
            self._registry.path(request.id),
            request.id,
            self._index,
            program.scale,
            request.weights,
            request.public,
        )
        self._registry.prepare(
            request.id,
            request.name,
            request.version,
            (owner.name, owner.fingerprint),
            request.program,
            stored,
        )
        _log.info("model %s@%d of %s prepared", request.name, request.version, owner.name)

    async def commit(self, owner: PublicIdentity, model: bytes) -> Description:
        """Make a prepared model visible and load it; return when all three are ready for it.

        Raises:
            NotFoundError: if it was not prepared lately.
            WorkerError: if its shares cannot be loaded.
        """
        committed = self._registry.commit(model, owner.fingerprint)
        self._moved([model])
        _log.info("model %s of %s shared", committed.label, owner.name)
        await self._settled([model])
        return committed.describe(owner.fingerprint)

    async def change(self, owner: PublicIdentity, asked: Change) -> Description:
        """Serve, stop or remove a model; only its owner may, and all three workers alike.

        Returns when all three are ready with what was asked.

        Raises:
            NotFoundError: if the caller owns no model of that name.
            RefusedError, InputError: if the policy makes no sense for the model.
            IntegrityError: if the owner tells the workers different things.
            BusyError: if another change of the same model is under way.
            WorkerError: if the model cannot be used here under the new policy.
        """
        check_id(asked.id)
        try:
            if asked.policy is not None:
                asked.policy.check()
            models = self._registry.select(asked, owner.fingerprint)
            if asked.policy is not None:
                for model in models:
                    serving_program(self._registry.shared_program(model.id), asked.policy.release)
            ids = [m.id for m in models]
            if any(set(ids) & set(other) for other in self._changing.values()):
                raise BusyError(
                    f"another change of {asked.name!r} is under way", "Try again in a second"
                )
            self._registry.propose(asked, models, (owner.name, owner.fingerprint))
        except TercetError as error:
            self._agreement.refuse(asked.id, error)
            raise
        self._changing[asked.id] = ids
        try:
            bound = binding("change", *(i.hex() for i in ids), owner.fingerprint, repr(asked))
            try:
                await self._agreement.agree(asked.id, bound, dict.fromkeys(self._peers, b""))
            except IntegrityError:
                self._registry.withdraw(asked.id)  # no worker can have applied it
                raise
            self._registry.apply(asked.id)
        finally:
            del self._changing[asked.id]
        self._moved(ids)
        _log.info("model %s of %s: %s", asked.name, owner.name, _told(asked))
        await self._settled(ids)
        latest = models[-1]
        if not asked.remove:
            latest = self._registry.by_id(latest.id)
        return latest.describe(owner.fingerprint)

    def _checked(self, owner: PublicIdentity, request: Prepare) -> tuple[Program, Summand]:
        name = request.name
        if not 0 < len(name) <= _MAX_NAME or not name.isprintable() or set(name) & set("/@"):
            raise RefusedError(
                f"{name[:_MAX_NAME]!r} is not a model name", "Use 1 to 100 characters without / @"
            )
        self._registry.check_new(name, request.version, owner.fingerprint)
        program = decode_program(request.program)
        verify_release(program)
        check_pair(request.weights)
        for summand in request.weights:
            summand.check(_shapes(program, Role.WEIGHT) or {"": (1,)})
        public = Summand(arrays=request.public)
        public.check(_shapes(program, Role.PUBLIC))
        return program, public


def _told(asked: Change) -> str:
    if asked.remove:
        return "removed"
    return "stopped" if asked.policy is None else str(asked.policy)


def _shapes(program: Program, role: Role) -> dict[str, Shape]:
    return {given.name: given.type.shape for _, given in program.named(role)}
