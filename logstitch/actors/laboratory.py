"""Laboratory: one actor a process that tries unsaved redaction rules on stored events, a few seconds at a time.

Nothing of it may be felt by those who send events. The events are read in small read-only transactions, one range of
an index each; the engine runs in a child process of low priority, since in a thread it would hold the interpreter's
lock for as long as a slow pattern takes; and between two batches there is a pause. One trial a project runs at a time,
and few in all. A trial whose time is up says how far it has come, and the caller may go on from there.

A child lives as long as its trial. One that does not answer is killed.
"""

from __future__ import annotations

from typing import Final

import structlog
import trio

from logstitch.actors.child import ChildFailed, open_child
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.pages import Position
from logstitch.actors.messages.redaction import MeasureRule, RuleEffect
from logstitch.actors.queueing import Limits, answer_in_turn
from logstitch.errors import InvalidRequest, Unavailable
from logstitch.model import RESERVED_TENANT
from logstitch.recording.rules import read_rules
from logstitch.redaction.definitions import CustomRule
from logstitch.redaction.laboratory import Tally, events_message, experiment_message
from logstitch.redaction.rules import check_rule
from logstitch.store.database import Database
from logstitch.store.laboratory import Bodies, next_bodies

log = structlog.get_logger("logstitch.laboratory")

BUDGET_SECONDS: Final = 3.0
"""For one trial, from its first look at the events. With what may come before and after it, and the longest that it may
have waited, that is within the time of a request."""
MAX_EVENTS: Final = 100_000
"""That one trial looks at."""
MAX_WAIT_SECONDS: Final = 3.0
"""That a trial may have waited for others; later there would not be the time for it."""
BATCH_EVENTS: Final = 512
BATCH_BYTES: Final = 512 * 1024
"""Of bodies that are read in one transaction; a single body may be larger."""
MAX_BODY_BYTES: Final = 24 * 1024 * 1024
"""A body that is larger is not looked at but counted: a message to the child has at most 64 MiB. No event is as large
that was sent within the limits of today."""
READ_SECONDS: Final = 1.5
"""For one such transaction; it takes milliseconds."""
ANSWER_SECONDS: Final = 4.0
"""For the child to answer beyond the time that it was given: what one event may take, and the wait for a processor."""
REST: Final = 0.25
"""The pause after a batch, as a part of the time that the batch took."""
SHOWN_PATHS: Final = 100
"""Field paths in an answer."""

_NOTHING: Final = b"{}"
_CHILD: Final = """
from logstitch.redaction.laboratory import serve
serve(sys.stdin.buffer, sys.stdout.buffer)
"""


class Laboratory:
    """Answers ``MeasureRule``."""

    def __init__(
        self,
        database: Database,
        *,
        budget_seconds: float = BUDGET_SECONDS,
        max_events: int = MAX_EVENTS,
        batch_events: int = BATCH_EVENTS,
        batch_bytes: int = BATCH_BYTES,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._database = database
        self._budget_seconds = budget_seconds
        self._max_events = max_events
        self._batch = (batch_events, batch_bytes)
        self._answer_seconds = answer_seconds
        self._thread = trio.CapacityLimiter(1)

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        await answer_in_turn(
            mailbox,
            self._answer,
            lambda question: question.project_no,
            Limits(MAX_WAIT_SECONDS),
            doing="rules are being tried",
        )

    async def _answer(self, envelope: Envelope[MeasureRule], mailbox: Mailbox) -> None:
        try:
            envelope.reply(await self._measure(envelope, mailbox))
        except ChildFailed as error:
            log.warning("laboratory.child_failed", exc_info=error)
            envelope.refuse(Unavailable("The trial was cut short. Try again, with fewer events."))

    async def _measure(self, envelope: Envelope[MeasureRule], mailbox: Mailbox) -> RuleEffect:
        request = envelope.message
        rule = await trio.to_thread.run_sync(_checked, request, limiter=self._thread)
        book = await self._database.transact(
            lambda conn: read_rules(conn, request.project_no), timeout=READ_SECONDS, read_only=True
        )
        tally, place = Tally(), request.after
        async with open_child(_CHILD) as child:
            await child.send(experiment_message(rule, secret=book.hash_key, exempt=RESERVED_TENANT))
            until = trio.current_time() + self._budget_seconds
            while True:
                began = trio.current_time()
                batch = await self._read(request, place)
                found = Tally()
                if batch.events:
                    bodies = [body if len(body) <= MAX_BODY_BYTES else _NOTHING for _, _, body in batch.events]
                    if skipped := sum(body is _NOTHING for body in bodies):
                        log.warning("laboratory.events_skipped", project_no=request.project_no, events=skipped)
                    message = events_message(bodies, seconds=max(0.0, until - began))
                    with trio.move_on_after(max(0.0, until - began) + self._answer_seconds) as scope:
                        await child.send(message)
                        found = Tally.of_json(await child.receive())
                    if scope.cancelled_caught:
                        raise ChildFailed
                    ms, event_id, _ = batch.events[found.scanned - 1]
                    place = Position(ms, event_id)
                    tally.add(found)
                mailbox.progress()
                if batch.last and found.scanned == len(batch.events):
                    return _effect(tally, None)
                now = trio.current_time()
                if now >= until or tally.scanned >= self._max_events or mailbox.closed or envelope.abandoned:
                    return _effect(tally, place)
                await trio.sleep((now - began) * REST)

    async def _read(self, request: MeasureRule, place: Position | None) -> Bodies:
        events, size = self._batch
        return await self._database.transact(
            lambda conn: next_bodies(
                conn,
                request.project_no,
                start_ms=request.start_ms,
                end_ms=request.end_ms,
                after=None if place is None else (place.occurred_at_ms, place.id),
                events=events,
                max_bytes=size,
            ),
            timeout=READ_SECONDS,
            read_only=True,
        )


def _checked(request: MeasureRule) -> CustomRule:
    """The rule as the engine takes it. Raises ``InvalidRequest`` that names what is wrong with it."""
    draft = request.rule
    rule = CustomRule("rule", draft.name, draft.type, draft.pattern, draft.fields, draft.behavior, enabled=True)
    try:
        check_rule(rule)
    except InvalidRequest as error:
        raise error.under("rule") from None
    return rule


def _effect(tally: Tally, place: Position | None) -> RuleEffect:
    paths = sorted(tally.fields.items(), key=lambda item: (-item[1], item[0]))
    return RuleEffect(
        tally.scanned,
        tally.events_changed,
        tally.fields_changed,
        tuple(paths[:SHOWN_PATHS]),
        tuple(tally.samples),
        place,
    )
