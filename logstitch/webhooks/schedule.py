"""What becomes of a delivery, and of its endpoint, after an attempt: a pure rule that loops obey.

Only 2xx is success. A delivery is tried eight times within about 28 hours. An endpoint that answers 410 is gone, and
one to which nothing got through for five days is failing: both are disabled, until somebody enables them again.

The schedule is the same for every receiver: a ``Retry-After`` of theirs is not looked at, since nothing of an answer is
kept but its status.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

WAITS: Final = (0.0, 5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 36_000.0)
"""Seconds before each attempt: after it was put into the outbox, and after the end of the attempt before."""
TRIES: Final = len(WAITS)
JITTER: Final = 0.1
"""By which part a wait is shorter or longer, so that what failed together does not come back together."""
FAILING_FOR: Final = timedelta(days=5)
"""Nothing but failures for this long disables an endpoint."""
KEPT_FOR: Final = timedelta(days=90)
"""How long a delivery that has ended stays in the log."""

_GONE: Final = 410


class DeliveryStatus(StrEnum):
    """How far a delivery has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DisabledReason(StrEnum):
    """Why the service has disabled an endpoint: it answered 410, or five days of nothing but failures."""

    GONE = "gone"
    FAILING = "failing"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a delivery and its endpoint.

    ``wait_seconds`` is set where it is tried again. ``failing_since`` is the endpoint's from now on, ``disable`` says
    why it is to be disabled, if it is.
    """

    status: DeliveryStatus
    wait_seconds: float | None
    failing_since: datetime | None
    disable: DisabledReason | None


def is_success(response_status: int | None) -> bool:
    """Whether the receiver has taken it. ``None`` is no answer."""
    return response_status is not None and 200 <= response_status <= 299


def wait_before(attempt: int, chance: float) -> float:
    """Seconds until attempt number ``attempt`` (from 1), by a chance from 0 to 1."""
    return WAITS[min(attempt, TRIES) - 1] * (1 + JITTER * (2 * chance - 1))


def judge(
    response_status: int | None,
    *,
    tries_left: int,
    failing_since: datetime | None,
    now: datetime,
    chance: float,
    moved: bool = False,
) -> Verdict:
    """What an attempt came to. ``tries_left`` after it; ``failing_since``: the endpoint's first failure since its last
    success; ``chance`` (0 to 1) for the jitter; ``moved``: the endpoint has another URL by now, of which this attempt
    says nothing."""
    if is_success(response_status):
        return Verdict(DeliveryStatus.DELIVERED, None, failing_since if moved else None, None)
    since = failing_since if moved else failing_since or now
    if not moved and response_status == _GONE:
        return Verdict(DeliveryStatus.FAILED, None, since, DisabledReason.GONE)
    if not moved and since is not None and now - since >= FAILING_FOR:
        return Verdict(DeliveryStatus.FAILED, None, since, DisabledReason.FAILING)
    if tries_left < 1:
        return Verdict(DeliveryStatus.FAILED, None, since, None)
    return Verdict(DeliveryStatus.PENDING, wait_before(TRIES - tries_left + 1, chance), since, None)
