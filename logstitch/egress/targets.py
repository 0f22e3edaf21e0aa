"""A webhook's URL, read strictly: what is not plainly one place is refused, so that no two readers can differ on it.

Pure, and done when a URL is saved and again before each attempt. It says nothing of where a name leads: that is looked
up, and judged, by the attempt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final

from logstitch.egress.addresses import Address, Allow, forbidden, is_loopback
from logstitch.errors import InvalidRequest

MAX_URL: Final = 2048
"""Characters. Longer ones are refused by servers that people use."""

_DEFAULT_PORTS: Final = {"https": 443, "http": 80}

# Ports whose services might act on a stray HTTP request. A receiver of webhooks may listen anywhere else: many do on
# ports of their own. TLS already keeps a request from being read as another protocol; this is the second lock, and it
# keeps these ports from being probed.
_REFUSED_BY_BROWSERS: Final = """
    0 1 7 9 11 13 15 17 19 20 21 22 23 25 37 42 43 53 69 77 79 87 95 101 102 103 104 109 110 111 113 115 117 119 123 135
    137 139 143 161 179 389 427 465 512 513 514 515 526 530 531 532 540 548 554 556 563 587 601 636 989 990 993 995 1719
    1720 1723 2049 3659 4045 4190 5060 5061 6000 6566 6665 6666 6667 6668 6669 6679 6697 10080
"""  # WHATWG Fetch, "bad port"
_UNPROTECTED: Final = """
    445 1433 1521 2181 2375 2376 2379 2380 3306 3389 5432 5671 5672 5900 6379 9042 9092 10250 10255 11211 27017 27018
    27019
"""  # often open to a private network: SMB, databases, message queues, Docker, etcd, kubelet, remote desktops
BAD_PORTS: Final = frozenset(map(int, f"{_REFUSED_BY_BROWSERS} {_UNPROTECTED}".split()))

# Suffixes of names that mean something on a private network only (RFC 6762 appendix G, RFC 8375, ICANN's .internal).
PRIVATE_SUFFIXES: Final = frozenset(
    {"corp", "home", "home.arpa", "internal", "intranet", "lan", "local", "localdomain", "localhost", "private"}
)

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)", re.DOTALL)
_AUTHORITY: Final = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?", re.DOTALL)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_PATH: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?\[\]-]|%[0-9A-Fa-f]{2})*")
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
# "Ends in a number" of the WHATWG URL standard: what getaddrinfo reads as an IPv4 address, in whatever notation, has a
# last part of this form, and no top-level domain has.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Target:
    """Where to send to: made by ``check_url``.

    ``host`` is a name in lower case or an IP address without brackets; it is what is resolved, what the certificate is
    checked against and what the ``Host`` header says. ``path`` includes the query, and goes out as it was given.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header (RFC 9110 section 7.2)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL in its one spelling."""
        return f"{self.scheme}://{self.authority}{self.path}"


def check_url(url: str, allow: Allow) -> Target:
    """Read ``url``. Raises ``InvalidRequest`` on ``url`` that says what is wrong with it."""
    if len(url) > MAX_URL:
        raise _wrong(f"Must have at most {MAX_URL} characters")
    if any(not "!" <= character <= "~" for character in url) or "\\" in url:
        # International names, too: a mapping of characters is one more reader that might see another host.
        raise _wrong("Must be ASCII without spaces or backslashes; international names in their xn-- form")
    if "#" in url:
        raise _wrong("Must have no fragment")
    parts = _URL.fullmatch(url)
    if parts is None or parts[1].lower() not in _DEFAULT_PORTS:
        raise _wrong("Must begin with https://")
    scheme, authority, path = parts[1].lower(), parts[2], parts[3]
    if "@" in authority:
        raise _wrong("Must have no user name or password")
    place = _AUTHORITY.fullmatch(authority)
    if place is None:
        raise _wrong("Must name a host")
    if not _PATH.fullmatch(path):
        raise _wrong("Must have its path and query percent-encoded")
    target = Target(
        scheme,
        _host(place[1].lower(), allow),
        _DEFAULT_PORTS[scheme] if place[2] is None else _port(place[2]),
        path if path.startswith("/") else f"/{path}",
    )
    if scheme == "http" and not _is_this_host(target.host):
        raise _wrong("Must begin with https://")
    return target


def literal(host: str) -> Address | None:
    """The IP address that a host is, as ``Target`` spells it; ``None`` for a name."""
    try:
        return IPv6Address(host) if ":" in host else IPv4Address(host)
    except AddressValueError:
        return None


def _wrong(message: str) -> InvalidRequest:
    return InvalidRequest.on("url", message)


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise _wrong("Must have a port from 1 to 65535, or none")
    if int(text) in BAD_PORTS:
        raise _wrong(f"Must not have port {text}, which other protocols use")
    return int(text)


def _host(text: str, allow: Allow) -> str:
    bracketed = text.startswith("[")
    address = literal(text[1:-1]) if bracketed else literal(text)
    if address is not None:
        if bracketed != isinstance(address, IPv6Address) or "%" in text:
            raise _wrong("Must have an IPv6 address in brackets, without a zone")
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            raise _wrong("Must have an IPv4 address in its dotted form")
        if forbidden(address, allow) is not None:
            raise _wrong("Must not name an address that is reserved or of a private network")
        return str(address)
    if bracketed:
        raise _wrong("Must have an IPv6 address in the brackets")
    return _name(text, allow)


def _name(text: str, allow: Allow) -> str:
    labels = text.split(".")
    if len(text) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise _wrong("Must have a host name of letters, digits and hyphens, without a dot at its end")
    if _NUMBER.fullmatch(labels[-1]):
        raise _wrong("Must have an IP address as four decimal numbers, or a host name that does not end in a number")
    if text == "localhost" and allow.localhost:
        return text
    # A private name leads to private addresses, which the operator has to allow; whoever has allowed some may use the
    # names, and the attempt judges the address.
    private = len(labels) == 1 or {labels[-1], ".".join(labels[-2:])} & PRIVATE_SUFFIXES
    if private and (labels[-1] == "localhost" or not allow.reaches_out):
        raise _wrong("Must have a host name that is known publicly")
    return text


def _is_this_host(host: str) -> bool:
    address = literal(host)
    return host == "localhost" if address is None else is_loopback(address)
