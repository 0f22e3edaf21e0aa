"""Ingest: one actor a project, a preparer and a committer: the next group is prepared while one transaction commits.

The answer to a request is given right after its commit, with no checkpoint between. A group that fails for a reason
of its own is tried again one request at a time, so that one bad request never takes others with it. A request whose
redaction rules changed while it waited is redacted and tried again, so that it never meets half of a change.

When all are answered, the project's evaluator is told what was committed. Ingest never waits for it: what it has no
room for, it finds in the tables.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from logstitch import metrics
from logstitch.actors.bounds import COMMIT_SECONDS, HOLD_SECONDS, THREAD_BYTES
from logstitch.actors.mailbox import Envelope, KeyedAsks, KeyedTells, Mailbox
from logstitch.actors.messages.alerts import Committed
from logstitch.actors.messages.events import Accepted, SubmitEvents
from logstitch.actors.messages.redaction import Redacted, RedactEvents
from logstitch.errors import DatabaseUnavailable, LogStitchError, Overloaded, Unavailable
from logstitch.ids import UlidMint
from logstitch.recording.commit import GroupCommit, Outcome, PreparedBatch, Recorded, StaleRules
from logstitch.recording.preparation import Preparation
from logstitch.store import projects
from logstitch.store.database import Connection, Database

log = structlog.get_logger(__name__)

GROUP_EVENTS = 1_000
"""Events that one transaction takes. More makes commits rarer but leaves the database idle while the next group is
prepared: 32 clients sending batches of 100 then move in lockstep."""
PENDING_EVENTS = 2_000
"""Events prepared ahead of the transaction; the mailbox holds the rest."""
GROUP_BYTES = 8 * 1024 * 1024
"""Bytes of request bodies that one transaction takes, unless a single one is larger: what is written in well under
``COMMIT_SECONDS``."""
PENDING_BYTES = 16 * 1024 * 1024
"""Bytes of request bodies prepared ahead of the transaction."""
TURN_SECONDS = 0.01
"""How long requests are prepared on the event loop between two checkpoints."""
TAKE = 64
"""Requests taken from the mailbox at a time, or fewer: those that have a group's events. What is taken is out of the
queue, and is not refused for its age any more."""
QUEUE_SECONDS = 1.0
"""How long a request may wait for its turn while the database works: what would be answered too late is refused at once
and costs nothing more, so that under overload the others are answered in time."""
OUTAGE_SECONDS = 1.0
"""A commit that took longer was held through an outage; what queued up behind it is not refused for its age."""
REDACT_SECONDS = 9.0
"""How long redaction of what was taken may take; its rules may have to be read first, through an outage."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A request that is ready to be stored."""

    envelope: Envelope[SubmitEvents]
    batch: PreparedBatch

    @property
    def size(self) -> int:
        """Of the request, in bytes."""
        return self.envelope.message.size


class Ingest:
    """Owns the queue of accepted batches of one project, and what is known of its tables' heads."""

    def __init__(
        self, database: Database, redaction: KeyedAsks, evaluators: KeyedTells, project_no: int, mint: UlidMint
    ) -> None:
        self._database = database
        self._redaction = redaction
        self._evaluators = evaluators
        self._project_no = project_no
        self._group_commit = GroupCommit(project_no)
        self._preparation: Preparation | None = None
        self._mint = mint
        self._pending: deque[_Work] = deque()
        self._pending_events = 0
        self._pending_bytes = 0
        self._thread = trio.CapacityLimiter(1)
        self._room = trio.lowlevel.ParkingLot()  # where the preparer waits for the committer
        self._work = trio.lowlevel.ParkingLot()  # and the committer for the preparer
        self._finished = False
        self._outage_ended = -math.inf

    async def run(self, mailbox: Mailbox) -> None:
        """Take, prepare and store until the mailbox is closed and empty."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._commit_groups, mailbox)
            with suppress(trio.EndOfChannel):
                while True:
                    envelopes = await mailbox.take(TAKE, weight=lambda one: len(one.events), enough=GROUP_EVENTS)
                    await self._prepare_requests(self._in_time(envelopes))
            self._finished = True
            self._work.unpark_all()

    def _in_time(self, envelopes: Sequence[Envelope[SubmitEvents]]) -> list[Envelope[SubmitEvents]]:
        """Those that somebody still waits for, and that did not wait too long already; the others are refused."""
        overdue = trio.current_time() - QUEUE_SECONDS
        fresh: list[Envelope[SubmitEvents]] = []
        for envelope in envelopes:
            if envelope.abandoned or self._outage_ended < envelope.posted_at < overdue:
                envelope.refuse(Overloaded("More is sent than can be stored. Try again in a moment."))
            else:
                fresh.append(envelope)
        return fresh

    # -- preparing ---------------------------------------------------------------------------------------------------

    async def _prepare_requests(self, envelopes: Sequence[Envelope[SubmitEvents]]) -> None:
        if not envelopes:
            return
        try:
            preparation = await self._get_preparation()
            redacted = await self._redact(envelopes)
        except LogStitchError as error:
            for envelope in envelopes:
                envelope.refuse(error)
            return
        await self._prepare(preparation, envelopes, redacted, self._enqueue)

    async def _redact(self, envelopes: Sequence[Envelope[SubmitEvents]], version: int | None = None) -> Redacted:
        requests = [envelope.message.events for envelope in envelopes]
        return await self._redaction.ask(self._project_no, RedactEvents(requests, version), timeout=REDACT_SECONDS)

    async def _prepare(
        self,
        preparation: Preparation,
        envelopes: Sequence[Envelope[SubmitEvents]],
        redacted: Redacted,
        put: Callable[[_Work], Awaitable[None]],
    ) -> None:
        """Encode what redaction has left of the requests, one after the other, and ``put`` each where it belongs."""
        start = 0
        turn = trio.current_time()
        for envelope in envelopes:
            request = envelope.message
            end = start + len(request.events)
            stored, changes = redacted.events[start:end], redacted.changes[start:end]
            start = end
            encode = partial(
                preparation.prepare,
                request.events,
                stored,
                changes,
                received_at_ms=request.received_at_ms,
                ids=self._mint.mint(len(request.events), request.received_at_ms),
            )
            if request.size >= THREAD_BYTES:
                prepared = await trio.to_thread.run_sync(encode, limiter=self._thread)
            else:
                prepared = encode()
                if trio.current_time() - turn > TURN_SECONDS:
                    await trio.lowlevel.checkpoint()
                    turn = trio.current_time()
            batch = PreparedBatch(
                prepared,
                request.batch,
                request.received_at_ms,
                request.daily_limit,
                redacted.version,
                sent=request.events,
            )
            await put(_Work(envelope, batch))

    async def _get_preparation(self) -> Preparation:
        if self._preparation is None:
            secret = await self._database.transact(
                lambda conn: projects.idempotency_secret(conn, self._project_no), hold=HOLD_SECONDS, read_only=True
            )
            self._preparation = Preparation(secret)
        return self._preparation

    async def _enqueue(self, work: _Work) -> None:
        while self._pending_events >= PENDING_EVENTS or self._pending_bytes >= PENDING_BYTES:
            await self._room.park()
        self._pending.append(work)
        self._pending_events += len(work.batch.events)
        self._pending_bytes += work.size
        self._work.unpark_all()

    # -- committing --------------------------------------------------------------------------------------------------

    async def _commit_groups(self, mailbox: Mailbox) -> None:
        while group := await self._next_group():
            await self._commit(group)
            mailbox.progress()

    async def _next_group(self) -> list[_Work]:
        """What is pending, up to the bound; nothing when all is done."""
        while not self._pending and not self._finished:
            await self._work.park()
        group: list[_Work] = []
        events = size = 0
        while self._pending:
            work = self._pending[0]
            events += len(work.batch.events)
            size += work.size
            if group and (events > GROUP_EVENTS or size > GROUP_BYTES):
                break
            group.append(self._pending.popleft())
            self._pending_events -= len(work.batch.events)
            self._pending_bytes -= work.size
        self._room.unpark_all()
        return group

    async def _commit(self, group: Sequence[_Work]) -> None:
        while group:
            stale, version = await self._store(group)
            group = await self._redact_again(stale, version)

    async def _store(self, group: Sequence[_Work]) -> tuple[list[_Work], int | None]:
        """Store the group in one transaction and answer its requests; those that were redacted by rules that hold no
        more are returned instead, with the version of those that do."""
        batches = [work.batch for work in group]

        def store(conn: Connection) -> list[Outcome]:
            return self._group_commit.run(conn, batches)

        began = trio.current_time()
        try:
            outcomes = await self._database.transact(store, timeout=COMMIT_SECONDS, hold=HOLD_SECONDS)
        except DatabaseUnavailable as error:
            self._group_commit.settle(committed=False)
            for work in group:
                work.envelope.refuse(error)
            return [], None
        except Exception as error:
            self._group_commit.settle(committed=False)
            if len(group) > 1:
                log.warning("ingest.group_failed", project_no=self._project_no, requests=len(group))
                for work in group:
                    await self._commit([work])
                return [], None
            log.error("ingest.request_failed", project_no=self._project_no, error=type(error).__name__)
            group[0].envelope.refuse(error)
            return [], None
        finally:
            if trio.current_time() - began > OUTAGE_SECONDS:
                self._outage_ended = trio.current_time()
        # From here to the last answer there is no checkpoint: what is committed is answered.
        self._group_commit.settle(committed=True)
        stale: list[_Work] = []
        version: int | None = None
        for work, outcome in zip(group, outcomes, strict=True):
            match outcome:
                case Recorded(ids, redacted_count, replays):
                    work.envelope.reply(Accepted(ids, redacted_count, replays))
                case StaleRules():
                    stale.append(work)
                    version = outcome.version
                case _:
                    work.envelope.refuse(outcome)
        self._tell_evaluator()
        return stale, version

    def _tell_evaluator(self) -> None:
        facts = self._group_commit.facts()
        if facts:
            try:
                self._evaluators.tell(self._project_no, Committed(facts))
            except Unavailable:
                metrics.FACTS_DROPPED.inc(len(facts))

    async def _redact_again(self, stale: Sequence[_Work], version: int | None) -> list[_Work]:
        """The requests as the newer rules leave them; each for as long as somebody waits for it."""
        envelopes = []
        for work in stale:
            if work.envelope.abandoned:
                work.envelope.refuse(Unavailable("Nobody waits for this any more."))
            else:
                envelopes.append(work.envelope)
        if not envelopes:
            return []
        again: list[_Work] = []

        async def put(work: _Work) -> None:
            again.append(work)

        try:
            preparation = await self._get_preparation()
            redacted = await self._redact(envelopes, version)
        except LogStitchError as error:
            for envelope in envelopes:
                envelope.refuse(error)
            return []
        await self._prepare(preparation, envelopes, redacted, put)
        return again
