"""API keys."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CLOSED, CLOSED_MODEL, Cursor, HasMore, RequestId, TimeText, UuidOut, UuidText
from logstitch.model import MAX_PAGE


class CreateKeyBody(BaseModel):
    """A project key to be made."""

    model_config = CLOSED_MODEL

    project_id: Annotated[UuidText, Field(description="The project it is for.")]
    type: Annotated[Literal["project"], Field(description="Master keys are made on the command line only.")]
    name: Annotated[str, Field(min_length=1, max_length=100, examples=["billing service, production"])]


class KeyCreated(TypedDict):
    """A new key, and the only time that it is shown."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

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

    __pydantic_config__ = CLOSED  # type: ignore[misc]

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

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    keys: Annotated[list[KeyItem], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class KeyRevoked(TypedDict):
    """A key that no process takes any more."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    deleted: Literal[True]
    revoked_at: Annotated[TimeText, Field(description="Of the first time, when it is repeated.")]
    request_id: RequestId
