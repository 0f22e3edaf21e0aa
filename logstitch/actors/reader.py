"""Reader: one actor a process that answers reads of events, several at a time, so a slow search holds up no other.

It owns no state but who waits. Projects take turns, so one that asks much waits for itself. Each question is one
read-only transaction; what to look up next is decided by ``search.pages``, what a look-up costs by ``store.reading``,
and here the two are put together.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages import EventFilter, EventPage, GetEvent, ListEvents, Order, Position
from logstitch.errors import AskTimeout, NotFound, Unavailable
from logstitch.search.pages import BUDGET_SECONDS, Body, FoundPage, Hit, Query, Walk, find_page
from logstitch.search.segments import Layout, Place, Span, Window, is_glob, like_pattern
from logstitch.search.terms import Facet, facet
from logstitch.store import reading, words
from logstitch.store.database import Connection, Database
from logstitch.store.reading import Columns, Range
from logstitch.times import MAX_MS, MIN_MS
from logstitch.viewing.tiers import View

HOLD_SECONDS = 8.0
"""How long a question is held through an outage of the database."""
CONCURRENCY = 5
"""Questions that are looked up at the same time: fewer than there are database connections, so that searches, however
slow, leave some to those who write. One of them is kept for single events, which never wait behind searches."""
MOST_OF_PROJECT = 2
"""Pages of one project that are looked up at the same time."""
MOST_WAITING = 32
"""Questions of one project, of each kind, that may wait: it must not fill the mailbox either."""
MOST_WAITING_ALL = 256
"""The same of all projects together."""
MOST_ACTIONS = 1000
"""Actions that a pattern may stand for in the inverted index. One that matches more is no rare one: then the events
are walked along, and each one's action is compared with the pattern."""


@dataclass(slots=True)
class _Line:
    """Questions of one kind that wait for one of ``slots``, the projects taking turns."""

    slots: int
    most_of_project: int
    waiting: dict[int, deque[Envelope[Any]]] = field(default_factory=dict)
    """By project, the one whose turn it is first; none is empty."""
    running: Counter[int] = field(default_factory=Counter)

    def add(self, envelope: Envelope[Any]) -> None:
        """Queue a question, or refuse it when too many wait that somebody still waits for."""
        if sum(map(len, self.waiting.values())) >= MOST_WAITING_ALL:
            envelope.refuse(Unavailable("As many reads wait as may wait. Try again in a moment."))
            return
        queue = self.waiting.setdefault(envelope.message.project_no, deque())
        if len(queue) >= MOST_WAITING:
            for one in queue:
                _drop_if_abandoned(one)
            queue = self.waiting[envelope.message.project_no] = deque(one for one in queue if not one.answered)
        if len(queue) >= MOST_WAITING:
            envelope.refuse(Unavailable("As many reads of this project wait as may wait. Try again in a moment."))
        else:
            queue.append(envelope)

    def take(self) -> Envelope[Any] | None:
        """The next question to look up: the first of the first project that has no more than its share running."""
        while self.running.total() < self.slots:
            project = next((one for one in self.waiting if self.running[one] < self.most_of_project), None)
            if project is None:
                return None
            queue = self.waiting.pop(project)
            envelope = queue.popleft()
            if queue:
                self.waiting[project] = queue  # behind the others
            if not _drop_if_abandoned(envelope):
                self.running[project] += 1
                return envelope
        return None

    def done(self, project: int) -> None:
        """One that was taken is answered."""
        self.running[project] -= 1
        if not self.running[project]:
            del self.running[project]


def _drop_if_abandoned(envelope: Envelope[Any]) -> bool:
    if envelope.abandoned:
        envelope.refuse(AskTimeout("Nobody waits for this any more."))
    return envelope.answered


class Reader:
    """Answers ``ListEvents`` and ``GetEvent``."""

    def __init__(self, database: Database, *, concurrency: int = CONCURRENCY) -> None:
        self._database = database
        self._pages = _Line(max(1, concurrency - 1), MOST_OF_PROJECT)
        self._single = _Line(1, 1)

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        async with trio.open_nursery() as nursery:
            async for envelope in mailbox:
                match envelope.message:
                    case ListEvents():
                        self._pages.add(envelope)
                    case GetEvent():
                        self._single.add(envelope)
                    case other:
                        envelope.refuse(TypeError(f"the reader was asked {type(other).__name__}"))
                self._start(nursery, mailbox)

    def _start(self, nursery: trio.Nursery, mailbox: Mailbox) -> None:
        for line in (self._single, self._pages):
            while (envelope := line.take()) is not None:
                nursery.start_soon(self._answer, envelope, line, nursery, mailbox)

    async def _answer(self, envelope: Envelope[Any], line: _Line, nursery: trio.Nursery, mailbox: Mailbox) -> None:
        try:
            if isinstance(envelope.message, ListEvents):
                envelope.reply(await self._list(envelope.message))
            else:
                envelope.reply(await self._get(envelope.message))
        except Exception as error:
            # A defect shows where the question came from, as an internal error. There is no state here that a restart
            # would mend, and it would take the other questions with it.
            envelope.refuse(error)
        finally:
            line.done(envelope.message.project_no)
            mailbox.progress()
        self._start(nursery, mailbox)

    async def _list(self, request: ListEvents) -> EventPage:
        return await self._database.transact(lambda conn: list_events(conn, request), hold=HOLD_SECONDS, read_only=True)

    async def _get(self, request: GetEvent) -> str:
        body = await self._database.transact(lambda conn: find_event(conn, request), hold=HOLD_SECONDS, read_only=True)
        if body is None:
            raise NotFound("There is no such event.")
        return body


def find_event(conn: Connection, request: GetEvent) -> str | None:
    """One event, as it is shown to who asks; ``None`` if it is not."""
    view = request.view
    if view is None:
        return reading.find_event(conn, request.project_no, request.id)
    body = reading.find_shown_event(
        conn, request.project_no, request.id, view.tenant_id, view.categories, _likes(view.actions)
    )
    return None if body is None else view.strip_text(body)


def list_events(
    conn: Connection,
    request: ListEvents,
    *,
    budget: float = BUDGET_SECONDS,
    layout: Layout = Layout(),  # noqa: B008  # frozen
) -> EventPage:
    """One page, within the transaction that ``conn`` is in."""
    if request.view is None:
        resolved = _resolve(conn, request.project_no, request.filter)
    else:
        resolved = _resolve_view(conn, request.project_no, request.filter, request.view)
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
        view=request.view,
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
        found = reading.find_actions(conn, project_no, pattern, MOST_ACTIONS, wanted.action.partition("*")[0])
        if found is None:
            action_like = pattern
        elif not found:
            return None
        else:
            actions = tuple(found)
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


def _resolve_view(
    conn: Connection, project_no: int, wanted: EventFilter, view: View
) -> tuple[Columns, tuple[tuple[bytes, ...], ...]] | None:
    """The same within what a view shows. Nothing is looked up but the tenant; see ``search.pages``."""
    tenant_no = reading.find_tenant(conn, project_no, view.tenant_id)
    if tenant_no is None:
        return None
    pattern = wanted.action is not None and is_glob(wanted.action)
    columns = Columns(
        tenant_no=tenant_no,
        actor_id=wanted.actor_id,
        actor_type=wanted.actor_type,
        actions=None if wanted.action is None or pattern else (wanted.action,),
        action_like=like_pattern(wanted.action) if wanted.action is not None and pattern else None,
        category=wanted.category,
        target_id=wanted.target_id,
        target_type=wanted.target_type,
        shown_categories=view.categories,
        shown_actions=_likes(view.actions),
    )
    return columns, ()


def _likes(globs: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if globs is None else tuple(map(like_pattern, globs))


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

    def volumes(self) -> set[int]:
        return words.find_volumes(self._conn, self._project_no)

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

    def word_blocks(self, keys: Sequence[int], prefix: bytes, most: int | None = None) -> Iterator[tuple[int, bytes]]:
        return words.find_blocks(self._conn, self._project_no, keys, prefix, most=most)

    def exact_blocks(self, keys: Sequence[int], wanted: Sequence[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
        return words.find_exact_blocks(self._conn, self._project_no, keys, wanted)

    def bodies(self, seqs: Sequence[int]) -> Mapping[int, Body]:
        found = reading.find_bodies(self._conn, self._project_no, seqs)
        return {seq: Body(size, text) for seq, (size, text) in found.items()}

    def text(self, seq: int) -> str:
        return reading.find_body(self._conn, self._project_no, seq)


def _range(window: Window) -> Range:
    return Range(window.low.ms, window.low.id, window.high.ms, window.high.id, window.newest_first)


def _hits(rows: Sequence[reading.Row]) -> list[Hit]:
    return [Hit(Place(ms, event_id), seq) for ms, event_id, seq in rows]
