"""A request's head as plain values, read once and strictly, before anything of the body is touched."""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from logstitch.errors import Detail, InvalidRequest, NotFound

MAX_PARAMETERS = 32
"""More than any endpoint knows; an unknown one is refused anyway."""

Scope = MutableMapping[str, Any]
"""An ASGI connection scope (https://asgi.readthedocs.io/en/latest/specs/www.html)."""

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What is known of a request before its body.

    Attributes:
        method: in upper case.
        query_string: as sent, percent-encoded.
        headers: by name in lower case. A header that was sent twice has its values joined by a comma (RFC 9110, 5.2),
            which no strict reader of a single value takes.
        request_id: ``req_`` and a ULID.
        received_at_ms: when the head arrived, Unix time.
        address: the client's, as it connected; empty where it has none.
    """

    method: str
    query_string: bytes
    headers: Mapping[bytes, bytes]
    request_id: str
    received_at_ms: int
    address: str = ""

    def query(self) -> dict[str, str]:
        """The query parameters. Raises ``InvalidRequest`` for one that is repeated or is not text."""
        if not self.query_string:
            return {}
        if self.query_string.count(b"&") >= MAX_PARAMETERS:
            raise InvalidRequest(f"At most {MAX_PARAMETERS} query parameters are taken.")
        if _BAD_ESCAPE.search(self.query_string):
            raise InvalidRequest("The query string has a % that is not followed by two hexadecimal digits.")
        try:
            pairs = parse_qsl(self.query_string.decode(), keep_blank_values=True, errors="strict")
        except UnicodeDecodeError:
            raise InvalidRequest("The query string is not percent-encoded UTF-8.") from None
        parameters: dict[str, str] = {}
        details = []
        for name, value in pairs:
            if name in parameters:
                details.append(Detail(name[:200], "Given more than once"))
            elif "\0" in value:
                details.append(Detail(name[:200], "Must not contain the character U+0000"))
            parameters[name] = value
        if details:
            raise InvalidRequest(details=details)
        return parameters


def join_headers(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """ASGI's header list as a mapping; see ``RequestHead.headers``."""
    headers = dict(pairs)
    if len(headers) != len(pairs):
        headers.clear()
        for name, value in pairs:
            headers[name] = headers[name] + b"," + value if name in headers else value
    return headers


def address_of(scope: Scope) -> str:
    """The address that the client connected from; empty for a client of a Unix socket. Behind a proxy it is that."""
    client = scope.get("client")
    return str(client[0]) if client and client[0] else ""


def path_of(scope: Scope) -> str:
    """The path to route by.

    Servers decode it with replacement characters, and ``%2F`` into a slash; Quart takes ``//x`` for ``/x``. That would
    make several paths of one route. Here a path in which escapes hide something (a slash, a control character, what is
    no text) stays as it was sent, escapes and all: it is no route but by a variable part, as a token or an id that is
    none. Any other path that is not plain is no route at all: raises ``NotFound``.
    """
    path: str = scope["path"]
    raw: bytes | None = scope.get("raw_path")
    if raw is not None and b"%" in raw:
        path = _unescaped(raw.partition(b"?")[0])
    if not path.startswith("/") or path.startswith("//") or not path.isprintable():
        raise NotFound("There is no such route.")
    return path


def _unescaped(raw: bytes) -> str:
    try:
        path = unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        path = ""
    if path.count("/") == raw.count(b"/") and path.isprintable():
        return path
    return raw.decode("latin-1")
