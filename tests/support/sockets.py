"""The HTTP server alone, small apps for it, and a client that sends it raw bytes."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, Scope
from structlog.testing import capture_logs

from logstitch.http.server import Server, ServerLimits, bind, serve

GET = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
SOON = 1.0
"""Seconds: the bound of the invariant that a fresh client is answered, whatever others do."""
ALWAYS = 10.0
"""Seconds: nothing here may take as long."""


# -- apps ----------------------------------------------------------------------------------------------------------


async def reply(send: ASGISendCallable, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def read_all(receive: ASGIReceiveCallable) -> bytes | None:
    """The whole body, or None where the client went away first."""
    pieces = []
    while True:
        event = await receive()
        if event["type"] != "http.request":
            return None
        pieces.append(event["body"])
        if not event["more_body"]:
            return b"".join(pieces)


async def echo(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
    """Answers with the path and the body."""
    assert scope["type"] == "http"
    body = await read_all(receive)
    if body is not None:
        await reply(send, 200, scope["path"].encode() + b" " + body)


@dataclass
class Held:
    """Answers ``/ping`` at once; holds any other request until told to ``go`` on; says what became of it."""

    read_first: bool = True
    arrived: trio.Event = field(default_factory=trio.Event)
    go: trio.Event = field(default_factory=trio.Event)
    gone: trio.Event = field(default_factory=trio.Event)
    ended: trio.Event = field(default_factory=trio.Event)
    body: bytes | None = None

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/ping":
            return await echo(scope, receive, send)
        try:
            if self.read_first:
                self.body = await read_all(receive)
            self.arrived.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, receive)
                await self.go.wait()
                nursery.cancel_scope.cancel()
            if not self.read_first:
                self.body = await read_all(receive)
            await reply(send, 200, b"held")
        finally:
            self.ended.set()

    async def _watch(self, receive: ASGIReceiveCallable) -> None:
        if self.read_first:
            event = await receive()
            assert event["type"] == "http.disconnect"
            self.gone.set()


@dataclass
class Endless:
    """Answers ``/ping``; anything else without end, until the client has gone."""

    arrived: trio.Event = field(default_factory=trio.Event)

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/ping":
            return await echo(scope, receive, send)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when_gone, receive, nursery.cancel_scope)
            while True:
                await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
                self.arrived.set()

    @staticmethod
    async def _stop_when_gone(receive: ASGIReceiveCallable, work: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        work.cancel()


# -- server and client ---------------------------------------------------------------------------------------------


def envelope(code: str, message: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": message}, "request_id": "req_1"}).encode()


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of a refusal, whose form is checked on the way."""
        body = json.loads(self.body)
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"] == body["request_id"]
        assert self.headers["connection"] == "close"
        assert body["error"]["message"]
        return str(body["error"]["code"])


class Client:
    """A raw connection: sends bytes, reads answers, notices the end."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._buffer = b""
        self.was_reset = False

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def _more(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            raise EOFError(self._buffer)
        self._buffer += data

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._more()
        found, _, self._buffer = self._buffer.partition(end)
        return bytes(found)

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._more()
        found, self._buffer = self._buffer[:size], self._buffer[size:]
        return bytes(found)

    async def answer(self, *, to_head: bool = False, within: float = ALWAYS) -> Answer:
        with trio.fail_after(within):
            first, *rest = (await self._until(b"\r\n\r\n")).decode("ascii").split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in rest)
            if to_head or first.startswith("HTTP/1.1 1"):
                body = b""
            elif headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int(await self._until(b"\r\n"), 16):
                    body += (await self._exactly(size + 2))[:-2]
                await self._exactly(2)
            else:
                body = await self._exactly(int(headers["content-length"]))
        return Answer(int(first.split(" ")[1]), headers, body)

    async def ended(self, within: float = ALWAYS) -> bytes:
        """Everything until the server ends the connection, by a FIN or a reset."""
        with trio.fail_after(within):
            try:
                while True:
                    await self._more()
            except EOFError:
                return self._buffer
            except trio.BrokenResourceError:
                self.was_reset = True
                return self._buffer

    def reset(self) -> None:
        """Go away for good, in a way that the server's kernel sees at once."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        self.stream.socket.close()


@dataclass
class Running:
    server: Server
    drain: trio.Event
    stopped: trio.Event
    logs: list[Any]
    clients: AsyncExitStack

    async def connect(self, source: str = "127.0.0.1") -> Client:
        """From any address of loopback, as if it were another machine's."""
        host, _, port = self.server.addresses[0].rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port), local_address=source)
        return Client(await self.clients.enter_async_context(stream))

    async def exchange(self, request: bytes, source: str = "127.0.0.1") -> tuple[Answer, Client]:
        client = await self.connect(source)
        await client.send(request)
        return await client.answer(), client

    async def answers(self) -> None:
        """The invariant."""
        with trio.fail_after(SOON):
            answer, client = await self.exchange(GET)
            await client.stream.aclose()
        assert (answer.status, answer.body) == (200, b"/ping ")

    async def settles(self, count: int = 0) -> None:
        """Wait until only ``count`` connections are open, and nothing runs."""
        with trio.fail_after(ALWAYS):
            while self.server.connections != count or self.server.requests_in_flight:  # noqa: ASYNC110
                await trio.sleep(0.005)


@asynccontextmanager
async def open_server(
    app: ASGIFramework = echo,
    *,
    drain_seconds: float = 5.0,
    refusal: Callable[[str, str], bytes] = envelope,
    errors: int = 0,
    receive_buffer: int = 0,
    **limits: Any,
) -> AsyncIterator[Running]:
    """A server on loopback, drained on the way out. ``errors`` is how many log lines the test expects."""
    drain, stopped = trio.Event(), trio.Event()

    async def run(*, task_status: trio.TaskStatus[Server]) -> None:
        settings = ServerLimits(**limits)
        sockets = bind("127.0.0.1:0")
        if receive_buffer:  # what it accepts inherits it
            sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            await serve(
                app,
                sockets,
                limits=settings,
                drain=drain,
                drain_seconds=drain_seconds,
                refusal=refusal,
                task_status=task_status,
            )
        finally:
            stopped.set()

    with capture_logs() as logs:
        async with trio.open_nursery() as nursery, AsyncExitStack() as clients:
            server = await nursery.start(run)
            yield Running(server, drain, stopped, logs, clients)
            await clients.aclose()
            drain.set()
            with trio.fail_after(ALWAYS):
                await stopped.wait()
        assert server.connections == 0
    assert len(logs) == errors, logs
