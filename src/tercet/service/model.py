"""A model as a worker's registry holds it, without its shares, and what its policy says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec

from tercet.errors import RefusedError
from tercet.program.program import Program
from tercet.service.messages import Description, Policy
from tercet.service.training_messages import ShareDigests


@dataclass(frozen=True, slots=True)
class Model:
    """A model, its policy and what of it is used.

    ``program`` is what runs, as the policy makes it of the shared program; ``encoded`` and
    ``digest`` are its bytes and its digest.
    """

    id: bytes
    name: str
    version: int
    owner: str
    owner_key: str
    policy: Policy
    change: bytes
    committed: bool
    created: float
    used_requests: int
    used_rows: int
    digests: ShareDigests
    program: Program = field(repr=False)
    encoded: bytes = field(repr=False)
    digest: str = ""

    @property
    def label(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"

    def describe(self, reader: str, fault: str = "") -> Description:
        """Return what the holder of the key ``reader`` (a fingerprint) may know."""
        policy = self.policy
        if policy.clients is not None and reader != self.owner_key:
            mine = tuple(c for c in policy.clients if c == reader)
            policy = msgspec.structs.replace(policy, clients=mine)
        return Description(
            self.id,
            self.name,
            self.version,
            self.owner,
            self.digest,
            self.program.input_shape(),
            self.program.output_shape(),
            self.program.scale,
            self.program.input_scale(),
            policy,
            self.used_requests,
            self.used_rows,
            self.program.guarded,
            fault,
        )

    def counted(self, requests: int, rows: int) -> Model:
        """Return the model with so many requests and rows more of it used."""
        used, more = self.used_requests + requests, self.used_rows + rows
        return replace(self, used_requests=used, used_rows=more)

    def check(self, client: str, rows: int, ahead: Sequence[int] = ()) -> None:
        """Say no to a request if the policy does.

        Args:
            client: fingerprint of whoever asks.
            rows: rows of the request.
            ahead: rows of requests of this model that are admitted but not counted yet.

        Raises:
            RefusedError: with the limit that was reached.
        """
        policy, again = self.policy, "Its owner can serve it again"
        if not policy.serving:
            raise RefusedError(f"model {self.name!r} is not being served", again, "not_served")
        self.check_client(client)
        if policy.expires is not None and time.time() >= policy.expires:
            raise RefusedError(
                f"model {self.name!r} was served until {utc(policy.expires)}", again, "expired"
            )
        if (
            policy.max_requests is not None
            and self.used_requests + len(ahead) >= policy.max_requests
        ):
            raise RefusedError(
                f"model {self.name!r} has answered its {policy.max_requests} requests",
                again,
                "exhausted",
            )
        used_rows = self.used_rows + sum(ahead)
        if policy.max_rows is not None and used_rows + rows > policy.max_rows:
            left = policy.max_rows - used_rows
            raise RefusedError(
                f"model {self.name!r} has {left} of {policy.max_rows} rows left, not {rows}",
                "Send fewer rows, or ask its owner to serve it again",
                "exhausted",
            )

    def check_client(self, client: str) -> None:
        """Say no to a client that the policy does not name.

        Raises:
            RefusedError: if it does not.
        """
        if self.policy.clients is not None and client not in self.policy.clients:
            raise RefusedError(
                f"model {self.name!r} is not served to this client",
                "Give its owner your certificate and ask to be named",
                "foreign",
            )


def utc(seconds: float) -> str:
    """Return a time as people read it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
