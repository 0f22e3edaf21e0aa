"""What can go wrong, as a small tree named by concept.

Every layer raises these and nothing else on purpose; ``logstitch.http.errors`` holds the one table that turns them
into a status, a code and a ``Retry-After``. Messages are written for the caller: they never carry SQL, a traceback,
a credential or a value that redaction would have removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Detail:
    """One bad field: ``field`` is a dot path (``2.actor.id`` in a batch), ``message`` says what is wrong with it."""

    field: str
    message: str


class LogStitchError(Exception):
    """Base of every error that this package raises on purpose."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


# -- what the caller did -------------------------------------------------------------------------------------------


class InvalidRequest(LogStitchError):
    """The request breaks the schema; ``details`` names every bad field (at most 100)."""

    def __init__(self, message: str = "The request is not valid.", details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)[:100]

    @classmethod
    def on(cls, field: str, message: str) -> InvalidRequest:
        """One bad field."""
        return cls(details=[Detail(field, message)])

    def under(self, name: str) -> InvalidRequest:
        """The same of a part of the request that is called ``name``."""
        return InvalidRequest(self.message, [Detail(f"{name}.{one.field}", one.message) for one in self.details])


class Unauthorized(LogStitchError):
    """No credential, or one that cannot be read."""


class InvalidApiKey(LogStitchError):
    """A well-formed key that nobody knows."""


class KeyRevoked(LogStitchError):
    """A key that was revoked, or a token whose minting key was."""


class Forbidden(LogStitchError):
    """A good credential of a kind that may not do this."""


class AlertRuleLimitReached(LogStitchError):
    """The plan's custom alert rules are used up."""


class WebhooksNotAvailable(LogStitchError):
    """The plan has no webhooks."""


class NotFound(LogStitchError):
    """Nothing there, or nothing that this caller may know of."""


class StreamNotFound(NotFound):
    """No stream has this token."""


class StreamExpired(LogStitchError):
    """The stream's time is over, and its events are gone or about to be."""


class StreamAlreadyClaimed(LogStitchError):
    """Somebody has claimed the stream; it is a project's now."""


class Conflict(LogStitchError):
    """The request contradicts what is stored."""

    def __init__(self, message: str, details: Sequence[Detail] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)[:100]


class DailyEventLimitReached(LogStitchError):
    """The plan's events of this UTC day are used up; ``retry_after`` is seconds until the next UTC day."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StreamDailyLimitReached(LogStitchError):
    """The stream's events of this UTC day are used up; ``retry_after`` is seconds until the next UTC day."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimited(LogStitchError):
    """Too many requests for one credential or address; ``retry_after`` in seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


# -- what the service cannot do right now --------------------------------------------------------------------------


class Unavailable(LogStitchError):
    """Transient pressure: the same request may succeed after ``retry_after`` seconds. Always answered 503."""

    def __init__(self, message: str = "The service cannot take this request now.", retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Overloaded(Unavailable):
    """More is sent than can be done. Who is told so may be kept waiting for that answer, see ``http.pipeline``."""


class MailboxFull(Overloaded):
    """The actor that owns this work has as much waiting as it may hold."""


class ActorDown(Unavailable):
    """The actor crashed with this request in flight, or is gone."""


class AskTimeout(Unavailable):
    """The actor did not answer within the deadline. Whether it acted is unknown; an idempotent retry finds out."""


class Draining(Unavailable):
    """The process is shutting down and takes no new work."""


class DatabaseUnavailable(Unavailable):
    """PostgreSQL cannot be reached, is full, read-only, or did not answer in time."""


# -- what an operator has to mend ----------------------------------------------------------------------------------


class ConfigurationError(LogStitchError):
    """A setting, a file or a server is not as it must be; the message says which and what to do."""


class CannotStartNow(ConfigurationError):
    """What is in the way may go by itself: an address in use, a full disk, a service that is still stopping.

    The same start may succeed later, so whoever started the process should start it again.
    """
