"""What the client does, without doing it: each call is a generator that yields what is to be sent and waited for.

A shell runs it: it sends a ``Send`` and answers with what came back, sleeps a ``Pause``, and for an ``Idle`` waits
until there is something to do. So retries, batches, and the queue's delivery are the same code for every kind of
program, and are tested without a network or a clock.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from logstitch.client import wire
from logstitch.client.buffer import Dropped, Offer, Queue, refused_indexes
from logstitch.client.encoding import MAX_BATCH, batches, decode, encode, new_key
from logstitch.client.errors import (
    ApiError,
    ClientClosed,
    ClientError,
    NoAnswer,
    UnsentEvents,
    UnusableAnswer,
    api_error,
)
from logstitch.client.retries import Retries, is_transient
from logstitch.client.schema import (
    NOTHING_LOGGED,
    Claimed,
    Event,
    EventPage,
    Filters,
    Logged,
    NewEvent,
    StreamInfo,
    ViewerToken,
)
from logstitch.client.wire import Answer, Lost, Request

T = TypeVar("T")

log = logging.getLogger("logstitch.client")

OUTAGE: Final = Retries(tries=1_000_000, seconds=float("inf"), first_pause=0.5, longest_pause=30.0)
"""How the queue waits for a service that is away: as long as it takes, since what waits is kept."""
CLOSING: Final = Retries(tries=1_000_000, seconds=float("inf"), first_pause=0.2, longest_pause=1.0)
"""The same while the client is being closed: there is little time."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send this, within so many seconds; to be replied to with an ``Answer`` or ``Lost``."""

    request: Request
    seconds: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Wait so many seconds (infinity: for ever), or until the queue was touched."""

    seconds: float


Step = Send | Pause | Idle
Reply = Answer | Lost | None
Steps = Generator[Step, Reply, T]


@dataclass(frozen=True, slots=True)
class Core:
    """The calls. The fields are what a test wants to decide."""

    retries: Retries
    attempt_seconds: float
    """What one attempt of the queue's delivery may take altogether."""
    project_id: str | None = None
    on_drop: Callable[[Dropped], None] | None = None
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    jitter: Callable[[], float] = random.random
    key: Callable[[], str] = new_key

    # -- one request

    def exchange(self, request: Request, parse: Callable[[Answer, Mapping[str, Any]], T]) -> Steps[T]:
        """Send it until there is an answer that counts. Raises ``ClientError``."""
        began = self.clock()
        attempts, uncertain = 0, False
        while True:
            reply = yield from _send(request, max(0.001, began + self.retries.seconds - self.clock()))
            attempts += 1
            if isinstance(reply, Answer) and reply.status < 400:
                return wire.read(reply, parse)
            error, wanted, passing = self._error(request, reply, attempts, uncertain)
            elapsed = self.clock() - began
            pause = self.retries.pause(attempts, elapsed, wanted, self.jitter()) if passing else None
            if pause is None:
                raise error from (reply.cause if isinstance(reply, Lost) else None)
            uncertain = uncertain or isinstance(reply, Lost) or reply.status >= 500
            yield Pause(pause)

    def _error(
        self, request: Request, reply: Answer | Lost, attempts: int, uncertain: bool
    ) -> tuple[ClientError, float | None, bool]:
        """What to raise if this was the last attempt, how long to wait if not, and whether to."""
        if isinstance(reply, Lost):
            return NoAnswer(request.name, attempts, reply.reason), None, reply.passing
        problem = wire.problem(reply, self.now())
        return api_error(problem, attempts, uncertain), problem.retry_after, is_transient(reply.status)

    # -- events

    def log(self, event: NewEvent, stream: str | None = None) -> Steps[Logged]:
        """One event."""
        body = encode(event, key=self.key)
        return self.exchange(wire.send_events([body], stream=stream, alone=True), wire.logged(1))

    def log_batch(self, events: Iterable[NewEvent], stream: str | None = None) -> Steps[Logged]:
        """Any number of events. All are encoded before the first is sent."""
        return self._submit([encode(event, key=self.key) for event in events], stream)

    def _submit(self, bodies: list[bytes], stream: str | None) -> Steps[Logged]:
        done = NOTHING_LOGGED
        for first, batch in batches(bodies):
            try:
                request = wire.send_events(batch, stream=stream)
                done += yield from self.exchange(request, wire.logged(len(batch)))
            except ClientError as error:
                error.stored = done.ids
                if isinstance(error, ApiError):
                    error.shift(first)
                raise
        return done

    def get_event(self, id: str) -> Steps[Event]:
        """One event."""
        return self.exchange(wire.get_event(id), wire.event)

    # -- viewer tokens and streams

    def create_viewer_token(self, tenant_id: str, tier: str | None, expires_in: int | None) -> Steps[ViewerToken]:
        """A viewer token. One that was made by an attempt without an answer is known to nobody."""
        return self.exchange(wire.create_viewer_token(tenant_id, tier, expires_in), wire.viewer_token)

    def stream_info(self, token: str) -> Steps[StreamInfo]:
        """How a stream stands."""
        return self.exchange(wire.get_stream_info(token), wire.stream_info)

    def claim_stream(self, token: str, project_id: str | None) -> Steps[Claimed]:
        """A claim, for this project or the client's. Raises ``ValueError`` where there is neither."""
        project = project_id or self.project_id
        if project is None:
            raise ValueError("a claim needs a project_id, here or in the client")
        return self.exchange(wire.claim_stream(token, project), wire.claimed)

    # -- the queue

    def enqueue(self, queue: Queue, event: NewEvent) -> Offer:
        """Put an event into the queue. ``FULL`` was reported. Raises ``ClientClosed``."""
        body = encode(event, key=self.key, occurred_at=self.now())
        offer = queue.offer(body, self.clock())
        if offer is Offer.CLOSED:
            raise ClientClosed("the client is closed")
        if offer is Offer.FULL:
            self._report(Dropped((decode(body),), "full"), queue.statistics().dropped_full)
        return offer

    def deliver(self, queue: Queue) -> Steps[None]:
        """Send what is in the queue, as it becomes due, until the queue is closed and empty, or nothing more can be
        sent before its deadline.

        What may pass is waited for, with the events kept at the head. What the service refuses is taken out and
        reported: the events that it names, or else all of the batch.
        """
        failures, most = 0, MAX_BATCH
        while not queue.finished:
            wait = queue.due_in(self.clock())
            if wait > 0:
                yield Idle(wait)
                continue
            batch = queue.front(most)
            if not batch:
                continue  # given up meanwhile
            request = wire.send_events(batch)
            reply = yield from _send(request, self._attempt_within(queue))
            try:
                if isinstance(reply, Answer) and reply.status < 400:
                    wire.read(reply, wire.logged(len(batch)))
                    queue.settle(len(batch))
                    failures, most = 0, MAX_BATCH
                    continue
                error, wanted, passing = self._error(request, reply, failures + 1, failures > 0)
            except UnusableAnswer as unusable:
                error, wanted, passing = unusable, None, True
            if passing or isinstance(reply, Lost):
                failures += 1
                if failures == 1:
                    log.warning("queued events cannot be sent at the moment, and are kept: %s", error)
                if not (yield from self._wait_out(queue, failures, wanted)):
                    return
            elif isinstance(error, ApiError) and error.status == 413 and len(batch) > 1:
                most = len(batch) // 2
            else:
                self._refused(queue, batch, error)
                failures, most = 0, MAX_BATCH

    def _attempt_within(self, queue: Queue) -> float:
        if queue.deadline is None:
            return self.attempt_seconds
        return min(self.attempt_seconds, max(0.001, queue.deadline - self.clock()))

    def _wait_out(self, queue: Queue, failures: int, wanted: float | None) -> Generator[Step, Reply, bool]:
        """Wait until the next attempt. Whoever wants a flush cuts the backoff short, but never what the service asked
        for. False when there can be no attempt before the queue's deadline."""
        urgency, now = queue.urgency, self.clock()
        policy = OUTAGE if queue.deadline is None else CLOSING
        earliest = now + (wanted or 0.0)
        planned = earliest + policy.backoff(failures, self.jitter())
        while True:
            now = self.clock()
            until = planned if queue.urgency == urgency else earliest
            if queue.deadline is not None and max(until, now) >= queue.deadline:
                return False
            if now >= until:
                return True
            yield Idle(until - now)

    def _refused(self, queue: Queue, batch: list[bytes], error: ClientError) -> None:
        fields = [detail.field for detail in error.details] if isinstance(error, ApiError) else []
        # A batch is stored as a whole or not at all, so those that are not named are only in bad company.
        named = refused_indexes(fields, len(batch)) or frozenset(range(len(batch)))
        kept = frozenset(range(len(batch))) - named
        if queue.settle(len(batch), refused=named, kept=kept):
            events = tuple(decode(batch[index]) for index in sorted(named))
            self._report(Dropped(events, "refused", error), queue.statistics().dropped_refused)

    def give_up(self, queue: Queue) -> UnsentEvents | None:
        """Take what is left out of the queue and report it."""
        left = queue.abandon()
        if not left:
            return None
        self._report(Dropped(left, "left"), len(left))
        return UnsentEvents(left)

    def _report(self, dropped: Dropped, total: int) -> None:
        # A full queue drops in floods, and a log line for each would be another one: 1, 2, 4, 8, …
        if dropped.reason != "full" or total & (total - 1) == 0:
            because = f": {dropped.error}" if dropped.error is not None else ""
            log.warning(
                "%d queued events dropped (%s), %d so far%s", len(dropped.events), dropped.reason, total, because
            )
        if self.on_drop is None:
            return
        try:
            self.on_drop(dropped)
        except Exception:  # somebody else's code, which must not end the delivery of what can be delivered
            log.exception("on_drop failed")


def _send(request: Request, seconds: float) -> Generator[Step, Reply, Answer | Lost]:
    reply = yield Send(request, seconds)
    if reply is None:
        raise TypeError("a Send is replied to with what came back")
    return reply


@dataclass(slots=True)
class Paging:
    """Where a list stands: which page is next, and that it never goes in circles."""

    filters: Filters
    page_size: int
    cursor: str | None
    _done: bool = False

    def __post_init__(self) -> None:
        self.next()  # a bad filter is told when the list is asked for, not when it is read

    def next(self) -> Request | None:
        """The request of the next page; None after the last one."""
        return None if self._done else wire.list_events(self.filters, limit=self.page_size, cursor=self.cursor)

    def turn(self, page: EventPage) -> None:
        """Go on after this page. Raises ``UnusableAnswer`` where that would lead back to it."""
        if page.has_more and page.cursor == self.cursor:
            raise UnusableAnswer(200, "has_more without a new cursor", page.request_id)
        self._done, self.cursor = not page.has_more, page.cursor
