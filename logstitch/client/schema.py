"""What goes over the wire, as types: events as they are sent and as they come back, and the answers of the API.

Events are dictionaries, as they are on the wire; answers about them are frozen records with real times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, Literal, NotRequired, TypedDict

Category = Literal["auth", "access", "mutation", "admin", "security", "system"]
ActorType = Literal["user", "api_key", "service", "system"]


class Actor(TypedDict):
    """Who did it. ``id`` 1 to 256 characters, ``name`` up to 256, ``email`` up to 320."""

    id: str
    type: ActorType
    name: NotRequired[str]
    email: NotRequired[str]


class Target(TypedDict):
    """What it was done to. ``id`` 1 to 256 characters, ``type`` 1 to 128, ``name`` up to 256."""

    id: str
    type: str
    name: NotRequired[str]


class Context(TypedDict, total=False):
    """Where it came from."""

    ip_address: str
    user_agent: str
    location: str
    session_id: str


class Change(TypedDict):
    """One field that changed, with any JSON before and after."""

    field: str
    before: NotRequired[Any]
    after: NotRequired[Any]


class NewEvent(TypedDict):
    """An event as it is sent.

    Beside plain JSON, a ``datetime`` with a zone and a ``UUID`` may stand anywhere in it; they are sent as text.
    """

    action: str
    """Lower-case words joined by dots, such as ``user.role.updated``; up to 128 characters."""
    category: Category
    actor: Actor
    tenant_id: str
    """Which customer of yours this concerns; 1 to 256 characters."""
    target: NotRequired[Target]
    context: NotRequired[Context]
    metadata: NotRequired[Mapping[str, Any]]
    """Any JSON object, up to 32 KiB and 16 levels deep."""
    changes: NotRequired[Sequence[Change]]
    """Up to 100."""
    idempotency_key: NotRequired[str]
    """1 to 255 characters. The client makes one where there is none."""
    occurred_at: NotRequired[str | datetime]
    """At most 24 hours in the future; the time of receipt where there is none."""


class Redaction(TypedDict):
    """One value that redaction changed before the event was stored."""

    field: str
    rules: list[str]


class Event(TypedDict):
    """A stored event. What was not sent is not there.

    A section is as it was sent, save what redaction changed; a rule may have replaced a whole section by a string.
    """

    id: str
    action: str
    category: Category
    actor: dict[str, Any] | str
    tenant_id: str
    target: NotRequired[dict[str, Any] | str]
    context: NotRequired[dict[str, Any] | str]
    metadata: NotRequired[dict[str, Any] | str]
    changes: NotRequired[list[Any] | str]
    idempotency_key: NotRequired[str]
    occurred_at: str
    received_at: str
    content_hash: str
    redactions: NotRequired[list[Redaction]]


class Filters(TypedDict, total=False):
    """Which events are listed; all that are given must match."""

    tenant_id: str
    actor_id: str
    actor_type: ActorType
    action: str
    """Exact, or a glob: ``*`` is any run of characters."""
    category: Category
    target_id: str
    target_type: str
    start_date: str | date | datetime
    """By ``occurred_at``, inclusive. A ``date`` is the whole UTC day, a ``datetime`` needs a zone."""
    end_date: str | date | datetime
    search: str
    """Words, or beginnings of words, that the action and the string values must all have."""
    order: Literal["desc", "asc"]


@dataclass(frozen=True, slots=True)
class Logged:
    """Events that are stored for good."""

    ids: tuple[str, ...]
    """One for each event, in their order."""
    redacted_count: int
    """How many values redaction changed."""
    replays: int
    """How many of the events had been stored already, under the same idempotency keys."""
    request_ids: tuple[str, ...]
    """One for each request that it took."""

    @property
    def id(self) -> str:
        """The first event's."""
        return self.ids[0]

    def __add__(self, other: Logged) -> Logged:
        return Logged(
            self.ids + other.ids,
            self.redacted_count + other.redacted_count,
            self.replays + other.replays,
            self.request_ids + other.request_ids,
        )


NOTHING_LOGGED = Logged((), 0, 0, ())


@dataclass(frozen=True, slots=True)
class EventPage:
    """One page of a list. It may hold fewer events than were asked for although there are more."""

    events: tuple[Event, ...]
    cursor: str | None
    """Where the next page begins; belongs to these filters only."""
    has_more: bool
    request_id: str


@dataclass(frozen=True, slots=True)
class ViewerToken:
    """Reads one tenant's events until it expires."""

    token: str = field(repr=False)
    expires_at: datetime
    request_id: str


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """How an anonymous stream stands."""

    status: Literal["active", "claimed", "expired"]
    event_count: int
    created_at: datetime
    last_event_at: datetime | None
    expires_at: datetime
    claimed_at: datetime | None
    request_id: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A stream whose events are a project's now."""

    project_id: str
    events_migrated: int
    duplicates: int
    """Events left out, since the project had their idempotency keys already."""
    request_id: str
