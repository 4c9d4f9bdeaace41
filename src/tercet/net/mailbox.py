"""The frames of one link that have arrived, and the sessions that may still use it.

Not synchronised: the owner calls every method under its own lock.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from tercet.errors import FrameError, PeerLost, TransportError
from tercet.net.transport import MAX_QUEUED, Tag

MAX_FRAMES: Final = 1 << 16
"""Most frames that may wait, whatever their size; an empty one costs memory as well."""

_MAX_ENDED: Final = 4096


class Ledger:
    """Which tags one direction of a link has used."""

    __slots__ = ("_used",)

    def __init__(self) -> None:
        self._used: dict[bytes, set[int]] = {}

    def use(self, tag: Tag) -> bool:
        """Note a tag; False if it was used before."""
        session, step, part = tag
        places = self._used.get(session)
        if places is None:
            places = self._used[session] = set()
        before = len(places)
        places.add(step << 16 | part)
        return len(places) > before

    def forget(self, session: bytes) -> None:
        """Drop what is known of a session that has ended."""
        self._used.pop(session, None)

    def sessions(self) -> set[bytes]:
        """The sessions with a tag in use."""
        return set(self._used)


class EndedSessions:
    """The sessions that ended lately with one peer, and why; the oldest are forgotten.

    It serves to drop stragglers. Whether a session id is *new* is decided elsewhere
    (``tercet.crypto.schedule.SessionGuard``), where nothing is forgotten.
    """

    __slots__ = ("_reasons",)

    def __init__(self) -> None:
        self._reasons: OrderedDict[bytes, tuple[type[TransportError], str]] = OrderedDict()

    def end(self, session: bytes, kind: type[TransportError], reason: str) -> None:
        """Note that a session has ended. The first reason stands."""
        self._reasons.setdefault(session, (kind, reason))
        if len(self._reasons) > _MAX_ENDED:
            self._reasons.popitem(last=False)

    def __contains__(self, session: bytes) -> bool:
        return session in self._reasons

    def check(self, session: bytes) -> None:
        """Raise if the session has ended.

        Raises:
            TransportError: it has; PeerLost if the reason was the loss of a link.
        """
        known = self._reasons.get(session)
        if known is not None:
            kind, reason = known
            raise kind(reason, "Run it again as a new session")


class Mailbox:
    """Frames by tag, from one peer over one link."""

    __slots__ = ("_ended", "_frames", "_ledger", "_peer", "queued")

    def __init__(self, peer: int, ended: EndedSessions) -> None:
        self._peer = peer
        self._ended = ended
        self._frames: dict[Tag, memoryview] = {}
        self._ledger = Ledger()
        self.queued = 0  # payload bytes that nobody has taken yet

    def admit(self, tag: Tag) -> bool:
        """Note a frame that has come; False if its session has ended and it is to be dropped.

        Raises:
            FrameError: its tag was used before.
        """
        if tag.session in self._ended:
            return False
        if not self._ledger.use(tag):
            raise FrameError(
                f"worker {self._peer} sent {tag} twice",
                "The workers must run the same version of Tercet",
            )
        return True

    def put(self, tag: Tag, payload: memoryview) -> None:
        """Keep a frame, unless its session has ended.

        Raises:
            FrameError: its tag was used before, or too much is waiting already.
        """
        if not self.admit(tag):
            return
        size = len(payload)
        if self.queued + size > MAX_QUEUED or len(self._frames) >= MAX_FRAMES:
            raise FrameError(
                f"{self.queued} bytes in {len(self._frames)} frames of worker {self._peer} "
                "wait here and more came",
                "Run the batch in smaller slices",
            )
        self.queued += size
        self._frames[tag] = payload

    def take(self, tag: Tag) -> memoryview | None:
        """Return and drop the frame with this tag, if it is there."""
        payload = self._frames.pop(tag, None)
        if payload is not None:
            self.queued -= len(payload)
        return payload

    def drop(self, session: bytes) -> None:
        """Drop everything of one session."""
        for tag in [tag for tag in self._frames if tag.session == session]:
            self.take(tag)
        self._ledger.forget(session)

    def sessions(self) -> set[bytes]:
        """The sessions of which something has arrived."""
        return self._ledger.sessions()


def lost_session(peer: int) -> tuple[type[TransportError], str]:
    """Why a session ends whose link was lost."""
    return PeerLost, f"the link to worker {peer} was lost while the session ran"
