"""Whether a browser was led to a private address by a name that is somebody else's (DNS rebinding).

A page of ``evil.example`` may have that name resolve to 127.0.0.1, and then read what is answered there as its own. The
browser sends the name as ``Host``. So a browser is answered only where it was told an IP address, ``localhost``, or a
name that the operator has given. Whatever is no browser may use any name: scrapers and probes need no setting.

What tells a browser: ``Sec-Fetch-Site`` and its like, which none sends to a plain ``http`` address of that kind;
``Origin`` and ``Referer``, which it sends where there is another page; and, of every request, ``Accept-Language`` and
``User-Agent``, of which a page may change the values and can leave out neither.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final

from logstitch.errors import ConfigurationError

_OF_BROWSERS: Final = (b"accept-language", b"origin", b"referer")
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_PORT: Final = re.compile(r":[0-9]*$")


def parse_names(listed: str, bind: str = "") -> frozenset[str]:
    """The names that an address may be called by: those that are listed, separated by commas, and the one in ``bind``
    (``host:port``), if it is a name. Raises ``ConfigurationError`` for what is none."""
    names = {name.strip().rstrip(".").lower() for name in listed.split(",") if name.strip()}
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(
                f"--ops-host-names has {name!r}, which is no host name; leave out scheme and port."
            )
    bound = _PORT.sub("", bind).rstrip(".").lower()
    return frozenset(names | {bound} if _NAME.fullmatch(bound) else names)


def is_rebound(headers: Mapping[bytes, bytes], names: Collection[str]) -> bool:
    """Whether the request is a browser's and names neither an IP address, nor ``localhost``, nor one of ``names``."""
    return _is_browsers(headers) and not _is_ours(headers.get(b"host", b"").decode("latin-1"), names)


def _is_browsers(headers: Mapping[bytes, bytes]) -> bool:
    return (
        any(name in headers for name in _OF_BROWSERS)
        or any(name.startswith(b"sec-") for name in headers)
        or headers.get(b"user-agent", b"").startswith(b"Mozilla/")
    )


def _is_ours(host: str, names: Collection[str]) -> bool:
    name = _PORT.sub("", host).rstrip(".").lower()
    if name == "localhost" or name in names:
        return True
    bracketed = name.startswith("[") and name.endswith("]")
    try:
        address = ip_address(name[1:-1] if bracketed else name)
    except ValueError:
        return False
    return isinstance(address, IPv6Address) is bracketed
