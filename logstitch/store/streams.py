"""Anonymous streams: verbs of the transactions that fill, claim and end them.

A stream is found by the digest of its token and locked by whoever changes it, so that what is stored, what is claimed
and what is removed agree. What streams come to altogether is one row, which is written last of all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.events import StoredKey
from logstitch.store.queries import load
from logstitch.streams import LIFE_DAYS, StreamStatus

_sql = load("streams")


@dataclass(frozen=True, slots=True)
class StreamRow:
    """A stream. ``status`` is what is written: an active one that is past ``expires_at`` has expired all the same."""

    digest: bytes
    no: int
    secret: bytes | None
    status: StreamStatus
    created_at: datetime
    expires_at: datetime
    last_event_at: datetime | None
    claimed_at: datetime | None
    claimed_by: int | None
    """The project's number."""
    event_count: int
    day: date
    day_events: int
    bytes: int
    """Of its events that are still here."""

    def status_at(self, now: datetime) -> StreamStatus:
        """Where it stands at ``now``."""
        if self.status is StreamStatus.ACTIVE and now >= self.expires_at:
            return StreamStatus.EXPIRED
        return self.status


@dataclass(frozen=True, slots=True)
class NewStream:
    """A stream to be made; ``secret`` are 32 fresh random bytes."""

    digest: bytes
    secret: bytes
    created_at: datetime


class NewEvent(NamedTuple):
    """An event to be stored in a stream, as number ``n`` of it. ``redactions`` is JSON, where there are any."""

    stream_no: int
    n: int
    id: UUID
    received_at_ms: int
    occurred_at_ms: int
    body: str
    redactions: str | None
    key_hash: UUID | None
    key_digest: bytes | None
    size: int


class EventRow(NamedTuple):
    """An event of a stream, as it is claimed."""

    n: int
    id: UUID
    received_at_ms: int
    occurred_at_ms: int
    body: str
    redactions: str | None
    stream_no: int
    key_digest: bytes | None


@dataclass(frozen=True, slots=True)
class Totals:
    """All streams that are still active, and the bytes of all events that are still here."""

    streams: int
    bytes: int


# -- finding --------------------------------------------------------------------------------------------------------


def find_streams(conn: Connection, digests: Collection[bytes]) -> dict[bytes, StreamRow]:
    """Those of the streams that there are, by their digests."""
    return _rows(conn, _sql.find_streams, digests)


def lock_streams(conn: Connection, digests: Collection[bytes]) -> dict[bytes, StreamRow]:
    """The same, and nobody else changes them until the transaction ends."""
    return _rows(conn, _sql.lock_streams, digests)


def find_keys(conn: Connection, keys: Collection[tuple[int, bytes]]) -> dict[tuple[int, bytes], StoredKey]:
    """What those idempotency keys stand for that the streams already have; a key is a stream's number and a hash."""
    if not keys:
        return {}
    values = {"stream_nos": [no for no, _ in keys], "key_hashes": [UUID(bytes=key_hash) for _, key_hash in keys]}
    return {
        (no, key_hash.bytes): StoredKey(event_id.bytes, digest)
        for no, key_hash, event_id, digest in conn.execute(_sql.find_keys, values)
    }


def has_event(conn: Connection, stream_no: int, n: int, event_id: UUID) -> bool:
    """Whether this is the stream's event of that number: how a transaction finds out that it had committed before."""
    row = conn.execute(_sql.has_event, {"stream_no": stream_no, "n": n, "id": event_id}).fetchone()
    return row is not None and bool(row[0])


def read_totals(conn: Connection) -> Totals:
    """What all streams come to, as far as it is committed."""
    row = conn.execute(_sql.totals).fetchone()
    assert row is not None  # noqa: S101  (the migration made it)
    return Totals(*row)


def read_events(conn: Connection, stream_no: int, after: int, through: int) -> list[EventRow]:
    """The stream's events behind number ``after``, up to and with ``through``, in their order."""
    values = {"stream_no": stream_no, "after": after, "through": through}
    return [EventRow(*row) for row in conn.execute(_sql.read_events, values)]


def _rows(conn: Connection, statement: Any, digests: Collection[bytes]) -> dict[bytes, StreamRow]:
    rows = conn.execute(statement, {"digests": sorted(digests)})
    found = [
        StreamRow(bytes(digest), no, secret, StreamStatus(status), *rest) for digest, no, secret, status, *rest in rows
    ]
    return {row.digest: row for row in found}


# -- filling --------------------------------------------------------------------------------------------------------


def insert_streams(conn: Connection, streams: Sequence[NewStream]) -> set[int]:
    """Make those that are not there; returns the numbers of those that were made."""
    if not streams:
        return set()
    values = {
        "digests": [stream.digest for stream in streams],
        "secrets": [stream.secret for stream in streams],
        "created_at": [stream.created_at for stream in streams],
        "days": LIFE_DAYS,
    }
    return {no for (no,) in conn.execute(_sql.insert_streams, values)}


def insert_events(conn: Connection, events: Sequence[NewEvent]) -> None:
    """Store the events."""
    columns: dict[str, list[Any]] = {
        "stream_nos": [event.stream_no for event in events],
        "numbers": [event.n for event in events],
        "ids": [event.id for event in events],
        "received_ms": [event.received_at_ms for event in events],
        "occurred_ms": [event.occurred_at_ms for event in events],
        "bodies": [event.body for event in events],
        "redactions": [event.redactions for event in events],
        "key_hashes": [event.key_hash for event in events],
        "key_digests": [event.key_digest for event in events],
        "sizes": [event.size for event in events],
    }
    conn.execute(_sql.insert_events, columns)


def save_streams(conn: Connection, streams: Sequence[StreamRow]) -> None:
    """Write what events change of a stream: their count, their bytes, the day's, and when the last one came."""
    values = {
        "stream_nos": [stream.no for stream in streams],
        "last_event_at": [stream.last_event_at for stream in streams],
        "event_counts": [stream.event_count for stream in streams],
        "days": [stream.day for stream in streams],
        "day_events": [stream.day_events for stream in streams],
        "bytes": [stream.bytes for stream in streams],
    }
    conn.execute(_sql.save_streams, values)


def forget_streams(conn: Connection, stream_nos: Collection[int]) -> None:
    """Remove streams that were made in this transaction and got no event."""
    if stream_nos:
        conn.execute(_sql.forget_streams, {"stream_nos": list(stream_nos)})


def add_to_totals(conn: Connection, *, streams: int, bytes: int) -> None:
    """Count more, or less, of both. Whoever changes the totals waits from here on: the last thing of a transaction."""
    if streams or bytes:
        conn.execute(_sql.add_to_totals, {"streams": streams, "bytes": bytes})


# -- claiming -------------------------------------------------------------------------------------------------------


def mark_claimed(conn: Connection, stream_no: int, *, project_no: int, now: datetime) -> None:
    """Make it the project's. To be called under its lock."""
    conn.execute(_sql.mark_claimed, {"stream_no": stream_no, "project_no": project_no, "now": now})


def delete_events(conn: Connection, stream_no: int) -> None:
    """Remove all its events."""
    conn.execute(_sql.delete_events, {"stream_no": stream_no})


def insert_claim(
    conn: Connection, project_no: int, first_seq: int, last_seq: int, stream: StreamRow, *, now: datetime
) -> None:
    """Say which of the project's events were claimed, and keep the secret of their stream, as it was before. To be
    called under the project's head row."""
    values = {
        "project_no": project_no,
        "first_seq": first_seq,
        "last_seq": last_seq,
        "now": now,
        "stream_no": stream.no,
        "secret": stream.secret,
    }
    conn.execute(_sql.insert_claim, values)


def claim_secrets(conn: Connection, project_no: int, stream_nos: Collection[int]) -> dict[int, bytes]:
    """The secrets of those of the streams that the project has claimed, by their numbers."""
    if not stream_nos:
        return {}
    values = {"project_no": project_no, "stream_nos": sorted(stream_nos)}
    return {no: bytes(secret) for no, secret in conn.execute(_sql.claim_secrets, values)}


# -- ending ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reaped:
    """What one step has done: streams that ended, and events that were removed. Nothing of both: there is nothing to
    do, or others are at it."""

    streams: int
    events: int

    def __bool__(self) -> bool:
        return self.streams > 0 or self.events > 0


def reap(conn: Connection, now: datetime, limit: int) -> Reaped:
    """End at most ``limit`` streams whose time is over, and remove at most ``limit`` of their events.

    A stream ends before the first of its events goes: whoever claims gets all of it or nothing, whatever their clock.
    """
    rows: Sequence[Any] = conn.execute(_sql.claim_expired, {"now": now, "limit": limit}).fetchall()
    if not rows:
        return Reaped(0, 0)
    ending = [no for no, status in rows if status == StreamStatus.ACTIVE]
    if ending:
        conn.execute(_sql.mark_expired, {"stream_nos": ending})
    freed: dict[int, int] = {}
    count = 0
    for no, size in conn.execute(_sql.delete_some_events, {"stream_nos": [no for no, _ in rows], "limit": limit}):
        freed[no] = freed.get(no, 0) + size
        count += 1
    _take_bytes(conn, freed)
    add_to_totals(conn, streams=-len(ending), bytes=-sum(freed.values()))
    return Reaped(len(ending), count)


def _take_bytes(conn: Connection, freed: Mapping[int, int]) -> None:
    if freed:
        conn.execute(_sql.take_bytes, {"stream_nos": list(freed), "bytes": list(freed.values())})
