"""A redaction rule that is tried on stored events, and what it would do to them."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CLOSED, EndDate, EventId, RequestId, StartDate, TimeText, end_of, start_of
from logstitch.http.schemas.redaction import CreateRuleBody


class MeasureRuleBody(TypedDict):
    """An unsaved rule, and the stored events that it is to be tried on."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    rule: CreateRuleBody
    start_date: NotRequired[Annotated[StartDate, start_of("occurred_at")]]
    end_date: NotRequired[Annotated[EndDate, end_of("occurred_at", "2026-11-30")]]
    cursor: NotRequired[
        Annotated[str, Field(description="`cursor` of the answer before, with the same rule and the same dates.")]
    ]


class MeasuredField(TypedDict):
    """How often values change at one path."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    field: Annotated[str, Field(description="`*` is any item of a list.", examples=["changes.*.after"])]
    count: Annotated[int, Field(ge=1)]


class MeasuredSample(TypedDict):
    """One value that would change, as text."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: EventId
    occurred_at: TimeText
    field: Annotated[str, Field(examples=["metadata.note"])]
    before: Annotated[str, Field(description="As it is stored; of a long text, what is around the change.")]
    after: str


class RuleMeasured(TypedDict):
    """What the rule would do to the events that were looked at by this request."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    scanned: Annotated[int, Field(ge=0, description="Events that were looked at.")]
    events_changed: Annotated[int, Field(ge=0)]
    fields_changed: Annotated[int, Field(ge=0, description="Field values, in all of them.")]
    fields: Annotated[list[MeasuredField], Field(max_length=100, description="The most frequent first.")]
    samples: Annotated[list[MeasuredSample], Field(max_length=20)]
    complete: Annotated[bool, Field(description="Whether the last of the events was reached.")]
    cursor: Annotated[str | None, Field(description="Where the next request goes on; null when complete.")]
    has_more: Annotated[bool, Field(description="The opposite of `complete`.")]
    request_id: RequestId
