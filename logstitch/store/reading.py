"""Reading events: the look-ups that a page is made of, each with one way to its rows that the planner cannot leave.

All of a page's look-ups run in one read-only transaction, after ``settle_plans``: they see one snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.queries import load
from logstitch.times import MAX_MS, MIN_MS, from_ms, to_ms

_sql = load("reading")

SHORT_BYTES: Final = 8192
"""Bodies up to here are read, or looked through, many at once."""
LOOK_ACTIONS: Final = 20_000
"""Distinct actions that are compared with a pattern."""

Row = tuple[int, UUID, int]
"""An event's occurred_at in milliseconds, its id, its seq."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What an event's columns must be; ``None`` lets anything pass.

    ``actions``: one of these. ``action_like``: a LIKE pattern, where there are too many to name. ``shown_categories``
    and ``shown_actions`` (LIKE patterns) are what the reader is shown at all, whatever else is asked for: one of these.
    """

    tenant_no: int | None = None
    actor_id: str | None = None
    actor_type: str | None = None
    actions: tuple[str, ...] | None = None
    action_like: str | None = None
    category: str | None = None
    target_id: str | None = None
    target_type: str | None = None
    shown_categories: tuple[str, ...] | None = None
    shown_actions: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """From (``low_ms``, ``low_id``) up to, and without, (``high_ms``, ``high_id``), in the given order."""

    low_ms: int
    low_id: UUID
    high_ms: int
    high_id: UUID
    newest_first: bool


def settle_plans(conn: Connection) -> None:
    """Take from the planner, until the transaction ends, what it must not choose. To be called before the rest."""
    conn.execute(_sql.settle_plans)


def find_tenant(conn: Connection, project_no: int, tenant_id: str) -> int | None:
    """The tenant's short number, ``None`` for one without events."""
    row = conn.execute(_sql.find_tenant, {"project_no": project_no, "tenant_id": tenant_id}).fetchone()
    return None if row is None else int(row[0])


def find_actions(conn: Connection, project_no: int, pattern: str, limit: int, head: str = "") -> list[str] | None:
    """The project's actions that are LIKE ``pattern``, in no order; ``None`` when there are more than ``limit``.

    All that pass must begin with ``head``. Where more than LOOK_ACTIONS do, that is ``None``, too.
    """
    values = {"project_no": project_no, "pattern": pattern, "head": head, "look": LOOK_ACTIONS + 1}
    looked, actions = conn.execute(_sql.find_actions, values).fetchone() or (0, [])
    return None if looked > LOOK_ACTIONS or len(actions) > limit else actions


def find_event(conn: Connection, project_no: int, event_id: UUID) -> str | None:
    """The body of one event."""
    row = conn.execute(_sql.find_event, {"project_no": project_no, "id": event_id}).fetchone()
    return None if row is None else str(row[0])


def find_shown_event(
    conn: Connection,
    project_no: int,
    event_id: UUID,
    tenant_id: str,
    categories: Sequence[str] | None,
    actions: Sequence[str] | None,
) -> str | None:
    """The body of one event of a tenant, if its category is one of these and its action LIKE one of those."""
    values = {
        "project_no": project_no,
        "id": event_id,
        "tenant_id": tenant_id,
        "shown_categories": _list(categories),
        "shown_actions": _list(actions),
    }
    row = conn.execute(_sql.find_shown_event, values).fetchone()
    return None if row is None else str(row[0])


def find_bodies(conn: Connection, project_no: int, seqs: Sequence[int]) -> dict[int, tuple[int, str | None]]:
    """The sizes, in bytes, and the bodies of these events, by seq; ``None`` for a body over SHORT_BYTES."""
    values = {"project_no": project_no, "seqs": list(seqs), "short": SHORT_BYTES}
    rows = conn.cursor(binary=True).execute(_sql.find_bodies, values)
    return {seq: (size, body) for seq, size, body in rows}


def find_body(conn: Connection, project_no: int, seq: int) -> str:
    """The body of one event, which must be there."""
    row = conn.cursor(binary=True).execute(_sql.find_body, {"project_no": project_no, "seq": seq}).fetchone()
    if row is None:
        raise LookupError(f"project {project_no} has no event {seq}")
    return str(row[0])


def find_spans(conn: Connection, project_no: int) -> list[tuple[int, int, int, bool]]:
    """Every segment: its number, the milliseconds of its oldest and newest event, whether its words are indexed."""
    return conn.cursor(binary=True).execute(_sql.find_spans, {"project_no": project_no}).fetchall()


def walk(
    conn: Connection, project_no: int, columns: Columns, within: Range, events: int, limit: int
) -> tuple[list[Row], Row | None]:
    """Those that pass, at most ``limit``, among the next ``events`` events, along the tenant's index if there is one.

    Also the last event that was looked at (with ``limit`` of them, the last of these), or ``None`` when there were
    fewer than ``events``.
    """
    if columns.tenant_no is None:
        statement = _sql.walk_desc if within.newest_first else _sql.walk_asc
    else:
        statement = _sql.walk_tenant_desc if within.newest_first else _sql.walk_tenant_asc
    values = _parameters(project_no, columns, within) | {"events": events, "limit": limit}
    rows = conn.cursor(binary=True).execute(statement, values).fetchall()
    passing = [_row(seq, at, event_id) for seq, at, event_id, passes, _ in rows if passes]
    if not rows or rows[0][4] < events:
        return passing, None
    return passing, _row(*rows[-1][:3])


def find_having(
    conn: Connection, project_no: int, columns: Columns, within: Range, query: str, limit: int
) -> list[Row]:
    """The first ``limit`` events, in order, of those that the inverted index has for the tsquery ``query``."""
    return _look(conn, _sql.find_having, project_no, columns, within, limit, query=query)


def find_seqs_having(conn: Connection, project_no: int, query: str) -> list[int]:
    """All events, in no order, that the inverted index has for ``query``; no column is looked at."""
    rows = conn.cursor(binary=True).execute(_sql.find_seqs_having, {"project_no": project_no, "query": query})
    return [seq for (seq,) in rows]


def find_among(
    conn: Connection, project_no: int, columns: Columns, within: Range, seqs: Sequence[int], limit: int
) -> list[Row]:
    """The first ``limit`` events, in order, of these."""
    return _look(conn, _sql.find_among, project_no, columns, within, limit, seqs=list(seqs))


def find_possible(
    conn: Connection,
    project_no: int,
    columns: Columns,
    within: Range,
    seqs: range,
    words: Sequence[bytes],
    limit: int,
) -> list[Row]:
    """The first ``limit`` events, in order, of a range of seqs, that may hold words which begin with ``words``.

    Words are folded letters and digits, so none of them means something to LIKE. None is left out that holds them
    all; bodies over SHORT_BYTES, or with other characters than ASCII, are for the caller to judge.
    """
    return _look(
        conn,
        _sql.find_possible,
        project_no,
        columns,
        within,
        limit,
        after_seq=seqs.start - 1,
        last_seq=seqs.stop - 1,
        short=SHORT_BYTES,
        patterns=[f"%{word.decode()}%" for word in words],
    )


def _look(
    conn: Connection, statement: Any, project_no: int, columns: Columns, within: Range, limit: int, **values: object
) -> list[Row]:
    parameters = _parameters(project_no, columns, within) | values | {"limit": limit}
    rows = conn.cursor(binary=True).execute(statement, parameters).fetchall()
    return [_row(seq, at, event_id) for seq, at, event_id in rows]


def _parameters(project_no: int, columns: Columns, within: Range) -> dict[str, object]:
    return asdict(columns) | {
        "project_no": project_no,
        "actions": _list(columns.actions),
        "shown_categories": _list(columns.shown_categories),
        "shown_actions": _list(columns.shown_actions),
        "low": _bound(within.low_ms),
        "low_id": within.low_id,
        "high": _bound(within.high_ms),
        "high_id": within.high_id,
        "newest_first": within.newest_first,
    }


def _list(values: Sequence[str] | None) -> list[str] | None:
    return None if values is None else list(values)


def _row(seq: int, occurred_at: datetime, event_id: UUID) -> Row:
    return to_ms(occurred_at), event_id, seq


def _bound(ms: int) -> datetime:
    # It may lie just beyond the years that datetime and events have.
    return datetime.max.replace(tzinfo=UTC) if ms > MAX_MS else from_ms(max(ms, MIN_MS))
