"""Reader: one actor a process that answers reads of events, several at a time, so a slow search holds up no other.

It owns no state but who waits. Projects take turns, and within one its keys and its tenants' viewers do (``Turns``), so
whoever asks much waits for itself. Each question is one read-only transaction; what to look up next is decided by
``search.pages``, what a look-up costs by ``store.reading``, and here the two are put together.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import trio

from logstitch.actors.bounds import HOLD_SECONDS
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.events import EventFilter, EventPage, GetEvent, ListEvents
from logstitch.actors.messages.pages import Order, Position
from logstitch.errors import AskTimeout, NotFound, Unavailable
from logstitch.search.pages import BUDGET_SECONDS, Body, FoundPage, Hit, Query, Walk, find_page
from logstitch.search.segments import Layout, Place, Span, Window, is_glob, like_pattern
from logstitch.search.terms import Facet, facet
from logstitch.store import reading, words
from logstitch.store.database import Connection, Database
from logstitch.store.reading import Columns, Range
from logstitch.times import MAX_MS, MIN_MS
from logstitch.viewing.tiers import View

CONCURRENCY = 5
"""Questions that are looked up at the same time: fewer than there are database connections, so that searches, however
slow, leave some to those who write. One of them is kept for single events, which never wait behind searches."""
MOST_OF_PROJECT = 3
"""Pages of one project that are looked up at the same time: one less than there may be of all, for another project."""
MOST_OF_KEYS = 2
"""Of them, those that its keys asked for: one is left to viewers."""
MOST_OF_VIEWERS = 2
"""Of them, those that its viewers asked for: one is left to the keys."""
MOST_OF_TENANT = 1
"""Of them, those that the viewers of one tenant asked for: however slow, they leave one to those of another."""
MOST_WAITING = 32
"""Questions of a project's keys, of each kind, that may wait, and as many of its viewers: they must not fill the
mailbox either."""
MOST_WAITING_OF_TENANT = 8
"""Of them, those of the viewers of one tenant. The last has its turn in 12 seconds, if each takes all its time."""
MOST_WAITING_ALL = 256
"""The same of all projects together."""
RETRY_SECONDS = 1
"""When whoever may not wait may try again."""
MOST_ACTIONS = 1000
"""Actions that a pattern may stand for in the inverted index. One that matches more is no rare one: then the events
are walked along, and each one's action is compared with the pattern."""


class Asker(Protocol):
    """What the rule has to know of a question. ``Envelope`` is one."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""

    def refuse(self, error: Exception) -> None:
        """Answer with an error."""


A = TypeVar("A", bound=Asker)
Owner: TypeAlias = str | None
"""Who asks within a project: all viewers of a tenant are one, and so are all the project's keys, which are ``None``."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many may be looked up at the same time, see the constants."""

    slots: int
    of_project: int = MOST_OF_PROJECT
    of_keys: int = MOST_OF_KEYS
    of_viewers: int = MOST_OF_VIEWERS
    of_tenant: int = MOST_OF_TENANT


class Turns(Generic[A]):
    """Whose question is looked up next: the projects take turns, and within a project its owners do.

    The rule alone: it holds no clock, and looks nothing up.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[int, dict[Owner, deque[A]]] = {}
        """By project and owner, those whose turn it is first; none is empty."""
        self._running: dict[int, Counter[Owner]] = {}

    def add(self, project: int, owner: Owner, asker: A) -> None:
        """Let it wait, or refuse it where as many wait as may. Those that were abandoned meanwhile make room."""
        if not self._has_room(project, owner):
            self._drop_abandoned()
        if self._has_room(project, owner):
            self._waiting.setdefault(project, {}).setdefault(owner, deque()).append(asker)
        else:
            asker.refuse(
                Unavailable("As many reads wait as may wait. Try again in a moment.", retry_after=RETRY_SECONDS)
            )

    def begin(self) -> list[A]:
        """Those whose turn has come, which are looked up from now on."""
        self._drop_abandoned()
        begun = []
        while (turn := self._turn()) is not None:
            project, owner = turn
            begun.append(self._waiting[project][owner].popleft())
            self._running.setdefault(project, Counter())[owner] += 1
            self._go_behind(project, owner)
        return begun

    def end(self, project: int, owner: Owner) -> None:
        """One that was begun is answered. Whoever waits goes before who just had an answer."""
        running = self._running[project]
        running[owner] -= 1
        if not running[owner]:
            del running[owner]
        if not running:
            del self._running[project]
        self._go_behind(project, owner)

    def _turn(self) -> tuple[int, Owner] | None:
        if sum(running.total() for running in self._running.values()) >= self._limits.slots:
            return None
        return next(
            (
                (project, owner)
                for project, owners in self._waiting.items()
                for owner in owners
                if self._may(project, owner)
            ),
            None,
        )

    def _may(self, project: int, owner: Owner) -> bool:
        """Whether one more of them may be looked up, if there is a slot."""
        running = self._running.get(project, Counter())
        if running.total() >= self._limits.of_project:
            return False
        if owner is None:
            return running[None] < self._limits.of_keys
        viewers = running.total() - running[None]
        return viewers < self._limits.of_viewers and running[owner] < self._limits.of_tenant

    def _has_room(self, project: int, owner: Owner) -> bool:
        """Whether one more of them may wait."""
        if sum(len(queue) for owners in self._waiting.values() for queue in owners.values()) >= MOST_WAITING_ALL:
            return False
        waiting = {one: len(queue) for one, queue in self._waiting.get(project, {}).items()}
        if owner is None:
            return waiting.get(None, 0) < MOST_WAITING
        viewers = sum(waiting.values()) - waiting.get(None, 0)
        return viewers < MOST_WAITING and waiting.get(owner, 0) < MOST_WAITING_OF_TENANT

    def _drop_abandoned(self) -> None:
        kept = {
            project: {
                owner: deque(one for one in queue if not _drop_if_abandoned(one)) for owner, queue in owners.items()
            }
            for project, owners in self._waiting.items()
        }
        kept = {project: {owner: queue for owner, queue in owners.items() if queue} for project, owners in kept.items()}
        self._waiting = {project: owners for project, owners in kept.items() if owners}

    def _go_behind(self, project: int, owner: Owner) -> None:
        """Put a project behind the others, and its owner behind its others, where something of them still waits."""
        owners = self._waiting.pop(project, {})
        queue = owners.pop(owner, None)
        if queue:
            owners[owner] = queue
        if owners:
            self._waiting[project] = owners


def _drop_if_abandoned(asker: Asker) -> bool:
    if not asker.abandoned:
        return False
    asker.refuse(AskTimeout("Nobody waits for this any more."))
    return True


class Reader:
    """Answers ``ListEvents`` and ``GetEvent``."""

    def __init__(self, database: Database, *, concurrency: int = CONCURRENCY) -> None:
        self._database = database
        self._pages = Turns[Envelope[Any]](Limits(slots=max(1, concurrency - 1)))
        self._single = Turns[Envelope[Any]](Limits(slots=1))

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        async with trio.open_nursery() as nursery:
            async for envelope in mailbox:
                match envelope.message:
                    case ListEvents() as asked:
                        self._pages.add(asked.project_no, _owner(asked), envelope)
                    case GetEvent() as asked:
                        self._single.add(asked.project_no, _owner(asked), envelope)
                    case other:
                        envelope.refuse(TypeError(f"the reader was asked {type(other).__name__}"))
                self._start(nursery, mailbox)

    def _start(self, nursery: trio.Nursery, mailbox: Mailbox) -> None:
        for turns in (self._single, self._pages):
            for envelope in turns.begin():
                nursery.start_soon(self._answer, envelope, turns, nursery, mailbox)

    async def _answer(
        self, envelope: Envelope[Any], turns: Turns[Envelope[Any]], nursery: trio.Nursery, mailbox: Mailbox
    ) -> None:
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
            turns.end(envelope.message.project_no, _owner(envelope.message))
            mailbox.progress()
        self._start(nursery, mailbox)

    async def _list(self, request: ListEvents) -> EventPage:
        return await self._database.transact(lambda conn: list_events(conn, request), hold=HOLD_SECONDS, read_only=True)

    async def _get(self, request: GetEvent) -> str:
        body = await self._database.transact(lambda conn: find_event(conn, request), hold=HOLD_SECONDS, read_only=True)
        if body is None:
            raise NotFound("There is no such event.")
        return body


def _owner(asked: ListEvents | GetEvent) -> Owner:
    return None if asked.view is None else asked.view.tenant_id


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
