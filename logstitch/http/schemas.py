"""What goes in and out beside events: the pydantic schemas that check requests and that the documentation is made of.

Requests are strict: unknown fields and parameters are refused, nothing is coerced. What arrives as text (a query has
nothing else) is read by exact forms, since ``int`` takes ``1_0`` and other scripts' digits, and ``UUID`` braces.

Answers are not passed through their schemas, which would cost and could only fail; the tests hold every answer against
them instead.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NotRequired, TypeVar
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from logstitch import gate
from logstitch.errors import InvalidRequest
from logstitch.model import (
    DEFAULT_PAGE,
    MAX_CHANGES,
    MAX_PAGE,
    ActorTypeName,
    CategoryName,
    errors_to_details,
    validate,
)

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,9}")


def parse_uuid(text: str) -> UUID | None:
    """A UUID in its usual form, in any letter case."""
    return UUID(text) if _UUID.fullmatch(text) else None


def _uuid(value: object) -> UUID:
    parsed = parse_uuid(value) if isinstance(value, str) else None
    if parsed is None:
        raise ValueError("Expected a UUID")
    return parsed


def _number(value: object) -> int:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return int(value)
    raise ValueError("Expected a whole number")


UuidText = Annotated[UUID, BeforeValidator(_uuid)]


def check(schema: type[B], value: object) -> B:
    """``value`` as ``schema``; raises ``InvalidRequest`` that names every bad field."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(details=errors_to_details(error)) from None


def read_object(schema: type[B], body: bytes) -> B:
    """A JSON body as ``schema``; raises ``InvalidRequest``."""
    value = gate.parse(body)
    if type(value) is not dict:
        raise InvalidRequest("The body must be a JSON object.")
    return check(schema, value)


def read_as(schema: TypeAdapter[T], body: bytes) -> T:
    """A JSON body that is an object, by a schema that has no class; raises ``InvalidRequest``."""
    value = gate.parse(body)
    if type(value) is not dict:
        raise InvalidRequest("The body must be a JSON object.")
    return validate(schema, value)


# -- queries -------------------------------------------------------------------------------------------------------


class NoQuery(BaseModel):
    """No parameters at all."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ProjectQuery(NoQuery):
    """The project that the request is about."""

    project_id: Annotated[
        UuidText | None,
        Field(
            description="The project, for a master key; the same as the header X-Project-Id. "
            "May be left out where the organization has one project only."
        ),
    ] = None


class PageQuery(NoQuery):
    """Which page of a list."""

    limit: Annotated[
        int,
        Field(ge=1, le=MAX_PAGE, description="At most how many to answer with."),
        BeforeValidator(_number),  # outermost, or the bounds are lost in the JSON schema
    ] = DEFAULT_PAGE
    cursor: Annotated[
        str | None,
        Field(description="`cursor` of the page before, with the same filters; `limit` may differ."),
    ] = None


class ProjectPageQuery(PageQuery, ProjectQuery):
    """Which page of a project's list."""


class EventListQuery(ProjectPageQuery):
    """Which events."""

    tenant_id: Annotated[str | None, Field(min_length=1, max_length=256, description="Exactly this tenant.")] = None
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
    start_date: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=64,
            description="`occurred_at` at or after this: a time (RFC 3339) or a date, from the start of that UTC day.",
            examples=["2026-11-01"],
        ),
    ] = None
    end_date: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=64,
            description="`occurred_at` at or before this: a time (RFC 3339) or a date, to the end of that UTC day.",
            examples=["2026-11-30T23:59:59.999Z"],
        ),
    ] = None
    search: Annotated[
        str | None,
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


# -- bodies --------------------------------------------------------------------------------------------------------


class CreateKeyBody(BaseModel):
    """A project key to be made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    project_id: Annotated[UuidText, Field(description="The project it is for.")]
    type: Annotated[Literal["project"], Field(description="Master keys are made on the command line only.")]
    name: Annotated[str, Field(min_length=1, max_length=100, examples=["billing service, production"])]


class CreateProjectBody(BaseModel):
    """A project to be made."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: Annotated[str, Field(min_length=1, max_length=100, examples=["Billing"])]


_CLOSED = ConfigDict(extra="forbid", strict=True)

BehaviorName = Literal["replace", "hash", "mask"]
CustomRuleTypeName = Literal["pattern", "field_redact"]

RuleName = Annotated[str, Field(min_length=1, max_length=100, examples=["Internal account numbers"])]
RulePattern = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        description="Of rules of type `pattern`: a regular expression in RE2 syntax. What it matches is redacted, in "
        "string values, numbers of 13 or more digits, and keys. It must not match the empty string.",
        examples=["ACCT-[0-9]{8}"],
    ),
]
RuleFields = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=512)]],
    Field(
        min_length=1,
        max_length=50,
        description="Of rules of type `field_redact`: dot paths whose whole values are redacted. They start at "
        "`actor`, `target`, `context`, `metadata` or `changes`; `*` is one level, `**` any number of levels.",
        examples=[["metadata.**.password", "changes.*.after"]],
    ),
]
RuleBehavior = Annotated[
    BehaviorName,
    Field(
        description="`replace` puts `[REDACTED]` in its place, `hash` a keyed hash that is the same for the same text, "
        "`mask` stars that leave what people recognise it by.",
        examples=["replace"],
    ),
]


class CreateRuleBody(TypedDict):
    """A custom redaction rule to be made. It has a `pattern` or `fields`, by its type."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    name: RuleName
    type: CustomRuleTypeName
    pattern: NotRequired[RulePattern]
    fields: NotRequired[RuleFields]
    behavior: NotRequired[Annotated[RuleBehavior, Field(json_schema_extra={"default": "replace"})]]
    enabled: NotRequired[Annotated[bool, Field(json_schema_extra={"default": True})]]


class UpdateRuleBody(TypedDict):
    """What of a redaction rule is to be changed. Of a built-in that may be `behavior` and `enabled` only."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    name: NotRequired[RuleName]
    pattern: NotRequired[RulePattern]
    fields: NotRequired[RuleFields]
    behavior: NotRequired[RuleBehavior]
    enabled: NotRequired[bool]


class UnsavedRule(TypedDict):
    """A rule to be tried. Its place, `rules.0`, stands for its id, and for its name if it has none."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    name: NotRequired[RuleName]
    type: CustomRuleTypeName
    pattern: NotRequired[RulePattern]
    fields: NotRequired[RuleFields]
    behavior: NotRequired[Annotated[RuleBehavior, Field(json_schema_extra={"default": "replace"})]]
    enabled: NotRequired[Annotated[bool, Field(json_schema_extra={"default": True})]]


class SampleActor(TypedDict, total=False):
    """Who did it, or a part of that."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: str
    type: str
    name: str
    email: str


class SampleTarget(TypedDict, total=False):
    """What it was done to, or a part of that."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: str
    type: str
    name: str


class SampleContext(TypedDict, total=False):
    """Where it came from, or a part of that."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    ip_address: str
    user_agent: str
    location: str
    session_id: str


class SampleChange(TypedDict, total=False):
    """One field that changed, or a part of that."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    field: str
    before: Any
    after: Any


class SampleEvent(TypedDict, total=False):
    """An event, or any part of one. Nothing is required, and text may have any length."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    action: str
    category: str
    actor: SampleActor
    tenant_id: str
    target: SampleTarget
    context: SampleContext
    metadata: Annotated[dict[str, Any], Field(examples=[{"card": "4111 1111 1111 1111"}])]
    changes: Annotated[list[SampleChange], Field(max_length=MAX_CHANGES)]
    idempotency_key: str
    occurred_at: str


class TryRulesBody(TypedDict):
    """A sample, and rules to be tried on it beside the project's own."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    event: SampleEvent
    rules: NotRequired[
        Annotated[
            list[UnsavedRule],
            Field(max_length=100, description="Applied as if they had just been saved: behind the project's own."),
        ]
    ]


class MeasureRuleBody(TypedDict):
    """An unsaved rule, and the stored events that it is to be tried on."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    rule: CreateRuleBody
    start_date: NotRequired[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=64,
                description="`occurred_at` at or after this: a time (RFC 3339) or a date, from the start of that UTC "
                "day.",
                examples=["2026-11-01"],
            ),
        ]
    ]
    end_date: NotRequired[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=64,
                description="`occurred_at` at or before this: a time (RFC 3339) or a date, to the end of that UTC day.",
                examples=["2026-11-30"],
            ),
        ]
    ]
    cursor: NotRequired[
        Annotated[str, Field(description="`cursor` of the answer before, with the same rule and the same dates.")]
    ]


# -- answers -------------------------------------------------------------------------------------------------------

RequestId = Annotated[
    str,
    Field(
        pattern="^req_[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        description="Names this request, also in the header X-Request-Id and in the service's log.",
        examples=["req_01JDC8Z8YQ3V1S7T9W6X4K2M0P"],
    ),
]
EventId = Annotated[
    str, Field(pattern="^evt_[0-7][0-9A-HJKMNP-TV-Z]{25}$", examples=["evt_01JDC8Z8YQ3V1S7T9W6X4K2M0P"])
]
TimeText = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$",
        json_schema_extra={"format": "date-time"},
        examples=["2026-11-23T08:00:00.123Z"],
    ),
]
UuidOut = Annotated[str, Field(json_schema_extra={"format": "uuid"}, examples=["0b9d7c1e-5f0a-4d3c-9a52-6c1f0e8b7a41"])]
Cursor = Annotated[str | None, Field(description="Where the next page begins; null on the last.")]
HasMore = Annotated[bool, Field(description="Whether there may be more after this page.")]


class ErrorDetail(TypedDict):
    """One bad field."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    field: Annotated[
        str, Field(description="A dot path; in a batch, the item's index comes first", examples=["2.actor.id"])
    ]
    message: Annotated[str, Field(examples=["Required"])]


class ErrorInfo(TypedDict):
    """What went wrong."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    code: Annotated[str, Field(description="For programs. It does not change.", examples=["validation_error"])]
    message: Annotated[str, Field(description="For people. It may change.", examples=["The request is not valid."])]
    details: NotRequired[Annotated[list[ErrorDetail], Field(min_length=1, max_length=100)]]


class ErrorBody(TypedDict):
    """Every answer that is no success."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    error: ErrorInfo
    request_id: RequestId


class EventsCreated(TypedDict):
    """What became of the events that were sent."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    ids: Annotated[list[EventId], Field(min_length=1, max_length=100, description="One id an event, in their order.")]
    redacted_count: Annotated[int, Field(ge=0, description="How many field values redaction changed; not in replays.")]
    request_id: RequestId


# A redaction rule on a field replaces its whole value, so a section may come back as a string.
Section = Annotated[dict[str, Any] | str, Field(description="As sent, save what redaction changed")]


class Redaction(TypedDict):
    """One value that redaction changed before the event was stored."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    field: Annotated[str, Field(examples=["metadata.card"])]
    rules: Annotated[list[str], Field(min_length=1, examples=[["builtin_credit_card"]])]


class Event(TypedDict):
    """A stored event. What was not sent is not there."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: EventId
    action: str
    category: CategoryName
    actor: Section
    tenant_id: str
    target: NotRequired[Section]
    context: NotRequired[Section]
    metadata: NotRequired[Section]
    changes: NotRequired[Annotated[list[Any] | str, Field(description="As sent, save what redaction changed")]]
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

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    events: Annotated[list[Event], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class KeyCreated(TypedDict):
    """A new key, and the only time that it is shown."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: UuidOut
    key: Annotated[str, Field(pattern="^pk_[0-9A-Za-z]{40}$", examples=["pk_q7Vt1bXo3Jm9KcR5wZ8yNf2LhS6dPa4GeU0iTnBr"])]
    prefix: Annotated[str, Field(description="What may be shown of it.", examples=["pk_q7Vt"])]
    type: Literal["project"]
    name: str
    project_id: UuidOut
    created_at: TimeText
    request_id: RequestId


class KeyItem(TypedDict):
    """A key, without the key."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: UuidOut
    prefix: Annotated[str, Field(examples=["pk_q7Vt"])]
    type: Literal["master", "project"]
    name: str
    project_id: Annotated[UuidOut | None, Field(description="Null for a master key.")]
    lastUsedAt: Annotated[TimeText | None, Field(description="Exact to a minute.")]
    createdAt: TimeText
    revokedAt: TimeText | None


class KeyList(TypedDict):
    """One page of keys, newest first."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    keys: Annotated[list[KeyItem], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class KeyRevoked(TypedDict):
    """A key that no process takes any more."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: UuidOut
    deleted: Literal[True]
    revoked_at: Annotated[TimeText, Field(description="Of the first time, when it is repeated.")]
    request_id: RequestId


class ProjectItem(TypedDict):
    """A project."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: UuidOut
    name: str
    created_at: TimeText


class ProjectAnswer(ProjectItem):
    """One project."""

    request_id: RequestId


class ProjectList(TypedDict):
    """One page of projects, newest first."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    projects: Annotated[list[ProjectItem], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class BuiltinRule(TypedDict):
    """A redaction rule that every project has."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: Annotated[str, Field(pattern="^builtin_[a-z0-9_]+$", examples=["builtin_credit_card"])]
    type: Literal["builtin"]
    builtin_id: Annotated[str, Field(examples=["credit_card"])]
    name: Annotated[str, Field(examples=["Credit Card Number"])]
    behavior: BehaviorName
    enabled: bool


class PatternRule(TypedDict):
    """A custom redaction rule that looks for a pattern."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: UuidOut
    type: Literal["pattern"]
    name: str
    pattern: str
    behavior: BehaviorName
    enabled: bool
    created_at: TimeText


class FieldRule(TypedDict):
    """A custom redaction rule that takes whole values by their path."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: UuidOut
    type: Literal["field_redact"]
    name: str
    fields: list[str]
    behavior: BehaviorName
    enabled: bool
    created_at: TimeText


class BuiltinRuleAnswer(BuiltinRule):
    """A redaction rule that every project has."""

    request_id: RequestId


class PatternRuleAnswer(PatternRule):
    """A custom redaction rule that looks for a pattern."""

    request_id: RequestId


class FieldRuleAnswer(FieldRule):
    """A custom redaction rule that takes whole values by their path."""

    request_id: RequestId


class RuleList(TypedDict):
    """One page of redaction rules: the built-ins, then custom ones in order of creation."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    rules: Annotated[list[BuiltinRule | PatternRule | FieldRule], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class RuleDeleted(TypedDict):
    """A redaction rule that no process applies any more."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: UuidOut
    deleted: Literal[True]
    request_id: RequestId


class TriedRedaction(TypedDict):
    """One value that one rule would change."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    field: Annotated[str, Field(examples=["metadata.card"])]
    rule_id: Annotated[str, Field(description="`rules.0` for the first unsaved one.", examples=["builtin_credit_card"])]
    rule_name: Annotated[str, Field(examples=["Credit Card Number"])]
    behavior: BehaviorName


class RulesTried(TypedDict):
    """What would be stored of the sample."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    event: dict[str, Any]
    redacted_count: Annotated[int, Field(ge=0, description="How many field values would be changed.")]
    redactions: list[TriedRedaction]
    request_id: RequestId


class MeasuredField(TypedDict):
    """How often values change at one path."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    field: Annotated[str, Field(description="`*` is any item of a list.", examples=["changes.*.after"])]
    count: Annotated[int, Field(ge=1)]


class MeasuredSample(TypedDict):
    """One value that would change, as text."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    id: EventId
    occurred_at: TimeText
    field: Annotated[str, Field(examples=["metadata.note"])]
    before: Annotated[str, Field(description="As it is stored; of a long text, what is around the change.")]
    after: str


class RuleMeasured(TypedDict):
    """What the rule would do to the events that were looked at by this request."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    scanned: Annotated[int, Field(ge=0, description="Events that were looked at.")]
    events_changed: Annotated[int, Field(ge=0)]
    fields_changed: Annotated[int, Field(ge=0, description="Field values, in all of them.")]
    fields: Annotated[list[MeasuredField], Field(max_length=100, description="The most frequent first.")]
    samples: Annotated[list[MeasuredSample], Field(max_length=20)]
    complete: Annotated[bool, Field(description="Whether the last of the events was reached.")]
    cursor: Annotated[str | None, Field(description="Where the next request goes on; null when complete.")]
    has_more: Annotated[bool, Field(description="The opposite of `complete`.")]
    request_id: RequestId


class HealthAnswer(TypedDict):
    """All is well."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    status: Literal["live", "ready"]
    request_id: RequestId


class ActorState(TypedDict):
    """One actor at one moment; ages in seconds."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    path: Annotated[str, Field(examples=["ingest/7"])]
    state: Literal["starting", "running", "backing_off", "stuck", "stopping", "stopped"]
    restarts: int
    last_error: Annotated[str | None, Field(description="Type name of what ended the last crashed run.")]
    depth: Annotated[int, Field(description="Messages waiting.")]
    capacity: int
    peak: int
    oldest_age: float
    handled: int
    rejected: Annotated[int, Field(description="Messages that met a full mailbox.")]
    last_progress_age: float
    in_flight: int


class ActorTree(TypedDict):
    """A part of the tree of actors: what stands at this path, and what is below it."""

    __pydantic_config__ = _CLOSED  # type: ignore[misc]

    path: Annotated[str, Field(description="Empty for the root.")]
    actor: Annotated[ActorState | None, Field(description="Null for a path that only groups others.")]
    children: list[ActorTree]


class ActorTreeAnswer(ActorTree):
    """A part of the tree of actors."""

    request_id: RequestId


AnyText: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(description="Text")])
AnyObject: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
