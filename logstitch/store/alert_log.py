"""Alerts that have fired: pages of them, newest first; one of them; and what was done about it.

A page costs what a bounded number of alerts costs, however rare those are that are wanted: it may hold fewer than asked
for, and say where to go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.rows import TupleRow

from logstitch.store.database import Connection
from logstitch.store.queries import load
from logstitch.times import MAX_MS, MIN_MS, from_ms

_sql = load("alert_log")

MAX_WALK: Final = 20_000
"""Alerts that are looked at for one page: some 20 ms."""

_LOWEST_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert. ``event_ids`` are the newest of its events, oldest first."""

    id: UUID
    rule_id: str
    rule_name: str
    severity: str
    status: str
    group_by: str
    group_key: str
    tenant_id: str
    event_count: int
    event_ids: tuple[UUID, ...]
    threshold: int
    window_seconds: int
    triggered_at: datetime
    acknowledged_at: datetime | None
    resolved_at: datetime | None


class Place(NamedTuple):
    """Where an alert stands in the order of a list."""

    triggered_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list is of; times are of ``triggered_at``, both included, in milliseconds. ``None`` is anything."""

    status: str | None = None
    severity: str | None = None
    rule_id: str | None = None
    group_key: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None


def list_alerts(
    conn: Connection, project_no: int, wanted: Wanted, *, limit: int, after: Place | None, walk: int = MAX_WALK
) -> tuple[list[AlertRow], Place | None]:
    """At most ``limit`` alerts behind ``after``, newest first, among the next ``walk`` ones; and the place to go on
    from, ``None`` at the end. To be called in a snapshot."""
    end_ms = MAX_MS if wanted.end_ms is None else min(wanted.end_ms, MAX_MS)
    # The bound itself is not included; a place between two milliseconds is behind all of the first.
    high = after or Place(from_ms(end_ms) + timedelta(microseconds=999), _LOWEST_ID)
    values = {
        "project_no": project_no,
        "status": wanted.status,
        "severity": wanted.severity,
        "rule_id": wanted.rule_id,
        "group_key": wanted.group_key,
        "low": from_ms(MIN_MS if wanted.start_ms is None else max(wanted.start_ms, MIN_MS)),
        "high": high.triggered_at,
        "high_id": high.id,
        "walk": walk,
        "limit": limit + 1,
    }
    of_one_group = wanted.rule_id is not None and wanted.group_key is not None
    conn.execute(_sql.settle_plans)
    rows = list(map(_row, conn.execute(_sql.walk_fired if of_one_group else _sql.walk_newest, values)))
    rows.sort(key=attrgetter("triggered_at", "id"), reverse=True)  # They come so, but nobody has promised it.
    if len(rows) > limit:
        return rows[:limit], Place(rows[limit - 1].triggered_at, rows[limit - 1].id)
    last = conn.execute(_sql.end_of_fired if of_one_group else _sql.end_of_newest, values).fetchone()
    return rows, None if last is None else Place(*last)


def find_alert(conn: Connection, project_no: int, alert_id: UUID) -> AlertRow | None:
    """One alert of the project."""
    row = conn.execute(_sql.find_alert, {"project_no": project_no, "alert_id": alert_id}).fetchone()
    return None if row is None else _row(row)


def save_status(conn: Connection, project_no: int, row: AlertRow) -> None:
    """Store the alert's status, and since when it has it. Whoever decides over the status holds the head row."""
    conn.execute(
        _sql.set_status,
        {
            "project_no": project_no,
            "alert_id": row.id,
            "status": row.status,
            "acknowledged_at": row.acknowledged_at,
            "resolved_at": row.resolved_at,
        },
    )


def _row(row: TupleRow) -> AlertRow:
    values: list[Any] = [tuple(value) if isinstance(value, list) else value for value in row]
    return AlertRow(*values)
