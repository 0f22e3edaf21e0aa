"""Anonymous streams: how one stands, and its claim. Events that are sent to one are :mod:`logstitch.model`'s."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CLOSED, CLOSED_MODEL, RequestId, TimeText, UuidOut, UuidText
from logstitch.streams import UUID4_PATTERN, token_digest


def _token(text: str) -> str:
    token_digest(text)
    return text


class ClaimStreamBody(BaseModel):
    """Which stream is to become whose."""

    model_config = CLOSED_MODEL

    token: Annotated[
        str,
        AfterValidator(_token),
        Field(
            repr=False,
            description="The stream's: a UUID of version 4, in any letter case.",
            examples=["3f0e6b1c-8d2a-4c57-9b64-0a1f7e5d2c38"],
            json_schema_extra={"pattern": f"^{UUID4_PATTERN}$"},
        ),
    ]
    project_id: Annotated[UuidText, Field(description="The project that gets the events.")]


class StreamInfoAnswer(TypedDict):
    """How a stream stands. Never what is in it."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    status: Literal["active", "claimed", "expired"]
    event_count: Annotated[int, Field(ge=0, description="Events that were ever stored in it.")]
    created_at: TimeText
    last_event_at: Annotated[TimeText | None, Field(description="When the newest of its events was received.")]
    expires_at: Annotated[
        TimeText, Field(description="From then on it takes no events, and those that nobody has claimed are removed.")
    ]
    claimed_at: Annotated[TimeText | None, Field(description="Null unless it was claimed.")]
    request_id: RequestId


class StreamClaimedAnswer(TypedDict):
    """A stream whose events are a project's now."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    project_id: UuidOut
    events_migrated: Annotated[int, Field(ge=0, description="Events that the project has now.")]
    duplicates: Annotated[
        int, Field(ge=0, description="Events that were left out: the project had their idempotency keys already.")
    ]
    request_id: RequestId
