"""Writing events: the verbs of the one transaction that stores a group of them.

Rows go in through binary COPY, which costs a tenth of what INSERT does in client CPU. The row format is built by hand
here, because what does not depend on the transaction (everything but numbers and the facets' prefix) is laid out
before the transaction begins: ``row_tail``. Formats: PostgreSQL documentation, "COPY, Binary Format" and the receive
functions of the types.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("events")

_POSTGRES_EPOCH_MS = 946_684_800_000
"""2000-01-01T00:00:00Z in milliseconds since the Unix epoch: timestamptz counts from there."""

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"
_COLUMNS = 19
_PIECE_BYTES = 1024 * 1024
"""Of rows that are sent together: the server stores them while the next ones are made. As much as most groups have,
since the interpreter's lock is let go of for each, and has to be waited for."""
_head = struct.Struct("!h ii iq ii iq ii").pack  # every column is its length and its bytes
_first = struct.Struct("!i16s iq iq").pack
_length = struct.Struct("!i").pack
_LENGTHS = tuple(map(_length, range(4096)))
"""The lengths of common columns, made once: looking up is cheaper than a call."""
_NULL = _length(-1)


@dataclass(frozen=True, slots=True)
class Head:
    """A project's head row: the newest ``seq``, how many events were stored on UTC day ``day``, and the version of the
    redaction rules, which every change of them raises and nothing here writes."""

    seq: int
    day: date
    day_events: int
    rules_version: int = 0


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's log head: its short number, its leaves and the right-edge hashes (RFC 6962)."""

    no: int
    size: int
    edge: bytes


@dataclass(frozen=True, slots=True)
class StoredKey:
    """What an idempotency key already stands for: the event's id (16 bytes) and the digest of the event as it was
    sent."""

    id: bytes
    digest: bytes


def lock_head(
    conn: Connection, project_no: int, key_hashes: Collection[bytes] = ()
) -> tuple[Head, dict[bytes, StoredKey]]:
    """Take the project's head row until the transaction ends, where whoever writes the project's events waits; and, as
    of then, what those of the idempotency keys (by hash, 16 bytes) stand for that the project already has.

    Two statements, since each sees what was committed before it began; sent together, since a round trip costs more
    than either.
    """
    values = {"project_no": project_no, "key_hashes": _array(map(bytes.hex, key_hashes))}
    with conn.pipeline():
        head = conn.execute(_sql.lock_head, {"project_no": project_no})
        keys = conn.execute(_sql.find_keys, values) if key_hashes else ()
    row = head.fetchone()
    if row is None:
        raise LookupError(f"project {project_no} has no head row")
    return Head(*row), {key_hash.bytes: StoredKey(event_id.bytes, digest) for key_hash, event_id, digest in keys}


def has_event(conn: Connection, project_no: int, event_id: UUID) -> bool:
    """Whether the event is stored: how a transaction that is run again finds out that it had committed after all."""
    row = conn.execute(_sql.has_event, {"project_no": project_no, "id": event_id}).fetchone()
    return row is not None and bool(row[0])


def find_tenants(conn: Connection, project_no: int, tenant_ids: Iterable[str]) -> dict[str, Tenant]:
    """The log heads of those of the tenants that have events."""
    rows = conn.execute(_sql.find_tenants, {"project_no": project_no, "tenant_ids": list(tenant_ids)})
    return {tenant_id: Tenant(no, size, edge) for tenant_id, no, size, edge in rows}


def count_tenants(conn: Connection, project_no: int) -> int:
    """The highest tenant number in use, 0 for none."""
    row = conn.execute(_sql.count_tenants, {"project_no": project_no}).fetchone()
    return int(row[0]) if row else 0


def save_heads(
    conn: Connection,
    project_no: int,
    head: Head,
    tenants: Mapping[str, Tenant],
    spans: Mapping[int, tuple[int, int]],
    subtrees: Sequence[tuple[int, int, bytes]] = (),
    actions: Collection[str] = (),
) -> None:
    """Write all that moves forward with a group: the project's head; the log heads of the group's tenants (by tenant
    id, new ones included) and the hashes of the 256-leaf subtrees that became complete (tenant number, subtree, hash);
    the spans of the segments that it wrote to, segment → (oldest, newest) occurred_at in milliseconds, which only ever
    widen; and the project's actions, of which known ones are left alone."""
    conn.execute(
        _sql.save_heads,
        {
            "project_no": project_no,
            "seq": head.seq,
            "day": head.day,
            "day_events": head.day_events,
            "tenant_nos": _array([str(tenant.no) for tenant in tenants.values()]),
            "tenant_ids": list(tenants),
            "sizes": _array([str(tenant.size) for tenant in tenants.values()]),
            "edges": _array(_bytea(tenant.edge) for tenant in tenants.values()),
            "segments": list(spans),
            "oldest": [oldest for oldest, _ in spans.values()],
            "newest": [newest for _, newest in spans.values()],
            "subtree_nos": [no for no, _, _ in subtrees],
            "subtrees": [subtree for _, subtree, _ in subtrees],
            "hashes": _array(_bytea(root) for _, _, root in subtrees),
            "actions": sorted(actions),
        },
    )


def row_tail(
    event_id: bytes,
    occurred_at_ms: int,
    received_at_ms: int,
    action: str,
    category: str,
    actor_id: str,
    actor_type: str,
    target_id: str | None,
    target_type: str | None,
    key_hash: bytes | None,
    key_digest: bytes | None,
    content_hash: bytes,
    salts: bytes,
    body: bytes,
) -> bytes:
    """The columns of a row that no transaction decides, laid out for COPY, in the order of the arguments."""
    lengths = _LENGTHS
    first = _first(
        16,
        event_id,
        8,
        (occurred_at_ms - _POSTGRES_EPOCH_MS) * 1000,
        8,
        (received_at_ms - _POSTGRES_EPOCH_MS) * 1000,
    )
    fields = (
        action.encode(),
        category.encode(),
        actor_id.encode(),
        actor_type.encode(),
        None if target_id is None else target_id.encode(),
        None if target_type is None else target_type.encode(),
        key_hash,
        key_digest,
        content_hash,
        salts,
    )
    # No text column but the body is longer than 256 characters, so 1,024 bytes; unless redaction made it longer, which
    # may put a hash in the place of every character.
    try:
        some = [_NULL if field is None else lengths[len(field)] + field for field in fields]
    except IndexError:
        some = [_NULL if field is None else _length(len(field)) + field for field in fields]
    return b"".join((first, *some, _length(len(body)), body))


def row(
    project_no: int,
    seq: int,
    tenant_no: int,
    tenant_seq: int,
    facet_prefix: bytes,
    facets: Sequence[bytes],
    tail: bytes,
) -> bytes:
    """One event for ``copy_events``. Every facet is stored with ``facet_prefix``; the server sorts them."""
    lexemes = facet_prefix + (b"\0\0\0" + facet_prefix).join(facets) + b"\0\0\0"
    head = _head(
        _COLUMNS, 4, project_no, 8, seq, 4, tenant_no, 8, tenant_seq, len(lexemes) + 4, len(facets)
    )  # fmt: skip
    return b"".join((head, lexemes, tail))


def copy_events(conn: Connection, rows: Iterable[bytes], meanwhile: Callable[[], None] = lambda: None) -> None:
    """Store the rows in one COPY. ``meanwhile`` is called when all are sent, and the server is still at it."""
    with conn.cursor() as cursor, cursor.copy(_sql.copy_events) as copy:
        piece, size = [_HEADER], 0
        for made in rows:
            piece.append(made)
            size += len(made)
            if size >= _PIECE_BYTES:
                copy.write(b"".join(piece))
                piece, size = [], 0
        copy.write(b"".join((*piece, _TRAILER)))
        meanwhile()


def _array(items: Iterable[str]) -> str:
    """The text of an array whose items need no quotes. psycopg's own way looks at every item for what it might be,
    which took longer than everything else that a transaction does here."""
    return f"{{{','.join(items)}}}"


def _bytea(value: bytes) -> str:
    """As an item of ``_array``: PostgreSQL's hex format, with its backslash escaped for the array."""
    return rf"\\x{value.hex()}"
