"""Evaluator: one actor a project that looks at what was committed and fires alerts, each exactly once.

The events table is the truth, and messages only make it quick: events that ingest tells of and that come right behind
the position are taken from memory; after a gap (of another process, of what had no room) they are read by ``seq``. One
process looks at a time, the one with the lease. The others stand by and drop what they are told.

Memory runs ahead of the tables by nothing that matters: what fired is written with the position before anything behind
it is looked at, and everything else comes out the same when it is looked at again. So a position without alerts is
written now and then, and an evaluator that has lost its lease forgets everything, for somebody else has it all.

A change of rules is an event in the log. What is behind it is looked at by the rules as they are there, however late.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from random import SystemRandom
from typing import Any, Final, TypeVar
from uuid import UUID

import structlog
import trio

from logstitch import metrics
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.alerts import CatchUp, Committed
from logstitch.detection.detector import GRACE_MS, GROUPS, ActiveRule, Detector, Firing, Missing
from logstitch.detection.facts import Fact
from logstitch.errors import DatabaseUnavailable
from logstitch.ids import UlidMint
from logstitch.recording import evaluation
from logstitch.recording.alert_rules import rules_at
from logstitch.recording.evaluation import Found, Interest, Page
from logstitch.store.alerts import Lease, LeaseLost
from logstitch.store.database import Connection, Database

log = structlog.get_logger(__name__)

T = TypeVar("T")
MakeDetector = Callable[[Sequence[ActiveRule]], Detector]

TAKE: Final = 32
"""Messages taken from the mailbox at a time."""
GATHER_SECONDS: Final = 0.02
"""For how long more messages may come before they are looked at. What wakes the evaluator is a commit, whose answers
are on their way at that very moment; and many small looks cost more than one."""
SLICE: Final = 16
"""Events between two looks at what has fired and at the clock, or fewer where there are many rules."""
SLICE_WORK, WARM_WORK = 512, 2048
"""Events times rules, of such a slice (each may fire, with a hundred ids) and of a slice of the past."""
CHUNK: Final = 256
"""Events after which what has fired is not put off any longer, nor a checkpoint."""
TRIM_AT_ONCE: Final = 4096
"""Groups in memory up to which it is trimmed on the loop, and beyond in a thread: to drop them all takes 10 ms."""
YIELD_SECONDS: Final = 0.005
"""For how long events are looked at between two checkpoints; then everybody else has a turn."""
LONG_PAGE: Final = 20_000
"""Events that are read together while much has to be given back to the detector, which means reading a long past: the
more there are, the less often."""
FIRINGS: Final = 256
"""Alerts beyond which it is not put off any longer to write them."""
PORTION: Final = 64
"""Alerts of one transaction, of which each may be told to 20 endpoints. One event may fire 500 rules."""
STAND_BY_SECONDS: Final = 2.0
"""Between two attempts to get the lease."""
WRITE_SECONDS: Final = 1.0
"""Between two times that a position without alerts is written, and, where other processes commit for the project, that
it is looked for what they have."""
RENEW_SECONDS: Final = 3.0
"""Between two renewals of the lease when nothing happens: the third one in time still keeps it."""
ELSEWHERE_SECONDS: Final = 60.0
"""For how long it is taken that a process that commits for the project goes on to."""
READ_SECONDS: Final = 0.05
"""Between two reads that come to the end: what others commit comes many times a second, and is read together."""
LEAVE_SECONDS: Final = 3.0
"""For the last write; without it, others wait for the end of the lease."""
FIRST_PAUSE, LAST_PAUSE = 0.1, 2.0
"""Seconds between two tries while the database is away, doubling from the first to the last."""

READS: Final = 2
"""Pages that are read at a time, of all projects; requests have the other connections."""
WRITES: Final = 2
"""The same of what is written, which is never kept waiting by somebody who reads a long past."""
TURN_SECONDS: Final = 4.0
"""How long a transaction waits for its turn."""
TRANSACT_SECONDS: Final = 5.0
"""For one transaction."""
SLOW_SECONDS: Final = TRANSACT_SECONDS / 2
"""What fails after so long may have failed for its size, and is tried again by halves; a server that refuses
connections is found out sooner."""

_chance = SystemRandom().random


class Share:
    """What the evaluators of a process together take of its database."""

    def __init__(self, database: Database, *, reads: int = READS, writes: int = WRITES) -> None:
        self._database = database
        self._reads = trio.Semaphore(reads)
        self._writes = trio.Semaphore(writes)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """One short read-only transaction. Raises ``DatabaseUnavailable``."""
        return await self._transact(self._reads, work, TRANSACT_SECONDS, read_only=True)

    async def write(self, work: Callable[[Connection], T], *, seconds: float = TRANSACT_SECONDS) -> T:
        """One short transaction, of which nobody knows whether it was committed after ``DatabaseUnavailable``."""
        return await self._transact(self._writes, work, seconds, read_only=False)

    async def _transact(
        self, turns: trio.Semaphore, work: Callable[[Connection], T], seconds: float, *, read_only: bool
    ) -> T:
        with trio.move_on_after(TURN_SECONDS) as waiting:
            await turns.acquire()
        if waiting.cancelled_caught:
            raise DatabaseUnavailable("Too many evaluators wait for the database.")
        try:
            return await self._database.transact(work, timeout=seconds, read_only=read_only)
        finally:
            turns.release()


class Evaluator:
    """Looks at one project's events while it has the lease, and stands by while another process has it.

    It takes ``Committed`` and ``CatchUp`` and answers nothing.
    """

    def __init__(
        self,
        share: Share,
        project_no: int,
        *,
        make_detector: MakeDetector = Detector,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._share = share
        self._project_no = project_no
        self._make_detector = make_detector
        self._now = now

    async def run(self, mailbox: Mailbox) -> None:
        """Look, or stand by, until the mailbox is closed and empty."""
        while True:
            lease = await self._stand_by(mailbox)
            look = _Look(self._share, self._project_no, lease, mailbox, self._make_detector, self._now)
            try:
                await look.run()
            except LeaseLost:
                metrics.EVALUATOR_RESTARTS.inc()
                log.info("evaluator.lease_lost", project_no=self._project_no)
            finally:
                await look.leave()

    async def _stand_by(self, mailbox: Mailbox) -> Lease:
        """The lease, as soon as it is to be had. Asked for when there is a message, so that nobody asks for ever."""
        mailbox.report(leads=0, lag=0)
        begin = partial(evaluation.begin, project_no=self._project_no)
        while True:
            asked = trio.current_time()
            with suppress(DatabaseUnavailable):
                if (lease := await self._share.write(begin)) is not None:
                    return lease
            # What comes in the meantime is dropped: it is in the tables.
            while await mailbox.take(TAKE):
                if trio.current_time() >= asked + STAND_BY_SECONDS:
                    break


class _Look:
    """One time of having the lease, and what is known meanwhile."""

    def __init__(
        self,
        share: Share,
        project_no: int,
        lease: Lease,
        mailbox: Mailbox,
        make_detector: MakeDetector,
        now: Callable[[], datetime],
    ) -> None:
        self._share = share
        self._project_no = project_no
        self._fence = lease.fence
        self._position = lease.seq
        """All events up to here were looked at, and what they fired is written."""
        self._written = lease.seq
        self._head = lease.seq
        self._mailbox = mailbox
        self._make_detector = make_detector
        self._now = now
        self._mint = UlidMint()
        self._mint_in_thread = UlidMint()
        self._project_id: UUID
        self._rules: Sequence[ActiveRule] = ()
        self._detector: Detector
        self._page_facts = evaluation.PAGE_FACTS
        self._thread = trio.CapacityLimiter(1)
        self._portion = PORTION
        self._old_versions = True
        """There may be versions of rules that nobody needs."""
        self._kept_at = trio.current_time()
        self._read_at = self._kept_at
        self._elsewhere_until = self._kept_at

    async def run(self) -> None:
        """Look at what is there, and at what comes."""
        await self._begin()
        while True:
            for message in _joined(await self._messages()):
                await self._hear(message)
            await self._keep_when_due()
            if self._head > self._position and trio.current_time() >= self._read_at:
                await self._read_on()
            self._report()

    def _report(self, head: int = 0) -> None:
        lag = max(0, self._head - self._position, head - self._position)
        self._mailbox.report(leads=1, position=self._position, lag=lag)

    async def leave(self) -> None:
        """Write how far it has come and let others have the rest, unless they have it already."""
        write = partial(evaluation.end, project_no=self._project_no, fence=self._fence, position=self._position)
        deadline = trio.current_time() + LEAVE_SECONDS
        with trio.CancelScope(shield=True, deadline=deadline), suppress(DatabaseUnavailable):
            await self._share.write(write, seconds=LEAVE_SECONDS)

    # -- messages ----------------------------------------------------------------------------------------------------

    async def _messages(self) -> list[Envelope[Any]]:
        """What comes, with what else comes shortly after; or nothing, when there is something else to do."""
        mailbox = self._mailbox
        if mailbox.closed:
            return await mailbox.take(TAKE)
        due = self._kept_at + self._keep_every()
        if self._head > self._position:
            due = min(due, self._read_at)
        if not mailbox.depth and due <= trio.current_time():
            await trio.lowlevel.checkpoint()
            return []
        envelopes: list[Envelope[Any]] = []
        with trio.move_on_at(math.inf if mailbox.depth else due):
            envelopes = await mailbox.take(TAKE)
        if envelopes and len(envelopes) < TAKE:
            await trio.sleep(GATHER_SECONDS)
            if mailbox.depth:
                envelopes += await mailbox.take(TAKE - len(envelopes))
        return envelopes

    async def _hear(self, message: object) -> None:
        match message:
            case Committed(facts):
                await self._look_at_news(facts)
            case CatchUp():
                self._kept_at = -math.inf

    async def _look_at_news(self, facts: Sequence[Fact]) -> None:
        """Look at events that ingest tells of, if they come next."""
        self._head = max(self._head, facts[-1].seq)
        known = self._position - facts[0].seq + 1
        if known < 0:
            self._heard_of_others()  # or there was no room for it, which comes to the same
        elif known < len(facts):
            await self._look_at(facts[known:], facts[-1].seq)

    def _heard_of_others(self) -> None:
        self._elsewhere_until = trio.current_time() + ELSEWHERE_SECONDS

    # -- the lease ---------------------------------------------------------------------------------------------------

    def _keep_every(self) -> float:
        often = self._position > self._written or trio.current_time() < self._elsewhere_until
        return WRITE_SECONDS if often else RENEW_SECONDS

    async def _keep_when_due(self) -> None:
        """Write the position, renew the lease, and see what others have committed, all in one."""
        if trio.current_time() < self._kept_at + self._keep_every():
            return
        position, forget = self._position, self._old_versions
        write = partial(
            evaluation.keep, project_no=self._project_no, fence=self._fence, position=position, forget=forget
        )
        # Also where it fails: a lease that ran out is good for as long as nobody else takes it.
        self._kept_at = trio.current_time()
        with suppress(DatabaseUnavailable):
            head = await self._share.write(write)
            self._written = position
            self._old_versions = False
            if head > self._head:
                self._head = head
                self._heard_of_others()

    async def _get_on(self) -> None:
        """Between two portions of work, where nothing that was found is unwritten: say that it gets on, and keep the
        lease."""
        self._mailbox.progress()
        await self._keep_when_due()
        self._report()

    async def _insist(
        self, transact: Callable[[Callable[[Connection], T]], Awaitable[T]], work: Callable[[Connection], T]
    ) -> T:
        """What the work returns, however long the database is away: nothing that is known here is lost by waiting."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await transact(work)
            except DatabaseUnavailable:
                pause = await self._wait_to_insist(pause)

    async def _wait_to_insist(self, pause: float) -> float:
        """Wait for about ``pause`` seconds, and show how far behind that leaves us; returns the next pause."""
        self._mailbox.progress()  # it is not this actor that is stuck, nor would its restart mend anything
        self._report()
        await trio.sleep(pause * (0.5 + _chance() / 2))
        # Where it is this one transaction that fails and not the database, the lease is kept, and the lag is known.
        await self._keep_when_due()
        self._report()
        return min(pause * 2, LAST_PAUSE)

    # -- the past ----------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Learn what held and happened up to the position."""
        work = partial(evaluation.standing, project_no=self._project_no, position=self._position)
        standing = await self._insist(self._share.read, work)
        self._project_id = standing.project_id
        self._head = standing.head
        self._report()
        await self._warm(standing.rules, standing.received_at_ms)

    async def _warm(self, rules: Sequence[ActiveRule], received_at_ms: int | None) -> None:
        """A new detector, that knows what it must of the events up to the position."""
        self._rules = rules
        self._detector = detector = self._make_detector(rules)
        detector.warm((), await self._fired(detector.silence_ms, received_at_ms))
        if received_at_ms is None or not detector.horizon_ms:
            return
        after = await self._insist(
            self._share.read,
            partial(
                evaluation.find_start,
                project_no=self._project_no,
                position=self._position,
                after_ms=received_at_ms - detector.horizon_ms,
            ),
        )
        while after < self._position:
            page = await self._read(after, self._position)
            for chunk in _chunks(page.facts, self._slice(CHUNK, WARM_WORK)):
                detector.warm(chunk, {})
                await self._get_on()
                await trio.lowlevel.checkpoint()
            after = page.through

    async def _fired(self, silence_ms: int, received_at_ms: int | None) -> Mapping[tuple[str, str], int]:
        """When each rule last fired for each group, as far as it may still be silent about it."""
        found: dict[tuple[str, str], int] = {}
        if received_at_ms is None or not silence_ms:
            return found
        place: tuple[int, UUID | None] | None = (received_at_ms - silence_ms, None)
        while place is not None:
            after_ms, after_id = place
            work = partial(evaluation.fired_since, project_no=self._project_no, after_ms=after_ms, after_id=after_id)
            fired, place = await self._insist(self._share.read, work)
            found.update(fired)
            await self._keep_when_due()
        return found

    async def _missing(self, facts: Sequence[Fact]) -> Missing:
        """What the detector has to be given back before it can take these, which come next."""
        groups: set[tuple[str, str]] = set()
        actor_ids: set[str] = set()
        tenant_ids: set[str] = set()
        edges: list[int] = []
        turn = _Turn()
        for chunk in _chunks(facts, self._slice(CHUNK, SLICE_WORK)):
            if more := self._detector.missing(chunk):
                groups |= more.groups
                actor_ids |= more.actor_ids
                tenant_ids |= more.tenant_ids
                edges.append(more.after_ms)
            await self._get_on()
            await turn.end_when_due()
        self._page_facts = LONG_PAGE if groups else evaluation.PAGE_FACTS
        if not groups:
            return Missing()
        return Missing(
            frozenset(groups), frozenset(actor_ids), frozenset(tenant_ids), min(edges), before_seq=facts[0].seq
        )

    async def _recall(self, missing: Missing) -> None:
        """Give the detector back what it had to drop. It takes it page by page, in a thread, which asks for them."""
        find = partial(evaluation.find_past, project_no=self._project_no, position=self._position, missing=missing)
        after, fired = await self._insist(self._share.read, find)
        interest = self._interest()

        async def read(after: int) -> Page:
            work = partial(
                evaluation.read_past, project_no=self._project_no, after=after, missing=missing, interest=interest
            )
            page = await self._insist(self._share.read, work)
            await self._get_on()
            return page

        def history() -> Iterator[Fact]:
            place = after
            while place < missing.before_seq - 1:
                page = trio.from_thread.run(read, place)
                yield from page.facts
                place = page.through

        await trio.to_thread.run_sync(self._detector.recall, missing, history(), fired, limiter=self._thread)

    # -- looking -----------------------------------------------------------------------------------------------------

    def _interest(self) -> Interest:
        addresses = any(active.rule.enabled and active.rule.distinct is not None for active in self._rules)
        return Interest(self._detector.interested_in, addresses)

    async def _read(self, after: int, until: int | None = None, limit: int | None = None) -> Page:
        work = partial(
            evaluation.read_page,
            project_no=self._project_no,
            after=after,
            interest=self._interest(),
            until=until,
            limit=limit,
        )
        return await self._insist(self._share.read, work)

    async def _read_on(self) -> None:
        """Look at the next events in the tables."""
        page = await self._read(self._position, limit=self._page_facts)
        self._head = max(self._head, page.head)
        await self._look_at(page.facts, page.through)
        self._mailbox.progress()
        if self._position >= page.head:
            self._read_at = trio.current_time() + READ_SECONDS

    async def _look_at(self, facts: Sequence[Fact], through: int) -> None:
        """Look at these events, which are all that matter up to ``through``; after a change of rules, at no others, for
        other ones may matter then."""
        for index, fact in enumerate(facts):
            if evaluation.changes_rules(fact):
                await self._detect(facts[: index + 1], fact.seq)
                await self._change_rules(fact.received_at_ms)
                return
        await self._detect(facts, through)

    async def _detect(self, facts: Sequence[Fact], through: int) -> None:
        """Find what fires, and write it, in parts of which each fits into memory."""
        enabled = sum(active.rule.enabled for active in self._rules)
        parts = list(in_parts(facts, GROUPS // max(1, enabled)))
        for part in parts[:-1]:
            await self._detect_part(part, part[-1].seq)
        await self._detect_part(parts[-1] if parts else facts, through)

    async def _detect_part(self, facts: Sequence[Fact], through: int) -> None:
        detector = self._detector
        if missing := await self._missing(facts):
            await self._recall(missing)
        firings: list[Firing] = []
        taken = 0
        turn = _Turn()
        for some in _chunks(facts, self._slice(SLICE, SLICE_WORK)):
            firings += detector.take(some)
            taken += len(some)
            if len(firings) >= FIRINGS or (firings and taken >= CHUNK):
                await self._record(firings, some[-1].seq)
                firings = []
            if taken >= CHUNK:
                taken = 0
                self._position = some[-1].seq
                await self._get_on()
                await turn.end()
            else:
                await turn.end_when_due()
        if firings:
            await self._record(firings, through)
        self._position = through
        if detector.memory[0] <= TRIM_AT_ONCE:
            detector.trim()
        else:
            await trio.to_thread.run_sync(detector.trim, limiter=self._thread)

    def _slice(self, most: int, work: int) -> int:
        """How many events to take at a time, ``most`` at most, for that much work by the rules that hold."""
        enabled = sum(active.rule.enabled for active in self._rules)
        return max(1, min(most, work // max(1, enabled)))

    async def _record(self, firings: Sequence[Firing], seq: int) -> None:
        """Write what was fired by events up to ``seq``; nothing behind it is looked at before that is done.

        In portions, however many one event has fired: what takes too long would take too long again and again.
        """
        done, pause = 0, FIRST_PAUSE
        while done < len(firings):
            some = firings[done : done + self._portion]
            rest = done + len(some)
            through = some[-1].seq if rest < len(firings) else seq
            whole = rest == len(firings) or firings[rest].seq > through
            began = trio.current_time()
            try:
                await self._write(some, through, whole=whole)
            except DatabaseUnavailable:
                if trio.current_time() >= began + SLOW_SECONDS:
                    self._portion = max(1, len(some) // 2)
                pause = await self._wait_to_insist(pause)
            else:
                done, pause = rest, FIRST_PAUSE
        self._portion = min(PORTION, self._portion * 2)

    async def _write(self, firings: Sequence[Firing], seq: int, *, whole: bool) -> None:
        """Write the next portion, in one transaction. Raises ``DatabaseUnavailable``."""
        alerts = evaluation.alerts_of(firings, self._mint)
        found = Found((self._project_no, self._project_id), self._fence, seq, alerts, whole)
        head = await self._share.write(
            partial(evaluation.record, found=found, mint=self._mint_in_thread, now=self._now())
        )
        self._position = self._written = found.position
        self._kept_at = trio.current_time()
        for alert, _ in alerts:
            metrics.alert_fired(alert.severity.value)
        self._mailbox.progress()
        self._report(head)

    async def _change_rules(self, received_at_ms: int) -> None:
        """Go on by the rules that hold behind the position."""
        self._old_versions = True
        work = partial(rules_at, project_no=self._project_no, seq=self._position)
        rules = await self._insist(self._share.read, work)
        if _asks_for_the_past(self._rules, rules):
            await self._warm(rules, received_at_ms)
        else:
            silence_ms = max(
                (active.rule.cooldown_seconds * 1000 for active in rules if active.rule.enabled), default=0
            )
            fired = await self._fired(silence_ms + GRACE_MS, received_at_ms)
            self._detector.replace_rules(rules, fired)
            self._rules = rules


class _Turn:
    """Work on the loop's time, which ends after ``YIELD_SECONDS``."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    async def end_when_due(self) -> None:
        """Let others have a turn, if this one was long enough."""
        if time.monotonic() - self._began >= YIELD_SECONDS:
            await self.end()

    async def end(self) -> None:
        """Let others have a turn, and begin the next one."""
        await trio.lowlevel.checkpoint()
        self._began = time.monotonic()


def _joined(envelopes: Sequence[Envelope[Any]]) -> Iterator[object]:
    """The messages, with those of a few events that follow each other made into one."""
    facts: list[Fact] = []
    for envelope in envelopes:
        match envelope.message:
            case Committed(more) if not facts or (len(facts) < CHUNK and more[0].seq == facts[-1].seq + 1):
                facts += more
            case message:
                if facts:
                    yield Committed(facts)
                    facts = []
                if isinstance(message, Committed):
                    facts += message.facts
                else:
                    yield message
    if facts:
        yield Committed(facts)


def _asks_for_the_past(before: Sequence[ActiveRule], after: Sequence[ActiveRule]) -> bool:
    """Whether a rule of old is silent for longer now, so that what fired longer ago than anybody remembers counts.

    The detector would miss that group by group; it costs less to read all of it once.
    """
    old = {active.rule.id: active for active in before if active.rule.enabled}
    return any(
        active.rule.enabled
        and (was := old.get(active.rule.id)) is not None
        and was.since_seq == active.since_seq
        and was.rule.cooldown_seconds < active.rule.cooldown_seconds
        for active in after
    )


def in_parts(facts: Sequence[Fact], most_keys: int) -> Iterator[Sequence[Fact]]:
    """The facts, cut where a part would have more than so many actors and tenants; a fact has at most two."""
    if 2 * len(facts) <= most_keys:  # as nearly always
        if facts:
            yield facts
        return
    keys: set[tuple[bool, str]] = set()
    start = 0
    for index, fact in enumerate(facts):
        keys.update(((True, fact.actor_id), (False, fact.tenant_id)))
        if len(keys) > most_keys and index > start:
            yield facts[start:index]
            start = index
            keys = {(True, fact.actor_id), (False, fact.tenant_id)}
    if start < len(facts):
        yield facts[start:]


def _chunks(facts: Sequence[Fact], size: int) -> Iterator[Sequence[Fact]]:
    for start in range(0, len(facts), size):
        yield facts[start : start + size]
