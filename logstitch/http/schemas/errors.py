"""The body of every answer that is no success."""

from __future__ import annotations

from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CLOSED, RequestId


class ErrorDetail(TypedDict):
    """One bad field."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    field: Annotated[
        str, Field(description="A dot path; in a batch, the item's index comes first", examples=["2.actor.id"])
    ]
    message: Annotated[str, Field(examples=["Required"])]


class ErrorInfo(TypedDict):
    """What went wrong."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    code: Annotated[str, Field(description="For programs. It does not change.", examples=["validation_error"])]
    message: Annotated[str, Field(description="For people. It may change.", examples=["The request is not valid."])]
    details: NotRequired[Annotated[list[ErrorDetail], Field(min_length=1, max_length=100)]]


class ErrorBody(TypedDict):
    """Every answer that is no success."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    error: ErrorInfo
    request_id: RequestId
