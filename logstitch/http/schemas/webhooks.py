"""Webhooks: endpoints, and what was delivered to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import (
    CHANGES,
    CLOSED,
    AlertId,
    Cursor,
    HasMore,
    ProjectPageQuery,
    RequestId,
    SeverityName,
    TimeText,
)
from logstitch.model import MAX_PAGE

EventName = Literal["alert.triggered", "alert.acknowledged", "alert.resolved"]
StatusName = Literal["pending", "delivered", "failed", "cancelled"]

MAX_URL_CHARS = 2048
MAX_DESCRIPTION_CHARS = 256


def _different(events: Sequence[str]) -> Sequence[str]:
    if len(set(events)) < len(events):
        raise ValueError("Must not repeat an item")
    return events


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="Where to send to: `https`, without user name, password and fragment, at an address that is "
        "public. It is checked here and again before each attempt.",
        examples=["https://hooks.acme.example/logstitch"],
    ),
]
Description = Annotated[str, Field(min_length=1, max_length=MAX_DESCRIPTION_CHARS, examples=["on-call pager"])]
MinSeverity = Annotated[SeverityName, Field(description="Alerts below it are not sent.", examples=["high"])]
Events = Annotated[
    list[EventName],
    Field(
        min_length=1,
        max_length=3,
        description="What it is told of.",
        json_schema_extra={"uniqueItems": True},
        examples=[["alert.triggered"]],
    ),
    AfterValidator(_different),
]
Enabled = Annotated[bool, Field(description="Whether alerts are sent to it.")]
WebhookId = Annotated[
    str, Field(pattern="^whk_[0-7][0-9A-HJKMNP-TV-Z]{25}$", examples=["whk_01KARHK7T0C8Q2M4V6X9Z1B3E1"])
]
DeliveryId = Annotated[
    str,
    Field(
        pattern="^dlv_[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        description="Also the header `webhook-id` of every attempt.",
        examples=["dlv_01KARHK7T0C8Q2M4V6X9Z1B3E2"],
    ),
]


class CreateWebhookBody(TypedDict):
    """An endpoint to be made."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    url: Url
    description: NotRequired[Description]
    min_severity: NotRequired[Annotated[MinSeverity, Field(json_schema_extra={"default": "low"})]]
    events: NotRequired[
        Annotated[
            Events,
            Field(json_schema_extra={"default": ["alert.triggered", "alert.acknowledged", "alert.resolved"]}),
        ]
    ]
    enabled: NotRequired[Annotated[Enabled, Field(json_schema_extra={"default": True})]]


class UpdateWebhookBody(TypedDict):
    """What of an endpoint is to be changed."""

    __pydantic_config__ = CHANGES  # type: ignore[misc]

    url: NotRequired[Url]
    description: NotRequired[Annotated[Description | None, Field(description="Null removes it.")]]
    min_severity: NotRequired[MinSeverity]
    events: NotRequired[Events]
    enabled: NotRequired[Enabled]


class WebhookItem(TypedDict):
    """An endpoint, without its secret."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: WebhookId
    url: str
    description: NotRequired[str]
    min_severity: SeverityName
    events: list[EventName]
    enabled: bool
    disabled_reason: Annotated[
        Literal["gone", "failing"] | None,
        Field(
            description="Why the service has disabled it: it answered 410, or nothing but failures for five days. Null "
            "where somebody else has, or nobody."
        ),
    ]
    failing_since: Annotated[TimeText | None, Field(description="The first failure since the last success.")]
    created_at: TimeText


class WebhookAnswer(WebhookItem):
    """One endpoint."""

    request_id: RequestId


class WebhookWithSecretAnswer(WebhookItem):
    """An endpoint with its secret, which is shown this once."""

    secret: Annotated[
        str,
        Field(
            pattern="^whsec_[A-Za-z0-9+/]{32,}=*$",
            description="Verifies its messages, by any library of Standard Webhooks.",
            examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oDYspob7oD0N8="],
        ),
    ]
    request_id: RequestId


class WebhookList(TypedDict):
    """One page of endpoints, newest first."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    webhooks: Annotated[list[WebhookItem], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class WebhookDeleted(TypedDict):
    """An endpoint that is told no more."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: WebhookId
    deleted: Literal[True]
    request_id: RequestId


class DeliveryListQuery(ProjectPageQuery):
    """Which deliveries of an endpoint, and which page of them."""

    status: Annotated[StatusName | None, Field(description="Exactly this.")] = None


class DeliveryAttempt(TypedDict):
    """One attempt."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    number: Annotated[int, Field(ge=1)]
    attempted_at: TimeText
    duration_ms: Annotated[
        int | None, Field(description="Null while it is under way, and where the request could not be sent.")
    ]
    response_status: Annotated[int | None, Field(description="Of the receiver's answer, if one came.")]
    error: Annotated[
        str | None,
        Field(
            description="What went wrong: `http_error` (a status that is no 2xx), `redirect` (redirects are not "
            "followed), `timeout` (no answer within 15 s), `connection_failed`, `tls_failed` (its certificate does not "
            "hold), `invalid_response` or `internal_error`. Null after a success, while it is under way, and where its "
            "end is not known, since the service was stopped.",
            examples=["http_error"],
        ),
    ]


class DeliveryItem(TypedDict):
    """One message to an endpoint."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: DeliveryId
    webhook_id: WebhookId
    alert_id: Annotated[AlertId | None, Field(description="Null for a test.")]
    type: Literal["alert.triggered", "alert.acknowledged", "alert.resolved", "webhook.test"]
    status: StatusName
    attempts: Annotated[list[DeliveryAttempt], Field(max_length=20, description="The newest twenty, oldest first.")]
    created_at: TimeText
    next_attempt_at: Annotated[
        TimeText | None, Field(description="Null while an attempt is under way, and at the end.")
    ]
    ended_at: TimeText | None


class DeliveryAnswer(DeliveryItem):
    """One message to an endpoint."""

    request_id: RequestId


class DeliveryList(TypedDict):
    """One page of deliveries, newest first."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    deliveries: Annotated[list[DeliveryItem], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId
