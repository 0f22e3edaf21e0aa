"""What is said of events: storing them, and reading them back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Order, Position
from logstitch.model import IncomingEvent
from logstitch.viewing.tiers import View


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
