"""One attempt to deliver a webhook: it goes nowhere that it must not, whatever names, answers and settings say."""

from __future__ import annotations

import socket
import ssl
from ipaddress import ip_address
from typing import Any

import httpcore
import pytest
import trio
import trustme
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from logstitch.egress import line
from logstitch.egress.addresses import Allow, forbidden
from logstitch.egress.client import REFUSED, Category, open_egress
from logstitch.egress.line import dial_order
from logstitch.egress.targets import Target, check_url
from tests.support import spellings
from tests.support.egress import (
    LOOPBACK,
    NOTHING,
    OK,
    OTHER,
    PUBLIC,
    ScriptedResolver,
    ScriptedStream,
    StubNetwork,
    answering,
    at_port,
    attempt,
    post,
    receiver,
    stubbed,
)

# -- and nowhere else ----------------------------------------------------------------------------------------------


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


# -- the second address --------------------------------------------------------------------------------------------


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
