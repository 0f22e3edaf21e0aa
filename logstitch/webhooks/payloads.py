"""What receivers are sent: a body that is made once, when it is put into the outbox, and never written anew.

So every attempt sends the same bytes, whatever became of the alert meanwhile, and a receiver may tell repetitions by
``webhook-id`` or by the body.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

import orjson

from logstitch.detection.alerts import Alert, alert_fields
from logstitch.ids import IdKind, id_text
from logstitch.times import format_moment


class WebhookEvent(StrEnum):
    """What an endpoint may be told of."""

    TRIGGERED = "alert.triggered"
    ACKNOWLEDGED = "alert.acknowledged"
    RESOLVED = "alert.resolved"


TEST: Final = "webhook.test"
"""The type of a test message. It is no ``alert.triggered``, since that would page people."""


def alert_body(kind: str, project_id: UUID, alert: Alert, now: datetime) -> str:
    """The body that tells of an alert; ``kind`` is a ``WebhookEvent``."""
    return _body(kind, now, {"project_id": str(project_id), "alert": alert_fields(alert)})


def trial_body(project_id: UUID, webhook_id: UUID, now: datetime) -> str:
    """The body of a test message."""
    endpoint = id_text(IdKind.WEBHOOK, webhook_id.bytes)
    return _body(TEST, now, {"project_id": str(project_id), "webhook_id": endpoint})


def _body(kind: str, now: datetime, data: dict[str, Any]) -> str:
    return orjson.dumps({"type": kind, "timestamp": format_moment(now), "data": data}).decode()
