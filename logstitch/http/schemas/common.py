"""What the schemas of several resources share: strict reading, the query parameters of projects and pages, and the
forms of ids and times.

What arrives as text (a query has nothing else) is read by exact forms, since ``int`` takes ``1_0`` and other scripts'
digits, and ``UUID`` braces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from logstitch import gate, times
from logstitch.errors import InvalidRequest
from logstitch.model import DEFAULT_PAGE, MAX_PAGE, errors_to_details, validate

B = TypeVar("B", bound=BaseModel)
T = TypeVar("T")

CLOSED = ConfigDict(extra="forbid", strict=True)
"""For the ``__pydantic_config__`` of every TypedDict."""
CHANGES = ConfigDict(extra="forbid", strict=True, json_schema_extra={"minProperties": 1})
"""For one that says what is to be changed."""
CLOSED_MODEL = ConfigDict(extra="forbid", strict=True, frozen=True)
"""For the ``model_config`` of every model."""

MAX_SETTINGS_BYTES: Final = 512 * 1024
"""Of a body that says how something is to be: more than any that fits its schema, with every character escaped. To find
and name what is wrong with more holds up everybody else (0.9 s for 5 MiB of unknown fields)."""

DOTTED_KEYS = (
    "A key with dots in its name is also found by the parts between them, as if each were a level: "
    "`metadata.user.email` is the key `user.email` of `metadata`, too."
)
"""What is to be said of every list of field paths."""

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
Number = BeforeValidator(_number)
"""For a whole number that arrives as text. To stand outermost, or the bounds are lost in the JSON schema."""


def check(schema: type[B], value: object) -> B:
    """``value`` as ``schema``; raises ``InvalidRequest`` that names every bad field."""
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(details=errors_to_details(error)) from None


def read_object(schema: type[B], body: bytes) -> B:
    """A JSON body as ``schema``; raises ``InvalidRequest``."""
    return check(schema, _parsed(body))


def read_as(schema: TypeAdapter[T], body: bytes) -> T:
    """A JSON body that is an object, by a schema that has no class; raises ``InvalidRequest``."""
    return validate(schema, _parsed(body))


def _parsed(body: bytes) -> object:
    if len(body) > MAX_SETTINGS_BYTES:
        raise InvalidRequest(f"The body is larger than any that fits: it has at most {MAX_SETTINGS_BYTES // 1024} KiB.")
    value = gate.parse(body)
    if type(value) is not dict:
        raise InvalidRequest("The body must be a JSON object.")
    return value


def _readable(read: Callable[[str], int]) -> AfterValidator:
    def check(text: str) -> str:
        read(text)
        return text

    return AfterValidator(check)


# Looked at with all the other fields, so that each one that is wrong is named.
StartDate = Annotated[str, _readable(times.parse_start)]
EndDate = Annotated[str, _readable(times.parse_end)]


def start_of(time: str) -> Any:
    """The field ``start_date`` of what is looked for by ``time``, an event's ``occurred_at`` or the like."""
    return Field(
        min_length=1,
        max_length=64,
        description=f"`{time}` at or after this: a time (RFC 3339) or a date, from the start of that UTC day.",
        examples=["2026-11-01"],
    )


def end_of(time: str, example: str = "2026-11-30T23:59:59.999Z") -> Any:
    """The field ``end_date``, likewise."""
    return Field(
        min_length=1,
        max_length=64,
        description=f"`{time}` at or before this: a time (RFC 3339) or a date, to the end of that UTC day.",
        examples=[example],
    )


def read_dates(start_date: str | None, end_date: str | None) -> tuple[int | None, int | None]:
    """Both bounds of a search in milliseconds, as a ``StartDate`` and an ``EndDate`` say: a time, or a date that stands
    for its whole UTC day."""
    return (
        None if start_date is None else times.parse_start(start_date),
        None if end_date is None else times.parse_end(end_date),
    )


class NoQuery(BaseModel):
    """No parameters at all."""

    model_config = CLOSED_MODEL


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
        Number,
    ] = DEFAULT_PAGE
    cursor: Annotated[
        str | None,
        Field(description="`cursor` of the page before, with the same filters; `limit` may differ."),
    ] = None


class ProjectPageQuery(PageQuery, ProjectQuery):
    """Which page of a project's list."""


RequestId = Annotated[
    str,
    Field(
        pattern="^req_[0-7][0-9A-HJKMNP-TV-Z]{25}$",
        description="Names this request, also in the header X-Request-Id and in the service's log.",
        examples=["req_01JDC8Z8YQ3V1S7T9W6X4K2M0P"],
    ),
]
SeverityName = Literal["low", "medium", "high", "critical"]
AlertId = Annotated[
    str, Field(pattern="^alr_[0-7][0-9A-HJKMNP-TV-Z]{25}$", examples=["alr_01KARHK7T0C8Q2M4V6X9Z1B3D9"])
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
AnyText: TypeAdapter[str] = TypeAdapter(Annotated[str, Field(description="Text")])
AnyObject: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])
