"""Projects."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CLOSED, CLOSED_MODEL, Cursor, HasMore, RequestId, TimeText, UuidOut
from logstitch.model import MAX_PAGE


class CreateProjectBody(BaseModel):
    """A project to be made."""

    model_config = CLOSED_MODEL

    name: Annotated[str, Field(min_length=1, max_length=100, examples=["Billing"])]


class ProjectItem(TypedDict):
    """A project."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    name: str
    created_at: TimeText


class ProjectAnswer(ProjectItem):
    """One project."""

    request_id: RequestId


class ProjectList(TypedDict):
    """One page of projects, newest first."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    projects: Annotated[list[ProjectItem], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId
