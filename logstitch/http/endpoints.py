"""An endpoint is a value: where it is, what it takes, who answers, and what the documentation says about it.

Routing, checking and the OpenAPI document all come from it, so they cannot differ. A resource module lists its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, TypeVar

import trio
from pydantic import BaseModel, TypeAdapter

from logstitch.actors.messages.keys import Principal
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.viewers import Viewer
from logstitch.http.requests import RequestHead
from logstitch.http.responses import Answer
from logstitch.http.roles import ROLES, Kind
from logstitch.http.schemas.common import NoQuery

Q = TypeVar("Q", bound=BaseModel)


@dataclass(slots=True)
class Call:
    """A request that was let in, as a handler gets it, beside the body's bytes (empty where none is taken).

    Attributes:
        path: the variable parts of the path.
        principal: who calls by a key; None where everybody may.
        viewer: who calls by a viewer token. Nobody calls by both.
        project: which project it is about, where the endpoint is about one.
        parameters: the query, checked by the endpoint's schema.
        deadline: until when it must be answered, on Trio's clock.
    """

    head: RequestHead
    path: Mapping[str, str]
    principal: Principal | None
    project: Project | None
    parameters: BaseModel
    deadline: float
    viewer: Viewer | None = None

    @property
    def request_id(self) -> str:
        return self.head.request_id

    @property
    def caller(self) -> Principal:
        """Who calls an endpoint that asks for a key."""
        if self.principal is None:
            raise TypeError("this endpoint asks for no key")
        return self.principal

    @property
    def in_project(self) -> Project:
        """The project of an endpoint that is always about one."""
        if self.project is None:
            raise TypeError("this endpoint is about no project")
        return self.project

    def query(self, schema: type[Q]) -> Q:
        """The query parameters, which the endpoint's schema has checked."""
        if not isinstance(self.parameters, schema):
            raise TypeError(f"the query of this endpoint is no {schema.__name__}")
        return self.parameters

    def seconds_left(self) -> float:
        """What an ask may still take."""
        return self.deadline - trio.current_time()


Handler = Callable[[Call, bytes], Awaitable[Answer]]
"""Answers a call. The second argument is the body, whole and not yet parsed."""


class About(Enum):
    """Whether an endpoint is about one project (``X-Project-Id``, ``project_id``, or the caller's own)."""

    NO_PROJECT = 0
    PROJECT = 1
    PROJECT_IF_NAMED = 2
    """A master key may name one and need not; a project key is always about its own."""


@dataclass(frozen=True, slots=True)
class ResponseHeader:
    """A header that an answer may have."""

    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Success:
    """The good answer of an endpoint, for the documentation and for the tests that hold answers against it."""

    status: int
    description: str
    schema: TypeAdapter[Any]
    example: Any
    headers: Mapping[str, ResponseHeader] = field(default_factory=dict)
    content_type: str = "application/json"
    others: Mapping[str, Any] = field(default_factory=dict)
    """The other forms in which the same may be had: an example of each, by content type."""


@dataclass(frozen=True, slots=True)
class RequestBody:
    """What an endpoint takes. The handler checks it with the very schema."""

    schema: TypeAdapter[Any]
    examples: Mapping[str, Any]
    description: str = ""


@dataclass(frozen=True)
class Endpoint:
    """One method of one route."""

    name: str
    """Its row in ``ROLES``."""
    method: str
    path: str
    """``/api/v1/events/{id}``; ``{path*}`` stands for the rest of a path."""
    handler: Handler
    summary: str
    description: str
    success: Success
    about: About = About.NO_PROJECT
    query: type[BaseModel] = NoQuery
    body: RequestBody | None = None
    errors: tuple[str, ...] = ()
    """Codes that it may answer with beyond those that follow from the rest of this value."""
    cors: bool = False
    """Whether pages of any origin may read the answer."""

    @cached_property
    def roles(self) -> frozenset[Kind]:
        """Who may call it."""
        return ROLES[self.name]

    @cached_property
    def is_public(self) -> bool:
        """Whether no credential is looked at."""
        return Kind.NONE in self.roles

    @cached_property
    def route(self) -> str:
        """The template as it is counted and logged."""
        return self.path.replace("*}", "}")

    @cached_property
    def without_query(self) -> BaseModel | None:
        """The parameters of a request that has none; None where some are required."""
        return None if any(f.is_required() for f in self.query.model_fields.values()) else self.query()
