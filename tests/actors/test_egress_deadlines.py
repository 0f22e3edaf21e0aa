"""One attempt to deliver a webhook: it ends in time, and a cancelled one leaves nothing open."""

from __future__ import annotations

import socket
import ssl
import threading
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked

from logstitch.egress.client import REFUSED, Category, Outcome, open_egress
from logstitch.egress.line import RESPONSE_BYTES
from logstitch.egress.resolver import SystemResolver
from tests.support.egress import (
    LOOPBACK,
    NOTHING,
    PUBLIC,
    SOON,
    Handler,
    ScriptedResolver,
    ScriptedStream,
    StubNetwork,
    _some,
    at_port,
    attempt,
    post,
    read_request,
    receiver,
    stubbed,
)

# -- it ends -------------------------------------------------------------------------------------------------------


class Counting(httpcore.TrioBackend):
    """The real network, and how many bytes of plain text were read from it."""

    def __init__(self) -> None:
        self.received = 0

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> httpcore.AsyncNetworkStream:
        stream = await super().connect_tcp(*args, **kwargs)
        read = stream.read

        async def counted(max_bytes: int, timeout: float | None = None) -> bytes:
            data = await read(max_bytes, timeout)
            self.received += len(data)
            return data

        stream.read = counted  # type: ignore[method-assign]
        return stream


def endless(head: bytes, piece: bytes) -> Handler:
    async def handler(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        await stream.send_all(head)
        while True:
            await stream.send_all(piece)

    return handler


@pytest.mark.parametrize(
    ("head", "piece", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536, (200, "delivered")),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n",
            zlib.compress(bytes(4_000_000), wbits=31),
            (200, "delivered"),
        ),
        (b"HTTP/1.1 500 X\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000, (500, "http_error")),
        (b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 1000, (None, "invalid_response")),
        (b"HTTP/1.1 200 OK\r\na: ", b"b" * 65536, (None, "invalid_response")),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000, (None, "invalid_response")),
    ],
    ids=["body", "gzip", "chunks", "headers", "header", "continues"],
)
async def test_an_answer_without_an_end_is_cut(head: bytes, piece: bytes, expected: tuple[int | None, str]) -> None:
    network = Counting()
    with trio.fail_after(SOON):
        async with (
            receiver(endless(head, piece)) as port,
            open_egress(LOOPBACK, network=network, attempt_seconds=60) as sender,
        ):
            outcome = await post(sender, at_port(port, "127.0.0.1", "http"))
    assert (outcome.status, outcome.category) == expected
    assert network.received == RESPONSE_BYTES


def dripping(answer: bytes, pause: float) -> Handler:
    async def handler(stream: trio.abc.Stream) -> None:
        await read_request(stream)
        for byte in answer:
            await stream.send_all(bytes([byte]))
            await trio.sleep(pause)

    return handler


async def test_a_head_that_drips_ends_at_the_deadline() -> None:
    """Each read is quick, all of them are not: a timeout for each operation would never end it."""
    async with (
        receiver(dripping(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000, 0.01)) as port,
        open_egress(LOOPBACK, attempt_seconds=0.3) as sender,
    ):
        began = trio.current_time()
        outcome = await post(sender, at_port(port, "127.0.0.1", "http"))
        took = trio.current_time() - began

    assert (outcome.status, outcome.category) == (None, Category.TIMEOUT)
    assert outcome.duration_ms is not None
    assert 300 <= outcome.duration_ms <= took * 1000 + 1
    assert took < SOON


async def test_a_body_that_drips_is_not_waited_for(autojump_clock: MockClock) -> None:
    stream = ScriptedStream(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n1", ends=False)
    began = trio.current_time()

    outcome = await attempt(StubNetwork(stream), [PUBLIC])

    assert outcome == Outcome(200, Category.DELIVERED, 0)
    assert trio.current_time() - began == pytest.approx(1.0)
    assert stream.closed


async def test_all_of_an_attempt_has_fifteen_seconds(autojump_clock: MockClock) -> None:
    class Slow(ScriptedResolver):
        async def look_up(self, host: str, port: int) -> Any:
            await trio.sleep(14)
            return await super().look_up(host, port)

    for stream, expected in (
        (ScriptedStream(ends=False), Outcome(None, Category.TIMEOUT, 15_000)),
        (None, REFUSED),
    ):
        began = trio.current_time()
        async with stubbed(StubNetwork(stream), Slow([PUBLIC])) as sender:
            assert await post(sender) == expected
        assert trio.current_time() - began == pytest.approx(15.0)


async def test_a_look_up_that_does_not_end_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    release, asked = threading.Event(), []

    def stuck(*args: Any, **kwargs: Any) -> list[Any]:
        asked.append(args[0])
        release.wait()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    try:
        async with open_egress(NOTHING, network=StubNetwork(), attempt_seconds=0.2) as sender:
            assert await post(sender) == REFUSED
    finally:
        release.set()
    assert asked == [b"hooks.example"]


class NameServers:
    """What ``getaddrinfo`` answers: nothing for ``dead.example`` until they are told to go on, then ``answer``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: Counter[bytes] = Counter()
        self.go_on = threading.Event()
        self.answer: str | OSError = PUBLIC
        monkeypatch.setattr(socket, "getaddrinfo", self._ask)

    def _ask(self, host: bytes, *args: Any, **kwargs: Any) -> list[Any]:
        self.asked[host] += 1
        if host == b"dead.example":
            self.go_on.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self.answer, 443))]


@pytest.fixture
def name_servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServers]:
    servers = NameServers(monkeypatch)
    yield servers
    servers.go_on.set()


async def test_a_dead_name_server_takes_one_thread_however_often_it_is_asked(name_servers: NameServers) -> None:
    resolver = SystemResolver(threads=2)
    for _ in range(5):
        with trio.move_on_after(0.02):
            await resolver.look_up("dead.example", 443)

    with trio.fail_after(SOON):
        assert await resolver.look_up("hooks.example", 443) == (ip_address(PUBLIC),)
    assert name_servers.asked == {b"dead.example": 1, b"hooks.example": 1}


@pytest.mark.parametrize("answer", [PUBLIC, socket.gaierror(socket.EAI_AGAIN, "try again")], ids=["found", "failed"])
async def test_who_asks_meanwhile_has_the_same_answer_although_the_first_has_gone(
    name_servers: NameServers, answer: str | OSError
) -> None:
    name_servers.answer = answer
    resolver, outcomes = SystemResolver(threads=1), []

    async def ask() -> None:
        try:
            outcomes.append(str(*await resolver.look_up("dead.example", 443)))
        except OSError as error:
            outcomes.append(str(error))

    with trio.move_on_after(0.02):
        await ask()
    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
            await wait_all_tasks_blocked()
            name_servers.go_on.set()
        assert outcomes == [str(answer)] * 3
        assert name_servers.asked.total() == 1

        await ask()  # and it is not kept
    assert name_servers.asked.total() == 2


async def test_the_system_is_asked_for_ascii_and_all_it_says_is_seen() -> None:
    resolver = SystemResolver()
    for host, address in (("127.1", "127.0.0.1"), ("::ffff:127.0.0.1", "::ffff:127.0.0.1")):
        assert await resolver.look_up(host, 443) == (ip_address(address),)
    for host in ("１２７.1", "a..b" + "。"):
        with pytest.raises(OSError, match="not a host name"):
            await resolver.look_up(host, 443)


# -- cancelled -----------------------------------------------------------------------------------------------------


async def _hang_up_seen(tls: bool, authority: trustme.CA, trusting: ssl.SSLContext, *, handshake: bool) -> None:
    """Cancel an attempt while the receiver is silent, in or after the handshake: the receiver sees the end."""
    reached, ended = trio.Event(), trio.Event()

    async def silent(stream: trio.abc.Stream) -> None:
        try:
            if handshake:
                await _some(stream)  # of the handshake, where there is one
            else:
                await read_request(stream)
            reached.set()
            while await stream.receive_some():
                pass
        finally:
            ended.set()

    certificate = authority.issue_cert("hooks.example") if tls and not handshake else None
    with trio.fail_after(SOON):
        async with (
            receiver(silent, certificate) as port,
            open_egress(LOOPBACK, resolver=ScriptedResolver(["127.0.0.1"]), tls=trusting) as sender,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(post, sender, at_port(port, scheme="https" if tls else "http"))
            await reached.wait()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await ended.wait()


@pytest.mark.parametrize(("tls", "handshake"), [(True, True), (True, False), (False, False)])
async def test_a_cancelled_attempt_leaves_no_socket_open(
    tls: bool, handshake: bool, authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    await _hang_up_seen(tls, authority, trusting, handshake=handshake)


async def test_a_deadline_in_the_handshake_leaves_none_either() -> None:
    ended = trio.Event()

    async def silent(stream: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass
        ended.set()

    async with (
        receiver(silent) as port,
        open_egress(LOOPBACK, resolver=ScriptedResolver(["127.0.0.1"]), attempt_seconds=0.2) as sender,
    ):
        assert await post(sender, at_port(port)) == REFUSED
        with trio.fail_after(SOON):
            await ended.wait()


async def test_an_answer_that_has_come_is_not_forgotten_when_cancelled() -> None:
    class Shutdown(ScriptedStream):
        """Cancels the attempt while the body is being read."""

        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            if len(self._chunks) == 1:
                scope.cancel()
            return await super().read(max_bytes, timeout)

    stream = Shutdown(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"ok")
    outcomes = []
    async with stubbed(StubNetwork(stream), ScriptedResolver([PUBLIC])) as sender:
        with trio.CancelScope() as scope:
            outcomes.append(await post(sender))
    assert [outcome.category for outcome in outcomes] == ["delivered"]
    assert stream.closed
