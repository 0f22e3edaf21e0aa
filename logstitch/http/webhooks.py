"""Webhooks: endpoints that are told of alerts, and the log of what they were told.

The secret that signs is in two answers only: that to its making, and that to its rotation.
"""

from __future__ import annotations

from typing import Any, TypeVar
from uuid import UUID

from pydantic import TypeAdapter

from logstitch.actors.messages.webhooks import (
    CheckUrl,
    CreateWebhook,
    DeleteWebhook,
    Delivery,
    GetWebhook,
    ListDeliveries,
    ListWebhooks,
    RetryDelivery,
    RotateSecret,
    SendTest,
    UpdateWebhook,
    Webhook,
)
from logstitch.detection.rules import Severity
from logstitch.errors import InvalidRequest, NotFound, WebhooksNotAvailable
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, page, resource, time_text
from logstitch.http.schemas.common import AnyObject, ProjectPageQuery, ProjectQuery, read_as
from logstitch.http.schemas.webhooks import (
    CreateWebhookBody,
    DeliveryAnswer,
    DeliveryList,
    DeliveryListQuery,
    UpdateWebhookBody,
    WebhookAnswer,
    WebhookDeleted,
    WebhookList,
    WebhookWithSecretAnswer,
)
from logstitch.http.services import Services
from logstitch.ids import IdKind, as_uuid, id_text, parse_id
from logstitch.model import validate
from logstitch.webhooks.payloads import WebhookEvent
from logstitch.webhooks.schedule import DeliveryStatus

T = TypeVar("T")

_CREATE: TypeAdapter[CreateWebhookBody] = TypeAdapter(CreateWebhookBody)
_UPDATE: TypeAdapter[UpdateWebhookBody] = TypeAdapter(UpdateWebhookBody)


class Webhooks:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._webhooks = services.webhooks
        self._cursors = Cursors(services.cursor_key)

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/webhooks``."""
        _check_plan(call)
        wanted = await self._read(_CREATE, call, body)
        message = CreateWebhook(
            call.in_project.no,
            call.caller.key_id,
            wanted["url"],
            wanted.get("description"),
            Severity(wanted.get("min_severity", Severity.LOW)),
            tuple(map(WebhookEvent, wanted.get("events", WebhookEvent))),
            wanted.get("enabled", True),
        )
        made = await self._webhooks.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, {**_shown(made.webhook), "secret": made.secret}, 201)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/webhooks``."""
        query, project = call.query(ProjectPageQuery), call.in_project
        listing = Listing.of_rows("webhooks", [project.id])
        message = ListWebhooks(project.no, query.limit, self._cursors.row(listing, query.cursor))
        found = await self._webhooks.ask(message, timeout=call.seconds_left())
        cursor = self._cursors.after_row(listing, found.next)
        return page(call.request_id, "webhooks", map(_shown, found.webhooks), cursor)

    async def get(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/webhooks/{id}``."""
        message = GetWebhook(call.in_project.no, _webhook_id(call))
        return resource(call.request_id, _shown(await self._webhooks.ask(message, timeout=call.seconds_left())))

    async def update(self, call: Call, body: bytes) -> Reply:
        """``PATCH /api/v1/webhooks/{id}``."""
        wanted = await self._read(_UPDATE, call, body)
        if not wanted:
            raise InvalidRequest("The body names nothing that is to be changed.")
        if wanted != {"enabled": False}:  # whatever the plan has become, messages can be stopped
            _check_plan(call)
        changed: dict[str, Any] = {**wanted}
        if "min_severity" in wanted:
            changed["min_severity"] = Severity(wanted["min_severity"])
        if "events" in wanted:
            changed["events"] = tuple(map(WebhookEvent, wanted["events"]))
        message = UpdateWebhook(call.in_project.no, call.caller.key_id, _webhook_id(call), changed)
        return resource(call.request_id, _shown(await self._webhooks.ask(message, timeout=call.seconds_left())))

    async def delete(self, call: Call, body: bytes) -> Reply:
        """``DELETE /api/v1/webhooks/{id}``."""
        message = DeleteWebhook(call.in_project.no, call.caller.key_id, _webhook_id(call))
        await self._webhooks.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, {"id": call.path["id"], "deleted": True})

    async def rotate(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/webhooks/{id}/rotate-secret``."""
        _check_plan(call)
        message = RotateSecret(call.in_project.no, call.caller.key_id, _webhook_id(call))
        rotated = await self._webhooks.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, {**_shown(rotated.webhook), "secret": rotated.secret})

    async def deliveries(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/webhooks/{id}/deliveries``."""
        query, project, webhook_id = call.query(DeliveryListQuery), call.in_project, _webhook_id(call)
        listing = Listing.of_rows(f"deliveries {query.status or ''}", [project.id, webhook_id])
        message = ListDeliveries(
            project.no,
            webhook_id,
            None if query.status is None else DeliveryStatus(query.status),
            query.limit,
            self._cursors.row(listing, query.cursor),
        )
        found = await self._webhooks.ask(message, timeout=call.seconds_left())
        cursor = self._cursors.after_row(listing, found.next)
        return page(call.request_id, "deliveries", map(_shown_delivery, found.deliveries), cursor)

    async def test(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/webhooks/{id}/test``."""
        _check_plan(call)
        message = SendTest(call.in_project, _webhook_id(call))
        delivery = await self._webhooks.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, _shown_delivery(delivery), 201)

    async def retry(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/webhooks/{id}/deliveries/{delivery_id}/retry``."""
        _check_plan(call)
        delivery_id = _id(IdKind.DELIVERY, call.path["delivery_id"], "There is no such delivery.")
        message = RetryDelivery(call.in_project.no, _webhook_id(call), delivery_id)
        delivery = await self._webhooks.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, _shown_delivery(delivery))

    async def _read(self, schema: TypeAdapter[T], call: Call, body: bytes) -> T:
        """The body. Raises ``InvalidRequest`` that names every bad field: which URLs may be sent to is known to the
        actor, so it is asked where something else is wrong already."""
        sent = read_as(AnyObject, body)
        try:
            return validate(schema, sent)
        except InvalidRequest as error:
            if "url" not in sent or any(detail.field == "url" for detail in error.details):
                raise
            wrong = await self._webhooks.ask(CheckUrl(sent["url"]), timeout=call.seconds_left())
            raise InvalidRequest(details=[*wrong, *error.details]) from None


def _check_plan(call: Call) -> None:
    if not call.caller.plan.limits.webhooks:
        raise WebhooksNotAvailable("The organization's plan has no webhooks.")


def _webhook_id(call: Call) -> UUID:
    return _id(IdKind.WEBHOOK, call.path["id"], "There is no such webhook.")


def _id(kind: IdKind, text: str, unknown: str) -> UUID:
    try:
        return as_uuid(parse_id(kind, text))
    except ValueError:
        raise NotFound(unknown) from None


def _shown(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": id_text(IdKind.WEBHOOK, webhook.id.bytes),
        "url": webhook.url,
        **({} if webhook.description is None else {"description": webhook.description}),
        "min_severity": webhook.min_severity.value,
        "events": [event.value for event in webhook.events],
        "enabled": webhook.enabled,
        "disabled_reason": webhook.disabled_reason,
        "failing_since": time_text(webhook.failing_since),
        "created_at": time_text(webhook.created_at),
    }


def _shown_delivery(delivery: Delivery) -> dict[str, Any]:
    return {
        "id": id_text(IdKind.DELIVERY, delivery.id.bytes),
        "webhook_id": id_text(IdKind.WEBHOOK, delivery.webhook_id.bytes),
        "alert_id": None if delivery.alert_id is None else id_text(IdKind.ALERT, delivery.alert_id.bytes),
        "type": delivery.type,
        "status": delivery.status.value,
        "attempts": [
            {
                "number": attempt.number,
                "attempted_at": time_text(attempt.began_at),
                "duration_ms": attempt.duration_ms,
                "response_status": attempt.response_status,
                "error": attempt.error,
            }
            for attempt in delivery.attempts
        ],
        "created_at": time_text(delivery.created_at),
        "next_attempt_at": time_text(delivery.next_attempt_at),
        "ended_at": time_text(delivery.ended_at),
    }


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = Webhooks(services)
    return (
        Endpoint(
            name="webhooks.create",
            method="POST",
            path="/api/v1/webhooks",
            handler=handlers.create,
            summary="Make a webhook",
            description="An endpoint of yours that is told of alerts: of all of them, and of what becomes of them, "
            "unless `min_severity` and `events` say otherwise. A project has at most 20; one more is a `conflict`.\n\n"
            "Messages follow Standard Webhooks: a POST of `{type, timestamp, data: {project_id, alert}}` with the "
            "headers `webhook-id`, `webhook-timestamp` and `webhook-signature`, which is `v1,` and the base64 of the "
            "HMAC-SHA-256 of `id.timestamp.body` under the bytes that `secret` holds, in base64, after `whsec_`. "
            "Verify it over the bytes of the body as they arrive, and refuse timestamps that are minutes away; "
            "`ops/samples` has receivers that do.\n\n"
            "Answer with a 2xx status within 15 seconds, and do the work afterwards. Everything else, redirects "
            "included, is a failure: a message is tried eight times, at once and after 5 s, 5 min, 30 min, 2 h, 5 h, "
            "10 h and 10 h, each a little sooner or later, from the end of the attempt before, whatever a "
            "`Retry-After` says. An attempt whose request could not be sent ends 16 seconds after it began, however "
            "soon that was known. A message arrives at least once, not always in order, and with the same `webhook-id` "
            "each time. The status 410 disables the endpoint, as five days of nothing but failures do.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_CREATE, {"a pager": examples.WEBHOOK_IN, "everything": {"url": examples.WEBHOOK["url"]}}),
            success=Success(
                201,
                "The webhook, with its secret, which is shown this once.",
                TypeAdapter(WebhookWithSecretAnswer),
                {**examples.WEBHOOK_WITH_SECRET, "request_id": examples.REQUEST_ID},
            ),
            errors=("webhooks_not_available", "conflict"),
        ),
        Endpoint(
            name="webhooks.list",
            method="GET",
            path="/api/v1/webhooks",
            handler=handlers.list,
            summary="List webhooks",
            description="Newest first, without their secrets.",
            about=About.PROJECT,
            query=ProjectPageQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(WebhookList),
                {"webhooks": [examples.WEBHOOK], **examples.LAST, "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="webhooks.get",
            method="GET",
            path="/api/v1/webhooks/{id}",
            handler=handlers.get,
            summary="Get a webhook",
            description="Without its secret. `failing_since` says since when nothing gets through to it.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The webhook.",
                TypeAdapter(WebhookAnswer),
                {**examples.WEBHOOK, "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="webhooks.update",
            method="PATCH",
            path="/api/v1/webhooks/{id}",
            handler=handlers.update,
            summary="Change a webhook",
            description="What is not sent stays as it is. Disabling it cancels what it was still to be told, also what "
            "is on its way. Enabling it, or another `url`, forgets its failures. Messages that wait for their next "
            "attempt go to the new `url`. On a plan without webhooks it can be disabled, and nothing else.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(
                _UPDATE,
                {"less": {"min_severity": "critical"}, "on again": {"enabled": True}},
            ),
            success=Success(
                200,
                "The webhook as it is now.",
                TypeAdapter(WebhookAnswer),
                {**examples.WEBHOOK, "min_severity": "critical", "request_id": examples.REQUEST_ID},
            ),
            errors=("webhooks_not_available",),
        ),
        Endpoint(
            name="webhooks.delete",
            method="DELETE",
            path="/api/v1/webhooks/{id}",
            handler=handlers.delete,
            summary="Delete a webhook",
            description="For good, with its log of deliveries. What it was still to be told is cancelled, also what is "
            "on its way.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The webhook is told no more.",
                TypeAdapter(WebhookDeleted),
                {"id": examples.WEBHOOK["id"], "deleted": True, "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="webhooks.rotate",
            method="POST",
            path="/api/v1/webhooks/{id}/rotate-secret",
            handler=handlers.rotate,
            summary="Rotate the secret of a webhook",
            description="For 24 hours every message is signed with both, the new secret and the former one, and has "
            "two signatures separated by a space: time to change the receiver. Rotating again ends the former one at "
            "once.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The webhook, with its new secret, which is shown this once.",
                TypeAdapter(WebhookWithSecretAnswer),
                {**examples.WEBHOOK_WITH_SECRET, "request_id": examples.REQUEST_ID},
            ),
            errors=("webhooks_not_available",),
        ),
        Endpoint(
            name="webhooks.deliveries",
            method="GET",
            path="/api/v1/webhooks/{id}/deliveries",
            handler=handlers.deliveries,
            summary="List deliveries",
            description="What the webhook was sent, and is still to be sent, newest first, with the attempts. What has "
            "ended stays here for 90 days. A page may hold fewer than `limit` although `has_more` is true: a status "
            "that is rare is looked for in bounded steps.",
            about=About.PROJECT,
            query=DeliveryListQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(DeliveryList),
                {"deliveries": [examples.DELIVERY], **examples.LAST, "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="webhooks.test",
            method="POST",
            path="/api/v1/webhooks/{id}/test",
            handler=handlers.test,
            summary="Test a webhook",
            description="Sends one signed message of type `webhook.test` with `data: {project_id, webhook_id}`, once, "
            "also to a webhook that is disabled. The list of deliveries shows what came of it.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                201,
                "The message is on its way.",
                TypeAdapter(DeliveryAnswer),
                {**examples.TEST_DELIVERY, "request_id": examples.REQUEST_ID},
            ),
            errors=("webhooks_not_available",),
        ),
        Endpoint(
            name="webhooks.retry",
            method="POST",
            path="/api/v1/webhooks/{id}/deliveries/{delivery_id}/retry",
            handler=handlers.retry,
            summary="Retry a delivery",
            description="One more attempt of a delivery that has ended, delivered ones included, at once; or the next "
            "attempt of one that waits for it. A `conflict` while an attempt is under way, for a delivery that was "
            "cancelled, and while the webhook is disabled.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The message is on its way again.",
                TypeAdapter(DeliveryAnswer),
                {**examples.RETRIED_DELIVERY, "request_id": examples.REQUEST_ID},
            ),
            errors=("webhooks_not_available", "conflict"),
        ),
    )
