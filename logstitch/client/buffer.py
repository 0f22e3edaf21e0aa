"""The queue's rule: what it takes, when a batch is due, what is left. It waits for nobody and knows no clock.

Events stand in it as the bytes they will be sent as, and stay at its head until it is settled what became of them, so
what is in the queue is exactly what nobody has answered for yet. Its lock is held for a few instructions at a time: it
may be filled by many threads and emptied by one.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal

from logstitch.client.encoding import MAX_BATCH, MAX_BATCH_BYTES, decode, fitting
from logstitch.client.errors import ClientError

MAX_QUEUE_BYTES: Final = 64 * 1024 * 1024
"""Events may be large: their number alone bounds no memory."""


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """How the queue behaves. Times are in seconds."""

    max_queue: int = 10_000
    """Events that may wait; one more is dropped, and reported."""
    max_bytes: int = MAX_QUEUE_BYTES
    """Bytes that they may have together."""
    flush_at: int = MAX_BATCH
    """Events that are sent without waiting for more; 1 to 100."""
    flush_interval: float = 1.0
    """How long an event may wait for others."""
    close_timeout: float = 20.0
    """How long the end waits for the queue to become empty."""

    def __post_init__(self) -> None:
        if not 1 <= self.flush_at <= MAX_BATCH or self.max_queue < 1 or self.max_bytes < 1:
            raise ValueError(f"QueueOptions: 1 <= flush_at <= {MAX_BATCH}, max_queue >= 1 and max_bytes >= 1")
        if not self.flush_interval >= 0 or not self.close_timeout >= 0:
            raise ValueError("QueueOptions: flush_interval and close_timeout are not negative")


@dataclass(frozen=True, slots=True)
class Dropped:
    """Queued events that will not be sent (again), and why."""

    events: tuple[Mapping[str, Any], ...]
    """As they were to be sent, with their idempotency keys."""
    reason: Literal["full", "refused", "left"]
    """The queue was full; the service refused them (``error`` says why); the client was closed and its time was over
    (a last request may have stored some of them)."""
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class QueueStatistics:
    """The queue at a moment, and what became of the events that were given to it since it was made."""

    waiting: int
    """Not yet answered for."""
    sent: int
    """Acknowledged by the service."""
    dropped_full: int
    dropped_refused: int
    dropped_left: int


class Offer(Enum):
    """What became of an event that was offered."""

    TAKEN = "taken"
    RIPE = "ripe"
    """Taken, and whoever empties the queue should look at it now."""
    FULL = "full"
    CLOSED = "closed"


class Queue:
    """Bounded, first in, first out."""

    def __init__(self, options: QueueOptions) -> None:
        self._options = options
        self._lock = threading.Lock()
        self._waiting: deque[tuple[bytes, float]] = deque()
        self._bytes = 0
        self._taken = self._sent = self._full = self._refused = self._left = 0
        self._hurry_to = 0  # events up to this number are due at once
        self._urgency = 0
        self._deadline: float | None = None
        self._abandoned = False

    # -- whoever fills it

    def offer(self, body: bytes, now: float) -> Offer:
        """Take an event, or do not."""
        options = self._options
        with self._lock:
            if self._deadline is not None:
                return Offer.CLOSED
            if len(self._waiting) >= options.max_queue or self._bytes + len(body) > options.max_bytes:
                self._full += 1
                return Offer.FULL
            before = self._bytes
            self._waiting.append((body, now))
            self._bytes += len(body)
            self._taken += 1
            # Once for its first event, so that the time begins to run, and once for a full batch: whoever empties the
            # queue is not woken for every event.
            ripe = len(self._waiting) in (1, options.flush_at) or before < MAX_BATCH_BYTES <= self._bytes
            return Offer.RIPE if ripe else Offer.TAKEN

    def hurry(self) -> int:
        """Make all that waits due at once. Returns the number that ``settled`` has to reach for that to be done."""
        with self._lock:
            self._hurry_to = self._taken
            self._urgency += 1
            return self._taken

    def close(self, deadline: float) -> None:
        """Take nothing more; what waits is due at once, and is worth waiting for until the deadline."""
        with self._lock:
            if self._deadline is None:
                self._deadline = deadline
            self._hurry_to = self._taken
            self._urgency += 1

    def abandon(self) -> tuple[Mapping[str, Any], ...]:
        """Give up what waits. What is settled afterwards is not heard any more."""
        with self._lock:
            self._abandoned = True
            left = [body for body, _ in self._waiting]
            self._waiting.clear()
            self._bytes = 0
            self._left += len(left)
        return tuple(map(decode, left))

    # -- whoever empties it

    def due_in(self, now: float) -> float:
        """Seconds until a batch is due: 0 for at once, infinity when it is empty."""
        with self._lock:
            if not self._waiting:
                return math.inf
            settled = self._taken - len(self._waiting)
            ripe = len(self._waiting) >= self._options.flush_at or self._bytes >= MAX_BATCH_BYTES
            if ripe or settled < self._hurry_to:
                return 0.0
            return max(0.0, self._waiting[0][1] + self._options.flush_interval - now)

    def front(self, most: int) -> list[bytes]:
        """The next batch: up to so many events from the head, which stay there."""
        with self._lock:
            bodies = [self._waiting[index][0] for index in range(min(most, len(self._waiting)))]
        return bodies[: fitting(bodies)]

    def settle(self, count: int, *, refused: Collection[int] = (), kept: Collection[int] = ()) -> bool:
        """What became of the first ``count`` events: those with the indexes in ``refused`` were refused, those in
        ``kept`` stay at the head, all others are stored. False when the queue was given up meanwhile."""
        with self._lock:
            if self._abandoned:
                return False
            gone = [self._waiting.popleft() for _ in range(count)]
            stay = [gone[index] for index in sorted(kept)]
            self._waiting.extendleft(reversed(stay))
            self._bytes -= sum(len(body) for body, _ in gone) - sum(len(body) for body, _ in stay)
            self._refused += len(refused)
            self._sent += count - len(refused) - len(kept)
            return True

    # -- whoever looks

    @property
    def settled(self) -> int:
        """How many of the events that were ever taken are stored or were refused. They are settled in order."""
        with self._lock:
            return self._taken - self._left - len(self._waiting)

    @property
    def urgency(self) -> int:
        """Changes when somebody wants what waits to be sent at once."""
        return self._urgency

    @property
    def deadline(self) -> float | None:
        """Until when it makes sense to go on; None until the queue is closed."""
        return self._deadline

    @property
    def finished(self) -> bool:
        """Closed, and nothing is left to be done."""
        with self._lock:
            return self._deadline is not None and not self._waiting

    def statistics(self) -> QueueStatistics:
        """The queue as it is now."""
        with self._lock:
            return QueueStatistics(len(self._waiting), self._sent, self._full, self._refused, self._left)


def refused_indexes(fields: Sequence[str], count: int) -> frozenset[int]:
    """Which events of a batch the paths of a refusal are about; none, when it is about the batch itself."""
    found = set()
    for field in fields:
        index = field.partition(".")[0]
        if index.isascii() and index.isdecimal() and len(index) <= 3 and int(index) < count:
            found.add(int(index))
    return frozenset(found)
