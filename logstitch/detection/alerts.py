"""An alert: what it says, the states it goes through, and how it is written down for people and for their webhooks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from logstitch.detection.rules import GroupBy, Severity
from logstitch.ids import IdKind, event_id_text, id_text
from logstitch.times import format_moment


class AlertStatus(StrEnum):
    """What somebody has done about an alert."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


TRANSITIONS: Final = frozenset(
    {
        (AlertStatus.OPEN, AlertStatus.ACKNOWLEDGED),
        (AlertStatus.OPEN, AlertStatus.RESOLVED),
        (AlertStatus.ACKNOWLEDGED, AlertStatus.RESOLVED),
    }
)
"""From which state an alert may come into which."""


@dataclass(frozen=True, slots=True)
class Alert:
    """An alert. ``event_count`` events were in the window when it fired; ``event_ids`` (16 bytes each) are the newest
    of them, at most 100, oldest first."""

    id: UUID
    rule_id: str
    rule_name: str
    severity: Severity
    status: AlertStatus
    group_by: GroupBy
    group_key: str
    tenant_id: str
    event_count: int
    event_ids: tuple[bytes, ...]
    threshold: int
    window_seconds: int
    triggered_at: datetime
    acknowledged_at: datetime | None
    resolved_at: datetime | None


def alert_fields(alert: Alert) -> dict[str, Any]:
    """The alert as it is answered and as webhooks carry it, ready to be written as JSON."""
    return {
        "id": id_text(IdKind.ALERT, alert.id.bytes),
        "rule_id": alert.rule_id,
        "rule_name": alert.rule_name,
        "severity": alert.severity.value,
        "status": alert.status.value,
        "group_by": alert.group_by.value,
        "group_key": alert.group_key,
        "tenant_id": alert.tenant_id,
        "event_count": alert.event_count,
        "event_ids": [*map(event_id_text, alert.event_ids)],
        "threshold": alert.threshold,
        "window_seconds": alert.window_seconds,
        "triggered_at": format_moment(alert.triggered_at),
        "acknowledged_at": None if alert.acknowledged_at is None else format_moment(alert.acknowledged_at),
        "resolved_at": None if alert.resolved_at is None else format_moment(alert.resolved_at),
    }
