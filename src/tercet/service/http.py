"""The control plane over HTTPS: routes, who may call them, and errors without tracebacks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
from aiohttp import web

from tercet.crypto.identity import PublicIdentity
from tercet.errors import (
    BusyError,
    InputError,
    RefusedError,
    SecurityError,
    TercetError,
    TransportError,
)
from tercet.net.tls import peer_identity
from tercet.service.calls import PATH as CALLS_PATH
from tercet.service.calls import SOCKETS, answer_calls, close_calls
from tercet.service.failures import http_status, to_failure
from tercet.service.messages import (
    MAX_REQUEST,
    Change,
    Commit,
    Deposit,
    Describe,
    Discard,
    Predict,
    Prepare,
    Propose,
    Show,
    Sign,
    decode,
    encode,
)
from tercet.service.metrics import METRICS_TYPE
from tercet.service.peers import PATH
from tercet.service.roster import Lists
from tercet.service.round_contributions import Body
from tercet.service.sum_messages import HEAD_BYTES, AskSum, Contribute
from tercet.service.terms import MAX_DOCUMENT
from tercet.service.training_messages import Ask, Attach
from tercet.service.worker import Worker

_log = logging.getLogger("tercet.worker")

#: Largest bodies: a sharing of a model of some 2.5 10^8 weights, and anything small.
MAX_MODEL = (2 << 30) + (1 << 24)
MAX_SMALL = 64 << 10
MAX_PROBE = 4 << 20
MAX_PACKAGE = 256 << 20
MAX_PROPOSAL = MAX_DOCUMENT + MAX_SMALL

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """Who may ask for what: workers, owners, clients and operators, as they stand now.

    Asked at each request, so that an identity that is taken off the lists is refused at its next
    request also on a connection that stands.
    """

    def __init__(self, workers: Sequence[PublicIdentity], lists: Lists) -> None:
        self.workers = list(workers)
        self.change(lists)

    def change(self, lists: Lists) -> None:
        """Take the lists as they are from now on."""
        #: Those who may share, serve, stop and remove models.
        self.owners = lists.owners
        #: Those who may ask.
        self.clients = lists.clients
        #: Those who may be parties of an agreement: owners and clients.
        self.members = list(dict.fromkeys((*lists.owners, *lists.clients)))
        #: Those who may read health and metrics.
        self.watchers = [*self.workers, *lists.owners, *lists.operators]
        #: Everybody that TLS should let in.
        self.all = list(dict.fromkeys((*self.watchers, *lists.clients)))

    def caller(self, request: web.Request, role: Sequence[PublicIdentity]) -> PublicIdentity:
        """Return who is asking, if it is one of ``role``.

        Raises:
            RefusedError: if it is not.
        """
        ssl_object = request.get_extra_info("ssl_object")
        try:
            return peer_identity(ssl_object, role)
        except SecurityError as error:
            raise RefusedError(f"not allowed: {error.message}", error.remedy) from None


def application(worker: Worker, gate: Gate) -> web.Application:
    """Return the application of one worker."""

    async def status(request: web.Request) -> object:
        return worker.status(gate.caller(request, gate.all).fingerprint)

    async def probe(request: web.Request) -> object:
        gate.caller(request, gate.all)
        return len(await read_body(request, MAX_PROBE))

    async def lines(request: web.Request) -> object:
        gate.caller(request, gate.all)
        return await worker.lines.measure()

    async def describe(request: web.Request) -> object:
        reader = gate.caller(request, gate.members).fingerprint
        return worker.describe(decode(await read_body(request, MAX_SMALL), Describe).name, reader)

    async def version(request: web.Request) -> object:
        owner = gate.caller(request, gate.owners)
        name = decode(await read_body(request, MAX_SMALL), Describe).name
        return worker.ownership.next_version(owner, name)

    async def prepare(request: web.Request) -> object:
        owner = gate.caller(request, gate.owners)
        body = await read_body(request, MAX_MODEL)
        await worker.ownership.prepare(owner, await asyncio.to_thread(decode, body, Prepare))
        return None

    async def commit(request: web.Request) -> object:
        owner = gate.caller(request, gate.owners)
        body = await read_body(request, MAX_SMALL)
        return await worker.ownership.commit(owner, decode(body, Commit).id)

    async def change(request: web.Request) -> object:
        owner = gate.caller(request, gate.owners)
        return await worker.ownership.change(
            owner, decode(await read_body(request, MAX_SMALL), Change)
        )

    async def deposit(request: web.Request) -> object:
        owner = gate.caller(request, gate.owners)
        body = await read_body(request, MAX_MODEL)
        await worker.sharings.prepare(owner, await asyncio.to_thread(decode, body, Deposit))
        return None

    async def deposited(request: web.Request) -> object:
        owner = gate.caller(request, gate.owners)
        return worker.sharings.commit(owner, decode(await read_body(request, MAX_SMALL), Commit).id)

    async def sharings(request: web.Request) -> object:
        gate.caller(request, gate.owners)
        return worker.sharings.listing()

    async def discard(request: web.Request) -> object:
        owner = gate.caller(request, gate.owners)
        worker.sharings.remove(owner, decode(await read_body(request, MAX_SMALL), Discard).name)
        return None

    async def propose(request: web.Request) -> object:
        proposer = gate.caller(request, gate.members)
        document = decode(await read_body(request, MAX_PROPOSAL), Propose).document
        return worker.agreements.propose(proposer, document)

    async def sign(request: web.Request) -> object:
        signer = gate.caller(request, gate.members)
        return worker.agreements.sign(signer, decode(await read_body(request, MAX_SMALL), Sign))

    async def agreements(request: web.Request) -> object:
        reader = gate.caller(request, gate.members)
        digest = decode(await read_body(request, MAX_SMALL), Show).digest
        return worker.agreements.show(reader, digest)

    async def contribute(request: web.Request) -> object:
        who = gate.caller(request, gate.members)
        head, body = await _framed(request)
        await worker.rounds.contribute(who, decode(head, Contribute), body)
        return None

    async def aggregate(request: web.Request) -> object:
        who = gate.caller(request, gate.members)
        return await worker.rounds.ask(who, decode(await read_body(request, MAX_PROPOSAL), AskSum))

    async def attach(request: web.Request) -> object:
        party = gate.caller(request, gate.members)
        body = await read_body(request, MAX_PACKAGE)
        await worker.training_requests.attach(party, await asyncio.to_thread(decode, body, Attach))
        return None

    async def run_training(request: web.Request) -> object:
        party = gate.caller(request, gate.members)
        return await worker.training_requests.run(party, await _ask(request))

    async def cancel_training(request: web.Request) -> object:
        party = gate.caller(request, gate.members)
        return worker.training_requests.cancel(party, await _ask(request))

    async def progress(request: web.Request) -> object:
        party = gate.caller(request, gate.members)
        return worker.training_requests.progress(party, await _ask(request))

    async def fetch(request: web.Request) -> object:
        party = gate.caller(request, gate.members)
        return await worker.training_requests.fetch(party, await _ask(request))

    async def calls(request: web.Request) -> web.StreamResponse:
        async def predict(body: bytes) -> object:
            client = gate.caller(request, gate.clients)
            return await worker.predictions.predict(client, decode(body, Predict))

        return await answer_calls(request, predict, MAX_REQUEST)

    async def peer(request: web.Request) -> web.StreamResponse:
        other = gate.caller(request, gate.workers)
        index = next(i for i, w in enumerate(gate.workers) if w == other)
        if index >= worker.index:
            raise RefusedError("the lower index dials", "Give everybody the same cluster.toml")
        return await worker.links.accept(index, request)

    async def healthy(request: web.Request) -> web.StreamResponse:
        gate.caller(request, gate.watchers)
        return web.Response(text="ok\n")

    async def ready(request: web.Request) -> web.StreamResponse:
        gate.caller(request, gate.watchers)
        waits = worker.waits()
        text = f"waits for {', '.join(waits)}\n" if waits else "ready\n"
        return web.Response(text=text, status=503 if waits else 200)

    async def scrape(request: web.Request) -> web.StreamResponse:
        gate.caller(request, gate.watchers)
        return web.Response(body=worker.show_metrics(), headers={"Content-Type": METRICS_TYPE})

    async def metrics(request: web.Request) -> object:
        gate.caller(request, gate.watchers)
        return worker.show_metrics().decode()

    app = web.Application(client_max_size=MAX_MODEL, middlewares=[refusals])
    app[SOCKETS] = set()
    app.on_shutdown.append(close_calls)
    for path, answer in (
        (PATH, peer),
        (CALLS_PATH, calls),
        ("/healthz", healthy),
        ("/readyz", ready),
        ("/metrics", scrape),
    ):
        app.router.add_get(path, answer)
    for path, handler in (
        ("/v1/status", status),
        ("/v1/probe", probe),
        ("/v1/lines", lines),
        ("/v1/metrics", metrics),
        ("/v1/describe", describe),
        ("/v1/share/version", version),
        ("/v1/share/prepare", prepare),
        ("/v1/share/commit", commit),
        ("/v1/change", change),
        ("/v1/sharings", sharings),
        ("/v1/sharings/prepare", deposit),
        ("/v1/sharings/commit", deposited),
        ("/v1/sharings/remove", discard),
        ("/v1/sums/contribute", contribute),
        ("/v1/sums/aggregate", aggregate),
        ("/v1/agreements", agreements),
        ("/v1/agreements/propose", propose),
        ("/v1/agreements/sign", sign),
        ("/v1/training/attach", attach),
        ("/v1/training/run", run_training),
        ("/v1/training/cancel", cancel_training),
        ("/v1/training/progress", progress),
        ("/v1/training/fetch", fetch),
    ):
        app.router.add_post(path, reply(handler))
    return app


async def read_body(request: web.Request, limit: int) -> bytes:
    """Return the body of a request, never compressed and of a length that was announced.

    Raises:
        RefusedError: if it is longer than ``limit`` bytes.
    """
    length = request.content_length
    if "Content-Encoding" in request.headers or length is None or length > limit:
        raise RefusedError(
            f"a body of {'unknown length' if length is None else f'{length} bytes'}",
            f"Send at most {limit} bytes, not compressed, with their length",
        )
    return await request.read()


async def _framed(request: web.Request) -> tuple[bytes, Body]:
    """Return the head of a contribution, and what reads the rest of it when its turn has come.

    Raises:
        RefusedError: if there is none of a small announced length.
    """
    length, stream = request.content_length or 0, request.content
    size = 0
    if "Content-Encoding" not in request.headers and length >= HEAD_BYTES:
        size = int.from_bytes(await stream.readexactly(HEAD_BYTES), "little")
    if not 0 < size <= min(MAX_SMALL, length - HEAD_BYTES):
        raise RefusedError("a malformed contribution", "Use Tercet's own client")

    async def body(room: memoryview) -> None:
        if length - HEAD_BYTES - size != len(room):
            raise InputError(
                f"a contribution of {length - HEAD_BYTES - size} bytes",
                f"The agreement is about updates of {len(room)} bytes",
            )
        filled = 0
        try:
            async for chunk in stream.iter_any():
                room[filled : filled + len(chunk)] = chunk
                filled += len(chunk)
        except (aiohttp.ClientError, OSError):
            filled = -1
        if filled != len(room):
            raise TransportError("the contribution broke off", "Contribute again")

    return await stream.readexactly(size), body


async def _ask(request: web.Request) -> Ask:
    return decode(await read_body(request, MAX_SMALL), Ask)


def reply(handler: Callable[[web.Request], Awaitable[object]]) -> Handler:
    """Return a handler that answers with what ``handler`` returns, encoded."""

    async def run(request: web.Request) -> web.StreamResponse:
        return web.Response(body=encode(await handler(request)), content_type="application/msgpack")

    return run


@web.middleware
async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every exception into a ``Failure``; nothing else of it leaves the process."""
    headers = {}
    try:
        return await handler(request)
    except (web.HTTPException, asyncio.CancelledError):
        raise
    except TercetError as error:
        _log.info("refused %s: %s", request.path, error.message)
        failure = to_failure(error)
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(error.seconds)
    except Exception as error:  # whatever it is, the caller must get an answer
        _log.exception("error in %s", request.path)
        failure = to_failure(error)
    return web.Response(
        status=http_status(failure),
        body=encode(failure),
        content_type="application/msgpack",
        headers=headers,
    )
