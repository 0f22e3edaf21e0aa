"""What somebody does about an alert: a transition of its state, the event that tells of it, and the webhooks that are
told, all in one transaction.

Under the project's head row: of two who acknowledge an alert at the same time, one has done it, and the other hears so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from logstitch.detection.alerts import TRANSITIONS, Alert, AlertStatus
from logstitch.detection.rules import GroupBy, Severity
from logstitch.errors import Conflict, NotFound
from logstitch.ids import IdKind, UlidMint, id_text
from logstitch.recording.audit import AuditedChange, Moment, audit_event
from logstitch.recording.outbox import announce
from logstitch.store import alert_log as store
from logstitch.store.alert_log import AlertRow
from logstitch.store.database import Connection
from logstitch.store.events import Head
from logstitch.webhooks.payloads import WebhookEvent

_NEWS: Final = {
    AlertStatus.ACKNOWLEDGED: WebhookEvent.ACKNOWLEDGED,
    AlertStatus.RESOLVED: WebhookEvent.RESOLVED,
}
"""What webhooks are told of."""


def alert_of(row: AlertRow) -> Alert:
    """A stored alert as the rest of the service knows it."""
    return Alert(
        row.id,
        row.rule_id,
        row.rule_name,
        Severity(row.severity),
        AlertStatus(row.status),
        GroupBy(row.group_by),
        row.group_key,
        row.tenant_id,
        row.event_count,
        tuple([event_id.bytes for event_id in row.event_ids]),
        row.threshold,
        row.window_seconds,
        row.triggered_at,
        row.acknowledged_at,
        row.resolved_at,
    )


def find_alert(conn: Connection, project_no: int, alert_id: UUID) -> Alert:
    """One alert of the project. Raises ``NotFound``."""
    row = store.find_alert(conn, project_no, alert_id)
    if row is None:
        raise NotFound("There is no such alert.")
    return alert_of(row)


def status_change(
    project: tuple[int, UUID], alert_id: UUID, status: AlertStatus, *, by: UUID, event_id: bytes, now: Moment
) -> AuditedChange[Alert]:
    """Bring an alert into a state, as the work of a transaction: the alert as it is then.

    ``project`` is its number and its id, ``by`` the id of the key that asks for it. Raises ``NotFound``, and
    ``Conflict`` where the alert cannot come into that state from the one it is in.
    """
    no = project[0]
    mint = UlidMint()  # The transaction has a thread of its own, and a mint must not be shared between threads.

    def change(conn: Connection, head: Head, at: datetime) -> tuple[Alert, Mapping[str, Any] | None]:
        row = store.find_alert(conn, no, alert_id)
        if row is None:
            raise NotFound("There is no such alert.")
        before = AlertStatus(row.status)
        if (before, status) not in TRANSITIONS:
            raise Conflict(f"The alert is {before.value}, and cannot become {status.value}.")
        after = _moved(row, status, at)
        store.save_status(conn, no, after)
        alert = alert_of(after)
        announce(conn, project, _NEWS[status], [alert], mint=mint, now=at)
        told = audit_event(
            "alert",
            id_text(IdKind.ALERT, alert.id.bytes),
            alert.rule_name,
            {"status": before.value},
            {"status": status.value},
            by,
        )
        return alert, told

    return AuditedChange(no, change, event_id=event_id, now=now)


def _moved(row: AlertRow, status: AlertStatus, now: datetime) -> AlertRow:
    """The alert in another state, since ``now``: to the millisecond, as it is shown, and never before its last one,
    whose time may be of another process, with a clock that is ahead."""
    at = max(now.replace(microsecond=now.microsecond // 1000 * 1000), row.acknowledged_at or row.triggered_at)
    if status is AlertStatus.ACKNOWLEDGED:
        return replace(row, status=status.value, acknowledged_at=at)
    return replace(row, status=status.value, resolved_at=at)
