"""Viewer tokens, and the tiers that they are read through."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CHANGES, CLOSED, DOTTED_KEYS, Cursor, HasMore, RequestId, TimeText, UuidOut
from logstitch.model import MAX_PAGE, RESERVED_TENANT, CategoryName
from logstitch.viewing.tiers import MAX_ACTION_CHARS, MAX_ACTIONS, MAX_HIDDEN_FIELDS, MAX_NAME_CHARS
from logstitch.viewing.tokens import DEFAULT_LIFE_SECONDS, MAX_LIFE_SECONDS, MIN_LIFE_SECONDS


def _nobodys(tenant_id: str) -> str:
    if tenant_id == RESERVED_TENANT:
        raise ValueError("Is reserved: what the service records under it is not for viewers")
    return tenant_id


TierName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, examples=["support"])]
Categories = Annotated[
    Annotated[list[CategoryName], Field(min_length=1, max_length=6)] | None,
    Field(description="Shows events of these categories; `null` shows all.", examples=[["auth", "admin"]]),
]
Actions = Annotated[
    Annotated[
        list[Annotated[str, Field(min_length=1, max_length=MAX_ACTION_CHARS)]],
        Field(min_length=1, max_length=MAX_ACTIONS),
    ]
    | None,
    Field(
        description="Shows events with one of these actions; `null` shows all. `*` stands for any run of characters, "
        "dots included. An event is shown when its category and its action are.",
        examples=[["user.*", "auth.login"]],
    ),
]
HiddenFields = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=512)]],
    Field(
        max_length=MAX_HIDDEN_FIELDS,
        description="Dot paths that are left out of what is shown, and neither searched nor filtered by. They start at "
        "`actor`, `target`, `context`, `metadata` or `changes`; `*` is one level, `**` any number of levels. "
        "Names are compared whole and with their case: `metadata.Internal` does not hide `metadata.internal`. "
        + DOTTED_KEYS,
        examples=[["actor.email", "context", "metadata.**.internal"]],
    ),
]


class MintTokenBody(TypedDict):
    """A viewer token to be made."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    tenant_id: Annotated[
        str,
        Field(
            min_length=1,
            max_length=256,
            description="Whose events it reads: exactly this tenant. It need not have any yet. `$logstitch` is refused",
            examples=["acme"],
            json_schema_extra={"not": {"const": RESERVED_TENANT}},
        ),
        AfterValidator(_nobodys),
    ]
    tier: NotRequired[
        Annotated[TierName, Field(description="The name of a tier. Without one, all of the tenant's events are shown.")]
    ]
    expires_in: NotRequired[
        Annotated[
            int,
            Field(
                ge=MIN_LIFE_SECONDS,
                le=MAX_LIFE_SECONDS,
                description="How many seconds it lives.",
                json_schema_extra={"default": DEFAULT_LIFE_SECONDS},
            ),
        ]
    ]


class TokenMinted(TypedDict):
    """A viewer token."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    token: Annotated[str, Field(pattern=r"^vt_[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]+$")]
    expires_at: TimeText
    request_id: RequestId


class CreateTierBody(TypedDict):
    """A tier to be made."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    name: TierName
    categories: NotRequired[Categories]
    actions: NotRequired[Actions]
    hidden_fields: NotRequired[HiddenFields]


class UpdateTierBody(TypedDict):
    """What of a tier is to be changed."""

    __pydantic_config__ = CHANGES  # type: ignore[misc]

    name: NotRequired[TierName]
    categories: NotRequired[Categories]
    actions: NotRequired[Actions]
    hidden_fields: NotRequired[HiddenFields]


class Tier(TypedDict):
    """What viewers are shown."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    name: TierName
    categories: Categories
    actions: Actions
    hidden_fields: HiddenFields
    created_at: TimeText


class TierAnswer(Tier):
    """One tier."""

    request_id: RequestId


class TierList(TypedDict):
    """One page of tiers, newest first."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    tiers: Annotated[list[Tier], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class TierDeleted(TypedDict):
    """A tier that is gone."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    deleted: Annotated[bool, Field(json_schema_extra={"const": True})]
    request_id: RequestId
