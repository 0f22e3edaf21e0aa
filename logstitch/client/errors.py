"""What can go wrong, as a small tree: no answer, an answer of somebody else, or the service's refusal.

Every error can be pickled, since errors travel between worker processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Detail:
    """One bad field: its dot path (in a batch, with the event's index in front) and what is wrong with it."""

    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal as it came over the wire."""

    status: int
    """HTTP's."""
    code: str
    """The service's, such as ``validation_error``; ``http_502`` where the answer was not the service's own."""
    message: str
    details: tuple[Detail, ...] = ()
    request_id: str | None = None
    retry_after: float | None = None
    """Seconds; None where the answer did not say."""


class ClientError(Exception):
    """The root of all errors of this library that are not mistakes in calling it (those are ``ValueError`` and
    ``TypeError``)."""

    stored: tuple[str, ...] = ()
    """Of a ``log_batch`` that took several requests: the ids of the events that are stored nevertheless, the first so
    many of those given."""


class NoAnswer(ClientError):
    """No answer came, however often it was tried; ``__cause__`` is what httpx said of the last attempt.

    The request may have been carried out. Events may be sent again under the same idempotency keys.
    """

    def __init__(self, request: str, attempts: int, reason: str) -> None:
        super().__init__(request, attempts, reason)
        self.request = request
        """Which one, such as ``events.create``."""
        self.attempts = attempts
        self.reason = reason

    def __str__(self) -> str:
        tries = "one attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"{self.request}: no answer in {tries} ({self.reason})"


class UnusableAnswer(ClientError):
    """An answer came that is not the service's: a redirect, another site's page, JSON of another form."""

    def __init__(self, status: int, reason: str, request_id: str | None = None) -> None:
        super().__init__(status, reason, request_id)
        self.status = status
        self.reason = reason
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


class ApiError(ClientError):
    """The service refused. Caught by status through the subclasses, told apart by ``code``."""

    def __init__(self, problem: Problem, attempts: int = 1, uncertain: bool = False) -> None:
        super().__init__(problem, attempts, uncertain)
        self.problem = problem
        self.attempts = attempts
        """How many requests it took to get this answer."""
        self.uncertain = uncertain
        """An earlier attempt ended without an answer or with a 5xx and may have done what was asked: a claim that is
        then refused as ``stream_already_claimed`` may have been this one."""

    @property
    def status(self) -> int:
        """HTTP's."""
        return self.problem.status

    @property
    def code(self) -> str:
        """The service's, such as ``validation_error``."""
        return self.problem.code

    @property
    def message(self) -> str:
        """A sentence for people."""
        return self.problem.message

    @property
    def details(self) -> tuple[Detail, ...]:
        """The bad fields."""
        return self.problem.details

    @property
    def request_id(self) -> str | None:
        """What to name to whoever runs the service."""
        return self.problem.request_id

    @property
    def retry_after(self) -> float | None:
        """Seconds until it makes sense to ask again; None where the answer did not say."""
        return self.problem.retry_after

    def shift(self, first: int) -> None:
        """Count the events of the details from another one: the batch began with event number ``first``."""
        moved = []
        for detail in self.problem.details:
            index, dot, path = detail.field.partition(".")
            known = index.isascii() and index.isdecimal()
            moved.append(Detail(f"{int(index) + first}{dot}{path}", detail.message) if known else detail)
        self.problem = replace(self.problem, details=tuple(moved))
        self.args = (self.problem, self.attempts, self.uncertain)

    def __str__(self) -> str:
        fields = "; ".join(f"{detail.field}: {detail.message}" for detail in self.details)
        return (
            f"{self.status} {self.code}: {self.message}"
            + (f" ({fields})" if fields else "")
            + (f" [{self.request_id}]" if self.request_id else "")
        )


class InvalidRequest(ApiError):
    """400: ``details`` name the bad fields. (Nothing of the batch was stored.)"""


class Unauthorized(ApiError):
    """401: no key, an unknown or revoked one, or a viewer token that has expired."""


class Forbidden(ApiError):
    """403: this kind of credential may not do this."""


class NotFound(ApiError):
    """404."""


class Conflict(ApiError):
    """409: an idempotency key was used for another event before. (Nothing of the batch was stored.)"""


class Gone(ApiError):
    """410: the stream has expired or was claimed."""


class TooManyRequests(ApiError):
    """429: a rate or a daily limit; ``retry_after`` says when it ends."""


class ServerError(ApiError):
    """5xx, and the repetitions did not help."""


_BY_STATUS: Mapping[int, type[ApiError]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    429: TooManyRequests,
}


def api_error(problem: Problem, attempts: int = 1, uncertain: bool = False) -> ApiError:
    """The error of this status."""
    kind = ServerError if problem.status >= 500 else _BY_STATUS.get(problem.status, ApiError)
    return kind(problem, attempts, uncertain)


class ClientClosed(ClientError):
    """The client was closed, or not opened yet."""


class UnsentEvents(ClientError):
    """The client was closed and its time was over before the queue was empty.

    ``events`` are those that were left, with their idempotency keys, so they may be sent again later. The last request
    may have stored some of them.
    """

    def __init__(self, events: tuple[Mapping[str, Any], ...]) -> None:
        super().__init__(events)
        self.events = events

    def __str__(self) -> str:
        return f"{len(self.events)} queued events were left unsent"
