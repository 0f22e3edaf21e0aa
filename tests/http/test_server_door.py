"""Who is let in, who makes room, and how the door closes: bounds on connections, and the drain.

Each probe ends with the same invariant: a fresh client is answered within a second.
"""

from __future__ import annotations

import socket
from functools import partial

import pytest
import trio
import trio.testing

from logstitch.http.server import ServerLimits, address_of, bind, serve
from tests.support.sockets import (
    ALWAYS,
    GET,
    SOON,
    Endless,
    Held,
    envelope,
    open_server,
)

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
