"""Which IP addresses nothing may be sent to: one table, judged by the address and by nothing else.

The standard library's ``is_global`` is no help: Python 3.11's lets NAT64, 6to4, multicast and site-local addresses
through, and its answers differ from one patch release to the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Final, NamedTuple, TypeAlias

from logstitch.errors import ConfigurationError

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


class Range(NamedTuple):
    """One row: the addresses, what they are for, and where that is said."""

    network: Network
    purpose: str
    source: str


def _v4(network: str, purpose: str, source: str) -> Range:
    return Range(IPv4Network(network), purpose, source)


def _v6(network: str, purpose: str, source: str) -> Range:
    return Range(IPv6Network(network), purpose, source)


# The IANA IPv4 Special-Purpose Address Registry (RFC 6890), also the rows that it calls globally reachable: they are
# anycast services of the network itself, and no receiver of webhooks lives there. Plus multicast, and what clouds have
# put on public addresses. The first row that holds an address names it, so the narrow ones come first.
FORBIDDEN_V4: Final = (
    _v4("0.0.0.0/8", "this network, of which 0.0.0.0 reaches this host", "RFC 791"),
    _v4("10.0.0.0/8", "private", "RFC 1918"),
    _v4("100.64.0.0/10", "shared by carriers (CGNAT)", "RFC 6598"),
    _v4("127.0.0.0/8", "loopback", "RFC 1122"),
    _v4("169.254.169.254/32", "metadata of a cloud", "AWS, Azure, Google Cloud and others"),
    _v4("169.254.0.0/16", "link-local", "RFC 3927"),
    _v4("172.16.0.0/12", "private", "RFC 1918"),
    _v4("192.0.0.192/32", "metadata of a cloud", "Oracle Cloud Classic"),
    _v4("192.0.0.0/24", "protocol assignments", "RFC 6890"),
    _v4("192.0.2.0/24", "documentation", "RFC 5737"),
    _v4("192.31.196.0/24", "AS112", "RFC 7535"),
    _v4("192.52.193.0/24", "multicast tunnels (AMT)", "RFC 7450"),
    _v4("192.88.99.0/24", "6to4 relays", "RFC 7526"),
    _v4("192.168.0.0/16", "private", "RFC 1918"),
    _v4("192.175.48.0/24", "AS112", "RFC 7534"),
    _v4("198.18.0.0/15", "benchmarking", "RFC 2544"),
    _v4("198.51.100.0/24", "documentation", "RFC 5737"),
    _v4("203.0.113.0/24", "documentation", "RFC 5737"),
    _v4("224.0.0.0/4", "multicast", "RFC 5771"),
    _v4("255.255.255.255/32", "broadcast", "RFC 919"),
    _v4("240.0.0.0/4", "reserved", "RFC 1112"),
    _v4("168.63.129.16/32", "the platform's agent", "Azure"),
)

GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
"""All that has been assigned of IPv6 (RFC 4291, RFC 3513); whatever lies outside is forbidden without a row."""

# The IANA IPv6 Special-Purpose Address Registry. The rows outside of 2000::/3 are there for their names.
FORBIDDEN_V6: Final = (
    _v6("::/128", "unspecified", "RFC 4291"),
    _v6("::1/128", "loopback", "RFC 4291"),
    _v6("::/96", "IPv4-compatible", "RFC 4291"),
    _v6("::ffff:0:0:0/96", "IPv4-translated", "RFC 2765"),
    _v6("64:ff9b::/96", "NAT64", "RFC 6052"),
    _v6("64:ff9b:1::/48", "NAT64, local", "RFC 8215"),
    _v6("100::/64", "discard", "RFC 6666"),
    _v6("100:0:0:1::/64", "dummy prefix", "RFC 9780"),
    _v6("2001::/32", "Teredo", "RFC 4380"),
    _v6("2001:2::/48", "benchmarking", "RFC 5180"),
    _v6("2001:10::/28", "ORCHID", "RFC 4843"),
    _v6("2001:20::/28", "ORCHIDv2", "RFC 7343"),
    _v6("2001::/23", "protocol assignments", "RFC 2928"),
    _v6("2001:db8::/32", "documentation", "RFC 3849"),
    _v6("2002::/16", "6to4", "RFC 3056"),
    _v6("2620:4f:8000::/48", "AS112", "RFC 7534"),
    _v6("3ffe::/16", "6bone", "RFC 3701"),
    _v6("3fff::/20", "documentation", "RFC 9637"),
    _v6("5f00::/16", "segment routing", "RFC 9602"),
    _v6("fd00:ec2::254/128", "metadata of a cloud", "AWS"),
    _v6("fd20:ce::254/128", "metadata of a cloud", "Google Cloud"),
    _v6("fc00::/7", "unique local", "RFC 4193"),
    _v6("fe80::/10", "link-local", "RFC 4291"),
    _v6("fec0::/10", "site-local", "RFC 3879"),
    _v6("ff00::/8", "multicast", "RFC 4291"),
)

_NAT64: Final = IPv6Network("64:ff9b::/96")
_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
_LOCALHOST: Final = (IPv6Address("::1"), IPv4Address("127.0.0.1"))


@dataclass(frozen=True, slots=True)
class Allow:
    """The networks that the operator lets webhooks reach although the table forbids them."""

    networks: tuple[Network, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Allow:
        """Read ``LOGSTITCH_WEBHOOK_ALLOW``: networks in CIDR notation, or single addresses, separated by commas.

        Raises ``ConfigurationError`` that names the part which is wrong.
        """
        return cls(tuple(_network(part.strip()) for part in text.split(",") if part.strip()))

    def covers(self, address: Address) -> bool:
        """Whether one of the networks holds ``address``. An IPv4-mapped address is no IPv4 address here."""
        return any(address in network for network in self.networks)

    @property
    def localhost(self) -> tuple[Address, ...]:
        """The addresses that the name ``localhost`` stands for, as far as they are allowed."""
        return tuple(address for address in _LOCALHOST if self.covers(address))

    @property
    def reaches_out(self) -> bool:
        """Whether it holds networks that are not this very host: private ones, and so their names."""
        return any(
            not any(network.version == own.version and _within(network, own) for own in _LOOPBACK)
            for network in self.networks
        )


def forbidden(address: Address, allow: Allow) -> str | None:
    """Why nothing may be sent to ``address``, for the operator's eyes; ``None`` if it may.

    An IPv4-mapped address is judged as the IPv4 address that it is, by the table and by ``allow``. Every other form
    that has an IPv4 address inside (compatible, 6to4, Teredo, NAT64) is forbidden whatever is inside. Networks that
    reach IPv4 through NAT64 can allow 64:ff9b::/96; then the address inside is judged.
    """
    if isinstance(address, IPv6Address) and address.scope_id is not None:
        return "with a zone (RFC 4007)"
    address = unwrapped(address)
    if allow.covers(address):
        if isinstance(address, IPv6Address) and address in _NAT64:
            return forbidden(IPv4Address(int(address) & 0xFFFF_FFFF), allow)
        return None
    for row in FORBIDDEN_V4 if isinstance(address, IPv4Address) else FORBIDDEN_V6:
        if address in row.network:
            return f"{row.purpose} ({row.source})"
    if isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        return "not global unicast (RFC 4291)"
    return None


def unwrapped(address: Address) -> Address:
    """The IPv4 address of an IPv4-mapped one, which is where the kernel would connect to; else the address itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped


def is_loopback(address: Address) -> bool:
    """Whether what is sent to it never leaves this host."""
    return any(unwrapped(address) in network for network in _LOOPBACK)


def _within(network: Network, own: Network) -> bool:
    return network.network_address in own and network.broadcast_address in own


def _network(text: str) -> Network:
    def wrong(why: str) -> ConfigurationError:
        return ConfigurationError(f"LOGSTITCH_WEBHOOK_ALLOW: {text!r} {why}.")

    _, slash, length = text.partition("/")
    if not text.isascii() or "%" in text or (slash and not length.isdigit()):  # a netmask may be read as a hostmask
        raise wrong("is no network; write it like 10.1.0.0/16 or 2001:db8:1::/48")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise wrong("is no network; write it like 10.1.0.0/16 or 2001:db8:1::/48") from None
    if slash and str(network.network_address) != str(ip_network(text.partition("/")[0]).network_address):
        raise wrong(f"has bits set beyond its length; the network is {network}")
    if network.prefixlen == 0:
        raise wrong("allows everything; name the networks that your receivers are in")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise wrong("is IPv4 in IPv6; write the IPv4 network")
    return network
