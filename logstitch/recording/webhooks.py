"""Endpoints of a project: what may be changed of them, and what their answers change.

Every change by a key is recorded as an event, with the place that messages go to but never with a secret: not the one
that signs, and not the one that a URL may have in its path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

from logstitch.errors import Conflict, NotFound
from logstitch.ids import IdKind, id_text
from logstitch.recording.audit import AuditedChange, Moment, audit_event
from logstitch.recording.outbox import NO_WEBHOOK
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.events import Head
from logstitch.store.webhooks import Claim, WebhookRow
from logstitch.times import format_moment
from logstitch.webhooks.schedule import DeliveryStatus, Verdict, judge
from logstitch.webhooks.signing import OVERLAP

MAX_WEBHOOKS: Final = 20
"""Endpoints of a project: as many messages, at most, for each alert."""

_RESOURCE: Final = "webhook"


# -- changes by a key ----------------------------------------------------------------------------------------------


def creation(
    project_no: int, row: WebhookRow, secret: bytes, *, by: UUID, event_id: bytes, now: Moment
) -> AuditedChange[WebhookRow]:
    """Add an endpoint. Raises ``Conflict`` when there are as many as there may be."""

    def change(conn: Connection, head: Head, at: datetime) -> tuple[WebhookRow, Mapping[str, Any]]:
        if store.count_webhooks(conn, project_no) >= MAX_WEBHOOKS:
            raise Conflict(f"The project has {MAX_WEBHOOKS} webhooks, and may not have more.")
        store.insert_webhook(conn, project_no, row, secret)
        return row, _event(row, None, _fields(row), by)

    return AuditedChange(project_no, change, event_id=event_id, now=now)


def update(
    project_no: int, webhook_id: UUID, fields: Mapping[str, Any], *, by: UUID, event_id: bytes, now: Moment
) -> AuditedChange[WebhookRow]:
    """Set these of ``url, description, min_severity, events, enabled``. Raises ``NotFound``.

    Enabling it, or another URL, forgets its failures. Disabling it cancels what it was still to be told.
    """

    def change(conn: Connection, head: Head, at: datetime) -> tuple[WebhookRow, Mapping[str, Any] | None]:
        before = _locked(conn, project_no, webhook_id)
        after = replace(before, **fields)
        if after.enabled:
            after = replace(after, disabled_reason=None)
        if after.url != before.url or (after.enabled and not before.enabled):
            after = replace(after, failing_since=None)
        if after == before:
            return before, None
        store.update_webhook(conn, project_no, after)
        if before.enabled and not after.enabled:
            store.cancel_deliveries(conn, project_no, webhook_id)
        return after, _event(after, _fields(before), _fields(after), by)

    return AuditedChange(project_no, change, event_id=event_id, now=now)


def rotation(
    project_no: int, webhook_id: UUID, secret: bytes, *, by: UUID, event_id: bytes, now: Moment
) -> AuditedChange[WebhookRow]:
    """Give it another secret, beside which the former one signs for a day. Raises ``NotFound``."""

    def change(conn: Connection, head: Head, at: datetime) -> tuple[WebhookRow, Mapping[str, Any]]:
        row = _locked(conn, project_no, webhook_id)
        store.rotate_secret(conn, project_no, webhook_id, secret, OVERLAP)
        return row, _event(row, {}, {"secret_rotated_at": format_moment(at)}, by)

    return AuditedChange(project_no, change, event_id=event_id, now=now)


def deletion(project_no: int, webhook_id: UUID, *, by: UUID, event_id: bytes, now: Moment) -> AuditedChange[WebhookRow]:
    """Remove it, and cancel what it was still to be told. Raises ``NotFound``."""

    def change(conn: Connection, head: Head, at: datetime) -> tuple[WebhookRow, Mapping[str, Any]]:
        row = _locked(conn, project_no, webhook_id)
        store.delete_webhook(conn, project_no, webhook_id)
        store.cancel_deliveries(conn, project_no, webhook_id)
        return row, _event(row, _fields(row), None, by)

    return AuditedChange(project_no, change, event_id=event_id, now=now)


def _locked(conn: Connection, project_no: int, webhook_id: UUID) -> WebhookRow:
    row = store.lock_webhook(conn, project_no, webhook_id)
    if row is None:
        raise NotFound(NO_WEBHOOK)
    return row


def _event(
    row: WebhookRow, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None, by: UUID
) -> dict[str, Any]:
    name = row.description or _origin(row.url)
    return audit_event(_RESOURCE, id_text(IdKind.WEBHOOK, row.id.bytes), name, before, after, by)


def _fields(row: WebhookRow) -> dict[str, Any]:
    return {
        "url": _origin(row.url),
        # Paths of chat services are secrets. That one was changed can be told by this, and not what it is.
        "url_sha256": hashlib.sha256(row.url.encode()).hexdigest(),
        "description": row.description,
        "min_severity": row.min_severity,
        "events": list(row.events),
        "enabled": row.enabled,
    }


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# -- what an answer changes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt ended; ``error`` is a category. One of ``response_status`` and ``error`` is set, or both."""

    response_status: int | None
    error: str | None
    duration_ms: int | None


def settle(conn: Connection, claim: Claim, ending: Ending, chance: float) -> Verdict | None:
    """Write down how an attempt ended, and what becomes of its delivery and its endpoint; ``None`` if nothing does.

    The work of a transaction, which may be run again. Where another attempt was begun meanwhile, nothing is changed;
    where the delivery was cancelled, the attempt alone is written down. What came from a URL that the endpoint has no
    longer counts for the delivery, and not for the endpoint.
    """
    # The endpoint before its delivery, as everybody does.
    standing = store.lock_standing(conn, claim.project_no, claim.webhook_id)
    fence = store.lock_fence(conn, claim.project_no, claim.delivery_id)
    if fence is None or fence.attempt != claim.attempt:
        return None
    is_news = store.end_attempt(
        conn, claim, duration_ms=ending.duration_ms, response_status=ending.response_status, error=ending.error
    )
    if not is_news or standing is None or fence.status != DeliveryStatus.PENDING:
        return None
    verdict = judge(
        ending.response_status,
        tries_left=fence.tries_left,
        failing_since=standing.failing_since,
        now=fence.now,
        chance=chance,
        moved=claim.url != standing.url,
    )
    store.end_delivery(conn, claim, verdict.status, verdict.wait_seconds)
    if verdict.failing_since != standing.failing_since or verdict.disable:
        store.set_failing(conn, claim.project_no, claim.webhook_id, verdict.failing_since, verdict.disable)
    if verdict.disable:
        store.cancel_deliveries(conn, claim.project_no, claim.webhook_id)
    return verdict
