"""When a request is repeated: a pure rule over what came back, how often, and when.

Repeated is what may pass by itself: no answer, 5xx, and 429. No other 4xx ever is. Every request of this library can be
repeated safely, since all events carry idempotency keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

_DOUBLINGS: Final = 30
"""More would only bring large numbers: the longest pause is far below."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and how long a request is repeated. Times are in seconds."""

    tries: int = 3
    """More attempts after the first."""
    seconds: float = 60.0
    """For all attempts and pauses of one request together. ``AsyncClient`` ends an attempt when they are over;
    ``Client`` cannot, while the headers of an answer come in drops (see there)."""
    first_pause: float = 0.5
    """Doubles with each failure; the real pause is drawn from its upper half."""
    longest_pause: float = 8.0

    def __post_init__(self) -> None:
        if self.tries < 0 or not self.seconds > 0 or not 0 < self.first_pause <= self.longest_pause:
            raise ValueError("Retries: tries >= 0, seconds > 0 and 0 < first_pause <= longest_pause")

    def backoff(self, failures: int, jitter: float) -> float:
        """The pause after so many failures (1 or more); ``jitter`` is a random number from 0 to 1."""
        longest = min(self.first_pause * 2.0 ** min(failures - 1, _DOUBLINGS), self.longest_pause)
        return longest * (0.5 + jitter / 2)

    def pause(self, failures: int, elapsed: float, wanted: float | None, jitter: float) -> float | None:
        """Seconds to wait before the next attempt, or None to give up.

        ``failures`` counts the attempts so far, ``elapsed`` is the time since the first one began, ``wanted`` what the
        answer said in ``Retry-After``. The pause is never shorter than that: where it does not fit into the time that
        is left, there is no next attempt. Backoff is added to it, lest all who were told the same come at once.
        """
        if failures > self.tries:
            return None
        pause = self.backoff(failures, jitter) + (wanted or 0.0)
        return pause if elapsed + pause < self.seconds else None


def is_transient(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status >= 500 or status == 429


def retry_after(text: str | None, now: datetime) -> float | None:
    """Seconds of a ``Retry-After`` header (RFC 9110, 10.2.3): a number of seconds or a date. None for anything else.

    ``now`` has a zone. A date in the past is 0.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdecimal():
        return float(text) if len(text) <= 12 else math.inf
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000", and the two old forms of a date, all of which mean UTC
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, (moment - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
