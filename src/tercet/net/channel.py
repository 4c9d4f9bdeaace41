"""One link between two workers: a TLS connection for each direction.

Each connection is used by one thread at a time, as OpenSSL demands, and in one direction, so that
neither end ever has to read in order to write.

Writing. A small frame is written by the thread that sends it, unless something is queued; this
saves a hand-over between threads. What is large, or does not fit the kernel's buffer, goes to the
link's writer thread, so that two workers that send each other 50 MB do not wait for each other.

Reading. The thread that waits for a frame reads the connection itself, if no other thread does,
and delivers what it finds for others on the way; a thread that finds the connection taken waits
for a notice. In a bare loop over such connections (three processes on two busy cores, best of 12) a
round of 4 KB took 51 to 59 us this way and 84 to 92 us with a reader thread, as each frame then
pays for waking a second thread and for passing the interpreter lock; this channel takes 82 us.
While nobody waits, a keeper thread looks every 50 ms whether something has come: data, so that a
large frame travels while its receiver computes, or the end of the connection, so that a link that
is lost while idle is noticed.

A link does not renew its TLS keys: Python's ssl module cannot ask for that. RFC 8446, section 5.5
puts the limit for AES-GCM at 2^24.5 records, some 380 GB of large frames; beyond it the margin
shrinks slowly.
"""

from __future__ import annotations

import math
import select
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from tercet.crypto.schedule import SessionGuard
from tercet.errors import FrameError, PeerLost, TransportError
from tercet.net.frame import ABORT, DATA, FrameReader, header
from tercet.net.log import link_closed
from tercet.net.mailbox import EndedSessions, Ledger, Mailbox
from tercet.net.stream import TlsStream
from tercet.net.text import printable
from tercet.net.transport import (
    MAX_QUEUED,
    Buffer,
    PairLink,
    Tag,
    as_bytes,
    check_size,
    sent_twice,
    timed_out,
)

INLINE: Final = 256 << 10
"""Largest frame, in bytes, that the sending thread writes itself."""

_WRITE_CHUNK: Final = 256 << 10
_TICK: Final = 0.25  # seconds after which a blocked thread looks around
_KEEPER_TICK: Final = 0.05
_READ_AHEAD: Final = 256 << 20  # the keeper stops reading when this much waits
_LINGER: Final = 5.0  # seconds that close() gives the queue

_BACK: Final = "Start that worker again and repeat the run; the link comes back by itself"


class Channel:
    """A link that stands, until it fails; then a new one takes its place.

    Args:
        peer: index of the other worker.
        link: id and key.
        incoming: the connection on which the peer writes.
        outgoing: the connection on which this worker writes.
        ended: sessions that have ended with this peer; outlives the link.
        on_abort: called with session and reason when the peer aborts a session.
        on_lost: called once, from any thread, when the link has failed.
    """

    def __init__(
        self,
        *,
        peer: int,
        link: PairLink,
        incoming: TlsStream,
        outgoing: TlsStream,
        ended: EndedSessions,
        on_abort: Callable[[bytes, str], None],
        on_lost: Callable[[Channel], None],
    ) -> None:
        self.peer = peer
        self.link = link
        self._ended = ended
        self._on_abort = on_abort
        self._on_lost = on_lost
        self._guard = SessionGuard()
        self._opened: set[bytes] = set()

        self._failed = threading.Event()
        self._failure: tuple[type[TransportError], str, str] | None = None
        self._failing = threading.Lock()

        self._incoming = incoming
        self._read_wait = _TICK
        incoming.set_read_timeout(_TICK)
        self._reader = FrameReader(incoming)
        self._readable = select.poll()
        self._readable.register(incoming, select.POLLIN)
        self._in_lock = threading.Lock()
        self._inbox = threading.Condition(self._in_lock)
        self._mailbox = Mailbox(peer, ended)
        self._reading = False
        self._waiting = 0

        self._outgoing = outgoing
        outgoing.setblocking(False)
        self._out_lock = threading.Lock()
        self._outbox = threading.Condition(self._out_lock)
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._sent = Ledger()
        self._closing = False

        name = f"tercet-link-{peer}"
        self._writer = threading.Thread(target=self._write, name=f"{name}-writer", daemon=True)
        self._keeper = threading.Thread(target=self._keep, name=f"{name}-keeper", daemon=True)
        self._writer.start()
        self._keeper.start()

    @property
    def alive(self) -> bool:
        """Whether the link has not failed as far as is known."""
        return self._failure is None

    def admit(self, session: bytes) -> None:
        """Note that a session starts on this link.

        Raises:
            SecurityError: it did before.
        """
        self._guard.admit(session)
        with self._in_lock:
            self._opened.add(session)

    def sessions(self) -> set[bytes]:
        """The sessions that have used this link and were not dropped."""
        with self._out_lock:
            sent = self._sent.sessions()
        with self._in_lock:
            return sent | self._opened | self._mailbox.sessions()

    def drop(self, session: bytes) -> None:
        """Drop what has come for a session, and wake those who wait for more."""
        with self._out_lock:
            self._sent.forget(session)
        with self._in_lock:
            self._opened.discard(session)
            self._mailbox.drop(session)
            self._inbox.notify_all()

    # -- writing ---------------------------------------------------------------------------

    def send(self, tag: Tag, buffers: Sequence[Buffer], size: int) -> None:
        """Send a data frame of ``size`` bytes in all; see ``Transport.send``."""
        self._send(DATA, tag, buffers, size)

    def send_abort(self, session: bytes, reason: str) -> None:
        """Tell the peer that this worker gives a session up."""
        text = printable(reason).encode("utf-8", "replace")
        self._send(ABORT, Tag(session, 0), [text], len(text))

    def _send(self, kind: int, tag: Tag, buffers: Sequence[Buffer], size: int) -> None:
        head = header(kind, tag, size)
        with self._out_lock:
            if self._failure is not None:
                self._raise_failure()
            if self._closing:
                raise TransportError("the transport is closed", "Start the worker again")
            if self._queued + size > MAX_QUEUED:
                raise TransportError(
                    f"{self._queued} bytes wait for worker {self.peer}, which does not read them",
                    "See that worker's log, or run the batch in smaller slices",
                )
            if kind == DATA and not self._sent.use(tag):
                raise sent_twice(self.peer, tag)
            if self._queue or size > INLINE:
                self._enqueue(memoryview(head))
                for view in map(as_bytes, buffers):
                    self._enqueue(view if view.readonly else memoryview(bytes(view)))
                return
            data = b"".join((head, *map(as_bytes, buffers)))
            try:
                self._outgoing.send(data)
            except OSError as failed:
                error = failed
            else:
                if self._outgoing.unsent:
                    self._enqueue(memoryview(b""))  # the writer sees to the rest
                return
        self._lost(error)  # outside of the lock: it tells the transport
        self._raise_failure()

    def _enqueue(self, view: memoryview) -> None:
        self._queue.append(view)
        self._queued += len(view)
        self._outbox.notify()

    def _write(self) -> None:
        """The writer thread. While the queue is not empty it alone touches the connection."""
        writable = select.poll()
        try:
            writable.register(self._outgoing, select.POLLOUT)
            while True:
                with self._out_lock:
                    while not self._queue and not self._closing:
                        self._outbox.wait()
                    if not self._queue or self._failure is not None:
                        return
                    view = self._queue[0]
                start = 0
                while start < len(view) or self._outgoing.unsent:
                    if self._outgoing.unsent:
                        writable.poll(1000 * _TICK)
                        if self._failure is not None:
                            return
                        self._outgoing.flush()
                    else:
                        self._outgoing.send(view[start : start + _WRITE_CHUNK])
                        start += _WRITE_CHUNK
                with self._out_lock:
                    self._queue.popleft()
                    self._queued -= len(view)
        except (OSError, ValueError) as error:  # ValueError: the connection was closed already
            self._lost(error)

    # -- reading ---------------------------------------------------------------------------

    def recv(self, tag: Tag, size: int, timeout: float) -> memoryview:
        """Wait for a frame; see ``Transport.recv``."""
        deadline = time.monotonic() + timeout
        with self._in_lock:
            while True:
                payload = self._mailbox.take(tag)
                if payload is not None:
                    return check_size(self.peer, tag, size, payload)
                self._ended.check(tag.session)
                if self._failure is not None:
                    self._raise_failure()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise timed_out(self.peer, tag, timeout)
                if self._reading:
                    self._waiting += 1
                    self._inbox.wait(min(remaining, _TICK))
                    self._waiting -= 1
                    continue
                self._reading = True
                self._in_lock.release()
                try:
                    self._read_one(remaining, deadline)
                finally:
                    self._in_lock.acquire()
                    self._reading = False
                    if self._waiting:
                        self._inbox.notify_all()

    def _read_one(self, wait: float, deadline: float) -> bool:
        """Read until one frame is complete; False if it did not come in time.

        Only for the thread that has set ``_reading``.
        """
        wait = min(wait, _TICK)
        if wait != self._read_wait:
            self._read_wait = wait
            self._incoming.set_read_timeout(wait)
        try:
            while (frame := self._reader.advance()) is None:
                if self._failure is not None or time.monotonic() > deadline:
                    return False
            kind, tag, payload = frame
            if kind == DATA:
                with self._in_lock:
                    self._mailbox.put(tag, payload)
                    if self._waiting:
                        self._inbox.notify_all()
            else:
                self._on_abort(tag.session, printable(bytes(payload).decode("utf-8", "replace")))
        except TimeoutError:
            return False
        except FrameError as error:
            self._malformed(error)
            return False
        except (EOFError, OSError, ValueError) as error:
            self._lost(error)
            return False
        return True

    def _keep(self) -> None:
        """The keeper thread: reads while nobody else does, and clears up in the end."""
        while not self._failed.wait(_KEEPER_TICK):
            with self._in_lock:
                busy = self._reading or self._waiting or self._mailbox.queued > _READ_AHEAD
                if busy or not self._has_input():
                    continue
                self._reading = True
            try:
                while self._read_one(_TICK, math.inf):
                    if self._waiting or not self._has_input():
                        break
            finally:
                with self._in_lock:
                    self._reading = False
                    self._inbox.notify_all()
        self._clear_up()

    def _has_input(self) -> bool:
        return (
            self._reader.has_header or self._incoming.pending() > 0 or bool(self._readable.poll(0))
        )

    # -- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Send what is queued, then end the link and wait for its threads."""
        with self._out_lock:
            self._closing = True
            self._outbox.notify()
        self._writer.join(_LINGER)
        self.fail(TransportError, "the transport is closed", "Start the worker again")
        self._keeper.join(_LINGER)

    def fail(self, kind: type[TransportError], message: str, remedy: str = _BACK) -> None:
        """End the link now. Whoever waits gets this error; the first one given stands."""
        with self._failing:
            if self._failure is not None:
                return
            self._failure = kind, message, remedy
        for connection in (self._incoming, self._outgoing):
            try:
                connection.shutdown()
            except OSError:
                continue  # the peer was faster
        self._failed.set()
        self._on_lost(self)

    def _malformed(self, error: FrameError) -> None:
        """End the link because of what the peer sent, and log it."""
        if self.alive:
            link_closed(self.peer, error.message)
        self.fail(FrameError, f"worker {self.peer}: {error.message}", error.remedy)

    def _lost(self, error: BaseException) -> None:
        how = "closed the connection"
        if isinstance(error, OSError) and not isinstance(error, ssl.SSLEOFError):
            how = f"was lost ({error.strerror or type(error).__name__})"
        elif not self._reader.between_frames:
            how = "closed the connection in the middle of a frame"
        self.fail(PeerLost, f"worker {self.peer} {how}")

    def _raise_failure(self) -> None:
        if self._failure is not None:
            kind, message, remedy = self._failure
            raise kind(message, remedy)

    def _clear_up(self) -> None:
        """Close both connections once no thread uses them any more. By the keeper alone."""
        with self._out_lock:
            self._closing = True
            self._outbox.notify()
        self._writer.join()
        with self._in_lock:
            self._inbox.notify_all()
            while self._reading:
                self._inbox.wait(_TICK)
            self._incoming.close()
        with self._out_lock:
            self._queue.clear()
            self._queued = 0
            self._outgoing.close()
