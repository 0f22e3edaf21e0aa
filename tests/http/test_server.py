"""What hostile, slow and clumsy clients may do to the server, over raw sockets: the probes of every override.

Each probe ends with the same invariant: a fresh client is answered within a second.
"""

from __future__ import annotations

import errno
import json
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import pytest
import trio
import trio.testing
from hypercorn.typing import ASGIFramework, ASGIReceiveCallable, ASGISendCallable, HTTPRequestEvent, Scope
from structlog.testing import capture_logs

from logstitch.errors import ConfigurationError
from logstitch.http.connection import BODY_WINDOW, _Inbox
from logstitch.http.server import Server, ServerLimits, address_of, bind, serve
from tests.support.errors import ErrorLogs

GET = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
SOON = 1.0  # seconds: the bound of the invariant
ALWAYS = 10.0  # seconds: nothing here may take as long


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


# -- plain service -------------------------------------------------------------------------------------------------


async def test_a_connection_serves_one_request_after_another() -> None:
    async with open_server() as running:
        client = await running.connect()
        for body in (b"one", b"two"):
            await client.send(b"POST /a%%20b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n%s" % body)
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"/a b " + body)
            assert "date" in answer.headers
            assert "server" not in answer.headers
        assert running.server.connections == 1


async def test_a_chunked_body_reaches_the_app_as_it_comes() -> None:
    heard, listening = trio.open_memory_channel[bytes](10)

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        while (event := await receive())["type"] == "http.request":
            await heard.send(event["body"])
            if not event["more_body"]:
                return await reply(send, 200, b"done")

    async with open_server(app) as running:
        client = await running.connect()
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        with trio.fail_after(ALWAYS):
            assert await listening.receive() == b"abc"
            await client.send(b"3\r\ndef\r\n")
            assert await listening.receive() == b"def"
            await client.send(b"0\r\n\r\n")
            assert await listening.receive() == b""
        assert (await client.answer()).body == b"done"


async def test_an_answer_of_unknown_length_is_chunked() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in (b"one", b"two", b""):
            await send({"type": "http.response.body", "body": piece, "more_body": bool(piece)})

    async with open_server(app) as running:
        answer, client = await running.exchange(GET)
        assert (answer.headers["transfer-encoding"], answer.body) == ("chunked", b"onetwo")
        await client.send(GET)
        assert (await client.answer()).body == b"onetwo"


async def test_head_has_the_headers_and_no_body() -> None:
    async with open_server() as running:
        client = await running.connect()
        await client.send(b"HEAD /abc HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
        assert (await client.answer(to_head=True)).headers["content-length"] == "5"
        assert (await client.answer()).body == b"/ping "


async def test_http_1_0_is_answered_and_closed() -> None:
    async with open_server() as running:
        client = await running.connect()
        await client.send(b"GET /old HTTP/1.0\r\n\r\n")
        assert (await client.ended()).endswith(b"/old ")


async def test_expect_100_continue() -> None:
    async with open_server() as running:
        answer, client = await running.exchange(
            b"POST /e HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        assert answer.status == 100
        await client.send(b"body")
        assert (await client.answer()).body == b"/e body"


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://x/a", b"/a "), (b"http://x", b"/ "), (b"HTTP://x?q=1", b"/ "), (b"//x/a", b"//x/a ")],
)
async def test_the_target_may_be_absolute(target: bytes, path: bytes) -> None:
    async with open_server() as running:
        answer, _ = await running.exchange(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)
        assert (answer.status, answer.body) == (200, path)


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with open_server() as running:
        client = await running.connect()
        await client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(200)))
        await client.stream.send_eof()
        for n in range(200):
            assert (await client.answer()).body == b"/%d " % n
        assert await client.ended() == b""
        await running.answers()


async def test_a_client_that_shut_its_side_gets_its_answer() -> None:
    app = Held()
    async with open_server(app) as running:
        client = await running.connect()
        await client.send(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        await client.stream.send_eof()
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
        await running.answers()
        assert not app.gone.is_set()
        app.go.set()
        assert (await client.answer()).body == b"held"
        assert await client.ended() == b""


# -- clients that go away ------------------------------------------------------------------------------------------


async def test_the_app_is_told_when_its_client_resets() -> None:
    app = Held()
    async with open_server(app) as running:
        client = await running.connect()
        await client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
            assert running.server.requests_in_flight == 1
            client.reset()
            await app.gone.wait()
        app.go.set()  # it answers all the same, to nobody, which is no error
        await running.settles()
        await running.answers()


@pytest.mark.parametrize(
    "body", [b"Content-Length: 5\r\n\r\nhi", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhi"], ids=["length", "chunked"]
)
async def test_the_app_is_told_when_its_client_leaves_within_the_body(body: bytes) -> None:
    app = Held()
    async with open_server(app) as running:
        client = await running.connect()
        await client.send(b"POST /held HTTP/1.1\r\nHost: x\r\n" + body)
        await client.stream.send_eof()
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
        assert app.body is None
        app.go.set()
        assert (await client.answer()).code == "validation_error"
        await running.settles()


# -- protocols that are not spoken here ----------------------------------------------------------------------------


def http2(*headers: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    """What a client with prior knowledge of HTTP/2 sends: preface, settings, one request."""
    configuration = h2.config.H2Configuration(
        client_side=True,
        header_encoding=None,
        validate_outbound_headers=False,
        normalize_outbound_headers=False,
    )
    connection = h2.connection.H2Connection(configuration)
    connection.initiate_connection()
    connection.send_headers(1, headers, end_stream=not data)
    if data:
        connection.send_data(1, data, end_stream=True)
    return bytes(connection.data_to_send())


USUAL = ((b":scheme", b"http"), (b":authority", b"x"))


@pytest.mark.parametrize(
    "packet",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        http2((b":method", b"GET"), (b":path", b"/"), *USUAL),
        http2((b":method", b"GET"), (b":path", "/é".encode()), *USUAL),
        http2((b":method", b"G\xffT"), (b":path", b"/"), *USUAL),
        http2((b":method", b"CONNECT"), (b":authority", b"x:1")),
        http2((b":method", b"POST"), (b":path", b"/"), *USUAL, data=b"x" * 9999),
    ],
    ids=["preface", "plain", "non-ascii path", "non-ascii method", "connect without path", "data after the answer"],
)
async def test_http2_is_refused(packet: bytes) -> None:
    async with open_server() as running:
        answer, client = await running.exchange(packet)
        assert (answer.status, answer.code) == (400, "validation_error")
        assert await client.ended() == b""
        await running.answers()


@pytest.mark.parametrize(
    "upgrade",
    [
        b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AA==\r\n",
    ],
    ids=["h2c", "websocket"],
)
async def test_an_upgrade_is_ignored_and_junk_after_it_refused(upgrade: bytes) -> None:
    async with open_server() as running:
        answer, client = await running.exchange(b"GET /up HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
        assert (answer.status, answer.body) == (200, b"/up ")
        await client.send(GET)
        assert (await client.answer()).body == b"/ping "
        await client.send(b"\x81\xff\0\xde\xad\xbe\xef junk\r\n\r\n")
        assert (await client.answer()).code == "validation_error"
        await running.answers()


# -- requests that are not valid -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\xffT / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/3.0\r\nHost: x\r\n\r\n",
        b"GET x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4, 5\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1_0\r\n\r\nbody",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 64 * 1024,
    ],
)
async def test_an_invalid_request_is_refused(request_bytes: bytes) -> None:
    async with open_server() as running:
        answer, client = await running.exchange(request_bytes)
        assert (answer.status, answer.code) == (400, "validation_error")
        assert await client.ended() == b""
        await running.answers()


HUGE = {
    "65 headers": b"Host: x\r\n" + b"A: b\r\n" * 64 + b"\r\n",
    "16 KiB in one packet": b"Host: x\r\nA: " + b"b" * 16384 + b"\r\n\r\n",
    "a header without end": b"Host: x\r\nA: " + b"b" * 2**20,
    "headers without end": b"Host: x\r\n" + b"A: b\r\n" * 2**17,
}


@pytest.mark.parametrize("headers", HUGE.values(), ids=HUGE.keys())
async def test_too_many_header_bytes_are_refused(headers: bytes) -> None:
    async with open_server() as running:
        client = await running.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"GET / HTTP/1.1\r\n" + headers)
            answer = await client.answer()
            assert (answer.status, answer.code) == (431, "headers_too_large")
            assert await client.ended() == b""
        await running.answers()


@pytest.mark.parametrize(("size", "status"), [(8192, 200), (8193, 431), (100_000, 431)])
async def test_the_target_is_bounded(size: int, status: int) -> None:
    async with open_server() as running:
        path = b"/" * size
        answer, _ = await running.exchange(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert answer.status == status
        assert answer.body == path + b" " if status == 200 else answer.code == "headers_too_large"
        await running.answers()


async def test_64_headers_are_taken() -> None:
    async with open_server() as running:
        answer, _ = await running.exchange(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 63 + b"\r\n")
        assert answer.status == 200


async def test_a_refused_head_request_has_no_body() -> None:
    async with open_server() as running:
        client = await running.connect()
        await client.send(b"HEAD x HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await client.answer(to_head=True)).status == 400
        assert await client.ended() == b""


async def test_random_bytes() -> None:
    rng = random.Random(20240607)
    seeds = [GET, http2((b":method", b"GET"), (b":path", b"/"), *USUAL)]
    seeds += [b"POST /r HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" * 3]
    async with open_server(linger_seconds=0.1) as running:
        for turn in range(200):
            if turn % 2:
                junk = rng.randbytes(rng.randrange(1, 3000))
            else:
                mutant = bytearray(rng.choice(seeds))
                for _ in range(rng.randrange(1, 6)):
                    mutant[rng.randrange(len(mutant))] = rng.randrange(256)
                junk = bytes(mutant)
            client = await running.connect()
            await client.send(junk)
            await client.stream.send_eof()
            answered = await client.ended()
            assert answered == b"" or answered.startswith((b"HTTP/1.1 200", b"HTTP/1.1 4")), (turn, junk, answered)
            if turn % 20 == 0:
                await running.answers()
        await running.answers()


# -- slow clients --------------------------------------------------------------------------------------------------


async def test_a_slow_head_is_timed_out_however_it_drips() -> None:
    async with open_server(head_seconds=0.3) as running:
        client = await running.connect()
        async with trio.open_nursery() as nursery:

            async def drip() -> None:
                for byte in b"GET / HTTP/1.1\r\nX: " + b"y" * 10_000:
                    await client.send(bytes([byte]))
                    await trio.sleep(0.02)

            nursery.start_soon(drip)
            answer = await client.answer()
            nursery.cancel_scope.cancel()
        assert (answer.status, answer.code) == (408, "request_timeout")
        await running.answers()


async def test_the_second_head_is_timed_out_too() -> None:
    async with open_server(head_seconds=0.2) as running:
        client = await running.connect()
        await client.send(GET + b"GET / HT")  # the end of the first packet is the beginning of the next request
        assert (await client.answer()).status == 200
        assert (await client.answer()).status == 408


async def test_a_client_that_says_nothing_is_closed_without_a_word() -> None:
    async with open_server(head_seconds=0.1) as running:
        assert await (await running.connect()).ended() == b""
        await running.answers()


async def test_an_idle_connection_is_closed() -> None:
    async with open_server(idle_seconds=0.1) as running:
        answer, client = await running.exchange(GET)
        assert answer.status == 200
        assert await client.ended() == b""


async def test_neither_deadline_counts_while_a_request_is_served() -> None:
    app = Held()
    async with open_server(app, idle_seconds=0.05, head_seconds=0.05) as running:
        client = await running.connect()
        await client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
        with trio.move_on_after(0.3):  # six times as long; had it been closed, this would end early
            await client.ended()
        app.go.set()
        assert (await client.answer()).body == b"held"


async def test_slow_bodies_delay_nobody() -> None:
    async with open_server() as running:
        clients = [await running.connect() for _ in range(50)]
        for client in clients:
            await client.send(b"POST /s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
        await running.answers()
        for client in clients:
            await client.send(b"2")
            assert (await client.answer()).body == b"/s 12"


async def test_a_client_that_never_reads_is_cut() -> None:
    async with open_server(Endless(), write_seconds=0.2) as running:
        client = await running.connect()
        await client.send(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await running.answers()
        await running.settles()
        await client.ended()
        assert client.was_reset  # or the kernel would keep what it never fetches
        await running.answers()


async def test_a_client_that_reads_is_not_cut() -> None:
    size = 3_000_000

    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await reply(send, 200, b"x" * size)

    async with open_server(app, write_seconds=0.2) as running:
        client = await running.connect()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        await client.send(GET)
        received = 0
        with trio.fail_after(ALWAYS):
            while received < size:  # longer in all than one deadline, and never behind it
                received += len(await client.stream.receive_some(32 * 1024))
                await trio.sleep(0.005)


async def test_a_thousand_idle_connections() -> None:
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, most), most))
    async with open_server() as running:
        for number in range(1000):
            await running.connect(f"127.0.0.{number % 4 + 2}")
        await running.answers()
        assert running.server.connections >= 1000


async def test_a_thousand_idle_connections_of_one_address_are_half_as_many() -> None:
    async with open_server() as running:
        for _ in range(1000):
            await running.connect()
        await running.answers()
        await running.settles(500)


async def test_a_body_that_the_app_does_not_read_stays_with_the_client() -> None:
    app = Held(read_first=False)
    async with open_server(app, receive_buffer=64 * 1024) as running:
        client = await running.connect()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        total = 8 * 2**20
        await client.send(b"POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % total)
        sent = 0
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
            while sent < total:
                with trio.move_on_after(0.3) as blocked:
                    sent += await client.stream.socket.send(b"x" * min(65536, total - sent))
                if blocked.cancelled_caught:
                    break
        assert sent < 2**20  # what the two kernels hold, and a window's worth
        await running.answers()
        app.go.set()
        await client.send(b"x" * (total - sent))
        assert (await client.answer()).body == b"held"
        assert app.body == b"x" * total


async def test_a_body_of_tiny_chunks_delays_nobody() -> None:
    async with open_server() as running:
        client = await running.connect()
        async with trio.open_nursery() as nursery:
            head = b"POST /t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            nursery.start_soon(client.send, head + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
            for _ in range(3):
                await running.answers()
        assert (await client.answer()).body == b"/t " + b"x" * 100_000


@pytest.mark.parametrize("form", [b"Content-Length: 50000000", b"Transfer-Encoding: chunked"])
async def test_an_early_answer_reaches_a_client_that_is_still_sending(form: bytes) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert scope["type"] == "http"
        if scope["path"] == "/ping":
            return await echo(scope, receive, send)
        await trio.sleep(0.05)  # the body fills every buffer meanwhile
        await reply(send, 413, b"too large")

    async with open_server(app, linger_seconds=1.0) as running:
        client = await running.connect()
        piece = b"%x\r\n%s\r\n" % (65536, b"x" * 65536)
        await client.send(b"POST /big HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n" % form)
        for _ in range(160):  # a client that reads only when it has sent everything
            await client.send(piece)
        answer = await client.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (413, b"too large", "close")
        assert await client.ended() == b""
        await running.settles()
        await running.answers()


# -- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError("4111111111111111"), ExceptionGroup("g", [ValueError("secret")])])
async def test_an_app_that_fails_is_answered_for(failure: Exception) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        raise failure

    async with open_server(app, errors=1) as running:
        answer, _ = await running.exchange(GET)
        assert (answer.status, answer.code) == (500, "internal_error")
        assert running.logs == [{"event": "app_failed", "errors": ["ValueError"], "log_level": "error"}]


async def test_an_app_that_does_not_answer_is_answered_for() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        return

    async with open_server(app) as running:
        answer, _ = await running.exchange(GET)
        assert (answer.status, answer.code) == (500, "internal_error")
        client = await running.connect()
        await client.send(GET.replace(b"GET", b"HEAD"))
        assert (await client.answer(to_head=True)).status == 500
        assert await client.ended() == b""


@pytest.mark.parametrize("length", [[], [(b"content-length", b"100")]], ids=["chunked", "length"])
async def test_an_app_that_fails_within_its_answer_leaves_it_visibly_cut(length: list[tuple[bytes, bytes]]) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ValueError

    async with open_server(app, errors=1) as running:
        client = await running.connect()
        await client.send(GET)
        cut = await client.ended()
        assert cut.startswith(b"HTTP/1.1 200")
        assert cut.endswith((b"half", b"half\r\n"))


@pytest.mark.parametrize("header", [(b"x", b"a\r\nb: c"), (b"", b"a"), (b"x y", b"a")])
async def test_an_app_cannot_split_its_answer(header: tuple[bytes, bytes]) -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [header]})

    async with open_server(app, errors=1) as running:
        answer, _ = await running.exchange(GET)
        assert (answer.status, answer.code) == (500, "internal_error")


async def test_what_an_app_sends_after_its_answer_goes_nowhere() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        for _ in range(3):
            await reply(send, 200, b"once")

    async with open_server(app) as running:
        answer, client = await running.exchange(GET)
        assert answer.body == b"once"
        await client.send(GET)
        assert (await client.answer()).body == b"once"
        await client.stream.send_eof()
        assert await client.ended() == b""


async def test_a_piece_of_an_answer_lets_others_run() -> None:
    async def app(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.testing.assert_checkpoints():
            await send({"type": "http.response.body", "body": b"piece", "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async with open_server(app) as running:
        answer, _ = await running.exchange(GET)
        assert answer.body == b"piece"


async def test_an_inbox_lets_go_of_its_reader_when_the_exchange_is_over() -> None:
    inbox = _Inbox()
    async with trio.open_nursery() as nursery:
        window = b"x" * BODY_WINDOW
        event: HTTPRequestEvent = {"type": "http.request", "body": window, "more_body": True}
        nursery.start_soon(inbox.put, event)
        await trio.testing.wait_all_tasks_blocked()
        await inbox.put({"type": "http.disconnect"})
    assert await inbox.receive() == event
    for _ in range(2):
        with trio.testing.assert_checkpoints():  # an app may ask for ever
            assert await inbox.receive() == {"type": "http.disconnect"}


async def test_a_listener_that_breaks_ends_the_server_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    accept, breaks, app = trio.SocketListener.accept, trio.Event(), Endless()

    async def brittle(self: trio.SocketListener) -> trio.SocketStream:
        if app.arrived.is_set():
            await breaks.wait()
            raise OSError(errno.EBADF, "bad file descriptor")
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", brittle)
    limits = ServerLimits(write_seconds=60)
    serving = partial(serve, app, bind("127.0.0.1:0"), limits=limits, drain_seconds=60, refusal=envelope)
    with trio.fail_after(ALWAYS):
        with pytest.RaisesGroup(OSError, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                server = await nursery.start(partial(serving, drain=trio.Event()))
                port = int(server.addresses[0].rpartition(":")[2])
                stream = await trio.open_tcp_stream("127.0.0.1", port)
                await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
                await app.arrived.wait()
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()  # the accept that was waiting already
                breaks.set()
        await stream.aclose()


async def test_a_connection_that_fails_takes_nobody_with_it() -> None:
    def broken(code: str, message: str) -> bytes:
        raise LookupError("a defect of ours")

    app = Held()
    async with open_server(app, refusal=broken, errors=1) as running:
        other = await running.connect()
        await other.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        client = await running.connect()
        await client.send(b"junk\r\n\r\n")
        assert await client.ended() == b""
        assert running.logs == [{"event": "connection_failed", "errors": ["LookupError"], "log_level": "error"}]
        await running.answers()
        app.go.set()
        assert (await other.answer()).body == b"held"


async def test_running_out_of_descriptors_is_waited_out(monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs) -> None:
    error_logs.expect("accept returned EMFILE")
    error_logs.expect("accept returned ENFILE")
    accept = trio.SocketListener.accept
    failures = [OSError(errno.EMFILE, "too many open files"), OSError(errno.ENFILE, "too many open files")]

    async def scarce(self: trio.SocketListener) -> trio.SocketStream:
        if failures:
            raise failures.pop()
        return await accept(self)

    monkeypatch.setattr(trio.SocketListener, "accept", scarce)
    async with open_server() as running:
        answer, _ = await running.exchange(GET)
        assert answer.status == 200
        assert not failures


# -- the door ------------------------------------------------------------------------------------------------------


async def test_one_connection_too_many_evicts_the_longest_idle() -> None:
    async with open_server(max_connections=3) as running:
        first, second, third = [await running.exchange(GET) for _ in range(3)]
        await first[1].send(GET)  # the first is heard of again: now the second is the longest idle
        assert (await first[1].answer()).status == 200
        _, fourth = await running.exchange(GET)
        assert await second[1].ended() == b""
        for client in (first[1], third[1], fourth):
            await client.send(GET)
            assert (await client.answer()).status == 200


async def test_where_all_connections_are_busy_the_next_is_told_so() -> None:
    app = Held()
    async with open_server(app, max_connections=1) as running:
        busy = await running.connect()
        await busy.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
        answer, client = await running.exchange(GET)
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "1")
        assert await client.ended() == b""
        app.go.set()
        assert (await busy.answer()).body == b"held"
        await running.answers()


async def test_one_connection_too_many_of_an_address_evicts_its_own_longest_idle() -> None:
    async with open_server(max_connections_per_address=2) as running:
        _, other = await running.exchange(GET, "127.0.0.2")  # longer idle than all, and none of that address's business
        (_, first), (_, second), (_, third) = [await running.exchange(GET) for _ in range(3)]
        assert await first.ended() == b""
        for client in (other, second, third):
            await client.send(GET)
            assert (await client.answer()).status == 200


async def test_one_address_cannot_take_every_place() -> None:
    app = Held()
    async with open_server(app, max_connections=4, max_connections_per_address=2) as running:
        busy = [await running.connect() for _ in range(2)]
        for client in busy:
            await client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(ALWAYS):
            while running.server.requests_in_flight < 2:  # noqa: ASYNC110
                await trio.sleep(0.005)
        answer, client = await running.exchange(GET)
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "1")
        assert await client.ended() == b""
        answer, _ = await running.exchange(GET, "127.0.0.2")
        assert answer.status == 200
        app.go.set()
        for client in busy:
            assert (await client.answer()).body == b"held"
            await client.stream.aclose()
        await running.settles(1)
        await running.answers()


@pytest.mark.parametrize(
    ("family", "one", "other", "same"),
    [
        (socket.AF_INET, ("192.0.2.1", 1), ("192.0.2.1", 2), True),
        (socket.AF_INET, ("192.0.2.1", 1), ("192.0.2.2", 1), False),
        (socket.AF_INET6, ("2001:db8::1", 1, 0, 0), ("2001:db8::ffff:1:2:3", 1, 0, 0), True),  # one client's 64 bits
        (socket.AF_INET6, ("2001:db8::1", 1, 0, 0), ("2001:db8:0:1::1", 1, 0, 0), False),
        (socket.AF_INET6, ("fe80::1%lo", 1, 0, 1), ("fe80::2", 1, 0, 0), True),
    ],
)
def test_which_peers_are_one_address(family: int, one: object, other: object, same: bool) -> None:
    assert address_of(family, one) is not None
    assert (address_of(family, one) == address_of(family, other)) == same


# -- draining ------------------------------------------------------------------------------------------------------


async def test_a_drain_closes_the_idle_and_answers_what_is_under_way() -> None:
    app = Held()
    async with open_server(app) as running:
        _, idle = await running.exchange(GET)
        busy = await running.connect()
        await busy.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
        running.drain.set()
        assert await idle.ended(within=SOON) == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await running.connect()
        app.go.set()
        answer = await busy.answer()
        assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"held", "close")
        assert await busy.ended() == b""
        await busy.stream.aclose()
        with trio.fail_after(SOON):
            await running.stopped.wait()


async def test_a_request_that_was_on_its_way_when_the_drain_began_is_answered() -> None:
    async with open_server() as running:
        _, client = await running.exchange(GET)
        running.drain.set()
        await trio.sleep(0.02)  # on its way
        await client.send(GET)
        answer = await client.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("kind", [Held, Endless], ids=["stuck app", "client that never reads"])
async def test_a_drain_has_a_deadline(kind: type[Held] | type[Endless]) -> None:
    app = kind()
    async with open_server(app, drain_seconds=0.3) as running:
        client = await running.connect()
        await client.send(b"GET /held HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(ALWAYS):
            await app.arrived.wait()
        running.drain.set()
        with trio.fail_after(0.3 + SOON):
            await running.stopped.wait()
        await client.ended()


async def test_a_server_that_is_cancelled_waits_for_no_client() -> None:
    app = Endless()
    async with trio.open_nursery() as nursery:
        serving = partial(serve, app, bind("127.0.0.1:0"), limits=ServerLimits(), drain_seconds=60, refusal=envelope)
        server = await nursery.start(partial(serving, drain=trio.Event()))
        port = int(server.addresses[0].rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
            with trio.fail_after(ALWAYS):
                await app.arrived.wait()
            started = trio.current_time()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - started < SOON


# -- bind ----------------------------------------------------------------------------------------------------------


def test_bind_says_which_address_is_in_use() -> None:
    [taken] = bind("127.0.0.1:0")
    with taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigurationError, match=f"{address}: it is in use"):
            bind(address)


def test_bind_takes_a_name_and_ipv6() -> None:
    for address in ("localhost:0", "[::1]:0"):
        sockets = bind(address)
        assert sockets
        for sock in sockets:
            sock.close()


@pytest.mark.parametrize(
    "address", ["", "8700", "x:", ":1", "127.0.0.1:x", "127.0.0.1:70000", "127.0.0.1:٣", "no.such.host.invalid:1"]
)
def test_bind_explains_an_address_that_it_cannot_use(address: str) -> None:
    with pytest.raises(ConfigurationError, match="Cannot listen on"):
        bind(address)


async def test_a_unix_socket_that_was_left_behind_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    bind(address)[0].close()  # nobody listens any more, and the file is still there
    [sock] = bind(address)
    with pytest.raises(ConfigurationError, match="in use"):
        bind(address)
    drain = trio.Event()
    async with trio.open_nursery() as nursery:
        limits = ServerLimits(max_connections_per_address=1)  # which these clients have none of
        serving = partial(serve, echo, [sock], limits=limits, drain_seconds=1, refusal=envelope, drain=drain)
        server = await nursery.start(serving)
        assert server.addresses == (address,)
        async with (
            await trio.open_unix_socket(f"{tmp_path}/s") as one,
            await trio.open_unix_socket(f"{tmp_path}/s") as other,
        ):
            for client in map(Client, (one, other, one)):
                await client.send(GET)
                assert (await client.answer()).body == b"/ping "
        drain.set()
