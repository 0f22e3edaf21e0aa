"""What handlers and actors say to each other: frozen messages in the imperative, and the records that answer them.

A message that wants an answer of type ``R`` is an ``Ask[R]``. Nothing here does anything; both sides of every
conversation can be read from this page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.model import IncomingEvent, Plan
from logstitch.redaction.engine import Change

# -- who is calling ------------------------------------------------------------------------------------------------


class KeyType(StrEnum):
    """The two kinds of API key."""

    MASTER = "master"
    PROJECT = "project"


@dataclass(frozen=True, slots=True)
class Project:
    """A project as every other actor needs it: ``no`` is the short number that stands for it inside."""

    no: int
    id: UUID
    organization_id: UUID
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated key. ``project`` is the key's own project, ``None`` for a master key."""

    key_id: UUID
    type: KeyType
    organization_id: UUID
    plan: Plan
    project: Project | None


@dataclass(frozen=True, slots=True)
class Authenticate(Ask[Principal]):
    """Who holds the key with this SHA-256? Refused with ``InvalidApiKey`` or ``KeyRevoked``."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class ResolveProject(Ask[Project]):
    """The organization's project with this id, or its only one when ``project_id`` is ``None``.

    Refused with ``NotFound`` (also for a project of somebody else) or ``InvalidRequest`` on ``project_id``.
    """

    organization_id: UUID
    project_id: UUID | None


# -- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SubmitEvents(Ask["Accepted"]):
    """Store these events, all or none. Answered after the commit.

    Refused with ``Conflict`` (an idempotency key with another body), ``DailyEventLimitReached`` or ``Unavailable``.
    ``batch`` says whether an array was sent, so that error fields carry the item's index; ``size`` is the body's, in
    bytes: what the request weighs in queues.
    """

    events: Sequence[IncomingEvent]
    batch: bool
    size: int
    received_at_ms: int
    daily_limit: int | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """``ids`` in request order (``evt_…``); ``replays`` of them were stored by an earlier request."""

    ids: tuple[str, ...]
    redacted_count: int
    replays: int


class Order(StrEnum):
    """Order of a page by (occurred_at, id)."""

    DESC = "desc"
    ASC = "asc"


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the order (occurred_at, id): the last event that the caller has seen."""

    occurred_at_ms: int
    id: UUID


@dataclass(frozen=True, slots=True)
class EventFilter:
    """What to look for. Times are inclusive, milliseconds since the epoch; ``action`` may hold ``*``; ``words`` are
    folded by ``search.terms.query_words`` and every one must begin a word of the event."""

    tenant_id: str | None = None
    actor_id: str | None = None
    actor_type: str | None = None
    action: str | None = None
    category: str | None = None
    target_id: str | None = None
    target_type: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None
    words: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ListEvents(Ask["EventPage"]):
    """One page of a project's events, after ``after`` in ``order``."""

    project_no: int
    filter: EventFilter
    order: Order
    limit: int
    after: Position | None


@dataclass(frozen=True, slots=True)
class EventPage:
    """``bodies`` are canonical JSON texts, ready to be spliced; ``next`` is where to go on, ``None`` at the end.

    A page may hold fewer than ``limit`` events although ``next`` is set: a rare combination of filters is searched in
    bounded steps.
    """

    bodies: tuple[str, ...]
    next: Position | None


@dataclass(frozen=True, slots=True)
class GetEvent(Ask[str]):
    """The body of one event. Refused with ``NotFound``."""

    project_no: int
    id: UUID


# -- redaction -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RedactEvents(Ask["Redacted"]):
    """Take out of these events what the project's rules say; one rule-set version for the whole message."""

    events: Sequence[IncomingEvent]


@dataclass(frozen=True, slots=True)
class Redacted:
    """``events`` in the order of the message, as they may be stored; ``changes[i]`` is what was done to event ``i``."""

    events: Sequence[dict[str, object]]
    changes: Sequence[tuple[Change, ...]]


# -- keys and projects ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it may be shown: never the key itself."""

    id: UUID
    type: KeyType
    name: str
    prefix: str
    project_id: UUID | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


@dataclass(frozen=True, slots=True)
class CreateKey(Ask["CreatedKey"]):
    """Make a project key. Refused with ``NotFound`` for a project that is not the organization's."""

    organization_id: UUID
    project_id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """``secret`` is the key, shown this once."""

    key: Key
    secret: str


@dataclass(frozen=True, slots=True)
class Page:
    """Keyset position in a list that is ordered newest first by (created_at, id)."""

    created_at: datetime
    id: UUID


@dataclass(frozen=True, slots=True)
class ListKeys(Ask["KeyPage"]):
    """Keys of the organization, or of one project, newest first."""

    organization_id: UUID
    project_id: UUID | None
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class KeyPage:
    """One page of keys."""

    keys: tuple[Key, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class RevokeKey(Ask[Key]):
    """Revoke a project key for ever; answered when every process refuses it. Repeating it answers the first time.

    With ``project_id`` only a key of that project is found. Refused with ``NotFound``, also for master keys.
    """

    organization_id: UUID
    project_id: UUID | None
    key_id: UUID


@dataclass(frozen=True, slots=True)
class CreateProject(Ask[Project]):
    """Make a project in the organization."""

    organization_id: UUID
    name: str


@dataclass(frozen=True, slots=True)
class ListProjects(Ask["ProjectPage"]):
    """Projects of the organization, newest first."""

    organization_id: UUID
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class ProjectPage:
    """One page of projects."""

    projects: tuple[Project, ...]
    next: Page | None
