"""What handlers and actors say to each other: frozen messages in the imperative, and the records that answer them.

A message that wants an answer of type ``R`` is an ``Ask[R]``. Nothing here does anything; both sides of every
conversation can be read from this page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.model import IncomingEvent, Plan
from logstitch.redaction.definitions import Behavior, RuleType
from logstitch.redaction.engine import Change
from logstitch.redaction.laboratory import Sample
from logstitch.viewing.tiers import View

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
    """One page of a project's events, after ``after`` in ``order``.

    With a ``view`` they are the events of its tenant, whatever the filter names, through its tier.
    """

    project_no: int
    filter: EventFilter
    order: Order
    limit: int
    after: Position | None
    view: View | None = None


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
    """The body of one event, as ``view`` shows it. Refused with ``NotFound``, also for one that it does not show."""

    project_no: int
    id: UUID
    view: View | None = None


# -- redaction -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RedactEvents(Ask["Redacted"]):
    """Take out of these requests' events what the project's rules say; one version of the rules for the whole message.

    Each request has a time of its own that its redaction may take. ``version`` is the one that the tables were seen to
    have, if they were: whoever has rules of another version reads them again first.
    """

    requests: Sequence[Sequence[IncomingEvent]]
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Redacted:
    """The events of all requests, one after the other, as they may be stored; ``changes[i]`` is what was done to event
    ``i``, and ``version`` that of the rules."""

    version: int
    events: Sequence[Mapping[str, object]]
    changes: Sequence[tuple[Change, ...]]


BUILTIN = "builtin"
"""The type of rules that every project has. The types of custom ones are ``RuleType``'s."""


@dataclass(frozen=True, slots=True)
class RedactionRule:
    """A rule as it is shown. ``builtin_id`` is set for a built-in, ``created_at`` for a custom rule, which has a
    ``pattern`` or ``fields`` by its type."""

    id: str
    type: str
    name: str
    behavior: Behavior
    enabled: bool
    builtin_id: str | None = None
    pattern: str | None = None
    fields: tuple[str, ...] = ()
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListRules(Ask["RulePage"]):
    """The project's rules: the built-ins, then its own in order of creation."""

    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class RulePage:
    """One page of rules. Of a ``Page`` of built-ins, ``created_at`` is the beginning of time."""

    rules: tuple[RedactionRule, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A custom rule that nobody has checked yet."""

    name: str
    type: RuleType
    pattern: str | None
    fields: tuple[str, ...]
    behavior: Behavior
    enabled: bool


@dataclass(frozen=True, slots=True)
class CreateRule(Ask[RedactionRule]):
    """Make a custom rule. Answered when it applies in every process; ``by`` is the key that asks for it.

    Refused with ``InvalidRequest`` (on ``pattern``, ``fields``) or ``Conflict``: there are as many as there may be.
    """

    by: UUID
    draft: RuleDraft


@dataclass(frozen=True, slots=True)
class UpdateRule(Ask[RedactionRule]):
    """Change what is not ``None``. Answered when it applies in every process; ``by`` is the key that asks for it.

    Refused with ``NotFound`` or ``InvalidRequest``, also for what a rule of this type does not have.
    """

    by: UUID
    id: str
    name: str | None = None
    pattern: str | None = None
    fields: tuple[str, ...] | None = None
    behavior: Behavior | None = None
    enabled: bool | None = None

    def changed(self) -> dict[str, Any]:
        """What is to be changed, by its name."""
        names = ("name", "pattern", "fields", "behavior", "enabled")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class DeleteRule(Ask[None]):
    """Remove a custom rule. Answered when no process applies it any more; ``by`` is the key that asks for it.

    Refused with ``NotFound``, and with ``Conflict`` for a built-in.
    """

    by: UUID
    id: str


@dataclass(frozen=True, slots=True)
class TryRules(Ask["TriedRules"]):
    """What would become of a sample, whole or partial, by the project's rules and by unsaved ones behind its own.

    Refused with ``InvalidRequest`` on ``rules.0.pattern`` and the like. Nothing is stored.
    """

    event: Mapping[str, object]
    rules: tuple[RuleDraft, ...]


@dataclass(frozen=True, slots=True)
class TriedRules:
    """``event`` is the sample as it would be stored; ``rules`` are those that changed it, the unsaved ones among them
    under the ids ``rules.0``, ``rules.1``…"""

    event: Mapping[str, object]
    changes: tuple[Change, ...]
    rules: Mapping[str, RedactionRule]


@dataclass(frozen=True, slots=True)
class MeasureRule(Ask["RuleEffect"]):
    """What would an unsaved rule do to the stored events of these times (both included, in milliseconds)?

    It looks as far as it comes in a few seconds, newest first, from behind ``after`` on. Refused with
    ``InvalidRequest`` on ``rule.pattern`` and the like, and with ``Unavailable`` while others are looked at.
    """

    project_no: int
    rule: RuleDraft
    start_ms: int | None
    end_ms: int | None
    after: Position | None


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """What it would do to the events that were looked at this time. ``fields``: paths and how often they change, the
    most frequent first; ``next`` is where to go on, ``None`` at the end."""

    scanned: int
    events_changed: int
    fields_changed: int
    fields: tuple[tuple[str, int], ...]
    samples: tuple[Sample, ...]
    next: Position | None


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
