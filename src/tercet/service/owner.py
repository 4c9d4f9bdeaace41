"""The owner's side: sharing a lowered model, serving it, stopping and removing it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tercet.crypto.identity import Identity
from tercet.crypto.prg import fresh
from tercet.errors import InputError
from tercet.program.program import Program, Role, encode
from tercet.protocol.replicated.sharing import deal
from tercet.ring import fixed
from tercet.service.config import WORKERS, ClusterConfig
from tercet.service.connection import Connection
from tercet.service.messages import (
    REQUEST_ID_BYTES,
    Change,
    Commit,
    Describe,
    Description,
    Policy,
    Prepare,
    Status,
)

_TIMEOUT = 30.0
_SHARE_TIMEOUT = 600.0


class Owner:
    """Speaks to the workers as a model's owner. Close it, or use it in a ``with`` statement."""

    def __init__(self, cluster: ClusterConfig, identity: Identity) -> None:
        self._connection = Connection(cluster, identity)

    def __enter__(self) -> Owner:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def share(
        self, name: str, program: Program, arrays: Mapping[str, NDArray[np.float64]]
    ) -> Description:
        """Share a lowered model: its weights leave this process only as shares.

        Under a name that exists this makes the next version beside the earlier ones. Prepare,
        then commit: until all three workers hold it, none shows it.

        Raises:
            InputError: if a weight is out of the fixed-point range; names it.
            RefusedError: if this identity is not an owner there.
            TransportError: if a worker cannot be reached.
        """
        words = {}
        for role in (Role.WEIGHT, Role.PUBLIC):
            for _, given in program.named(role):
                array = np.asarray(arrays[given.name], dtype=np.float64)
                if array.shape != given.type.shape:
                    raise InputError(
                        f"weight {given.name!r} has shape {array.shape}, not {given.type.shape}",
                        "Trace the model again",
                    )
                words[given.name] = fixed.encode(array, given.type.scale, f"weight {given.name!r}")
        public = {
            given.name: words[given.name].astype("<u8").tobytes()
            for _, given in program.named(Role.PUBLIC)
        }
        # A sharing without tensors would be neither seed nor arrays: share one word at least.
        secret = {g.name: words[g.name] for _, g in program.named(Role.WEIGHT)} or {
            "": np.zeros(1, np.uint64)
        }
        model, text = fresh(REQUEST_ID_BYTES), encode(program)
        version = max(
            self._connection.ask_all("/v1/share/version", [Describe(name)] * WORKERS, int, _TIMEOUT)
        )
        bodies = [Prepare(model, name, version, text, pair, public) for pair in deal(secret)]
        self._connection.ask_all("/v1/share/prepare", bodies, type(None), _SHARE_TIMEOUT)
        return self._all("/v1/share/commit", Commit(model))

    def serve(self, name: str, policy: Policy) -> Description:
        """Serve a model under ``policy``.

        Raises:
            NotFoundError: if this owner has not shared a model of that name.
        """
        return self._change(name, policy=policy)

    def stop(self, name: str) -> Description:
        """Stop serving a model; it stays shared."""
        return self._change(name)

    def remove(self, name: str) -> None:
        """Delete a model from all three workers."""
        self._change(name, remove=True)

    def status(self) -> list[Status | BaseException]:
        """Return each worker's status, or why it did not answer."""
        return self._connection.ask_each("/v1/status", [None] * WORKERS, Status, _TIMEOUT)

    def _change(self, name: str, policy: Policy | None = None, remove: bool = False) -> Description:
        return self._all("/v1/change", Change(fresh(REQUEST_ID_BYTES), name, policy, remove))

    def _all(self, path: str, body: object) -> Description:
        return self._connection.ask_all(path, [body] * WORKERS, Description, _TIMEOUT)[0]
