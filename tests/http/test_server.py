"""What the server does for those who behave, and when it, its app or its client fails, over raw sockets.

Each probe ends with the same invariant: a fresh client is answered within a second.
"""

from __future__ import annotations

import errno
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPRequestEvent, Scope

from logstitch.errors import ConfigurationError
from logstitch.http.connection import BODY_WINDOW, _Inbox
from logstitch.http.server import ServerLimits, bind, serve
from tests.support.errors import ErrorLogs
from tests.support.sockets import (
    ALWAYS,
    GET,
    Client,
    Endless,
    Held,
    echo,
    envelope,
    open_server,
    reply,
)

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
