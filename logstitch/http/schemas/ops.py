"""What operators are shown: health, and the tree of actors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CLOSED, RequestId


class HealthAnswer(TypedDict):
    """All is well."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    status: Literal["live", "ready"]
    request_id: RequestId


class ActorState(TypedDict):
    """One actor at one moment; ages in seconds."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

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
    gauges: Annotated[
        dict[str, float],
        Field(description="What the actor reports of its own work: of an evaluator, `lag`, the events to look at."),
    ]


class ActorTree(TypedDict):
    """A part of the tree of actors: what stands at this path, and what is below it."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    path: Annotated[str, Field(description="Empty for the root.")]
    actor: Annotated[ActorState | None, Field(description="Null for a path that only groups others.")]
    children: list[ActorTree]


class ActorTreeAnswer(ActorTree):
    """A part of the tree of actors."""

    request_id: RequestId
