"""What is said of anonymous streams: events for one, a look at one, and the claim of one.

A stream is named by the digest of its token. The token itself stays where it came in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.events import Accepted
from logstitch.actors.messages.projects import Project
from logstitch.model import IncomingEvent
from logstitch.streams import StreamStatus


@dataclass(frozen=True, slots=True)
class SubmitStreamEvents(Ask[Accepted]):
    """Store these events in the stream, all or none; the first request makes it. Answered after the commit.

    Refused with ``Conflict``, ``StreamDailyLimitReached``, ``StreamExpired``, ``StreamAlreadyClaimed``, ``RateLimited``
    (too many new streams of ``address``, or no room for anonymous events), ``Forbidden`` (no new streams at all) or
    ``Unavailable``. ``batch`` and ``size`` are those of ``SubmitEvents``; ``address`` is the client's, empty where it
    has none.
    """

    digest: bytes = field(repr=False)
    events: Sequence[IncomingEvent] = field(repr=False)
    batch: bool
    size: int
    received_at_ms: int
    address: str


@dataclass(frozen=True, slots=True)
class GetStreamInfo(Ask["StreamInfo"]):
    """Where does the stream stand at this time? Refused with ``StreamNotFound``."""

    digest: bytes = field(repr=False)
    now_ms: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What whoever has the token may know. ``event_count`` is of all events that were ever stored in it."""

    status: StreamStatus
    event_count: int
    created_at: datetime
    last_event_at: datetime | None
    expires_at: datetime
    claimed_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClaimStream(Ask["StreamClaimed"]):
    """Make the stream's events the project's, all or none. ``by`` is the key that asks for it.

    Refused with ``StreamNotFound``, ``StreamExpired``, ``StreamAlreadyClaimed`` (to whom it was answered that way, it
    never succeeds later) or ``Unavailable``.
    """

    digest: bytes = field(repr=False)
    project: Project
    by: UUID


@dataclass(frozen=True, slots=True)
class StreamClaimed:
    """How many events are the project's now, and of how many it had the idempotency keys already."""

    events_migrated: int
    duplicates: int
