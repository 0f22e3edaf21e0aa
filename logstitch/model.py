"""The words of the wire: what an event is, what the plans allow, and how a bad field is reported.

The event schema is a pydantic schema of TypedDicts (2.5 times as fast as models), and the same schema is what OpenAPI
is generated from, so what is documented is what is checked. Lengths count Unicode code points. Patterns run in Rust's
regex engine, where ``^`` and ``$`` match only at the ends of the text, never before a final newline.

Decisions where the contract is silent: ``target``, when sent, needs ``id`` and ``type``; of a change, ``field`` is
required, ``before`` and ``after`` may be left out (a created field has no before); ``context.location`` is a string of
up to 256; ``ip_address`` is any string of up to 64, since a producer may have masked it already, and ``email`` any
string of up to 320 for the same reason; an absent optional is left out, ``null`` is not a way to spell it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, NamedTuple, NotRequired, TypeVar

import orjson
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, ValidationInfo
from typing_extensions import TypedDict

from logstitch.errors import Detail, InvalidRequest
from logstitch.jcs import canonical
from logstitch.times import parse_time

T = TypeVar("T")

# -- constants of the wire -----------------------------------------------------------------------------------------

MAX_BODY_BYTES: Final = 5 * 1024 * 1024
MAX_BATCH: Final = 100
MAX_METADATA_BYTES: Final = 32 * 1024
"""Of canonical JSON."""
MAX_METADATA_DEPTH: Final = 16
"""Levels of objects and arrays, the metadata object itself being the first."""
MAX_CHANGES: Final = 100
MAX_AHEAD_MS: Final = 24 * 60 * 60 * 1000
"""How far in the future ``occurred_at`` may lie."""
MAX_DETAILS: Final = 100
MAX_FIELD_CHARS: Final = 200
"""Of one part of a field path in an error: an unknown field's name is repeated, but not a megabyte of it."""
DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 100

CategoryName = Literal["auth", "access", "mutation", "admin", "security", "system"]
ActorTypeName = Literal["user", "api_key", "service", "system"]

RESERVED_TENANT: Final = "$logstitch"
"""Whom the events are about that the service records itself, about a project's own settings. Clients read them as any
other and cannot send any."""

ACTION_PATTERN: Final = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$"


@dataclass(frozen=True, slots=True)
class PlanLimits:
    """What a plan allows."""

    custom_alert_rules: int
    events_per_day: int | None
    """Per project and UTC day; None is without limit."""
    webhooks: bool


class Plan(StrEnum):
    """An organization's plan; self-hosted ones start as ``enterprise``."""

    FREE = "free"
    PRO = "pro"
    ENTERPRISE = "enterprise"

    @property
    def limits(self) -> PlanLimits:
        return _LIMITS[self]


_LIMITS: Final = {
    Plan.FREE: PlanLimits(custom_alert_rules=0, events_per_day=1000, webhooks=False),
    Plan.PRO: PlanLimits(custom_alert_rules=25, events_per_day=None, webhooks=True),
    Plan.ENTERPRISE: PlanLimits(custom_alert_rules=500, events_per_day=None, webhooks=True),
}

# -- the event -----------------------------------------------------------------------------------------------------

_STRICT = ConfigDict(extra="forbid", strict=True)


def _time_of_event(text: str, info: ValidationInfo) -> int:
    ms = parse_time(text)
    now_ms = (info.context or {}).get("now_ms")
    if now_ms is not None and ms > now_ms + MAX_AHEAD_MS:
        raise ValueError("Must not be more than 24 hours in the future")
    return ms


class ActorIn(TypedDict):
    """Who did it."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    id: Annotated[str, Field(min_length=1, max_length=256, description="Who, in your own words", examples=["usr_42"])]
    type: Annotated[ActorTypeName, Field(description="What kind of actor", examples=["user"])]
    name: NotRequired[Annotated[str, Field(max_length=256, examples=["Ada Lovelace"])]]
    email: NotRequired[Annotated[str, Field(max_length=320, examples=["ada@example.com"])]]


class TargetIn(TypedDict):
    """What it was done to."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    id: Annotated[str, Field(min_length=1, max_length=256, examples=["doc_7"])]
    type: Annotated[str, Field(min_length=1, max_length=128, examples=["document"])]
    name: NotRequired[Annotated[str, Field(max_length=256, examples=["Q3 forecast"])]]


class ContextIn(TypedDict):
    """Where it came from."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    ip_address: NotRequired[
        Annotated[str, Field(max_length=64, description="Taken as sent, not parsed", examples=["203.0.113.42"])]
    ]
    user_agent: NotRequired[Annotated[str, Field(max_length=1024, examples=["Mozilla/5.0"])]]
    location: NotRequired[Annotated[str, Field(max_length=256, examples=["Berlin, DE"])]]
    session_id: NotRequired[Annotated[str, Field(max_length=256, examples=["ses_9f2"])]]


class ChangeIn(TypedDict):
    """One field that changed, with any JSON before and after."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    field: Annotated[str, Field(min_length=1, max_length=256, examples=["role"])]
    before: NotRequired[Annotated[Any, Field(description="Any JSON", examples=["member"])]]
    after: NotRequired[Annotated[Any, Field(description="Any JSON", examples=["admin"])]]


class EventIn(TypedDict):
    """An event as it is sent."""

    __pydantic_config__ = _STRICT  # type: ignore[misc]

    action: Annotated[
        str,
        Field(
            pattern=ACTION_PATTERN,
            max_length=128,
            description="What happened: lower-case words of letters, digits and underscores, joined by dots",
            examples=["user.role.updated"],
        ),
    ]
    category: Annotated[CategoryName, Field(examples=["admin"])]
    actor: ActorIn
    tenant_id: Annotated[
        str,
        Field(
            min_length=1,
            max_length=256,
            description="Which customer of yours this concerns. `$logstitch` is reserved: under it the service records "
            "changes of the project's own settings",
            examples=["acme"],
            json_schema_extra={"not": {"const": RESERVED_TENANT}},
        ),
    ]
    target: NotRequired[TargetIn]
    context: NotRequired[ContextIn]
    metadata: NotRequired[
        Annotated[
            dict[str, Any],
            Field(
                description="Any JSON object, at most 32 KiB as canonical JSON and 16 levels deep",
                examples=[{"reason": "promotion", "ticket": 4711}],
            ),
        ]
    ]
    changes: NotRequired[Annotated[list[ChangeIn], Field(max_length=MAX_CHANGES)]]
    idempotency_key: NotRequired[
        Annotated[
            str,
            Field(
                min_length=1,
                max_length=255,
                description="Sending the same event again under the same key stores nothing and returns the first id",
                examples=["7f3c2a90-1c1e-4b7e-9d51-2b8f7d0c9a11"],
            ),
        ]
    ]
    occurred_at: NotRequired[
        Annotated[
            str,
            Field(
                max_length=64,
                description="ISO 8601 with an offset, at most 24 hours ahead; the time of receipt by default. "
                "Kept to the millisecond, further digits are cut",
                examples=["2026-11-23T08:00:00.123Z"],
                json_schema_extra={"format": "date-time"},
            ),
            AfterValidator(_time_of_event),
        ]
    ]


EVENT: Final[TypeAdapter[EventIn]] = TypeAdapter(EventIn)
EVENTS: Final[TypeAdapter[list[EventIn]]] = TypeAdapter(list[EventIn])


class IncomingEvent(NamedTuple):  # a tuple, because it is made for every event and costs a third of a frozen dataclass
    """One event that fits the schema."""

    raw: dict[str, Any]
    """Exactly as sent."""
    occurred_at_ms: int | None
    """As parsed from ``occurred_at``; None where the client left it to the time of receipt."""


def validate_events(parsed: object, *, now_ms: int) -> tuple[IncomingEvent, ...]:
    """The events of a request body that has passed the gate: one object, or an array of 1 to 100.

    Raises ``InvalidRequest`` that names every bad field, with the item's index in front when an array was sent.
    ``now_ms`` is the time of receipt.
    """
    batch: list[Any]
    if type(parsed) is list:
        batch = parsed
        if not 1 <= len(batch) <= MAX_BATCH:
            raise InvalidRequest(f"A batch holds 1 to {MAX_BATCH} events; this one has {len(batch)}.")
    elif type(parsed) is dict:
        batch = [parsed]
    else:
        raise InvalidRequest(f"The body must be an event object or an array of 1 to {MAX_BATCH} events.")
    try:
        fitting = EVENTS.validate_python(batch, context={"now_ms": now_ms})
    except ValidationError as error:
        details = _details_of_batch(error, batch)
        details += _details_beyond_schema(batch)
        details.sort(key=lambda detail: int(detail.field.partition(".")[0]))  # Stable: only brings items together.
        if batch is not parsed:
            details = [Detail(detail.field.partition(".")[2], detail.message) for detail in details]
        raise InvalidRequest(details=details) from None
    events = []
    suspicious = False
    for raw, checked in zip(batch, fitting, strict=True):
        # Most metadata is far smaller than it may be, and has fewer brackets than it may be deep. Only canonical form
        # counts, and can be longer than this one by the zeros of its floats: hence the wide margin.
        if (metadata := raw.get("metadata")) is not None:
            text = orjson.dumps(metadata)
            if len(text) > MAX_METADATA_BYTES // 8 or text.count(b"{") + text.count(b"[") > MAX_METADATA_DEPTH:
                suspicious = True
        if raw["tenant_id"] == RESERVED_TENANT:
            suspicious = True
        occurred_at: Any = checked.get("occurred_at")  # The validator has made milliseconds of it.
        events.append(IncomingEvent(raw, occurred_at))
    if suspicious and (details := _details_beyond_schema(batch)):
        if batch is not parsed:
            details = [Detail(detail.field.partition(".")[2], detail.message) for detail in details]
        raise InvalidRequest(details=details)
    return tuple(events)


def metadata_error(metadata: object) -> str | None:
    """What the schema cannot say of metadata."""
    if type(metadata) is dict:
        if _deeper_than(metadata, MAX_METADATA_DEPTH):
            return f"Must be at most {MAX_METADATA_DEPTH} levels deep"
        if len(canonical(metadata)) > MAX_METADATA_BYTES:
            return f"Must be at most {MAX_METADATA_BYTES} bytes of canonical JSON"
    return None


def _details_beyond_schema(batch: list[Any]) -> list[Detail]:
    """What the schema cannot say, or not as cheaply."""
    details = []
    for index, event in enumerate(batch):
        if type(event) is dict:
            if event.get("tenant_id") == RESERVED_TENANT:
                details.append(Detail(f"{index}.tenant_id", "Reserved"))
            if (message := metadata_error(event.get("metadata"))) is not None:
                details.append(Detail(f"{index}.metadata", message))
    return details


def _deeper_than(value: object, levels: int) -> bool:
    level: list[Any] = [value]
    for _ in range(levels):
        level = [
            item
            for container in level
            for item in (container.values() if type(container) is dict else container)
            if type(item) is dict or type(item) is list
        ]
        if not level:
            return False
    return True


def _details_of_batch(error: ValidationError, batch: list[Any]) -> list[Detail]:
    # A body of a hundred thousand unknown fields makes as many errors, and rendering them all would stall the loop for
    # the sake of the first hundred. Then the items are looked at one by one until a hundred are found.
    if error.error_count() <= 10 * MAX_DETAILS:
        return errors_to_details(error)
    details: list[Detail] = []
    for index, event in enumerate(batch):
        details += unknown_fields(event, str(index))
        if len(details) >= MAX_DETAILS:
            return details[:MAX_DETAILS]
    return errors_to_details(error)


_SCHEMAS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(EventIn.__annotations__),
    "actor": frozenset(ActorIn.__annotations__),
    "target": frozenset(TargetIn.__annotations__),
    "context": frozenset(ContextIn.__annotations__),
    "changes": frozenset(ChangeIn.__annotations__),
}


def unknown_fields(event: object, prefix: str) -> list[Detail]:
    """The unknown fields of one event, at most a hundred, by set arithmetic instead of through pydantic."""
    if type(event) is not dict:
        return []
    parts: list[tuple[str, str, object]] = [("", prefix, event)]
    for name, value in event.items():
        if name == "changes" and type(value) is list:
            # A list that is longer is refused for that, and nobody looks behind its end.
            parts += [(name, f"{prefix}.{name}.{i}", change) for i, change in enumerate(value[:MAX_CHANGES])]
        elif name in _SCHEMAS:
            parts.append((name, f"{prefix}.{name}", value))
    details: list[Detail] = []
    for name, path, part in parts:
        if type(part) is dict:
            known = _SCHEMAS[name]
            for key in part:
                if key not in known:
                    details.append(Detail(f"{path}.{_shortened(key)}", _UNKNOWN))
                    if len(details) >= MAX_DETAILS:
                        return details
    return details


# -- bad fields, for every schema ----------------------------------------------------------------------------------

_UNKNOWN: Final = "Unknown field"

# Our own words for each kind of pydantic error: its messages may repeat the value, and a value may be what redaction
# would have removed. What is not listed says only that it is wrong.
_MESSAGES: Final[Mapping[str, str]] = {
    "missing": "Required",
    "extra_forbidden": _UNKNOWN,
    "string_type": "Expected a string",
    "string_too_short": "Must have at least {min_length} character(s)",
    "string_too_long": "Must have at most {max_length} characters",
    "string_pattern_mismatch": "Must match {pattern}",
    "literal_error": "Must be {expected}",
    "enum": "Must be {expected}",
    "dict_type": "Expected an object",
    "model_type": "Expected an object",
    "model_attributes_type": "Expected an object",
    "list_type": "Expected an array",
    "tuple_type": "Expected an array",
    "too_short": "Must have at least {min_length} item(s)",
    "too_long": "Must have at most {max_length} items",
    "int_type": "Expected an integer",
    "int_from_float": "Expected an integer",
    "int_parsing": "Expected an integer",
    "int_parsing_size": "Expected a smaller integer",
    "float_type": "Expected a number",
    "float_parsing": "Expected a number",
    "finite_number": "Expected a finite number",
    "bool_type": "Expected true or false",
    "bool_parsing": "Expected true or false",
    "none_required": "Expected null",
    "greater_than": "Must be greater than {gt}",
    "greater_than_equal": "Must be at least {ge}",
    "less_than": "Must be less than {lt}",
    "less_than_equal": "Must be at most {le}",
    "multiple_of": "Must be a multiple of {multiple_of}",
    "uuid_type": "Expected a UUID",
    "uuid_parsing": "Expected a UUID",
    "uuid_version": "Expected a UUID of version {expected_version}",
    "is_instance_of": "Expected another type",
    "union_tag_invalid": "Must be {expected_tags}",
    "union_tag_not_found": "Required",
}


def errors_to_details(error: ValidationError, prefix: str = "") -> list[Detail]:
    """Each error of a validation as a dot path (after ``prefix``) and a message for people, at most 100.

    A message never repeats the value. That of a ``ValueError`` raised by a validator of ours is passed on as it is.
    """
    details = []
    for item in error.errors(include_url=False, include_input=False)[:MAX_DETAILS]:
        path = ".".join(map(_shortened, item["loc"]))
        field = f"{prefix}.{path}" if prefix and path else prefix or path
        details.append(Detail(field, _message(item["type"], item.get("ctx") or {})))
    return details


def validate(adapter: TypeAdapter[T], value: object, *, prefix: str = "", context: Any = None) -> T:
    """``adapter``'s value, or ``InvalidRequest`` that names every bad field."""
    try:
        return adapter.validate_python(value, context=context)
    except ValidationError as error:
        raise InvalidRequest(details=errors_to_details(error, prefix)) from None


def _message(kind: str, context: Mapping[str, Any]) -> str:
    if kind == "value_error":
        return str(context.get("error", "Is not valid"))
    if (message := _MESSAGES.get(kind)) is not None:
        return message.format_map(context)
    return "Is not valid"


def _shortened(part: object) -> str:
    text = str(part)
    return text if len(text) <= MAX_FIELD_CHARS else text[:MAX_FIELD_CHARS] + "…"
