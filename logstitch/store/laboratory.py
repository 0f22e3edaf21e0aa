"""Stored events in bulk, newest first, a bounded number of bytes at a time: what a rule is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from operator import itemgetter
from typing import Final
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.queries import load
from logstitch.store.reading import settle_plans
from logstitch.times import MAX_MS, MIN_MS, from_ms, to_ms

_sql = load("laboratory")

_SUBMILLISECOND: Final = timedelta(microseconds=999)
_LOWEST_ID: Final = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Bodies:
    """Some events: for each its ``occurred_at`` in milliseconds, its id, and its body as it is stored (UTF-8).

    ``last``: nothing of the range is behind them.
    """

    events: tuple[tuple[int, UUID, bytes], ...]
    last: bool


def next_bodies(
    conn: Connection,
    project_no: int,
    *,
    start_ms: int | None,
    end_ms: int | None,
    after: tuple[int, UUID] | None,
    events: int,
    max_bytes: int,
) -> Bodies:
    """The next ``events`` events at most, newest first, between two times (both included), behind ``after``.

    Fewer where their bodies together would be more than ``max_bytes``, beyond the first that reaches it.
    """
    high = (min(MAX_MS if end_ms is None else end_ms, MAX_MS), None) if after is None else after
    settle_plans(conn)
    values = {
        "project_no": project_no,
        "low": from_ms(MIN_MS if start_ms is None else max(start_ms, MIN_MS)),
        # The bound itself is not included; a place between two milliseconds is behind all of the first.
        "high": from_ms(high[0]) + (_SUBMILLISECOND if high[1] is None else timedelta()),
        "high_id": high[1] or _LOWEST_ID,
        "events": events,
        "bytes": max_bytes,
    }
    rows = conn.cursor(binary=True).execute(_sql.next_bodies, values).fetchall()
    found = [(to_ms(at), event_id, bytes(body)) for event_id, at, body, _ in rows]
    found.sort(key=itemgetter(0, 1), reverse=True)  # They come so, but nobody has promised it.
    return Bodies(tuple(found), not rows or len(rows) == rows[0][3] < events)
