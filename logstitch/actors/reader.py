"""Reader: one actor a process that answers reads of events, several at a time, so a slow search holds up no other.

It owns no state. Each question is one read-only transaction; what to look up next is decided by ``search.pages``, what
a look-up costs by ``store.reading``, and here the two are put together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import trio

from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages import EventFilter, EventPage, GetEvent, ListEvents, Order, Position
from logstitch.errors import AskTimeout, NotFound
from logstitch.search.pages import BUDGET_SECONDS, FoundPage, Hit, Query, Walk, find_page
from logstitch.search.segments import Layout, Place, Span, Window, is_glob, like_pattern
from logstitch.search.terms import Facet, facet
from logstitch.store import reading, words
from logstitch.store.database import Connection, Database
from logstitch.store.reading import Columns, Range
from logstitch.times import MAX_MS, MIN_MS

HOLD_SECONDS = 8.0
"""How long a question is held through an outage of the database."""
CONCURRENCY = 5
"""Questions that are looked up at the same time: fewer than there are database connections, so that searches, however
slow, leave some to those who write."""
MOST_ACTIONS = 1000
"""Actions that a pattern may stand for in the inverted index. One that matches more is no rare one: then the events
are walked along, and each one's action is compared with the pattern."""


class Reader:
    """Answers ``ListEvents`` and ``GetEvent``."""

    def __init__(self, database: Database, *, concurrency: int = CONCURRENCY) -> None:
        self._database = database
        self._slots = trio.Semaphore(concurrency)

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        async with trio.open_nursery() as nursery:
            while True:
                # The slot first: what no slot is free for stays in the mailbox, which is bounded and counted.
                await self._slots.acquire()
                try:
                    envelope = await mailbox.receive()
                except trio.EndOfChannel:
                    return
                if envelope.abandoned:
                    envelope.refuse(AskTimeout("Nobody waits for this any more."))
                    self._slots.release()
                    continue
                nursery.start_soon(self._answer, envelope, mailbox)

    async def _answer(self, envelope: Envelope[Any], mailbox: Mailbox) -> None:
        try:
            match envelope.message:
                case ListEvents() as request:
                    envelope.reply(await self._list(request))
                case GetEvent() as request:
                    envelope.reply(await self._get(request))
                case other:
                    raise TypeError(f"the reader was asked {type(other).__name__}")
        except Exception as error:
            # A defect shows where the question came from, as an internal error. There is no state here that a restart
            # would mend, and it would take the other questions with it.
            envelope.refuse(error)
        finally:
            self._slots.release()
            mailbox.progress()

    async def _list(self, request: ListEvents) -> EventPage:
        return await self._database.transact(lambda conn: list_events(conn, request), hold=HOLD_SECONDS, read_only=True)

    async def _get(self, request: GetEvent) -> str:
        body = await self._database.transact(
            lambda conn: reading.find_event(conn, request.project_no, request.id), hold=HOLD_SECONDS, read_only=True
        )
        if body is None:
            raise NotFound("There is no such event.")
        return body


def list_events(
    conn: Connection,
    request: ListEvents,
    *,
    budget: float = BUDGET_SECONDS,
    layout: Layout = Layout(),  # noqa: B008  # frozen
) -> EventPage:
    """One page, within the transaction that ``conn`` is in."""
    resolved = _resolve(conn, request.project_no, request.filter)
    if resolved is None:
        return EventPage((), None)
    columns, facets = resolved
    wanted = request.filter
    window = Window.of(
        MIN_MS if wanted.start_ms is None else wanted.start_ms,
        MAX_MS if wanted.end_ms is None else wanted.end_ms,
        newest_first=request.order is Order.DESC,
    )
    if request.after is not None:
        window = window.after(Place(request.after.occurred_at_ms, request.after.id))
    reading.settle_plans(conn)
    query = Query(
        request.project_no,
        window,
        request.limit,
        facets=facets,
        words=wanted.words,
        checked=columns != Columns(tenant_no=columns.tenant_no),
    )
    source = _Snapshot(conn, request.project_no, columns)
    return _page(find_page(source, query, time.monotonic, budget=budget, layout=layout))


def _page(found: FoundPage) -> EventPage:
    return EventPage(found.bodies, None if found.next is None else Position(found.next.ms, found.next.id))


def _resolve(
    conn: Connection, project_no: int, wanted: EventFilter
) -> tuple[Columns, tuple[tuple[bytes, ...], ...]] | None:
    """The columns to compare and the facets to look up; ``None`` when nothing can pass."""
    tenant_no = None
    if wanted.tenant_id is not None:
        tenant_no = reading.find_tenant(conn, project_no, wanted.tenant_id)
        if tenant_no is None:
            return None
    actions: tuple[str, ...] | None = None
    action_like = None
    if wanted.action is not None and is_glob(wanted.action):
        pattern = like_pattern(wanted.action)
        actions = tuple(reading.find_actions(conn, project_no, pattern, MOST_ACTIONS + 1))
        if not actions:
            return None
        if len(actions) > MOST_ACTIONS:
            actions, action_like = None, pattern
    elif wanted.action is not None:
        actions = (wanted.action,)
    columns = Columns(
        tenant_no=tenant_no,
        actor_id=wanted.actor_id,
        actor_type=wanted.actor_type,
        actions=actions,
        action_like=action_like,
        category=wanted.category,
        target_id=wanted.target_id,
        target_type=wanted.target_type,
    )
    groups: list[tuple[Facet, Sequence[str]]] = [
        (Facet.ACTOR_ID, _one(wanted.actor_id)),
        (Facet.ACTOR_TYPE, _one(wanted.actor_type)),
        (Facet.ACTION, actions or ()),
        (Facet.CATEGORY, _one(wanted.category)),
        (Facet.TARGET_ID, _one(wanted.target_id)),
        (Facet.TARGET_TYPE, _one(wanted.target_type)),
        (Facet.TENANT_ID, _one(wanted.tenant_id)),
    ]
    return columns, tuple(tuple(facet(kind, value) for value in values) for kind, values in groups if values)


def _one(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)


class _Snapshot:
    """What ``search.pages`` reads from: the store's look-ups in one transaction, for one project and filter."""

    def __init__(self, conn: Connection, project_no: int, columns: Columns) -> None:
        self._conn = conn
        self._project_no = project_no
        self._columns = columns

    def walk(self, window: Window, events: int, limit: int) -> Walk:
        rows, last = reading.walk(self._conn, self._project_no, self._columns, _range(window), events, limit)
        return Walk(_hits(rows), None if last is None else Place(*last[:2]))

    def spans(self) -> list[Span]:
        return [Span(*row) for row in reading.find_spans(self._conn, self._project_no)]

    def having(self, query: str, window: Window, limit: int) -> list[Hit]:
        return _hits(reading.find_having(self._conn, self._project_no, self._columns, _range(window), query, limit))

    def seqs_having(self, query: str) -> list[int]:
        return reading.find_seqs_having(self._conn, self._project_no, query)

    def among(self, seqs: Sequence[int], window: Window, limit: int) -> list[Hit]:
        return _hits(reading.find_among(self._conn, self._project_no, self._columns, _range(window), seqs, limit))

    def scan(self, seqs: range, wanted: Sequence[bytes], window: Window, limit: int) -> list[Hit]:
        return _hits(
            reading.find_possible(self._conn, self._project_no, self._columns, _range(window), seqs, wanted, limit)
        )

    def indexed(self, keys: Sequence[int]) -> set[int]:
        return words.find_indexed(self._conn, self._project_no, keys)

    def word_blocks(self, keys: Sequence[int], prefix: bytes) -> Iterator[tuple[int, bytes]]:
        return iter(words.find_blocks(self._conn, self._project_no, keys, prefix))

    def bodies(self, seqs: Sequence[int]) -> Mapping[int, str]:
        return reading.find_bodies(self._conn, self._project_no, seqs)


def _range(window: Window) -> Range:
    return Range(window.low.ms, window.low.id, window.high.ms, window.high.id, window.newest_first)


def _hits(rows: Sequence[reading.Row]) -> list[Hit]:
    return [Hit(Place(ms, event_id), seq) for ms, event_id, seq in rows]
