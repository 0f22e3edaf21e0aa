"""One attempt to deliver a webhook: it arrives where it may, and tells nothing that it should not.

Only loopback is ever dialled, and only where a test allows it; elsewhere a stub notes what would have been dialled.
"""

from __future__ import annotations

import socket
import ssl

import pytest
import structlog
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from logstitch import __version__
from logstitch.egress.addresses import Allow
from logstitch.egress.client import REFUSED, Category, Outcome, open_egress
from logstitch.egress.targets import check_url
from tests.support.egress import (
    BODY,
    HOOKS,
    LOOPBACK,
    NOTHING,
    OK,
    PUBLIC,
    ScriptedResolver,
    ScriptedStream,
    StubNetwork,
    _some,
    answering,
    at_port,
    attempt,
    post,
    read_request,
    receiver,
    stubbed,
)

# -- it arrives ----------------------------------------------------------------------------------------------------


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


# -- certificates --------------------------------------------------------------------------------------------------


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


# -- it tells nothing ----------------------------------------------------------------------------------------------


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


# -- what callers and receivers may get wrong ----------------------------------------------------------------------


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
