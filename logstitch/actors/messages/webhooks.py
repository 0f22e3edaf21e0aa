"""What is said about webhooks: endpoints, their secrets, and what was delivered to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import Project
from logstitch.detection.rules import Severity
from logstitch.errors import Detail
from logstitch.webhooks.payloads import WebhookEvent
from logstitch.webhooks.schedule import DeliveryStatus, DisabledReason


@dataclass(frozen=True, slots=True)
class Webhook:
    """An endpoint as it may be shown: never its secret. ``disabled_reason``: ``gone`` (it answered 410) or ``failing``
    (five days of nothing but failures), where the service has disabled it."""

    id: UUID
    url: str
    description: str | None
    min_severity: Severity
    events: tuple[WebhookEvent, ...]
    enabled: bool
    disabled_reason: DisabledReason | None
    failing_since: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WebhookWithSecret:
    """``secret`` (``whsec_…``) is shown this once."""

    webhook: Webhook
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CheckUrl(Ask[tuple[Detail, ...]]):
    """What is wrong with a URL for an endpoint; nothing, if it would be taken."""

    url: str


@dataclass(frozen=True, slots=True)
class CreateWebhook(Ask[WebhookWithSecret]):
    """Make an endpoint. Refused with ``InvalidRequest`` (on ``url``) or ``Conflict``: there are as many as there may
    be."""

    project_no: int
    by: UUID
    url: str
    description: str | None
    min_severity: Severity
    events: tuple[WebhookEvent, ...]
    enabled: bool


@dataclass(frozen=True, slots=True)
class UpdateWebhook(Ask[Webhook]):
    """Set these fields of an endpoint, by their names in ``Webhook``. Enabling one, or another URL, forgets its
    failures; disabling one cancels what it was still to be told.

    Refused with ``NotFound`` or ``InvalidRequest``.
    """

    project_no: int
    by: UUID
    id: UUID
    changed: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteWebhook(Ask[None]):
    """Remove an endpoint, and cancel what it was still to be told. Refused with ``NotFound``."""

    project_no: int
    by: UUID
    id: UUID


@dataclass(frozen=True, slots=True)
class RotateSecret(Ask[WebhookWithSecret]):
    """Give an endpoint a new secret; the former one signs as well for 24 hours. Refused with ``NotFound``."""

    project_no: int
    by: UUID
    id: UUID


@dataclass(frozen=True, slots=True)
class GetWebhook(Ask[Webhook]):
    """One endpoint. Refused with ``NotFound``."""

    project_no: int
    id: UUID


@dataclass(frozen=True, slots=True)
class ListWebhooks(Ask["WebhookPage"]):
    """One page of a project's endpoints, newest first."""

    project_no: int
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class WebhookPage:
    """One page of endpoints."""

    webhooks: tuple[Webhook, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt. ``error`` is a category, never what the receiver said; ``duration_ms`` is set where a connection
    came to be used. With neither status nor error it is under way, or its end is not known."""

    number: int
    began_at: datetime
    duration_ms: int | None
    response_status: int | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one endpoint; a test tells of no alert. ``next_attempt_at`` is set while one is to come, and none
    under way; ``attempts`` are the newest twenty, oldest first."""

    id: UUID
    webhook_id: UUID
    alert_id: UUID | None
    type: str
    status: DeliveryStatus
    created_at: datetime
    next_attempt_at: datetime | None
    ended_at: datetime | None
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True)
class ListDeliveries(Ask["DeliveryPage"]):
    """One page of what an endpoint was sent, newest first. Refused with ``NotFound``: no such endpoint."""

    project_no: int
    webhook_id: UUID
    status: DeliveryStatus | None
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """One page of deliveries."""

    deliveries: tuple[Delivery, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class SendTest(Ask[Delivery]):
    """Send an endpoint a test message, enabled or not. Answered when it is on its way. Refused with ``NotFound``."""

    project: Project
    webhook_id: UUID


@dataclass(frozen=True, slots=True)
class RetryDelivery(Ask[Delivery]):
    """Try a delivery once more, now. Refused with ``NotFound``, and with ``Conflict`` while it is under way, when it
    was cancelled, or when the endpoint is disabled."""

    project_no: int
    webhook_id: UUID
    delivery_id: UUID
