"""Webhooks: one actor a process that makes, changes, lists and tests endpoints.

It sends nothing itself: a test, too, is put into the outbox.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from logstitch.actors.bounds import CONCURRENCY, HOLD_SECONDS
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.webhooks import (
    Attempt,
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
from logstitch.actors.queueing import answer_together
from logstitch.detection.rules import Severity
from logstitch.egress.addresses import Allow
from logstitch.egress.targets import check_url
from logstitch.errors import Detail, InvalidRequest, NotFound
from logstitch.ids import UlidMint, as_uuid
from logstitch.recording.outbox import NO_WEBHOOK, announce_test, retry
from logstitch.recording.webhooks import creation, deletion, rotation, update
from logstitch.store import webhooks as store
from logstitch.store.database import Connection, Database
from logstitch.store.webhooks import DeliveryRow, Place, WebhookRow
from logstitch.times import to_ms
from logstitch.webhooks.payloads import WebhookEvent
from logstitch.webhooks.schedule import DeliveryStatus, DisabledReason
from logstitch.webhooks.signing import new_secret, secret_text


class Webhooks:
    """Owns nothing but its ids: endpoints are in the database, and asked for each time."""

    def __init__(
        self,
        database: Database,
        mint: UlidMint,
        allow: Allow,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """``allow``: the networks that are not public and that URLs may lead to all the same."""
        self._database = database
        self._mint = mint
        self._allow = allow
        self._now = now

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        await answer_together(mailbox, self._answer, at_once=CONCURRENCY)

    async def _answer(self, envelope: Envelope[Any]) -> None:
        match envelope.message:
            case CheckUrl(url):
                envelope.reply(wrong_with(url, self._allow))
            case CreateWebhook() as request:
                envelope.reply(await self._create(request))
            case UpdateWebhook() as request:
                envelope.reply(await self._update(request))
            case RotateSecret() as request:
                envelope.reply(await self._rotate(request))
            case DeleteWebhook() as request:
                await self._delete(request)
                envelope.reply(None)
            case GetWebhook() as request:
                envelope.reply(await self._get(request))
            case ListWebhooks() as request:
                envelope.reply(await self._list(request))
            case ListDeliveries() as request:
                envelope.reply(await self._list_deliveries(request))
            case SendTest() as request:
                envelope.reply(await self._send_test(request))
            case RetryDelivery() as request:
                envelope.reply(await self._retry(request))

    # -- changes ---------------------------------------------------------------------------------------------------

    async def _create(self, request: CreateWebhook) -> WebhookWithSecret:
        check_url(request.url, self._allow)
        now, secret = self._now(), new_secret()
        row = WebhookRow(
            as_uuid(self._id()),
            request.url,
            request.description,
            request.min_severity.value,
            tuple(event.value for event in request.events),
            request.enabled,
            None,
            None,
            now,
        )
        change = creation(request.project_no, row, secret, by=request.by, event_id=self._id(), now=self._now)
        made = await self._database.transact(change.run, hold=HOLD_SECONDS)
        return WebhookWithSecret(_webhook(made), secret_text(secret))

    async def _update(self, request: UpdateWebhook) -> Webhook:
        fields = dict(request.changed)
        if "url" in fields:
            check_url(fields["url"], self._allow)
        if "min_severity" in fields:
            fields["min_severity"] = Severity(fields["min_severity"]).value
        if "events" in fields:
            fields["events"] = tuple(WebhookEvent(event).value for event in fields["events"])
        change = update(request.project_no, request.id, fields, by=request.by, event_id=self._id(), now=self._now)
        return _webhook(await self._database.transact(change.run, hold=HOLD_SECONDS))

    async def _rotate(self, request: RotateSecret) -> WebhookWithSecret:
        secret = new_secret()
        change = rotation(request.project_no, request.id, secret, by=request.by, event_id=self._id(), now=self._now)
        row = await self._database.transact(change.run, hold=HOLD_SECONDS)
        return WebhookWithSecret(_webhook(row), secret_text(secret))

    async def _delete(self, request: DeleteWebhook) -> None:
        change = deletion(request.project_no, request.id, by=request.by, event_id=self._id(), now=self._now)
        await self._database.transact(change.run, hold=HOLD_SECONDS)

    def _id(self) -> bytes:
        return self._mint.one(to_ms(self._now()))

    # -- reading ---------------------------------------------------------------------------------------------------

    async def _get(self, request: GetWebhook) -> Webhook:
        row = await self._database.transact(
            lambda conn: store.find_webhook(conn, request.project_no, request.id), hold=HOLD_SECONDS, read_only=True
        )
        if row is None:
            raise NotFound(NO_WEBHOOK)
        return _webhook(row)

    async def _list(self, request: ListWebhooks) -> WebhookPage:
        rows = await self._database.transact(
            lambda conn: store.list_webhooks(
                conn, request.project_no, limit=request.limit + 1, after=_place(request.after)
            ),
            hold=HOLD_SECONDS,
            read_only=True,
        )
        page = tuple(map(_webhook, rows[: request.limit]))
        return WebhookPage(page, Page(page[-1].created_at, page[-1].id) if len(rows) > request.limit else None)

    async def _list_deliveries(self, request: ListDeliveries) -> DeliveryPage:
        def read(conn: Connection) -> tuple[list[DeliveryRow], Place | None]:
            if store.find_webhook(conn, request.project_no, request.webhook_id) is None:
                raise NotFound(NO_WEBHOOK)
            return store.list_deliveries(
                conn,
                request.project_no,
                request.webhook_id,
                status=None if request.status is None else request.status.value,
                limit=request.limit,
                after=_place(request.after),
            )

        rows, more = await self._database.transact(read, hold=HOLD_SECONDS, read_only=True)
        return DeliveryPage(tuple(map(_delivery, rows)), None if more is None else Page(*more))

    # -- sending ---------------------------------------------------------------------------------------------------

    async def _send_test(self, request: SendTest) -> Delivery:
        now = self._now()
        delivery_id = as_uuid(self._id())
        project = (request.project.no, request.project.id)
        row = await self._database.transact(
            lambda conn: announce_test(conn, project, request.webhook_id, delivery_id=delivery_id, now=now),
            hold=HOLD_SECONDS,
        )
        return _delivery(row)

    async def _retry(self, request: RetryDelivery) -> Delivery:
        # Without a hold: whether it was done cannot be told, where the answer was lost, from what others do then.
        row = await self._database.transact(
            lambda conn: retry(conn, request.project_no, request.webhook_id, request.delivery_id)
        )
        return _delivery(row)


def wrong_with(url: str, allow: Allow) -> tuple[Detail, ...]:
    """Why ``check_url`` would not take it."""
    try:
        check_url(url, allow)
    except InvalidRequest as error:
        return error.details
    return ()


def _place(page: Page | None) -> Place | None:
    return None if page is None else (page.created_at, page.id)


def _webhook(row: WebhookRow) -> Webhook:
    return Webhook(
        row.id,
        row.url,
        row.description,
        Severity(row.min_severity),
        tuple(map(WebhookEvent, row.events)),
        row.enabled,
        None if row.disabled_reason is None else DisabledReason(row.disabled_reason),
        row.failing_since,
        row.created_at,
    )


def _delivery(row: DeliveryRow) -> Delivery:
    is_to_come = row.status == DeliveryStatus.PENDING and not row.in_flight
    return Delivery(
        row.id,
        row.webhook_id,
        row.alert_id,
        row.type,
        DeliveryStatus(row.status),
        row.created_at,
        row.due_at if is_to_come else None,
        row.ended_at,
        tuple(Attempt(a.number, a.began_at, a.duration_ms, a.response_status, a.error) for a in row.attempts),
    )
