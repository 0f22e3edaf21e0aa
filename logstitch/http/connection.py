"""One client's connection: Hypercorn's HTTP/1.1 on Trio, with a bound on every wait and on every failure.

What Hypercorn 0.18.0 does well is inherited (the HTTP/1.1 exchange over h11, the ASGI scope and response state). What
let one client hurt the others is overridden here, each override with the failure that taught it. The release is pinned
exactly, because these are its inner methods; ``tests/http/test_server*.py`` hold the probes that tell whether a newer
one still fits.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import h11
import structlog
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import AppWrapper, ASGIReceiveEvent, ASGISendEvent, ConnectionState, H11SendableEvent, Scope
from hypercorn.utils import parse_socket_addr

if TYPE_CHECKING:
    from hypercorn.typing import WorkerContext as WorkerContextProtocol

    from logstitch.http.server import Site

log = structlog.get_logger(__name__)

BODY_WINDOW = 64 * 1024  # bytes of a request's body held for an app that does not read; then TCP pushes back
BODY_CHUNKS = 16  # chunks likewise: a body of one-byte chunks must yield to other clients long before 64 KiB
DRAIN_GRACE = 0.25  # seconds: a request that was on its way when a drain began is still answered
WRITE_PIECE = 64 * 1024  # bytes that must go out within one write deadline: 4 KiB/s is the slowest reader served


class _Refused(Exception):
    """A request that is well-formed for h11 and still refused here."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class _Inbox:
    """What an app has yet to receive of its request: bounded, and closed when the exchange is over.

    Hypercorn's is a channel of ten messages that nobody closes: an app that answered 413 without reading left the
    reader blocked on it, and the connection open, for ever.
    """

    __slots__ = ("_arrived", "_chunks", "_complete", "_drained", "_gone", "_size")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0
        self._complete = False  # the end of the body is here and not yet handed over
        self._gone = False
        self._arrived = trio.lowlevel.ParkingLot()
        self._drained = trio.lowlevel.ParkingLot()

    async def put(self, event: ASGIReceiveEvent) -> None:
        """Called by the reader; waits while the app is behind, so that the client's writes wait too."""
        if event["type"] == "http.request":
            if event["body"]:
                self._chunks.append(event["body"])
                self._size += len(event["body"])
            self._complete = not event["more_body"]
        else:
            self._gone = True
            self._drained.unpark_all()
        self._arrived.unpark_all()
        while (self._size >= BODY_WINDOW or len(self._chunks) >= BODY_CHUNKS) and not self._gone:
            await self._drained.park()

    async def receive(self) -> ASGIReceiveEvent:
        """The app's ``receive``: everything that is here as one message; after the exchange, ``http.disconnect``."""
        while not (self._chunks or self._complete or self._gone):
            await self._arrived.park()
        if self._chunks or self._complete:
            body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            more, self._complete, self._size = not self._complete, False, 0
            self._chunks.clear()
            self._drained.unpark_all()
            return {"type": "http.request", "body": body, "more_body": more}
        await trio.lowlevel.checkpoint()  # an app that asks again and again must not stop the loop
        return {"type": "http.disconnect"}


class _Apps(TaskGroup):
    """Runs the app, one task a request. Hypercorn's logs tracebacks, and answers 500 to what a drain cancelled."""

    def __init__(self, site: Site, nursery: trio.Nursery) -> None:
        super().__init__()
        self._site = site
        self._nursery: trio.Nursery = nursery

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Scope, send: Callable[[ASGISendEvent | None], Awaitable[None]]
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        inbox = _Inbox()
        self._nursery.start_soon(self._run, app, scope, inbox, send)
        return inbox.put

    async def _run(self, app: AppWrapper, scope: Scope, inbox: _Inbox, send: Callable[[Any], Awaitable[None]]) -> None:
        self._site.requests_in_flight += 1
        try:
            await app(scope, inbox.receive, send, trio.to_thread.run_sync, trio.from_thread.run)
        except* Exception as failure:  # the type only: a message may quote the request
            log.error("app_failed", errors=error_types(failure))
        finally:
            self._site.requests_in_flight -= 1
        await send(None)


class _Stream(HTTPStream):
    """One request and its answer."""

    site: Site

    async def app_send(self, message: ASGISendEvent | None) -> None:
        if self.closed:  # the client went away, or has its answer: nobody listens, which is no error of the app's
            await trio.lowlevel.checkpoint()
            return
        await super().app_send(message)
        if message is not None and message.get("more_body"):
            await trio.lowlevel.checkpoint()  # a write that fits the socket's buffer does not yield by itself

    async def _send_error_response(self, status_code: int) -> None:
        # Called with 500 where the app ended without an answer. Hypercorn's has no body; every answer here is JSON.
        headers, body = self.site.refuse("internal_error", "The service failed to answer this request.")
        await self.send(Response(stream_id=self.stream_id, headers=headers, status_code=status_code))
        if self.scope["method"] != "HEAD":
            await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.state = ASGIHTTPState.CLOSED


_ABSOLUTE_FORM = re.compile(rb"(?i:https?)://[^/?#]+")


class _Http1(H11Protocol):
    """HTTP/1.1 and 1.0, and nothing else: there is no code path from here to HTTP/2 or to a websocket."""

    connection: h11.Connection
    stream: _Stream | None

    def __init__(self, transport: Connection, nursery: trio.Nursery) -> None:
        site, sock = transport.site, transport.stream.socket
        super().__init__(
            site.app,
            site.config,
            cast("WorkerContextProtocol", site.context),
            _Apps(site, nursery),
            ConnectionState({}),
            False,
            parse_socket_addr(sock.family, sock.getpeername()),
            parse_socket_addr(sock.family, sock.getsockname()),
            transport.protocol_send,
        )
        self.site = site
        self._head = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._target = b""
        self._bodiless = False

    async def handle(self, event: Event) -> None:
        try:
            await super().handle(event)
        except _Refused as refused:
            await self.refuse(refused.status, refused.code, refused.message)

    async def refuse(self, status: int, code: str, message: str) -> None:
        """Answer in the app's stead, unless an answer has begun, and end the connection."""
        if self.connection.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            headers, body = self.site.refuse(code, message)
            headers += self.config.response_headers("h11")
            await self._send_h11_event(h11.Response(status_code=status, headers=headers))
            if not self._bodiless:
                await self._send_h11_event(h11.Data(data=body))
            await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())

    async def _check_protocol(self, event: h11.Request) -> None:
        # Hypercorn's looks for HTTP/2 here, prior knowledge or Upgrade, and switches to code in which one packet (a
        # non-ASCII path, CONNECT, DATA after a 401) ended the process. An upgrade may be ignored (RFC 9110, 7.8).
        # h11 accepts Content-Length beside Transfer-Encoding, which a proxy in front may frame otherwise: smuggling.
        # And it measures incomplete heads only, so one that arrives whole is measured here.
        limits = self.site.limits
        headers = [(name.lower(), value) for name, value in event.headers.raw_items()]
        self._bodiless = event.method == b"HEAD"
        if len(headers) > limits.max_headers or sum(len(n) + len(v) + 4 for n, v in headers) > limits.max_header_bytes:
            message = f"At most {limits.max_headers} headers and {limits.max_header_bytes} bytes of them are taken."
            raise _Refused(431, "headers_too_large", message)
        if len(event.target) > limits.max_target_bytes:
            message = f"At most {limits.max_target_bytes} bytes of path and query are taken."
            raise _Refused(431, "headers_too_large", message)
        if event.http_version not in (b"1.1", b"1.0"):
            raise _Refused(400, "validation_error", "This port speaks HTTP/1.1.")
        names = {name for name, _ in headers}
        if b"transfer-encoding" in names and (b"content-length" in names or event.http_version == b"1.0"):
            raise _Refused(400, "validation_error", "The length of the body is stated in conflicting ways.")
        self._headers, self._target = headers, event.target
        if not event.target.startswith(b"/"):
            absolute = _ABSOLUTE_FORM.match(event.target)  # RFC 9112, 3.2.2: a server must take it
            if absolute is None:
                raise _Refused(400, "validation_error", "The request target is not a path.")
            self._target = b"/" + event.target[absolute.end() :].removeprefix(b"/")
        if event.method == b"CONNECT":
            raise _Refused(400, "validation_error", "This server is no proxy.")

    async def _create_stream(self, request: h11.Request) -> None:
        # Hypercorn's makes a websocket of an upgrade; junk after it ended the process.
        stream = _Stream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        stream.site = self.site
        self.stream = stream
        await stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=self._headers,
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=self._target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and (
            self.connection.their_state is h11.SEND_BODY or self.context.terminated.is_set()
        ):  # an answer before the body's end, or while draining, is the last one, and says so
            event = Response(event.stream_id, [*event.headers, (b"connection", b"close")], event.status_code)
        await super().stream_send(event)

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        # Hypercorn's writes head, body and end one by one; the head waits here for what follows it: one system call.
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if type(event) is h11.Response:
            self._head = data
            return
        data, self._head = self._head + data, b""
        if data:
            await self.send(RawData(data))

    async def _send_error_response(self, status_code: int) -> None:
        # h11's verdict on malformed input; Hypercorn's answer to it has no body.
        if status_code == 431 and self.stream is None:
            await self.refuse(431, "headers_too_large", "The request head is too large.")
        else:
            await self.refuse(400, "validation_error", "The request is not valid HTTP/1.1.")


class Connection(TCPServer):
    """One socket: reads for the protocol, writes for it, and knows how long to be patient."""

    stream: trio.SocketStream  # type: ignore[assignment]  # no TLS here: that is a proxy's work
    protocol: _Http1  # type: ignore[assignment]  # no ProtocolWrapper: all it adds is the switch to HTTP/2

    def __init__(self, site: Site, stream: trio.SocketStream, address: bytes | None) -> None:
        super().__init__(site.app, site.config, site.context, ConnectionState({}), stream)  # type: ignore[arg-type]
        self.site = site
        self.address = address
        self._head_began = False
        self._finished = False  # we have said all we will say
        self._broken = False  # nothing that we say arrives
        self._writing: trio.CancelScope | None = None
        # One scope over the reader, its deadline moved as the exchange goes on. Hypercorn starts and cancels a timer
        # task for each request instead, which alone is a sixth or more of what a request costs it.
        self._patience = trio.CancelScope(deadline=trio.current_time() + site.limits.head_seconds)

    async def run(self) -> None:
        """Serve this client to its end. Raises nothing but cancellation, and what is not an ``Exception``.

        Hypercorn's lets everything but OSError out into the nursery that all connections share: the process ended,
        with exit status 0.
        """
        self.site.enter(self)
        try:
            if self.site.context.terminated.is_set():
                self.drain()  # accepted as the drain began
            async with trio.open_nursery() as nursery:
                self.protocol = _Http1(self, nursery)
                await self._read_data()
                await self._close()
        except* OSError:
            pass  # gone before we looked: getpeername
        except* Exception as failure:
            log.error("connection_failed", errors=error_types(failure))
        finally:
            self.site.leave(self)

    def drain(self) -> None:
        """Close soon, if no request is under way; one that is gets its answer first."""
        if self in self.site.idle and not self._head_began:
            self._patience.deadline = min(self._patience.deadline, trio.current_time() + DRAIN_GRACE)

    def abort(self) -> None:
        """Drop the client at once: with a reset, so that the kernel does not hold what it will never fetch."""
        self._broken = True
        with suppress(OSError, trio.ClosedResourceError):
            self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if self._writing is not None:
            self._writing.cancel()
        self.site.mark_busy(self)
        self._finish()

    def _finish(self) -> None:
        self._finished = True
        self._patience.cancel()

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            await self._write(event.data)
        elif isinstance(event, Updated):
            if event.idle:
                self._head_began = False
                self.site.mark_idle(self)
                self._patience.deadline = trio.current_time() + self.site.limits.idle_seconds
            else:
                self.site.mark_busy(self)
                self._patience.deadline = float("inf")  # the app has deadlines of its own
        else:
            self._finish()

    async def _write(self, data: bytes) -> None:
        # Hypercorn's write is shielded without a deadline: a client that never read blocked SIGTERM for ever. The
        # shield stays, because an app's own timeout must not cut an answer after its status line.
        if not (self._broken or self.send_lock.locked()):
            try:  # nearly every answer fits the socket's buffer: no lock, no scope, no turn of the loop
                data = data[os.write(self.stream.socket.fileno(), data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._broken = True
        if data and not self._broken:
            with trio.CancelScope(shield=True) as scope:
                async with self.send_lock:
                    self._writing = scope
                    try:
                        for start in range(0, 0 if self._broken else len(data), WRITE_PIECE):
                            scope.deadline = trio.current_time() + self.site.limits.write_seconds
                            await self.stream.send_all(data[start : start + WRITE_PIECE])
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        self._broken = True
            if scope.cancelled_caught:
                self.abort()
        if self._broken:
            self._finish()
            await self.protocol.handle(Closed())

    async def _read_data(self) -> None:
        protocol = self.protocol
        with self._patience:
            data = b"first"
            while data:
                try:
                    data = bytes(await self.stream.receive_some(MAX_RECV))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break
                await protocol.handle(RawData(data))
                if protocol.stream is None and not self._head_began and protocol.connection.trailing_data[0]:
                    self._head_began = True
                    self._patience.deadline = trio.current_time() + self.site.limits.head_seconds
            else:
                # The client has shut its side, which is no farewell. Hypercorn tells the app that it has gone, Quart
                # cancels the handler, and the answer is lost. One that really has gone shows when we write.
                if protocol.stream is not None:
                    await trio.sleep_forever()
        if self._patience.cancelled_caught and self._head_began and not self._finished:
            await protocol.refuse(408, "request_timeout", "The request head did not arrive in time.")
        await protocol.handle(Closed())

    async def _close(self) -> None:
        # Closing with input unread resets the connection, and the client loses the 413 it was sent meanwhile: so say
        # that we are done, and read what still comes, for a while.
        if self._finished and not self._broken:
            with (
                suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError),
                trio.move_on_after(self.site.limits.linger_seconds),
            ):
                await self.stream.send_eof()
                while await self.stream.receive_some(MAX_RECV):
                    pass
        await self.stream.aclose()


def error_types(error: BaseException) -> list[str]:
    """The type names of an error, or of all that a group holds: what may be logged of an error that is not ours."""
    if isinstance(error, BaseExceptionGroup):
        return sorted({name for inner in error.exceptions for name in error_types(inner)})
    return [type(error).__name__]
