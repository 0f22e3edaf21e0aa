"""One attempt to deliver a webhook: it arrives where it may, nowhere else, and tells nothing that it should not.

Only loopback is ever dialled, and only where a test allows it; elsewhere a stub notes what would have been dialled.
"""

from __future__ import annotations

import socket
import ssl
import threading
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest
import structlog
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from logstitch import __version__
from logstitch.egress import line
from logstitch.egress.addresses import Allow, forbidden
from logstitch.egress.client import REFUSED, Category, Outcome, Sender, open_egress
from logstitch.egress.line import RESPONSE_BYTES, dial_order
from logstitch.egress.resolver import Resolver, SystemResolver
from logstitch.egress.targets import Target, check_url
from tests.support import spellings
from tests.support.egress import ScriptedResolver, ScriptedStream, StubNetwork

NOTHING = Allow()
LOOPBACK = Allow.parse("127.0.0.0/8,::1")
HOOKS = check_url("https://hooks.example/in?box=1", NOTHING)
PUBLIC = "198.41.0.4"
OTHER = "199.9.14.201"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SOON = 10.0
BODY = b'{"type":"alert.triggered"}'

Handler = Callable[[trio.abc.Stream], Awaitable[None]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """What the service would have, if it trusted the tests' authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@asynccontextmanager
async def receiver(handler: Handler, certificate: trustme.LeafCert | None = None) -> AsyncIterator[int]:
    """Answers on a port of 127.0.0.1, with TLS if it has a certificate; what a client does to it is its own affair."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if certificate is None:
                await handler(stream)
            else:
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                certificate.configure_cert(context)
                await handler(trio.SSLStream(stream, context, server_side=True, https_compatible=True))
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.abc.Stream) -> bytes:
    """All of a request that has a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    while len(body) < length:
        body += await _some(stream)
    return head + b"\r\n\r\n" + body


async def _some(stream: trio.abc.Stream) -> bytes:
    if not (data := await stream.receive_some()):
        raise trio.BrokenResourceError
    return bytes(data)


def answering(answer: bytes, requests: list[bytes] | None = None) -> Handler:
    async def handler(stream: trio.abc.Stream) -> None:
        request = await read_request(stream)
        if requests is not None:
            requests.append(request)
        await stream.send_all(answer)

    return handler


async def post(sender: Sender, target: Target = HOOKS) -> Outcome:
    return await sender.post(target, BODY, {"webhook-id": "dlv_1"})


def stubbed(
    network: StubNetwork, resolver: Resolver, allow: Allow = NOTHING, **options: Any
) -> AbstractAsyncContextManager[Sender]:
    """A sender over a stub network, which only notes what TLS would have checked."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the system's authorities takes its time
    return open_egress(allow, resolver=resolver, network=network, tls=tls, **options)


async def attempt(
    network: StubNetwork, *answers: Sequence[str] | OSError, target: Target = HOOKS, allow: Allow = NOTHING
) -> Outcome:
    """One attempt over a stub network, the name being looked up to ``answers``."""
    async with stubbed(network, ScriptedResolver(*answers), allow) as sender:
        return await post(sender, target)


def at_port(port: int, host: str = "hooks.example", scheme: str = "https") -> Target:
    return Target(scheme, host, port, "/in")


# -- it arrives ------------------------------------------------------------------------------------------------------


async def test_a_receiver_gets_the_message_under_its_own_name(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    requests: list[bytes] = []
    certificate = authority.issue_cert("hooks.example")
    resolver = ScriptedResolver(["127.0.0.1"])
    async with (
        receiver(answering(OK, requests), certificate) as port,
        open_egress(LOOPBACK, resolver=resolver, tls=trusting) as sender,
    ):
        outcome = await sender.post(at_port(port), BODY, {"Webhook-Id": "dlv_1", "webhook-signature": "v1,x"})

    assert (outcome.status, outcome.category) == (200, Category.DELIVERED)
    assert outcome.duration_ms is not None
    assert resolver.asked == ["hooks.example"]
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.decode().split("\r\n") == [
        "POST /in HTTP/1.1",
        f"host: hooks.example:{port}",
        f"user-agent: LogStitch/{__version__}",
        "accept: */*",
        "accept-encoding: identity",
        "connection: close",
        f"content-length: {len(BODY)}",
        "content-type: application/json",
        "webhook-id: dlv_1",
        "webhook-signature: v1,x",
    ]
    assert body == BODY


async def test_the_name_is_what_tls_is_asked_for_and_the_address_is_what_is_dialled() -> None:
    stream = ScriptedStream(OK)
    network = StubNetwork(stream)

    outcome = await attempt(network, [PUBLIC])

    assert outcome.category is Category.DELIVERED
    assert network.dialled == [(PUBLIC, 443)]
    assert stream.names == ["hooks.example"]
    assert stream.written.startswith(b"POST /in?box=1 HTTP/1.1\r\nhost: hooks.example\r\n")
    assert stream.closed


@pytest.mark.parametrize(
    ("url", "dialled", "host"),
    [
        ("https://198.41.0.4:8443/", "198.41.0.4", b"198.41.0.4:8443"),
        ("https://[2606:4700::1111]/", "2606:4700::1111", b"[2606:4700::1111]"),
    ],
)
async def test_an_address_in_the_url_is_not_looked_up(url: str, dialled: str, host: bytes) -> None:
    stream = ScriptedStream(OK)
    network, resolver = StubNetwork(stream), ScriptedResolver(OSError("asked"))
    async with stubbed(network, resolver) as sender:
        assert (await post(sender, check_url(url, NOTHING))).category is Category.DELIVERED

    assert [address for address, _ in network.dialled] == [dialled]
    assert stream.names == [dialled]  # a certificate can be for an address
    assert b"\r\nhost: %b\r\n" % host in stream.written
    assert resolver.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_plain_http_reaches_loopback_that_is_allowed(host: str) -> None:
    requests: list[bytes] = []
    resolver = ScriptedResolver(OSError("asked"))
    async with (
        receiver(answering(OK, requests)) as port,
        open_egress(Allow.parse("127.0.0.0/8"), resolver=resolver) as sender,
    ):
        target = check_url(f"http://{host}:{port}/in", Allow.parse("127.0.0.0/8"))
        assert (await post(sender, target)).category is Category.DELIVERED

    assert len(requests) == 1
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("status", "category"),
    [
        (200, Category.DELIVERED),
        (204, Category.DELIVERED),
        (299, Category.DELIVERED),
        (300, Category.REDIRECT),
        (304, Category.REDIRECT),
        (399, Category.REDIRECT),
        (400, Category.HTTP_ERROR),
        (410, Category.HTTP_ERROR),
        (500, Category.HTTP_ERROR),
        (999, Category.HTTP_ERROR),
    ],
)
async def test_the_status_is_the_outcome(status: int, category: Category) -> None:
    stream = ScriptedStream(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 %d X\r\n\r\n" % status)

    outcome = await attempt(StubNetwork(stream), [PUBLIC])

    assert (outcome.status, outcome.category) == (status, category)
    assert stream.closed


async def test_an_answer_counts_that_comes_before_all_was_sent(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    async def impatient(stream: trio.abc.Stream) -> None:
        await _some(stream)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        while await stream.receive_some():
            pass

    async with (
        receiver(impatient, authority.issue_cert("hooks.example")) as port,
        open_egress(LOOPBACK, resolver=ScriptedResolver(["127.0.0.1"]), tls=trusting) as sender,
    ):
        outcome = await sender.post(at_port(port), b"x" * 3_000_000, {})
    assert outcome.status == 413


# -- and nowhere else ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [*spellings.FORBIDDEN_V4, *spellings.FORBIDDEN_V6], ids=str)
async def test_a_name_that_leads_to_a_forbidden_address_is_not_followed(address: object) -> None:
    network = StubNetwork()
    assert await attempt(network, [str(address)]) == REFUSED
    assert network.dialled == []


@pytest.mark.parametrize("inner", spellings.FORBIDDEN_V4, ids=str)
async def test_nor_where_it_is_inside_another_address(inner: Any) -> None:
    network = StubNetwork()
    for address in spellings.embedded(inner):
        assert await attempt(network, [str(address)]) == REFUSED
        assert await attempt(network, [str(address)], target=Target("https", str(address), 443, "/")) == REFUSED
    assert network.dialled == []


class Liberal:
    """Reads as a number whatever the C library does, after Python's mapping of letters; never asks anybody."""

    def __init__(self, otherwise: str) -> None:
        self._otherwise = ScriptedResolver([otherwise])

    async def look_up(self, host: str, port: int) -> Any:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            return await self._otherwise.look_up(host, port)
        return await ScriptedResolver([str(answer[4][0]) for answer in found]).look_up(host, port)


@pytest.mark.parametrize("address", spellings.FORBIDDEN_V4, ids=str)
async def test_no_notation_gets_past_even_if_it_was_saved(address: Any) -> None:
    network = StubNetwork()
    async with stubbed(network, Liberal(str(address))) as sender:
        for host in spellings.odd_v4(address):
            if host.isascii():
                assert await post(sender, Target("https", host, 443, "/")) == REFUSED, host
            else:
                with pytest.raises(ValueError, match="ascii"):
                    await post(sender, Target("https", host, 443, "/"))
    # 0172.16.0.1 is octal to the C library, and then it is a public address
    assert all(forbidden(ip_address(dialled), NOTHING) is None for dialled, _ in network.dialled)
    assert len(network.dialled) <= 1


@pytest.mark.parametrize(
    "answers",
    [
        [PUBLIC, "10.0.0.1"],
        ["10.0.0.1", PUBLIC],
        ["2606:4700::1111", PUBLIC, "::ffff:127.0.0.1"],
        [*[PUBLIC] * 100, "169.254.169.254"],
    ],
)
async def test_one_forbidden_answer_among_public_ones_is_enough(answers: list[str]) -> None:
    network = StubNetwork()
    assert await attempt(network, answers) == REFUSED
    assert network.dialled == []


async def test_a_name_that_leads_elsewhere_the_second_time_gains_nothing() -> None:
    network = StubNetwork(ScriptedStream(OK), ScriptedStream(OK))
    resolver = ScriptedResolver([PUBLIC], ["127.0.0.1"], [OTHER])
    async with stubbed(network, resolver) as sender:
        outcomes = [await post(sender) for _ in range(3)]

    # one look-up for each attempt: there is none between the judgement and the dialling
    assert [outcome.category for outcome in outcomes] == ["delivered", "connection_failed", "delivered"]
    assert len(resolver.asked) == 3
    assert network.dialled == [(PUBLIC, 443), (OTHER, 443)]


async def test_a_mapped_address_is_dialled_as_the_one_that_was_judged() -> None:
    network = StubNetwork(ScriptedStream(OK))
    await attempt(network, [f"::ffff:{PUBLIC}"])
    assert network.dialled == [(PUBLIC, 443)]


async def test_a_target_is_judged_by_what_is_allowed_now() -> None:
    saved = check_url("https://10.1.2.3/", Allow.parse("10.0.0.0/8"))
    network = StubNetwork(ScriptedStream(OK))
    assert await attempt(network, target=saved) == REFUSED
    assert network.dialled == []
    assert (await attempt(network, target=saved, allow=Allow.parse("10.1.0.0/16"))).status == 200
    assert network.dialled == [("10.1.2.3", 443)]


async def test_plain_http_does_not_leave_the_host_whatever_is_allowed() -> None:
    network = StubNetwork()
    allow = Allow.parse("127.0.0.0/8,10.0.0.0/8")
    for addresses in ([PUBLIC], ["10.0.0.1"], ["127.0.0.1", PUBLIC]):
        assert await attempt(network, addresses, target=at_port(80, scheme="http"), allow=allow) == REFUSED
    assert await attempt(network, target=at_port(80, "localhost", "http")) == REFUSED
    assert network.dialled == []


async def test_a_redirect_is_not_followed(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    seen: list[bytes] = []
    certificate = authority.issue_cert("hooks.example")
    async with receiver(answering(OK, seen), certificate) as elsewhere:
        location = b"HTTP/1.1 307 X\r\nlocation: https://hooks.example:%d/\r\ncontent-length: 0\r\n\r\n" % elsewhere
        resolver = ScriptedResolver(["127.0.0.1"])
        async with (
            receiver(answering(location), certificate) as port,
            open_egress(LOOPBACK, resolver=resolver, tls=trusting) as sender,
        ):
            outcome = await post(sender, at_port(port))

    assert (outcome.status, outcome.category) == (307, Category.REDIRECT)
    assert (seen, len(resolver.asked)) == ([], 1)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    proxied: list[bytes] = []
    async with receiver(answering(OK, proxied)) as proxy, receiver(answering(OK)) as port:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
            monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{proxy}")
        async with open_egress(LOOPBACK) as sender:
            assert (await post(sender, at_port(port, "127.0.0.1", "http"))).status == 200
    assert proxied == []


async def test_unix_sockets_are_out_of_reach() -> None:
    guard = line.Line(StubNetwork(), ScriptedResolver([PUBLIC]), LOOPBACK, loopback_only=False)
    with pytest.raises(httpcore.ConnectError):
        await guard.connect_unix_socket("/var/run/docker.sock")


# -- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["other.example"], ["hooks.example.com"], ["127.0.0.1"]])
async def test_a_certificate_for_another_name_is_a_failure(
    names: list[str], authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    requests: list[bytes] = []
    async with (
        receiver(answering(OK, requests), authority.issue_cert(*names)) as port,
        open_egress(LOOPBACK, resolver=ScriptedResolver(["127.0.0.1"]), tls=trusting) as sender,
    ):
        outcome = await post(sender, at_port(port))
    assert (outcome.status, outcome.category) == (None, Category.TLS_FAILED)
    assert requests == []


async def test_so_is_one_of_an_unknown_authority(trusting: ssl.SSLContext) -> None:
    requests: list[bytes] = []
    async with (
        receiver(answering(OK, requests), trustme.CA().issue_cert("hooks.example")) as port,
        open_egress(LOOPBACK, resolver=ScriptedResolver(["127.0.0.1"]), tls=trusting) as sender,
    ):
        assert (await post(sender, at_port(port))).category is Category.TLS_FAILED
    assert requests == []


async def test_a_context_that_checks_nothing_is_not_accepted(trusting: ssl.SSLContext) -> None:
    trusting.check_hostname = False
    with pytest.raises(ValueError, match="does not check"):
        async with open_egress(LOOPBACK, tls=trusting):
            pass


# -- it tells nothing ------------------------------------------------------------------------------------------------


async def test_what_is_forbidden_and_what_is_closed_come_to_the_same(
    authority: trustme.CA, trusting: ssl.SSLContext
) -> None:
    """Equal outcomes, to the last field."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]

    async def silent(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    async def greeting(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"SSH-2.0-OpenSSH_9.2\r\n")
        await stream.receive_some()

    async def rude(stream: trio.abc.Stream) -> None:
        await read_request(stream)

    outcomes = {}
    here = ScriptedResolver(["127.0.0.1"])
    async with (
        receiver(silent) as swallowing,
        receiver(greeting) as ssh,
        open_egress(LOOPBACK, resolver=here, tls=trusting, attempt_seconds=0.3) as sender,
    ):
        outcomes["closed"] = await post(sender, at_port(closed))
        outcomes["no TLS"] = await post(sender, at_port(ssh))
        outcomes["swallowed"] = await post(sender, at_port(swallowing))
    async with (
        receiver(rude, authority.issue_cert("hooks.example")) as hanging_up,
        open_egress(LOOPBACK, resolver=here, tls=trusting) as sender,
    ):
        outcomes["hung up"] = await post(sender, at_port(hanging_up))
    outcomes["unknown name"] = await attempt(StubNetwork(), socket.gaierror(socket.EAI_NONAME, "no such name"))
    outcomes["no answers"] = await attempt(StubNetwork(), [])
    outcomes["forbidden"] = await attempt(StubNetwork(), ["10.0.0.1"])
    outcomes["unreachable"] = await attempt(StubNetwork(), [PUBLIC])

    assert outcomes == dict.fromkeys(outcomes, REFUSED)


async def test_nothing_of_an_answer_is_kept_or_logged(authority: trustme.CA, trusting: ssl.SSLContext) -> None:
    canary = b"AKIAQ7CANARY"
    answers = [
        b"HTTP/1.1 500 %b\r\n%b: %b\r\n\r\n%b" % ((canary,) * 4),
        b"%b / HTTP/9 \x00\r\n\r\n" % canary,
        b"HTTP/1.1 302 X\r\nlocation: https://%b.example/\r\n\r\n" % canary,
    ]
    with structlog.testing.capture_logs() as logs:
        outcomes = [await attempt(StubNetwork(ScriptedStream(answer)), [PUBLIC]) for answer in answers]
        wrong = authority.issue_cert(f"{canary.decode()}.example")
        async with (
            receiver(answering(OK), wrong) as port,
            open_egress(LOOPBACK, resolver=ScriptedResolver(["127.0.0.1"]), tls=trusting) as sender,
        ):
            outcomes.append(await post(sender, at_port(port)))

    categories = ["http_error", "invalid_response", "redirect", "tls_failed"]
    assert [outcome.category for outcome in outcomes] == categories
    assert len(logs) == 2
    assert canary.decode().lower() not in repr((outcomes, logs)).lower()


async def test_the_operator_hears_the_reason() -> None:
    with structlog.testing.capture_logs() as logs:
        await attempt(StubNetwork(), ["10.0.0.1"])
    assert logs == [
        {
            "event": "egress.failed",
            "log_level": "info",
            "host": "hooks.example",
            "port": 443,
            "category": "connection_failed",
            "reason": "forbidden: private (RFC 1918)",
        }
    ]


# -- it ends ---------------------------------------------------------------------------------------------------------


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


# -- the second address ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "order"),
    [
        ([PUBLIC], [PUBLIC]),
        ([PUBLIC, OTHER, "8.8.8.8"], [PUBLIC, OTHER]),
        (["2606:4700::1", "2606:4700::2", PUBLIC, OTHER], ["2606:4700::1", PUBLIC]),
        ([PUBLIC, OTHER, "2606:4700::1"], [PUBLIC, "2606:4700::1"]),
    ],
)
async def test_two_addresses_are_tried_at_most_of_two_families_if_there_are(
    answers: list[str], order: list[str]
) -> None:
    network = StubNetwork()
    assert await attempt(network, answers) == REFUSED
    assert network.dialled == [(address, 443) for address in order]


async def test_the_second_is_tried_when_the_first_does_not_answer(autojump_clock: MockClock) -> None:
    network = StubNetwork(None, ScriptedStream(OK))
    began = trio.current_time()
    assert (await attempt(network, ["2606:4700::1", PUBLIC])).status == 200
    assert trio.current_time() - began == pytest.approx(line.DIAL_SECONDS)


@given(st.lists(st.ip_addresses(), min_size=1))
def test_what_is_dialled_is_among_the_answers(addresses: list[Any]) -> None:
    order = dial_order(addresses)
    assert order[0] == addresses[0]
    assert 1 <= len(order) <= 2
    assert set(order) <= set(addresses)


# -- cancelled -------------------------------------------------------------------------------------------------------


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


# -- what callers and receivers may get wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ({"Host": "other.example"}, "host"),
        ({"content-length": "1"}, "content-length"),
        ({"Transfer-Encoding": "chunked"}, "transfer-encoding"),
        ({"accept-encoding": "gzip"}, "accept-encoding"),
        ({"webhook-id": "a\r\nhost: b"}, "printable"),
        ({"webhook-id": "é"}, "printable"),
    ],
)
async def test_headers_that_are_not_the_callers_are_an_error(headers: dict[str, str], why: str) -> None:
    network = StubNetwork()
    async with stubbed(network, ScriptedResolver([PUBLIC])) as sender:
        with pytest.raises(ValueError, match=why):
            await sender.post(HOOKS, BODY, headers)
    assert network.dialled == []


HTTPISH = st.sampled_from(
    [
        b"HTTP/1.1 ", b"200", b"99", b" OK", b"\r\n", b"\n", b": ", b"content-length", b"transfer-encoding", b"chunked",
        b"100", b"101", b"-1", b"\x00", b"\xff", b"5", b";", b"9" * 30, b"HTTP/1.0 404 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ]
)  # fmt: skip


@given(st.lists(st.lists(HTTPISH | st.binary(max_size=8), max_size=6).map(b"".join), max_size=4), st.booleans())
def test_whatever_comes_back_there_is_an_outcome(chunks: list[bytes], ends: bool) -> None:
    async def run() -> Outcome:
        return await attempt(StubNetwork(stream), [PUBLIC])

    stream = ScriptedStream(*filter(None, chunks), ends=ends)
    outcome = trio.run(run, clock=MockClock(autojump_threshold=0))

    assert (outcome.status is None) == (outcome.category not in ("delivered", "redirect", "http_error"))
    assert (outcome.duration_ms is None) == (outcome == REFUSED)
    assert stream.closed
