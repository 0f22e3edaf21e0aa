"""Webhooks: endpoints, the outbox of what they are still to be told, and the log of what they were told.

Time is the database's, since several processes share the outbox: an attempt that is begun holds a lease by moving
``due_at``, and every attempt has a number, by which its outcome is told from that of an older one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("webhooks")

CHANNEL: Final = "deliveries"
"""Notified when there is something to deliver."""
CANCELLED_AT_ONCE: Final = 10_000
"""Deliveries that are cancelled in the transaction that disables their endpoint, which must be short: it may hold the
project's head row. What is left waits for ``cancel_leftovers``, and is not sent meanwhile."""
LOOKED_AT: Final = 10_000
"""Deliveries among which one page looks for a status."""
ATTEMPTS_SHOWN: Final = 20
"""Attempts of one delivery that are read, the newest ones."""

Place = tuple[datetime, UUID]
"""A place in a list that is ordered by (created_at, id)."""


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """An endpoint without its secrets."""

    id: UUID
    url: str
    description: str | None
    min_severity: str
    events: tuple[str, ...]
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt. Neither status nor error: it is under way, or its end is not known."""

    number: int
    began_at: datetime
    duration_ms: int | None
    response_status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One delivery without its body. ``due_at`` is that of the next attempt, or the end of the lease of the one that is
    ``in_flight``; ``attempts`` are the newest, oldest first."""

    id: UUID
    webhook_id: UUID
    alert_id: UUID | None
    type: str
    status: str
    created_at: datetime
    due_at: datetime | None
    ended_at: datetime | None
    in_flight: bool
    attempts: tuple[AttemptRow, ...]


@dataclass(frozen=True, slots=True)
class Message:
    """What is put into the outbox, for one or more endpoints. A test tells of no alert."""

    alert_id: UUID | None
    body: str


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt that was begun: what is to be sent where, signed with which secrets. ``tries_left`` after it."""

    project_no: int
    webhook_id: UUID
    delivery_id: UUID
    attempt: int
    tries_left: int
    body: str = field(repr=False)
    url: str = field(repr=False)
    keys: tuple[bytes, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Standing:
    """How things are between us and an endpoint. ``failing_since``: the first failure since the last success; ``url``:
    where its messages go now."""

    enabled: bool
    failing_since: datetime | None
    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Fence:
    """A delivery as it is under its lock, and the database's time."""

    status: str
    attempt: int
    tries_left: int
    now: datetime


# -- endpoints -----------------------------------------------------------------------------------------------------


def insert_webhook(conn: Connection, project_no: int, row: WebhookRow, secret: bytes) -> None:
    """Store a new endpoint."""
    conn.execute(_sql.insert_webhook, {**_settings(project_no, row), "secret": secret, "created_at": row.created_at})


def count_webhooks(conn: Connection, project_no: int) -> int:
    """How many endpoints the project has."""
    (row,) = conn.execute(_sql.count_webhooks, {"project_no": project_no})
    return int(row[0])


def find_webhook(conn: Connection, project_no: int, webhook_id: UUID) -> WebhookRow | None:
    """The endpoint with this id."""
    row = conn.execute(_sql.find_webhook, {"project_no": project_no, "webhook_id": webhook_id}).fetchone()
    return _webhook(row) if row else None


def hold_webhook(conn: Connection, project_no: int, webhook_id: UUID) -> WebhookRow | None:
    """The same; it is neither disabled nor deleted until the transaction ends."""
    row = conn.execute(_sql.hold_webhook, {"project_no": project_no, "webhook_id": webhook_id}).fetchone()
    return _webhook(row) if row else None


def lock_webhook(conn: Connection, project_no: int, webhook_id: UUID) -> WebhookRow | None:
    """The same; nobody else puts anything into the outbox for it until the transaction ends."""
    row = conn.execute(_sql.lock_webhook, {"project_no": project_no, "webhook_id": webhook_id}).fetchone()
    return _webhook(row) if row else None


def lock_standing(conn: Connection, project_no: int, webhook_id: UUID) -> Standing | None:
    """How the endpoint stands; nobody else changes it until the transaction ends, but the outbox takes more for it."""
    row = conn.execute(_sql.lock_standing, {"project_no": project_no, "webhook_id": webhook_id}).fetchone()
    return Standing(*row) if row else None


def list_webhooks(conn: Connection, project_no: int, *, limit: int, after: Place | None) -> list[WebhookRow]:
    """The project's endpoints, newest first, after a (created_at, id)."""
    rows = conn.execute(_sql.list_webhooks, {"project_no": project_no, "limit": limit, **_after(after)})
    return [_webhook(row) for row in rows]


def update_webhook(conn: Connection, project_no: int, row: WebhookRow) -> None:
    """Store an endpoint that is there anew; its secrets and its time of creation stay."""
    conn.execute(_sql.update_webhook, _settings(project_no, row))


def rotate_secret(conn: Connection, project_no: int, webhook_id: UUID, secret: bytes, overlap: timedelta) -> None:
    """Give it another secret; the one that it has signs as well for ``overlap``, and the one before that no more."""
    values = {"project_no": project_no, "webhook_id": webhook_id, "secret": secret}
    conn.execute(_sql.rotate_secret, {**values, "overlap": overlap.total_seconds()})


def delete_webhook(conn: Connection, project_no: int, webhook_id: UUID) -> None:
    """Remove an endpoint for good; what it was told stays in the log."""
    conn.execute(_sql.delete_webhook, {"project_no": project_no, "webhook_id": webhook_id})


def set_failing(
    conn: Connection, project_no: int, webhook_id: UUID, failing_since: datetime | None, disabled_reason: str | None
) -> None:
    """Since when nothing gets through to it (``None``: something does), and why it is disabled now, if it is."""
    values = {"project_no": project_no, "webhook_id": webhook_id}
    conn.execute(_sql.set_failing, {**values, "failing_since": failing_since, "disabled_reason": disabled_reason})


# -- the outbox ----------------------------------------------------------------------------------------------------


def hold_listeners(conn: Connection, project_no: int, type: str, plans: Sequence[str]) -> list[tuple[UUID, str]]:
    """Which enabled endpoints are to be told of messages of this type, and from which severity on, if the organization
    is on one of ``plans``. They are neither disabled nor deleted until the transaction ends."""
    values = {"project_no": project_no, "type": type, "plans": list(plans)}
    return [(webhook_id, severity) for webhook_id, severity in conn.execute(_sql.hold_listeners, values)]


def insert_deliveries(
    conn: Connection,
    project_no: int,
    type: str,
    messages: Sequence[Message],
    deliveries: Sequence[tuple[UUID, UUID, int]],
    *,
    tries: int,
    now: datetime,
) -> None:
    """Put messages into the outbox, and wake whoever delivers when this is committed. Each delivery is its id, the
    endpoint's, and the index of its message."""
    values = {
        "project_no": project_no,
        "type": type,
        "tries": tries,
        "now": now,
        "alert_ids": [message.alert_id for message in messages],
        "bodies": [message.body for message in messages],
        "delivery_ids": [delivery_id for delivery_id, _, _ in deliveries],
        "webhook_ids": [webhook_id for _, webhook_id, _ in deliveries],
        "messages": [index + 1 for _, _, index in deliveries],
    }
    with conn.pipeline():
        conn.execute(_sql.insert_deliveries, values)
        conn.execute(_sql.notify)


def retry_delivery(conn: Connection, project_no: int, delivery_id: UUID) -> None:
    """Have a delivery tried now: once more if it has ended, else as the next of the tries that it has left."""
    with conn.pipeline():
        conn.execute(_sql.retry_delivery, {"project_no": project_no, "delivery_id": delivery_id})
        conn.execute(_sql.notify)


def cancel_deliveries(conn: Connection, project_no: int, webhook_id: UUID, limit: int = CANCELLED_AT_ONCE) -> int:
    """Cancel what an endpoint was still to be told, also what is on its way; at most ``limit``. Returns how many."""
    values = {"project_no": project_no, "webhook_id": webhook_id, "limit": limit}
    return conn.execute(_sql.cancel_deliveries, values).rowcount


def cancel_leftovers(conn: Connection, limit: int = CANCELLED_AT_ONCE) -> int:
    """Cancel what is left of endpoints that were deleted or disabled, of all projects. Returns how many."""
    return conn.execute(_sql.cancel_leftovers, {"limit": limit}).rowcount


def remove_old(conn: Connection, kept_for: timedelta, limit: int) -> int:
    """Remove from the log the deliveries that ended longer ago than ``kept_for``, with their attempts, the oldest
    first: at most ``limit`` rows of either. Returns how many rows; 0: there is nothing to do, or others are at it."""
    rows = conn.execute(_sql.hold_old, {"kept_for": kept_for.total_seconds(), "limit": limit}).fetchall()
    if not rows:
        return 0
    values = {"project_nos": [row[0] for row in rows], "delivery_ids": [row[1] for row in rows], "limit": limit}
    # Some may have been tried again and again by hand: they go once all of their attempts have.
    removed = conn.execute(_sql.delete_some_attempts, values).rowcount
    return removed if removed == limit else removed + conn.execute(_sql.delete_deliveries, values).rowcount


def count_pending(conn: Connection) -> int:
    """How many deliveries are still to be made, in the whole database."""
    (row,) = conn.execute(_sql.count_pending)
    return int(row[0])


# -- attempts ------------------------------------------------------------------------------------------------------


def claim_deliveries(
    conn: Connection,
    *,
    limit: int,
    each: int,
    each_project: int,
    busy: Mapping[tuple[int, UUID], int],
    lease: timedelta,
    after: int,
) -> list[Claim]:
    """Begin an attempt of up to ``limit`` deliveries that are due, project by project from behind number ``after``.

    Of one project no more than ``each_project`` less those that it has in flight (``busy``, by project and endpoint),
    those first whose endpoint has the fewest. Of one endpoint no more than ``each`` less those that it has, and one at
    a time while nothing gets through to it. They are due again at the end of the lease. Those without a try left, whose
    last attempt's lease ran out, are failed.
    """
    values = {
        "limit": limit,
        "each": each,
        "each_project": each_project,
        "busy_projects": [project_no for project_no, _ in busy],
        "busy_webhooks": [webhook_id for _, webhook_id in busy],
        "busy": list(busy.values()),
        "lease": lease.total_seconds(),
        "after_project": after,
    }
    rows = conn.execute(_sql.claim_deliveries, values)
    return [Claim(*[*row, tuple(map(bytes, keys))]) for *row, keys, begun in rows if begun]


def lock_fence(conn: Connection, project_no: int, delivery_id: UUID) -> Fence | None:
    """The delivery, until the transaction ends."""
    row = conn.execute(_sql.lock_fence, {"project_no": project_no, "delivery_id": delivery_id}).fetchone()
    return Fence(*row) if row else None


def end_attempt(
    conn: Connection,
    claim: Claim,
    *,
    duration_ms: int | None,
    response_status: int | None,
    error: str | None,
) -> bool:
    """Write down how an attempt ended; false when that was done before."""
    values = {"project_no": claim.project_no, "delivery_id": claim.delivery_id, "attempt": claim.attempt}
    how = {"duration_ms": duration_ms, "response_status": response_status, "error": error}
    return conn.execute(_sql.end_attempt, {**values, **how}).rowcount == 1


def end_delivery(conn: Connection, claim: Claim, status: str, wait_seconds: float | None) -> None:
    """What becomes of a delivery: it has ended, or is due again after ``wait_seconds``."""
    values = {"project_no": claim.project_no, "delivery_id": claim.delivery_id}
    conn.execute(_sql.end_delivery, {**values, "status": status, "wait_seconds": wait_seconds})


# -- the log -------------------------------------------------------------------------------------------------------


def lock_delivery(conn: Connection, project_no: int, webhook_id: UUID, delivery_id: UUID) -> DeliveryRow | None:
    """A delivery to this endpoint, until the transaction ends."""
    values = {"project_no": project_no, "webhook_id": webhook_id, "delivery_id": delivery_id}
    row = conn.execute(_sql.lock_delivery, values).fetchone()
    return _deliveries(conn, project_no, [row])[0] if row else None


def list_deliveries(
    conn: Connection,
    project_no: int,
    webhook_id: UUID,
    *,
    status: str | None,
    limit: int,
    after: Place | None,
    looked_at: int = LOOKED_AT,
) -> tuple[list[DeliveryRow], Place | None]:
    """What an endpoint was sent, newest first, and where to go on; a page may hold less than ``limit`` although there
    is more, where the newest ``looked_at`` of them hold few of this status."""
    values = {"project_no": project_no, "webhook_id": webhook_id, **_after(after), "most": looked_at}
    rows = conn.execute(_sql.list_deliveries, {**values, "status": status, "limit": limit + 1}).fetchall()
    found = _deliveries(conn, project_no, rows[:limit])
    if len(rows) > limit:
        return found, (found[-1].created_at, found[-1].id)
    return found, None if status is None else conn.execute(_sql.last_looked_at, values).fetchone()


def _deliveries(conn: Connection, project_no: int, rows: Sequence[Sequence[Any]]) -> list[DeliveryRow]:
    values = {"project_no": project_no, "delivery_ids": [row[0] for row in rows], "newest": ATTEMPTS_SHOWN}
    attempts = defaultdict(list)
    for delivery_id, *attempt in conn.execute(_sql.list_attempts, values) if rows else ():
        attempts[delivery_id].append(AttemptRow(*attempt))
    return [DeliveryRow(*[*row[:-1], bool(row[-1]), tuple(attempts[row[0]])]) for row in rows]


def _settings(project_no: int, row: WebhookRow) -> dict[str, Any]:
    return {
        "project_no": project_no,
        "webhook_id": row.id,
        "url": row.url,
        "description": row.description,
        "min_severity": row.min_severity,
        "events": list(row.events),
        "enabled": row.enabled,
        "disabled_reason": row.disabled_reason,
        "failing_since": row.failing_since,
    }


def _webhook(row: Sequence[Any]) -> WebhookRow:
    id_, url, description, min_severity, events, *rest = row
    return WebhookRow(id_, url, description, min_severity, tuple(events), *rest)


def _after(place: Place | None) -> dict[str, Any]:
    created_at, id_ = place or (None, None)
    return {"created_at": created_at, "id": id_}
