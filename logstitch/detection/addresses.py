"""Which IP addresses of events can be told apart: what redaction has left of some is not an address any more."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

_CACHED: Final = 4096
"""An address that comes again costs a look-up and no parsing. 1 MB: a text has at most 64 characters."""


@lru_cache(_CACHED)
def known_address(text: str) -> str | None:
    """The one spelling of an address, or None for what was replaced or masked, which may stand for any.

    The spellings of IPv6 are one, and an IPv4-mapped address (RFC 4291, section 2.5.5.2) is the IPv4 address. A hash
    (``sha256:…``) is its own spelling, and so is any other text: equal ones are equal, different ones differ.
    """
    if not text or "*" in text or "[REDACTED]" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return text
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
