"""Webhooks of a deployment in memory: what HTTP tests of them are run against.

Nothing is sent here: what is put into the outbox stays there, unless a test says what became of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.webhooks import (
    CheckUrl,
    CreateWebhook,
    DeleteWebhook,
    Delivery,
    DeliveryPage,
    GetWebhook,
    ListDeliveries,
    ListWebhooks,
    RetryDelivery,
    RotateSecret,
    SendTest,
    UpdateWebhook,
    Webhook,
    WebhookPage,
    WebhookWithSecret,
)
from logstitch.actors.webhooks import wrong_with
from logstitch.egress.addresses import Allow
from logstitch.egress.targets import check_url
from logstitch.errors import Conflict, NotFound
from logstitch.ids import UlidMint, as_uuid
from logstitch.recording.webhooks import MAX_WEBHOOKS
from logstitch.webhooks.payloads import TEST
from logstitch.webhooks.schedule import DeliveryStatus
from logstitch.webhooks.signing import new_secret, secret_text


@dataclass
class StoredWebhook:
    """An endpoint and what it is told."""

    project_no: int
    webhook: Webhook
    deliveries: list[Delivery]


class WebhooksWorld:
    """The endpoints of all projects."""

    def __init__(self, later: Callable[[], datetime]) -> None:
        self._later = later
        self._mint = UlidMint()
        self.stored: list[StoredWebhook] = []

    def answer(self, message: object) -> Any:
        """Answer, or ``NotImplemented`` where it is not for webhooks."""
        match message:
            case CheckUrl(url):
                return wrong_with(url, Allow())
            case CreateWebhook():
                return self._create(message)
            case ListWebhooks(no, limit, after):
                mine = [one.webhook for one in self.stored if one.project_no == no]
                return WebhookPage(*_page(mine, limit, after))
            case GetWebhook(no, id):
                return self._find(no, id).webhook
            case UpdateWebhook(no, _, id, changed):
                stored = self._find(no, id)
                if "url" in changed:
                    check_url(changed["url"], Allow())
                stored.webhook = replace(stored.webhook, **changed)
                return stored.webhook
            case DeleteWebhook(no, _, id):
                self.stored.remove(self._find(no, id))
                return None
            case RotateSecret(no, _, id):
                return WebhookWithSecret(self._find(no, id).webhook, secret_text(new_secret()))
            case ListDeliveries(no, id, status, limit, after):
                log = [one for one in self._find(no, id).deliveries if status in (None, one.status)]
                return DeliveryPage(*_page(log, limit, after))
            case SendTest(project, id):
                self._find(project.no, id)
                return self.delivery(id, type=TEST)
            case RetryDelivery(no, id, delivery_id):
                return self._retry(self._find(no, id), delivery_id)
        return NotImplemented

    def delivery(self, webhook_id: UUID, **fields: Any) -> Delivery:
        """Put a delivery into the log of an endpoint."""
        now = self._later()
        made = Delivery(self._id(now), webhook_id, None, TEST, DeliveryStatus.PENDING, now, now, None, ())
        made = replace(made, **fields)
        (stored,) = (one for one in self.stored if one.webhook.id == webhook_id)
        stored.deliveries.append(made)
        return made

    def _create(self, message: CreateWebhook) -> WebhookWithSecret:
        check_url(message.url, Allow())
        if sum(one.project_no == message.project_no for one in self.stored) >= MAX_WEBHOOKS:
            raise Conflict("The project has 20 webhooks, and may not have more.")
        now = self._later()
        webhook = Webhook(
            self._id(now),
            message.url,
            message.description,
            message.min_severity,
            message.events,
            message.enabled,
            None,
            None,
            now,
        )
        self.stored.append(StoredWebhook(message.project_no, webhook, []))
        return WebhookWithSecret(webhook, secret_text(new_secret()))

    def _find(self, no: int, id: UUID) -> StoredWebhook:
        for stored in self.stored:
            if (stored.project_no, stored.webhook.id) == (no, id):
                return stored
        raise NotFound("There is no such webhook.")

    def _retry(self, stored: StoredWebhook, id: UUID) -> Delivery:
        for index, one in enumerate(stored.deliveries):
            if one.id == id:
                if one.status is DeliveryStatus.CANCELLED:
                    raise Conflict("This delivery was cancelled.")
                again = replace(one, status=DeliveryStatus.PENDING, next_attempt_at=self._later(), ended_at=None)
                stored.deliveries[index] = again
                return again
        raise NotFound("There is no such delivery.")

    def _id(self, now: datetime) -> UUID:
        return as_uuid(self._mint.one(int(now.timestamp() * 1000)))


def _page(rows: list[Any], limit: int, after: Page | None) -> tuple[tuple[Any, ...], Page | None]:
    newest_first = sorted(rows, key=lambda row: (row.created_at, row.id), reverse=True)
    if after is not None:
        newest_first = [row for row in newest_first if (row.created_at, row.id) < (after.created_at, after.id)]
    shown = tuple(newest_first[:limit])
    return shown, Page(shown[-1].created_at, shown[-1].id) if len(newest_first) > limit else None
