"""Stored events in bulk, in the order of ``seq``, as facts for detection: what alert rules are tried on.

Facts are handed on as the server sends them, in the binary form of COPY, since whoever needs them is another process.
Which events were received in a range of time is found by halving, which takes the order of ``seq`` for that of
``received_at``: it may be off by ``disorder_ms``, and then the range of ``seq`` is wider and the exact bounds are
looked at event by event.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from logstitch.store.alerts import find_head
from logstitch.store.database import Connection
from logstitch.store.queries import load
from logstitch.times import MAX_MS, MIN_MS, from_ms

_sql = load("timemachine")

CHUNK_BYTES: Final = 1024 * 1024
"""Of facts that are handed on together; one fact more where that many are reached."""

_SUBMILLISECOND: Final = timedelta(microseconds=999)


@dataclass(frozen=True, slots=True)
class Span:
    """The events that were received from ``start`` to ``end``, both included: among those from ``first`` to ``last``
    (by ``seq``), and, from ``solid_first`` to ``solid_last``, all of those."""

    start: datetime
    end: datetime
    first: int
    last: int
    solid_first: int
    solid_last: int


def find_span(conn: Connection, project_no: int, *, start_ms: int | None, end_ms: int | None, disorder_ms: int) -> Span:
    """The events that are stored now and were received between two times (both included)."""
    newest = find_head(conn, project_no)
    first = solid_first = 1
    last = solid_last = newest

    def reaching(ms: int) -> int:
        """The first event that was received then or later, or where one would stand."""
        values = {"project_no": project_no, "newest": newest, "at": _bound(ms)}
        found = conn.execute(_sql.first_seq, values).fetchone()
        if found is None:
            raise LookupError(f"project {project_no} has no event of a number below its newest")
        return int(found[0])

    if start_ms is not None:
        first, solid_first = reaching(start_ms - disorder_ms), reaching(start_ms + disorder_ms)
    if end_ms is not None:
        solid_last, last = reaching(end_ms + 1 - disorder_ms) - 1, reaching(end_ms + 1 + disorder_ms) - 1
    return Span(
        _bound(MIN_MS if start_ms is None else start_ms),
        _bound(MAX_MS if end_ms is None else end_ms) + _SUBMILLISECOND,
        first,
        last,
        solid_first,
        solid_last,
    )


def copy_facts(
    conn: Connection,
    project_no: int,
    span: Span,
    first: int,
    last: int,
    *,
    actions: Sequence[str] | None,
    addresses: bool,
) -> tuple[int, list[bytes]]:
    """How many events of the span there are from ``first`` to ``last``, and the facts of them, as COPY sends them.
    Those that were claimed from a stream count for nothing.

    Only those with one of ``actions``, if not ``None``; the address is NULL unless ``addresses`` are wanted, which cost
    as much as the rest. The columns are those of ``detection.rows.COLUMNS``. What is handed on ends with a whole row.
    """
    conn.execute(_sql.settle_plans)
    solid = span.solid_first <= first and last <= span.solid_last
    count, chunks = 0, list[bytes]()
    for low, high in _unclaimed(conn, project_no, first, last):
        values: dict[str, Any] = {
            "project_no": project_no,
            "first": low,
            "last": high,
            "start": span.start,
            "end": span.end,
            "actions": None if actions is None else list(actions),
        }
        count += high - low + 1 if solid else _count(conn, values)
        if actions is None or actions:
            statement = _sql.copy_facts_with_addresses if addresses else _sql.copy_facts
            with conn.cursor() as cursor, cursor.copy(statement, values) as copy:
                chunks += _chunks(copy)
    return count, chunks


def _unclaimed(conn: Connection, project_no: int, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The parts of a range of ``seq`` whose events were not claimed from a stream: those are no facts."""
    claims: Sequence[tuple[int, int]] = conn.execute(
        _sql.list_claims, {"project_no": project_no, "first": first, "last": last}
    ).fetchall()
    for claimed_first, claimed_last in claims:
        if first < claimed_first:
            yield first, claimed_first - 1
        first = claimed_last + 1
    if first <= last:
        yield first, last


def _count(conn: Connection, values: dict[str, Any]) -> int:
    row = conn.execute(_sql.count_events, values).fetchone()
    return int(row[0]) if row else 0


def _chunks(rows: Iterable[bytes | bytearray | memoryview]) -> Iterable[bytes]:
    """The rows, some together. The server sends each by itself."""
    some: list[bytes | bytearray | memoryview] = []
    size = 0
    for row in rows:
        some.append(row)
        size += len(row)
        if size >= CHUNK_BYTES:
            yield b"".join(some)
            some, size = [], 0
    if some:
        yield b"".join(some)


def _bound(ms: int) -> datetime:
    # It may lie just beyond the years that datetime and events have.
    return from_ms(min(max(ms, MIN_MS), MAX_MS))
