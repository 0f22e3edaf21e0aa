"""The ASGI app: what happens to every request whatever it asks for, and who answers it.

It gives the request its id, finds the endpoint, sends the answer with the headers that all answers have, and writes
down what happened: a metric and a line in the access log, in which there is never a query, a body or a credential.

``POST /api/v1/events`` goes straight to its handler; everything else goes through Quart, which finds the same handlers
by their routes (and that one, too). Measured in process, one event costs 80 µs of a core so, and 190 µs through Quart.
So do exports, which are sent while they are made.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, MutableMapping
from contextlib import aclosing
from typing import Any

import structlog
import trio

from logstitch import metrics
from logstitch.errors import Forbidden, LogStitchError, Unavailable
from logstitch.http import (
    alerts,
    docs,
    events,
    export,
    keys,
    laboratory,
    openapi,
    ops,
    pages,
    projects,
    redaction,
    streams,
    tiers,
    viewers,
    webhooks,
)
from logstitch.http.bodies import ClientGone, Receive
from logstitch.http.endpoints import Endpoint
from logstitch.http.errors import meaning_of, reply_to
from logstitch.http.hosts import is_rebound
from logstitch.http.pipeline import Exchange, Pipeline
from logstitch.http.requests import RequestHead, Scope, address_of, join_headers, path_of
from logstitch.http.responses import Answer, Reply, StreamedReply
from logstitch.http.routing import Router, Send, with_cors
from logstitch.http.services import Health, Limits, Services, wall_clock_ms
from logstitch.ids import new_request_id

log = structlog.get_logger("logstitch.access")

CLIENT_LEFT = 499  # counted and logged, never sent
_NO_STORE = (b"cache-control", b"no-store")
_NO_SNIFF = (b"x-content-type-options", b"nosniff")

DIRECT = frozenset({"events.create", "events.export"})
"""Endpoints that are found without Quart, by paths without variable parts: the one whose rate decides what the service
can take, and the one whose answer Quart would gather."""


class Outgoing:
    """Sends an answer, adds to it what every answer has, and remembers its status."""

    __slots__ = ("_head_only", "_id", "_request_id", "_send", "cut", "status")

    def __init__(self, send: Send, method: str, request_id: str) -> None:
        self._send = send
        self._head_only = method == "HEAD"
        self._id = request_id
        self._request_id = (b"x-request-id", request_id.encode())
        self.status = CLIENT_LEFT
        self.cut: str | None = None
        """Why an answer has begun and not come to its end."""

    async def answer(self, answer: Answer, receive: Receive) -> None:
        """The whole answer. ``receive`` tells when nobody waits for it any more."""
        if isinstance(answer, Reply):
            await self.reply(answer)
            return
        self.cut = "aborted"
        async with aclosing(answer.pieces), trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_left, receive, nursery.cancel_scope)
            try:
                await self._stream(answer)
                self.cut = None
            except Exception as error:
                # The status line is out, so there is only to end without the end that a whole answer has. The reply
                # is sent to nobody; to make it writes down what is a defect.
                reply_to(error, self._id)
                self.cut = meaning_of(error).code
            nursery.cancel_scope.cancel()

    async def _stream(self, answer: StreamedReply) -> None:
        headers = [(b"content-type", answer.content_type), *answer.headers]
        await self({"type": "http.response.start", "status": answer.status, "headers": headers})
        if not self._head_only:
            await self._piece(answer.first)
            async for piece in answer.pieces:
                await self._piece(piece)
        await self({"type": "http.response.body", "body": b"", "more_body": False})

    async def _piece(self, piece: bytes) -> None:
        """Returns when the piece is on its way: a client that reads slowly is waited for here."""
        if piece:
            await self({"type": "http.response.body", "body": piece, "more_body": True})

    async def _stop_when_left(self, receive: Receive, work: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.cut = "client_left"
        work.cancel()

    async def reply(self, reply: Reply) -> None:
        """An answer that is whole already."""
        headers = [
            (b"content-type", reply.content_type),
            (b"content-length", b"%d" % len(reply.body)),
            *reply.headers,
        ]
        await self({"type": "http.response.start", "status": reply.status, "headers": headers})
        await self({"type": "http.response.body", "body": reply.body, "more_body": False})

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        """ASGI's ``send``."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], self._request_id, _NO_SNIFF]
            if all(name != b"cache-control" for name, _ in headers):
                headers.append(_NO_STORE)
            message["headers"] = headers
        elif self._head_only:
            message["body"] = b""
        await self._send(message)


class App:
    """An ASGI app of endpoints."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        pipeline: Pipeline,
        now_ms: Callable[[], int] = wall_clock_ms,
        *,
        quiet: bool = False,
        closed: LogStitchError | None = None,
        names: Collection[str] | None = None,
    ) -> None:
        """``quiet`` writes no access log; ``closed`` is what every request is answered with, whatever it asks for;
        ``names`` are those by which a browser may come here, None for any."""
        self.endpoints = tuple(endpoints)
        self.pipeline = pipeline
        self._now_ms = now_ms
        self._quiet = quiet
        self._closed = closed
        self._names = names
        self._router = Router(self.endpoints, pipeline)
        direct = [endpoint for endpoint in self.endpoints if endpoint.name in DIRECT]
        self._direct = {(e.method, e.path): e for e in direct} | {
            ("HEAD", e.path): e for e in direct if e.method == "GET"
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (or see to the lifespan, in which there is nothing to do)."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, now_ms = time.perf_counter(), self._now_ms()
        head = RequestHead(
            scope["method"],
            scope["query_string"],
            join_headers(scope["headers"]),
            new_request_id(now_ms),
            now_ms,
            address_of(scope),
        )
        exchange, outgoing = Exchange(head, receive), Outgoing(send, head.method, head.request_id)
        structlog.contextvars.bind_contextvars(request_id=head.request_id)
        metrics.REQUESTS_IN_FLIGHT.inc()
        try:
            if self._closed is not None:
                raise self._closed.with_traceback(None)
            if self._names is not None and is_rebound(head.headers, self._names):
                raise Forbidden("This address is not known by that name: use its IP address, or see --ops-host-names.")
            path = path_of(scope)
            if (endpoint := self._direct.get((head.method, path))) is not None:
                await outgoing.answer(with_cors(endpoint, await self.pipeline.answer(exchange, endpoint, {})), receive)
            else:
                await self._router.forward(exchange, path, outgoing)
        except ClientGone:
            pass
        except Exception as error:
            if outgoing.status != CLIENT_LEFT:
                raise  # the answer has begun, and cannot become another
            await outgoing.reply(reply_to(error, head.request_id))
        finally:
            metrics.REQUESTS_IN_FLIGHT.dec()
            self._write_down(exchange, outgoing, time.perf_counter() - began)

    def _write_down(self, exchange: Exchange, outgoing: Outgoing, seconds: float) -> None:
        route, status = "none" if exchange.endpoint is None else exchange.endpoint.route, outgoing.status
        metrics.answered(exchange.head.method, route, status, seconds)
        if outgoing.cut is not None:
            metrics.ANSWERS_CUT.labels(outgoing.cut).inc()
        if not self._quiet:
            # request_id is bound already.
            log.info(
                "request",
                method=metrics.method_label(exchange.head.method),
                route=route,
                status=status,
                ms=round(seconds * 1000, 2),
                project=exchange.project,
                **({} if outgoing.cut is None else {"cut": outgoing.cut}),
            )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def create_app(services: Services) -> App:
    """The app of the public address."""
    documented = (
        *events.endpoints(services),
        *export.endpoints(services),
        *redaction.endpoints(services),
        *laboratory.endpoints(services),
        *alerts.endpoints(services),
        *webhooks.endpoints(services),
        *streams.endpoints(services),
        *viewers.endpoints(services),
        *tiers.endpoints(services),
        *keys.endpoints(services),
        *projects.endpoints(services),
    )
    document = openapi.document(documented)
    endpoints = (*documented, *openapi.endpoints(document), *docs.endpoints(document), *pages.endpoints())
    return App(endpoints, Pipeline(services.limits, services), services.now_ms)


def create_ops_app(health: Health, names: Collection[str] = ()) -> App:
    """The app of the operations address, which is never the public one: health and metrics, for whoever reaches it,
    but for pages that do so by the browser of somebody else; ``names`` are those that the address is known by."""
    return App((*ops.endpoints(health), *pages.operator_endpoints()), Pipeline(Limits()), quiet=True, names=names)


def starting_app() -> App:
    """The app of the public address until there are services: the process is alive, and asks for patience."""
    return App((), Pipeline(Limits()), closed=Unavailable("The service is starting."))
