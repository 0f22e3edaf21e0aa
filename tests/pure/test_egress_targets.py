"""A webhook's URL when it is saved: what is plainly one place passes, and all else is refused with a reason."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logstitch.egress.addresses import Allow
from logstitch.egress.targets import BAD_PORTS, MAX_URL, Target, check_url, literal
from logstitch.errors import InvalidRequest
from tests.support import spellings

NOTHING = Allow()
LOOPBACK = Allow.parse("127.0.0.0/8,::1")
PRIVATE = Allow.parse("10.0.0.0/8")
# Everything that can be written is allowed: what is refused then is refused for how it is written.
ANYWHERE = Allow.parse("0.0.0.0/1,128.0.0.0/1,::/1,8000::/1")


def refusal(url: str, allow: Allow = NOTHING) -> str:
    with pytest.raises(InvalidRequest) as caught:
        check_url(url, allow)
    (detail,) = caught.value.details
    assert detail.field == "url"
    return detail.message


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://hooks.example.com", Target("https", "hooks.example.com", 443, "/")),
        ("https://hooks.example.com/", Target("https", "hooks.example.com", 443, "/")),
        ("HTTPS://Hooks.Example.COM/In/Box", Target("https", "hooks.example.com", 443, "/In/Box")),
        ("https://hooks.example.com:443/", Target("https", "hooks.example.com", 443, "/")),
        ("https://hooks.example.com:8443/a?b=c&d[]=%20", Target("https", "hooks.example.com", 8443, "/a?b=c&d[]=%20")),
        ("https://hooks.example.com?a=https://b@c", Target("https", "hooks.example.com", 443, "/?a=https://b@c")),
        ("https://a.example/../%2e%2e//b;c", Target("https", "a.example", 443, "/../%2e%2e//b;c")),
        ("https://xn--bcher-kva.example/", Target("https", "xn--bcher-kva.example", 443, "/")),
        ("https://3com.example/", Target("https", "3com.example", 443, "/")),
        ("https://1.2.3.4.example/", Target("https", "1.2.3.4.example", 443, "/")),
        ("https://0x7f.example/", Target("https", "0x7f.example", 443, "/")),
        ("https://8.8.8.8/", Target("https", "8.8.8.8", 443, "/")),
        ("https://[2606:4700::1111]:8443/", Target("https", "2606:4700::1111", 8443, "/")),
        ("https://[2606:4700:0:0:0:0:0:1111]/", Target("https", "2606:4700::1111", 443, "/")),
    ],
)
def test_a_plain_url_is_taken(url: str, target: Target) -> None:
    assert check_url(url, NOTHING) == target
    assert check_url(target.url, NOTHING) == target


def test_a_target_says_its_host_and_its_url() -> None:
    assert Target("https", "a.example", 443, "/x").authority == "a.example"
    assert Target("https", "a.example", 8443, "/x").authority == "a.example:8443"
    assert Target("http", "127.0.0.1", 80, "/x").url == "http://127.0.0.1/x"
    assert Target("https", "2606:4700::1111", 443, "/x?y").url == "https://[2606:4700::1111]/x?y"
    assert Target("https", "2606:4700::1111", 444, "/").authority == "[2606:4700::1111]:444"


@pytest.mark.parametrize("address", spellings.FORBIDDEN_V4, ids=str)
def test_a_forbidden_ipv4_address_is_refused_in_every_notation(address: IPv4Address) -> None:
    assert "reserved" in refusal(f"https://{address}/")
    for host in spellings.odd_v4(address):
        refusal(f"https://{host}/")
        refusal(f"https://{host}:8443/hook?x=y", ANYWHERE)


@pytest.mark.parametrize("address", spellings.PUBLIC_V4, ids=str)
def test_a_public_one_is_taken_as_a_dotted_quad_only(address: IPv4Address) -> None:
    assert check_url(f"https://{address}/", NOTHING).host == str(address)
    for host in spellings.odd_v4(address):
        refusal(f"https://{host}/")


@pytest.mark.parametrize(
    "address",
    [*spellings.FORBIDDEN_V6, *(outer for inner in spellings.FORBIDDEN_V4 for outer in spellings.embedded(inner))],
    ids=str,
)
def test_a_forbidden_ipv6_address_is_refused_in_every_notation(address: IPv6Address) -> None:
    for host in spellings.written_v6(address):
        refusal(f"https://{host}/")
        refusal(f"https://{host}:8443/")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://user@hooks.example.com/", "user name"),
        ("https://user:secret@hooks.example.com/", "user name"),
        ("https://@hooks.example.com/", "user name"),
        ("https://hooks.example.com/#top", "fragment"),
        ("https://hooks.example.com#", "fragment"),
        ("https://hooks.example.com/a b", "spaces"),
        ("https://hooks.example.com\\", "backslashes"),
        ("https://b\u00fccher.example/", "xn--"),
        ("https://[2606:4700::1111%eth0]/", "without a zone"),
        ("https://[2606:4700::1111%25eth0]/", "without a zone"),
        ("https://2606:4700::1111/", "four decimal numbers"),
        ("https://[::ffff:8.8.8.8]/", "dotted form"),
        ("https://[::FFFF:808:808]/", "dotted form"),
        ("https://127.1/", "four decimal numbers"),
        ("https://0x7f000001/", "four decimal numbers"),
        ("https://8.8.8.8./", "without a dot at its end"),
        ("https://hooks.example.com:6379/", "port 6379"),
        ("ftp://hooks.example.com/", "https://"),
        ("hooks.example.com", "https://"),
        ("", "https://"),
    ],
)
def test_the_refusal_says_what_to_mend(url: str, why: str) -> None:
    assert why in refusal(url, ANYWHERE)


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "localhost", "0x7f.1"])
def test_a_url_that_can_be_read_in_two_ways_is_refused(address: str) -> None:
    for url in spellings.tricks(address):
        refusal(url)


def test_it_stays_refused_where_the_place_itself_is_allowed() -> None:
    taken = []
    for url in spellings.tricks("127.0.0.1"):
        try:
            taken.append((url, check_url(url, LOOPBACK)))
        except InvalidRequest:
            continue
    assert taken == [(url, Target("http", "127.0.0.1", 80, "/")) for url in ("http://127.0.0.1/", "HTTP://127.0.0.1/")]


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "a.localhost", "localhost.localdomain", "printer.local", "db.internal", "metadata",
        "metadata.google.internal", "instance-data", "kubernetes.default", "kubernetes.default.svc.cluster.local",
        "router.lan", "nas.home", "nas.home.arpa", "home.arpa", "wiki.corp", "wiki.intranet", "wiki.private", "redis",
    ],
)  # fmt: skip
def test_names_of_private_networks_are_refused(host: str) -> None:
    if host == "kubernetes.default":  # nothing tells it from a public name: it is refused where it leads
        assert check_url(f"https://{host}/", NOTHING).host == host
        return
    assert refusal(f"https://{host}/") == "Must have a host name that is known publicly"


@pytest.mark.parametrize("host", ["hooks.internal", "receiver", "metadata.google.internal"])
def test_they_are_taken_where_the_operator_allows_private_networks(host: str) -> None:
    assert check_url(f"https://{host}:8443/", PRIVATE).host == host
    refusal(f"https://{host}:8443/", LOOPBACK)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/", "http://[::1]:9000/", "http://localhost:9000/"])
def test_http_is_for_loopback_that_the_operator_allows(url: str) -> None:
    assert check_url(url, LOOPBACK).url == url
    assert check_url(url.replace("http", "https", 1), LOOPBACK).scheme == "https"
    refusal(url, NOTHING)
    refusal(url, PRIVATE)
    refusal(url.replace("http", "https", 1), NOTHING)


def test_http_is_for_nothing_else() -> None:
    allow = Allow.parse("127.0.0.0/8,::1,10.0.0.0/8")
    for host in ("hooks.example.com", "8.8.8.8", "10.0.0.1", "[2606:4700::1111]", "hooks.internal"):
        assert check_url(f"https://{host}/", allow)
        assert refusal(f"http://{host}/", allow) == "Must begin with https://"
    refusal("http://a.localhost/", allow)


@pytest.mark.parametrize(
    "port", ["0", "-1", "+443", "65536", "99999", "0443", "443x", "", " 443", "４４３", "1e3", "4_43"]
)
def test_a_port_is_a_plain_number(port: str) -> None:
    refusal(f"https://hooks.example.com:{port}/")


def test_ports_of_other_protocols_are_refused() -> None:
    assert {22, 25, 53, 445, 5432, 6379, 11211, 27017} <= BAD_PORTS
    assert not {80, 443, 3000, 4000, 5000, 8000, 8080, 8443, 8700, 9000, 9443, 49152, 65535} & BAD_PORTS
    for port in range(1, 65536, 7):
        if port not in BAD_PORTS:
            assert check_url(f"https://hooks.example.com:{port}/", NOTHING).port == port
    for port in BAD_PORTS:
        refusal(f"https://hooks.example.com:{port}/")
        refusal(f"http://127.0.0.1:{port}/", LOOPBACK)


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "..", "a..example.com", ".example.com", "example.com.", "-a.example.com", "a-.example.com",
        "a_b.example.com", "a b.example.com", "a%20b.example.com", "exa%6dple.com", "*.example.com", "a!b.example.com",
        f"{'a' * 64}.example.com", ".".join(["a" * 60] * 5), "bücher.example", "ｅxample.com", "example。com",
        "example.com\x00", "example.com\x7f", "exam\u00adple.com", "1.2.3.4.5", "a.0x", "a.0xff", "a.123",
        "xn--a.1", "[]", "[a]", "[1.2.3.4]", "[v1.fe80::1]",
    ],
)  # fmt: skip
def test_a_host_is_a_name_or_an_address(host: str) -> None:
    refusal(f"https://{host}/", ANYWHERE)


@pytest.mark.parametrize(
    "rest", ["/a b", "/\u00e9", "/a\\b", '/"', "/<a>", "/{a}", "/a|b", "/%", "/%4", "/%zz", "/\x01"]
)
def test_what_follows_is_percent_encoded(rest: str) -> None:
    refusal(f"https://hooks.example.com{rest}")


def test_it_has_a_bounded_length() -> None:
    url = "https://hooks.example.com/"
    assert check_url(url.ljust(MAX_URL, "a"), NOTHING)
    assert refusal(url.ljust(MAX_URL + 1, "a")) == "Must have at most 2048 characters"
    refusal("https://" + "[" * 2000)
    refusal("https://" + "a." * 1000)


PIECES = st.sampled_from(
    [
        "https://", "http://", "//", "/", "@", ":", "#", "?", "\\", "[", "]", "%", "%2e", ".", "..", "。", "::1", "-",
        "_", "::ffff:", "127.0.0.1", "127.1", "0x7f", "8.8.8.8", "localhost", "example.com", "hooks", "443", "8443",
        "0", "&", "\t", "\n", " ", "\x00", "a", "A", "é", "１",
    ]
)  # fmt: skip


@given(st.builds("https://".__add__, st.lists(PIECES, max_size=8).map("".join)) | st.text(max_size=40))
@example("https://example.com:443@8.8.8.8/")
def test_whatever_is_taken_other_readers_read_alike(url: str) -> None:
    try:
        target = check_url(url, ANYWHERE)
    except InvalidRequest:
        return
    for spelled in (url, target.url):
        split, parsed = urlsplit(spelled), httpx.URL(spelled)
        assert (split.scheme, split.port or 443) == (target.scheme, target.port) or target.scheme == "http"
        assert (parsed.scheme, parsed.port or {"https": 443, "http": 80}[target.scheme]) == (target.scheme, target.port)
        hosts = {str(literal(host) or host) for host in (split.hostname or "", parsed.host)}
        assert hosts == {target.host}
        assert (split.username, split.password, parsed.userinfo) == (None, None, b"")
    assert re.fullmatch(r"[a-z0-9.-]+|[0-9a-f:.]+", target.host)
    assert re.fullmatch(r"/[!-~]*", target.path)
    assert check_url(target.url, ANYWHERE) == target
