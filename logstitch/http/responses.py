"""An answer is a value: status, body, headers. Nothing here knows how it is sent.

One that may be of any length is a value, too, but for its body, which is made while it is sent.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from logstitch.times import format_moment

Headers = tuple[tuple[bytes, bytes], ...]

JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer. ``headers`` are those beside Content-Type, Content-Length and the ones that every answer has."""

    status: int
    body: bytes
    headers: Headers = ()
    content_type: bytes = JSON


@dataclass(frozen=True, slots=True)
class StreamedReply:
    """An answer whose length nobody knows when it begins.

    It is a success once its first piece is made; whatever goes wrong before that is a ``Reply`` as ever. When a later
    piece fails, the answer is cut: its end is missing (RFC 9112, 8), and so its reader can tell. A piece may be empty.
    Whoever sends it asks for a piece when the one before is on its way, and closes ``pieces`` whatever happens.

    Attributes:
        first: what was made already, to be sent before ``pieces``.
    """

    status: int
    pieces: AsyncGenerator[bytes, None]
    headers: Headers
    content_type: bytes
    first: bytes = b""


Answer = Reply | StreamedReply


def resource(request_id: str, fields: Mapping[str, Any], status: int = 200, headers: Headers = ()) -> Reply:
    """One resource, flat, beside ``request_id``."""
    return Reply(status, orjson.dumps({**fields, "request_id": request_id}), headers)


def page(request_id: str, plural: str, items: Iterable[Mapping[str, Any]], cursor: str | None) -> Reply:
    """A list under its plural, and where to go on."""
    fields = {plural: list(items), "cursor": cursor, "has_more": cursor is not None, "request_id": request_id}
    return Reply(200, orjson.dumps(fields))


def page_of_texts(request_id: str, plural: str, texts: Iterable[str], cursor: str | None) -> Reply:
    """The same from items that are JSON texts already: they are spliced in, neither parsed nor written anew."""
    tail = orjson.dumps({"cursor": cursor, "has_more": cursor is not None, "request_id": request_id}).decode()
    return Reply(200, f'{{"{plural}":[{",".join(texts)}],{tail[1:]}'.encode())


def resource_of_text(request_id: str, text: str) -> Reply:
    """One resource that is a JSON text of an object (not an empty one) already, with ``request_id`` spliced in."""
    return Reply(200, f'{text[:-1]},"request_id":"{request_id}"}}'.encode())


def time_text(moment: datetime | None) -> str | None:
    """``2026-11-23T08:00:00.123Z``, where there is a moment."""
    return None if moment is None else format_moment(moment)
