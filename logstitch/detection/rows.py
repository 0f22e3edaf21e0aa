"""Facts as PostgreSQL sends them, by COPY in binary form: they pass from the server to a child process as they are.

The form is that of https://www.postgresql.org/docs/current/sql-copy.html (Binary Format): a header, rows, a trailer.
Each row is the number of its fields, and each field its length (-1 for NULL) and its bytes, all of it big-endian. Here
the header and the trailer may stand between any two rows, so what several COPYs gave can be passed on as one, or cut
between rows.
"""

from __future__ import annotations

import struct
from typing import Final

from logstitch.detection.facts import Fact

COLUMNS: Final = "seq, id, received_at, occurred_at, action, tenant_id, actor_id, ip_address"
"""What is to be copied, in this order: int8, uuid, twice timestamptz, four times text, of which only the last may be
NULL."""

_SIGNATURE: Final = b"PGCOPY\n\xff\r\n\0"
_TRAILER: Final = b"\xff\xff"
_FIXED = struct.Struct(">h iq i16s iq iq i")  # as far as the length of the action
_LENGTH = struct.Struct(">i")
_PREFIX: Final = (8, 8, 16, 8, 8)
"""The number of fields, and the lengths of the first four."""
_EPOCH_MS: Final = 946_684_800_000
"""2000-01-01T00:00:00Z, from which the server counts microseconds."""


def parse_rows(data: bytes) -> list[Fact]:
    """The facts in ``data``, which ends with a whole row. Raises ``ValueError`` for anything else."""
    try:
        return _parse(data)
    except struct.error:
        raise ValueError("a row is cut short") from None


def _parse(data: bytes) -> list[Fact]:
    facts: list[Fact] = []
    at, end = 0, len(data)
    head, fixed = _FIXED.unpack_from, _FIXED.size
    while at < end:
        if data[at]:  # The number of fields begins with a zero.
            at = _skip(data, at)
            continue
        fields, of_seq, seq, of_id, event_id, of_received, received, of_occurred, occurred, length = head(data, at)
        if (fields, of_seq, of_id, of_received, of_occurred) != _PREFIX:
            raise ValueError("a row is not of the columns that are expected")
        at += fixed
        action, at = _text(data, at, length)
        tenant_id, at = _text(data, at + 4, *_LENGTH.unpack_from(data, at))
        actor_id, at = _text(data, at + 4, *_LENGTH.unpack_from(data, at))
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        address = None
        if length >= 0:
            address, at = _text(data, at, length)
        received_ms, occurred_ms = received // 1000 + _EPOCH_MS, occurred // 1000 + _EPOCH_MS
        facts.append(Fact(seq, event_id, received_ms, occurred_ms, action, tenant_id, actor_id, address))
    if at != end:
        raise ValueError("a row is cut short")
    return facts


def _text(data: bytes, at: int, length: int) -> tuple[str, int]:
    """A value, and where it ends."""
    if length < 0:
        raise ValueError("a value is missing")
    end = at + length
    return data[at:end].decode(), end


def _skip(data: bytes, at: int) -> int:
    """The end of a header or a trailer."""
    if data.startswith(_TRAILER, at):
        return at + len(_TRAILER)
    if not data.startswith(_SIGNATURE, at):
        raise ValueError("a row is not of the columns that are expected")
    extension = at + len(_SIGNATURE) + 4  # after the flags
    (length,) = _LENGTH.unpack_from(data, extension)
    if length < 0:
        raise ValueError("a header is not as it must be")
    return extension + 4 + int(length)
