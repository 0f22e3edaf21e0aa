"""Clients that are slow, say nothing, never read, or are a thousand: each deadline, over raw sockets.

Each probe ends with the same invariant: a fresh client is answered within a second.
"""

from __future__ import annotations

import resource
import socket

import pytest
import trio
import trio.testing
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from tests.support.sockets import (
    ALWAYS,
    GET,
    Endless,
    Held,
    echo,
    open_server,
    reply,
)


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
