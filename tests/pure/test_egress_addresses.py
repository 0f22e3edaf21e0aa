"""The table of addresses that nothing is sent to, and what the operator may except from it."""

from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logstitch.egress.addresses import (
    FORBIDDEN_V4,
    FORBIDDEN_V6,
    GLOBAL_UNICAST,
    Address,
    Allow,
    Range,
    forbidden,
    is_loopback,
    unwrapped,
)
from logstitch.errors import ConfigurationError
from tests.support import spellings

NOTHING = Allow()


@pytest.mark.parametrize("address", [*spellings.FORBIDDEN_V4, *spellings.FORBIDDEN_V6], ids=str)
def test_reserved_addresses_are_forbidden(address: Address) -> None:
    assert forbidden(address, NOTHING)


@pytest.mark.parametrize("address", spellings.FORBIDDEN_V4, ids=str)
def test_so_are_the_ipv6_addresses_that_have_one_inside(address: IPv4Address) -> None:
    for outer in spellings.embedded(address):
        assert forbidden(outer, NOTHING), outer


@pytest.mark.parametrize("address", [*spellings.PUBLIC_V4, *spellings.PUBLIC_V6], ids=str)
def test_their_public_neighbours_are_not(address: Address) -> None:
    assert forbidden(address, NOTHING) is None


@pytest.mark.parametrize("address", spellings.PUBLIC_V4, ids=str)
def test_a_public_address_may_be_mapped_and_in_no_other_form(address: IPv4Address) -> None:
    permitted = [outer for outer in spellings.embedded(address) if forbidden(outer, NOTHING) is None]
    assert permitted == [IPv6Address(f"::ffff:{address}")]
    assert unwrapped(permitted[0]) == address


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_permitted_that_python_knows_to_be_local(address: IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert forbidden(address, NOTHING)


@given(st.ip_addresses(v=6))
@example(IPv6Address("64:ff9b::7f00:1"))
def test_nor_an_ipv6_address(address: IPv6Address) -> None:
    if address.ipv4_mapped is None and (not address.is_global or address not in GLOBAL_UNICAST):
        assert forbidden(address, NOTHING)


@pytest.mark.parametrize("row", [*FORBIDDEN_V4, *FORBIDDEN_V6], ids=lambda row: str(row.network))
def test_every_row_holds_to_its_edges_and_gives_its_reason(row: Range) -> None:
    some = (row.network[0], row.network[row.network.num_addresses // 2], row.network[-1])
    reasons = {forbidden(address, NOTHING) for address in some}
    assert None not in reasons
    assert f"{row.purpose} ({row.source})" in reasons  # not hidden by a wider row before it


def test_a_zone_is_never_permitted() -> None:
    assert forbidden(IPv6Address("2606:4700::1111%eth0"), NOTHING) == "with a zone (RFC 4007)"
    assert forbidden(IPv6Address("fe80::1%eth0"), Allow.parse("fe80::/10")) == "with a zone (RFC 4007)"
    assert forbidden(IPv6Address("::ffff:8.8.8.8%1"), NOTHING) == "with a zone (RFC 4007)"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_told_from_the_rest(address: str) -> None:
    assert is_loopback(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["128.0.0.1", "0.0.0.0", "::", "::2", "::127.0.0.1", "64:ff9b::7f00:1"])  # noqa: S104
def test_the_rest_is_not_loopback(address: str) -> None:
    assert not is_loopback(ipaddress.ip_address(address))


# -- what the operator allows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allowed", "reached", "not_reached"),
    [
        ("10.1.0.0/16", ["10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3"], ["10.2.0.0", "10.0.255.255", "::10.1.2.3"]),
        ("127.0.0.1", ["127.0.0.1"], ["127.0.0.2", "::1"]),
        (" 127.0.0.0/8 , ::1/128,", ["127.9.9.9", "::1"], ["10.0.0.1", "::2"]),
        ("fd12:3456::/32", ["fd12:3456::1"], ["fd12:3457::1", "fd00:ec2::254"]),
        ("10.0.0.0/8", ["10.1.2.3"], ["64:ff9b::10.1.2.3", "2002:a01:203::1", "169.254.169.254"]),
        ("64:ff9b::/96", ["64:ff9b::8.8.8.8"], ["64:ff9b::10.1.2.3", "64:ff9b::127.0.0.1", "10.1.2.3"]),
        ("64:ff9b::/96,10.0.0.0/8", ["64:ff9b::10.1.2.3"], ["64:ff9b::127.0.0.1"]),
        ("", ["8.8.8.8"], ["10.0.0.1"]),
        (" , ", ["8.8.8.8"], ["10.0.0.1"]),
    ],
)
def test_an_allowed_network_is_reached_and_nothing_beside_it(
    allowed: str, reached: list[str], not_reached: list[str]
) -> None:
    allow = Allow.parse(allowed)
    assert [forbidden(ipaddress.ip_address(address), allow) for address in reached] == [None] * len(reached)
    assert all(forbidden(ipaddress.ip_address(address), allow) for address in not_reached)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("10.0.0.1/8", "the network is 10.0.0.0/8"),
        ("fd00::1/8", "the network is fd00::/8"),
        ("10.0.0.0/33", "is no network"),
        ("10.0.0.0/255.0.0.0", "is no network"),  # 0.0.0.255 would be taken for a hostmask
        ("10.0.0.0/", "is no network"),
        ("10.0.0.0/８", "is no network"),
        ("10.0.0", "is no network"),
        ("010.0.0.1", "is no network"),
        ("0x0a000001", "is no network"),
        ("10", "is no network"),
        ("localhost", "is no network"),
        ("10.0.0.0/8;10.1.0.0/16", "is no network"),
        ("10.0.0.0/8 10.1.0.0/16", "is no network"),
        ("[::1]", "is no network"),
        ("fe80::1%eth0", "is no network"),
        ("127.0.0.1,nonsense", "'nonsense' is no network"),
        ("0.0.0.0/0", "allows everything"),
        ("::/0", "allows everything"),
        ("::ffff:10.0.0.0/104", "write the IPv4 network"),
    ],
)
def test_what_is_no_network_is_an_error_that_says_so(text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Allow.parse(text)
    assert caught.value.message.startswith("LOGSTITCH_WEBHOOK_ALLOW: ")
    assert why in caught.value.message


@given(st.text(alphabet="0123456789abcdef.:/, %x", max_size=40))
def test_any_text_is_networks_or_that_error(text: str) -> None:
    try:
        allow = Allow.parse(text)
    except ConfigurationError:
        return
    assert all(network.prefixlen > 0 for network in allow.networks)


@given(st.ip_addresses(), st.data())
def test_what_is_allowed_is_what_the_network_holds(address: Address, data: st.DataObject) -> None:
    length = data.draw(st.integers(8, address.max_prefixlen))
    network = ipaddress.ip_network(f"{address}/{length}", strict=False)
    allow = Allow.parse(str(network)) if getattr(network[0], "ipv4_mapped", None) is None else NOTHING
    other = data.draw(st.ip_addresses(v=address.version))

    assert allow.covers(other) == (other in network and bool(allow.networks))


@pytest.mark.parametrize(
    ("allowed", "localhost", "reaches_out"),
    [
        ("", [], False),
        ("127.0.0.0/8", ["127.0.0.1"], False),
        ("127.0.0.2", [], False),
        ("::1", ["::1"], False),
        ("127.0.0.1,::1", ["::1", "127.0.0.1"], False),
        ("10.0.0.0/8", [], True),
        ("127.0.0.0/8,fd00::/8", ["127.0.0.1"], True),
        ("126.0.0.0/7", ["127.0.0.1"], True),
    ],
)
def test_whether_localhost_and_private_names_have_a_meaning(
    allowed: str, localhost: list[str], reaches_out: bool
) -> None:
    allow = Allow.parse(allowed)
    assert [str(address) for address in allow.localhost] == localhost
    assert allow.reaches_out == reaches_out
