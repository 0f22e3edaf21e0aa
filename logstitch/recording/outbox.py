"""The outbox: what endpoints are to be told, written in the transaction of what it tells of.

So whatever was committed is delivered, and nothing that was not. Delivering is somebody else's work, later.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from logstitch.detection.alerts import Alert
from logstitch.detection.rules import Severity
from logstitch.errors import Conflict, NotFound
from logstitch.ids import UlidMint, as_uuid
from logstitch.model import Plan
from logstitch.store import webhooks as store
from logstitch.store.database import Connection
from logstitch.store.webhooks import DeliveryRow, Message
from logstitch.times import to_ms
from logstitch.webhooks.payloads import TEST, WebhookEvent, alert_body, trial_body
from logstitch.webhooks.schedule import TRIES, DeliveryStatus

NO_WEBHOOK: Final = "There is no such webhook."

_PLANS: Final = [plan.value for plan in Plan if plan.limits.webhooks]


def announce(
    conn: Connection,
    project: tuple[int, UUID],
    kind: WebhookEvent,
    alerts: Sequence[Alert],
    *,
    mint: UlidMint,
    now: datetime,
) -> int:
    """Tell every endpoint that wants to know what became of these alerts; returns how many deliveries that makes.

    To be called in the transaction that writes the alerts. ``project`` is its number and its id, and ``mint`` the
    caller's own. On a plan without webhooks nobody is told.
    """
    project_no, project_id = project
    listeners = store.hold_listeners(conn, project_no, kind, _PLANS) if alerts else []
    messages: list[Message] = []
    wanted: list[tuple[int, UUID]] = []
    for alert in alerts:
        told = [webhook_id for webhook_id, least in listeners if alert.severity.rank >= Severity(least).rank]
        if told:
            wanted += [(len(messages), webhook_id) for webhook_id in told]
            messages.append(Message(alert.id, alert_body(kind, project_id, alert, now)))
    if wanted:
        ids = mint.mint(len(wanted), to_ms(now))
        deliveries = [(as_uuid(id16), webhook_id, index) for id16, (index, webhook_id) in zip(ids, wanted, strict=True)]
        store.insert_deliveries(conn, project_no, kind, messages, deliveries, tries=TRIES, now=now)
    return len(wanted)


def announce_test(
    conn: Connection, project: tuple[int, UUID], webhook_id: UUID, *, delivery_id: UUID, now: datetime
) -> DeliveryRow:
    """Have one test message sent, once, to an endpoint that may be disabled. Raises ``NotFound``.

    It is the work of a whole transaction, which may be run again.
    """
    project_no, project_id = project
    if store.hold_webhook(conn, project_no, webhook_id) is None:
        raise NotFound(NO_WEBHOOK)
    if (there := store.lock_delivery(conn, project_no, webhook_id, delivery_id)) is None:
        message = Message(None, trial_body(project_id, webhook_id, now))
        store.insert_deliveries(conn, project_no, TEST, [message], [(delivery_id, webhook_id, 0)], tries=1, now=now)
        there = store.lock_delivery(conn, project_no, webhook_id, delivery_id)
    assert there is not None  # noqa: S101  (it was inserted in this transaction)
    return there


def retry(conn: Connection, project_no: int, webhook_id: UUID, delivery_id: UUID) -> DeliveryRow:
    """Have a delivery tried once more, now, or the next of its tries made now. Raises ``NotFound`` and ``Conflict``."""
    webhook = store.hold_webhook(conn, project_no, webhook_id)
    if webhook is None:
        raise NotFound(NO_WEBHOOK)
    delivery = store.lock_delivery(conn, project_no, webhook_id, delivery_id)
    if delivery is None:
        raise NotFound("There is no such delivery.")
    if delivery.in_flight:
        raise Conflict("An attempt of this delivery is under way.")
    if delivery.status == DeliveryStatus.CANCELLED:
        raise Conflict("This delivery was cancelled.")
    if not webhook.enabled and delivery.alert_id is not None:
        raise Conflict("The webhook is disabled.")
    store.retry_delivery(conn, project_no, delivery_id)
    again = store.lock_delivery(conn, project_no, webhook_id, delivery_id)
    assert again is not None  # noqa: S101  (it is locked)
    return again
