"""The outbox in a real database: claims, outcomes, and how deliveries stand."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any
from uuid import UUID

from logstitch.recording.webhooks import Ending
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.webhooks import Claim, WebhookRow

ADA = UUID(int=7)
START = 0
MINUTE = timedelta(minutes=1)
FAILED = Ending(500, "http_error", 3)
DELIVERED = Ending(200, None, 3)


def claim(
    conn: Connection,
    *,
    limit: int = 64,
    each: int = 4,
    each_project: int = 64,
    busy: dict[tuple[int, UUID], int] | None = None,
    lease: timedelta = MINUTE,
    after: int = START,
) -> list[Claim]:
    """Claim what is due, and commit."""
    found = store.claim_deliveries(
        conn, limit=limit, each=each, each_project=each_project, busy=busy or {}, lease=lease, after=after
    )
    conn.commit()
    return found


def claim_one(conn: Connection) -> Claim:
    (found,) = claim(conn)
    return found


def pass_time(conn: Connection, seconds: float) -> None:
    """As if every delivery had been due that much earlier."""
    conn.execute("UPDATE deliveries SET due_at = due_at - make_interval(secs => %s)", (seconds,))
    conn.commit()


def deliveries(conn: Connection) -> list[tuple[Any, ...]]:
    """Status, attempt and tries left of each, oldest first."""
    return conn.execute("SELECT status, attempt, tries_left FROM deliveries ORDER BY delivery_id").fetchall()


def statuses(conn: Connection) -> Counter[str]:
    return Counter(status for status, _, _ in deliveries(conn))


def standing(conn: Connection, project: tuple[int, UUID], row: WebhookRow) -> WebhookRow:
    found = store.find_webhook(conn, project[0], row.id)
    assert found is not None
    return found
