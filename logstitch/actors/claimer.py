"""The claimer: one actor a process that makes the events of anonymous streams a project's.

It reads the stream, takes it through the project's rules and encodes it, all before the transaction: in slices, or in a
child process of low priority where that takes long. Then it tries. Where the stream has grown meanwhile, or the rules
have changed, it does what is left to do and tries again. The tables alone decide who wins, so claimers of other
processes need not know of each other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from datetime import UTC, datetime
from typing import Final, NamedTuple, TypeVar

import structlog
import trio

from logstitch import metrics
from logstitch.actors.bounds import HOLD_SECONDS, THREAD_BYTES
from logstitch.actors.child import ChildFailed, open_child
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.streams import ClaimStream, StreamClaimed
from logstitch.actors.queueing import answer_together
from logstitch.errors import LogStitchError, StreamNotFound, Unavailable
from logstitch.ids import UlidMint
from logstitch.recording import claimchild
from logstitch.recording.claiming import Claimed, ClaimOrder, Grown, RulesChanged, StreamClaim, prepare_claim
from logstitch.recording.preparation import PreparedEvent
from logstitch.recording.rules import RuleBook, read_rules
from logstitch.recording.streams import ended
from logstitch.redaction.engine import RuleSet
from logstitch.store import streams as store
from logstitch.store.database import Connection, Database
from logstitch.store.streams import EventRow, StreamRow
from logstitch.times import to_ms

log = structlog.get_logger(__name__)

AT_ONCE: Final = 2
"""Claims under way at the same time; each holds a stream in memory."""
PAGE_EVENTS: Final = 500
"""Events that are read in one transaction."""
TRIES: Final = 10
"""How often a claim begins anew because the stream has grown by a day's events, or the rules have changed."""
CLAIM_SECONDS: Final = 5.0
"""How long one attempt of the transaction may take, and a second more for so many events:"""
EVENTS_A_SECOND: Final = 4_000
CHILD_EVENTS: Final = 1_000
"""Beyond which events are prepared in a child process, as they are where one has ``THREAD_BYTES``. To start one costs
as much as to prepare some thousand, and a stream that keeps to its quota has 800 at most."""
ANSWER_SECONDS: Final = 20.0
"""For a child to prepare some events: a matter of milliseconds, but its priority is low and the machine may be busy. An
actor that shows no progress for longer would be taken for stuck."""
PAUSES: Final = 4
"""Between two slices of a stream's preparation, so many times their length. A request on its way takes a dozen turns of
the event loop, and would meet a slice at each; so it meets few, and 800 events take half a second."""

T = TypeVar("T")

Work = Generator[None, None, list[PreparedEvent]]


class Rules(NamedTuple):
    """A project's rules, as they are read and as the engine takes them."""

    book: RuleBook
    compiled: RuleSet


class Claimer:
    """Owns nothing but its ids: what is claimed is in the tables."""

    def __init__(
        self, database: Database, mint: UlidMint, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._mint = mint
        self._now = now
        self._thread = trio.CapacityLimiter(1)

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        await answer_together(mailbox, lambda envelope: self._answer(envelope, mailbox), at_once=AT_ONCE)

    async def _answer(self, envelope: Envelope[ClaimStream], mailbox: Mailbox) -> None:
        try:
            if envelope.abandoned:
                raise Unavailable("Nobody waits for this any more.")
            # From here on it is done whether or not somebody waits: of a claim that is half done nothing would be left.
            claimed = await self._claim(envelope.message, mailbox)
            # No checkpoint from the commit to the answer.
            envelope.reply(StreamClaimed(claimed.migrated, claimed.duplicates))
            metrics.STREAMS_CLAIMED.inc()
            metrics.STREAM_EVENTS_CLAIMED.inc(claimed.migrated)
        except LogStitchError:
            raise
        except Exception as error:
            # One stream that cannot be claimed is not to take the claims of others with it.
            log.error("claimer.failed", error=type(error).__name__)
            envelope.refuse(error)

    async def _claim(self, request: ClaimStream, mailbox: Mailbox) -> Claimed:
        now = self._now()
        order = ClaimOrder(request.digest, request.project.no, request.by, self._mint.one(to_ms(now)), now)
        row = await self._find(order)
        rows: list[EventRow] = []
        prepared: list[PreparedEvent] = []
        count = row.event_count
        rules: Rules | None = None
        for _ in range(TRIES):
            if rules is None:
                rules, prepared = await self._rules(order.project_no), []
            rows += await self._read(row.no, len(rows), count, mailbox)
            if len(rows) < count:
                await self._find(order)  # which says why
                raise Unavailable("The stream is being changed. Try again in a moment.")
            # What the rules have left of the first ones stays; of new events they see only those.
            prepared += await self._prepare(rows[len(prepared) :], rules, mailbox)
            claim = StreamClaim(order, prepared, rules.compiled)
            timeout = CLAIM_SECONDS + len(prepared) / EVENTS_A_SECOND
            try:
                return await self._database.transact(claim.run, timeout=timeout, hold=HOLD_SECONDS)
            except Grown as more:
                count = more.event_count
            except RulesChanged:
                rules = None
            mailbox.progress()
        raise Unavailable("The stream or the project's rules keep changing. Try again in a moment.")

    async def _find(self, order: ClaimOrder) -> StreamRow:
        """The stream. Raises what refuses the claim before anything is done for it."""
        rows = await self._database.transact(
            lambda conn: store.find_streams(conn, [order.digest]), hold=HOLD_SECONDS, read_only=True
        )
        if (row := rows.get(order.digest)) is None:
            raise StreamNotFound("No stream has this token.")
        if (refusal := ended(row, order.now)) is not None:
            raise refusal
        return row

    async def _rules(self, project_no: int) -> Rules:
        book: RuleBook = await self._database.transact(
            lambda conn: read_rules(conn, project_no), hold=HOLD_SECONDS, read_only=True
        )
        return Rules(book, await trio.to_thread.run_sync(book.compile, limiter=self._thread))

    async def _read(self, stream_no: int, after: int, through: int, mailbox: Mailbox) -> list[EventRow]:
        rows: list[EventRow] = []
        for first in range(after, through, PAGE_EVENTS):
            last = min(first + PAGE_EVENTS, through)

            def page(conn: Connection, first: int = first, last: int = last) -> list[EventRow]:
                return store.read_events(conn, stream_no, first, last)

            rows += await self._database.transact(page, hold=HOLD_SECONDS, read_only=True)
            mailbox.progress()
        return rows

    async def _prepare(self, rows: list[EventRow], rules: Rules, mailbox: Mailbox) -> list[PreparedEvent]:
        if len(rows) > CHILD_EVENTS or any(len(row.body) >= THREAD_BYTES for row in rows):
            return await self._prepare_in_child(rows, rules.book, mailbox)
        work: Work = prepare_claim(rows, rules.compiled)
        while True:
            began = trio.current_time()
            try:
                next(work)
            except StopIteration as done:
                prepared: list[PreparedEvent] = done.value
                return prepared
            mailbox.progress()
            await trio.sleep(PAUSES * (trio.current_time() - began))

    async def _prepare_in_child(self, rows: list[EventRow], book: RuleBook, mailbox: Mailbox) -> list[PreparedEvent]:
        prepared: list[PreparedEvent] = []
        try:
            async with open_child(claimchild.CODE) as child:
                await _in_time(child.send(claimchild.rules_message(book)))
                for message in claimchild.events_messages(rows):
                    await _in_time(child.send(message))
                    prepared += claimchild.prepared_of(await _in_time(child.receive()))
                    mailbox.progress()
        except ChildFailed as error:
            log.warning("claimer.child_failed", exc_info=error)
            raise Unavailable("The claim was cut short, and nothing was claimed. Try again in a moment.") from None
        return prepared


async def _in_time(work: Awaitable[T]) -> T:
    """Raises ``ChildFailed`` where it takes longer than ``ANSWER_SECONDS``."""
    try:
        with trio.fail_after(ANSWER_SECONDS):
            return await work
    except trio.TooSlowError:
        raise ChildFailed from None
