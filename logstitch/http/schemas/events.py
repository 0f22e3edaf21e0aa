"""Events, as they are looked for and shown. Those that are sent are :mod:`logstitch.model`'s."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import (
    CLOSED,
    Cursor,
    EndDate,
    EventId,
    HasMore,
    Number,
    ProjectPageQuery,
    ProjectQuery,
    RequestId,
    StartDate,
    TimeText,
    end_of,
    start_of,
)
from logstitch.model import MAX_PAGE, ActorTypeName, CategoryName
from logstitch.search.terms import query_words

MAX_SEARCH_WORDS: Final = 16


def _search(text: str) -> str:
    words = query_words(text)
    if not words:
        raise ValueError("Must have at least one letter or digit")
    if len(words) > MAX_SEARCH_WORDS:
        raise ValueError(f"Must have at most {MAX_SEARCH_WORDS} different words")
    return text


Search = Annotated[str, AfterValidator(_search)]


class EventFilterQuery(ProjectQuery):
    """Which events, and in which order."""

    tenant_id: Annotated[
        str | None,
        Field(
            min_length=1, max_length=256, description="Exactly this tenant. With a viewer token it makes no difference."
        ),
    ] = None
    actor_id: Annotated[str | None, Field(min_length=1, max_length=256, description="Exactly this actor.")] = None
    actor_type: Annotated[ActorTypeName | None, Field(description="This kind of actor.")] = None
    action: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=128,
            description="Exactly this action, or a glob: `*` stands for any run of characters, dots included.",
            examples=["user.role.*"],
        ),
    ] = None
    category: Annotated[CategoryName | None, Field(description="This category.")] = None
    target_id: Annotated[str | None, Field(min_length=1, max_length=256, description="Exactly this target.")] = None
    target_type: Annotated[str | None, Field(min_length=1, max_length=128, description="This kind of target.")] = None
    start_date: Annotated[StartDate | None, start_of("occurred_at")] = None
    end_date: Annotated[EndDate | None, end_of("occurred_at")] = None
    search: Annotated[
        Search | None,
        Field(
            min_length=1,
            max_length=512,
            description="Words or beginnings of words that the action and the string values must all have, "
            "in any letter case.",
            examples=["invoice over"],
        ),
    ] = None
    order: Annotated[
        Literal["desc", "asc"], Field(description="By `occurred_at`, then `id`: newest first, or oldest first.")
    ] = "desc"


class EventListQuery(ProjectPageQuery, EventFilterQuery):
    """Which page of which events."""


MAX_EXPORT = 1_000_000
"""What ``limit`` may say; without it there is none."""


class EventExportQuery(EventFilterQuery):
    """Which events, and how they are to be written."""

    format: Annotated[Literal["ndjson", "csv"], Field(description="One JSON object a line, or a table.")] = "ndjson"
    limit: Annotated[
        int | None,
        Field(ge=1, le=MAX_EXPORT, description="At most how many to answer with; all of them, where it is left out."),
        Number,
    ] = None
    cursor: Annotated[
        str | None,
        Field(
            description="Where to go on: the `id` of the last event that was received whole, or a `cursor` of the list "
            "of events. With the same filters.",
            examples=["evt_01KARHK7T0C8Q2M4V6X9Z1B3D7"],
        ),
    ] = None


class EventsCreated(TypedDict):
    """What became of the events that were sent."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    ids: Annotated[list[EventId], Field(min_length=1, max_length=100, description="One id an event, in their order.")]
    redacted_count: Annotated[int, Field(ge=0, description="How many field values redaction changed; not in replays.")]
    request_id: RequestId


# A redaction rule on a field replaces its whole value, so a section may come back as a string.
Section = Annotated[
    dict[str, Any] | str, Field(description="As sent, save what redaction changed and a viewer's tier hides")
]


class Redaction(TypedDict):
    """One value that redaction changed before the event was stored."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    field: Annotated[str, Field(examples=["metadata.card"])]
    rules: Annotated[list[str], Field(min_length=1, examples=[["builtin_credit_card"]])]


class Event(TypedDict):
    """A stored event. What was not sent is not there."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: EventId
    action: str
    category: CategoryName
    actor: Section
    tenant_id: str
    target: NotRequired[Section]
    context: NotRequired[Section]
    metadata: NotRequired[Section]
    changes: NotRequired[
        Annotated[list[Any] | str, Field(description="As sent, save what redaction changed and a viewer's tier hides")]
    ]
    idempotency_key: NotRequired[str]
    occurred_at: TimeText
    received_at: TimeText
    content_hash: Annotated[
        str, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 that the tenant's log commits to, in hex.")
    ]
    redactions: NotRequired[Annotated[list[Redaction], Field(description="For master and project keys.")]]


class EventAnswer(Event):
    """One event."""

    request_id: RequestId


class EventList(TypedDict):
    """One page of events. It may hold fewer than `limit` although there are more."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    events: Annotated[list[Event], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId
