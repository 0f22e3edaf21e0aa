"""Export: all events that a filter finds, as one answer of any length.

It is the list of events read on, page after page: the same filter, order and view through the same messages, so that
nobody gets by exporting what listing would not show. A page is asked for when the one before is on its way to the
reader. So memory holds one page of each export, and a reader that is slow waits for nobody but itself.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Final

import orjson
import trio

from logstitch.actors.messages.events import EventFilter, EventPage, GetEvent, ListEvents
from logstitch.actors.messages.pages import Order, Position
from logstitch.errors import Draining, InvalidRequest, NotFound, RateLimited, Unavailable
from logstitch.http import csvlines, examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, ResponseHeader, Success
from logstitch.http.events import filter_of, shown_to, view_of
from logstitch.http.responses import StreamedReply
from logstitch.http.schemas.common import AnyText
from logstitch.http.schemas.events import EventExportQuery
from logstitch.http.services import Services
from logstitch.ids import as_uuid, parse_event_id
from logstitch.search.segments import Place
from logstitch.times import format_time, parse_time

PAGE_EVENTS = 500
"""Events asked for at a time. More hardly make it quicker, and are held in memory until their reader has them."""
PIECE_BYTES = 64 * 1024
"""Written at a time, about: a table's lines cost some milliseconds of CPU until the next task has its turn."""
PAGE_SECONDS = 30.0
"""For a page after the first: its turn among the exports, and the look-up."""
LOOK_UPS = 2
"""Pages that all exports together look up at a time: they leave the others to who lists."""
MOST_EXPORTS = 32
"""Exports at a time. Each may hold a page, which has 4 MiB at most (``search.pages.PAGE_BYTES``)."""
MOST_OF_READER = 4
"""Of them, of one key or, by viewer tokens, of one tenant."""
RETRY_SECONDS = 5


@dataclass(frozen=True, slots=True)
class Form:
    """How events are written: ``head`` first, then ``line`` of each event's JSON text."""

    content_type: bytes
    head: bytes
    line: Callable[[str], bytes]


def json_line(body: str) -> bytes:
    """An event as the list has it; canonical JSON holds no line break."""
    return body.encode() + b"\n"


FORMS: Final[Mapping[str, Form]] = {
    "ndjson": Form(b"application/x-ndjson", b"", json_line),
    "csv": Form(csvlines.CONTENT_TYPE, csvlines.HEAD, csvlines.csv_line),
}


class Places:
    """How many exports there may be at a time, in all and of one reader: a slow reader keeps its place for long."""

    def __init__(self, most: int = MOST_EXPORTS, most_of_reader: int = MOST_OF_READER) -> None:
        self._most = most
        self._most_of_reader = most_of_reader
        self._taken: Counter[Hashable] = Counter()

    @contextmanager
    def taken(self, reader: Hashable) -> Iterator[None]:
        """Hold a place. Raises ``RateLimited`` when the reader has as many as it may, ``Unavailable`` when all are
        taken."""
        if self._taken[reader] >= self._most_of_reader:
            raise RateLimited(f"At most {self._most_of_reader} exports may run at a time.", RETRY_SECONDS)
        if self._taken.total() >= self._most:
            raise Unavailable("As many exports run as may run.", RETRY_SECONDS)
        self._taken[reader] += 1
        try:
            yield
        finally:
            self._taken[reader] -= 1
            if not self._taken[reader]:
                del self._taken[reader]


class Turns:
    """Look-ups, a few at a time. The next is of the reader that has the fewest under way, and of those the one
    that waits longest: so who has many exports hardly delays who has one, and uses all that nobody else wants."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: Counter[Hashable] = Counter()
        self._waiting: dict[Hashable, deque[trio.Event]] = {}
        """By reader, those first that wait longest for a turn; none is empty."""

    @asynccontextmanager
    async def turn(self, reader: Hashable) -> AsyncIterator[None]:
        """Wait for a turn, and have it."""
        if self._running.total() < self._slots:
            self._running[reader] += 1
        else:
            await self._wait(reader)
        try:
            yield
        finally:
            self._running[reader] -= 1
            if not self._running[reader]:
                del self._running[reader]
            self._pass_on()

    async def _wait(self, reader: Hashable) -> None:
        come = trio.Event()
        self._waiting.setdefault(reader, deque()).append(come)
        try:
            await come.wait()
        except trio.Cancelled:  # never when it has come
            self._waiting[reader].remove(come)
            if not self._waiting[reader]:
                del self._waiting[reader]
            raise

    def _pass_on(self) -> None:
        if not self._waiting:
            return
        reader = min(self._waiting, key=self._running.__getitem__)
        queue = self._waiting.pop(reader)
        queue.popleft().set()
        self._running[reader] += 1
        if queue:
            self._waiting[reader] = queue  # behind the others


class Export:
    """The handler."""

    def __init__(self, services: Services) -> None:
        self._reader = services.reader
        self._draining = services.draining
        self._thread_bytes = services.limits.thread_bytes
        self._cursors = Cursors(services.cursor_key)
        self._places = Places()
        self._turns = Turns(LOOK_UPS)
        self._threads = trio.CapacityLimiter(1)

    async def export(self, call: Call, body: bytes) -> StreamedReply:
        """``GET /api/v1/events/export``."""
        query = call.query(EventExportQuery)
        asked = ListEvents(
            call.in_project.no,
            shown_to(call.viewer, filter_of(query)),
            Order(query.order),
            PAGE_EVENTS,
            None,
            view_of(call),
        )
        form = FORMS[query.format]
        disposition = f'attachment; filename="{_file_name(call)}.{query.format}"'
        headers = ((b"content-disposition", disposition.encode()),)
        return StreamedReply(200, self._pieces(call, query, asked, form), headers, form.content_type)

    async def _pieces(
        self, call: Call, query: EventExportQuery, asked: ListEvents, form: Form
    ) -> AsyncGenerator[bytes, None]:
        reader = _reader_of(call)
        with self._places.taken(reader):
            after = await self._after(call, query.cursor, asked)
            left, seconds, piece = query.limit, call.seconds_left(), bytearray(form.head)
            while True:
                wanted = PAGE_EVENTS if left is None else min(PAGE_EVENTS, left)
                page = await self._page(reader, replace(asked, limit=wanted, after=after), seconds)
                for text in page.bodies:
                    piece += await self._line(form, text)
                    if len(piece) >= PIECE_BYTES:
                        yield bytes(piece)
                        piece.clear()
                # Also when it is empty: whoever sends it looks after who reads.
                yield bytes(piece)
                piece.clear()
                if left is not None:
                    left -= len(page.bodies)
                if page.next is None or left == 0:
                    return
                if self._draining():
                    raise Draining("The service is shutting down.")
                after, seconds = page.next, PAGE_SECONDS

    async def _page(self, reader: Hashable, message: ListEvents, seconds: float) -> EventPage:
        with trio.move_on_after(seconds):
            async with self._turns.turn(reader):
                return await self._reader.ask(message, timeout=seconds)
        raise Unavailable("The events could not be read in time.")

    async def _line(self, form: Form, text: str) -> bytes:
        if len(text) < self._thread_bytes:
            return form.line(text)
        return await trio.to_thread.run_sync(form.line, text, limiter=self._threads)

    async def _after(self, call: Call, cursor: str | None, asked: ListEvents) -> Position | None:
        """The event to go on after. Raises ``InvalidRequest`` on ``cursor``."""
        if cursor is None or not cursor.startswith("evt_"):
            listing = Listing.of_events(call.in_project, asked.filter, asked.order, asked.view)
            return self._cursors.event(listing, cursor)
        try:
            id = as_uuid(parse_event_id(cursor))
            body = await self._reader.ask(GetEvent(asked.project_no, id, asked.view), timeout=call.seconds_left())
        except (ValueError, NotFound):
            raise _no_event_of_this() from None
        place = Place(parse_time(orjson.loads(body)["occurred_at"]), id)
        # Of these events? Nobody knows but who lists them: at its very place, what is the first of them?
        page = await self._page(_reader_of(call), _from(asked, place), call.seconds_left())
        if not page.bodies or orjson.loads(page.bodies[0])["id"] != cursor:
            raise _no_event_of_this()
        return Position(place.ms, place.id)


def _from(asked: ListEvents, place: Place) -> ListEvents:
    """For the event at a place, if it is one that is asked for."""
    before = place.following() if asked.order is Order.DESC else place.preceding()
    return replace(asked, filter=_within(asked.filter, place.ms), limit=1, after=Position(before.ms, before.id))


def _within(wanted: EventFilter, ms: int) -> EventFilter:
    """What is wanted of one millisecond."""
    start = ms if wanted.start_ms is None else max(ms, wanted.start_ms)
    end = ms if wanted.end_ms is None else min(ms, wanted.end_ms)
    return replace(wanted, start_ms=start, end_ms=end)


def _no_event_of_this() -> InvalidRequest:
    return InvalidRequest.on("cursor", "Not an event of this export; send the id of one, with the same filters")


def _reader_of(call: Call) -> Hashable:
    """Who is counted as one: a key, or the tenant of viewer tokens, of which anybody's browser may have a new one."""
    return call.caller.key_id if call.viewer is None else (call.in_project.no, call.viewer.view.tenant_id)


def _file_name(call: Call) -> str:
    when = format_time(call.head.received_at_ms).replace("-", "").replace(":", "")
    return f"events-{call.in_project.id}-{when[:15]}Z"


_DESCRIPTION = f"""\
All events that the filters find, in one answer of any length: what `GET /api/v1/events` lists, in the same order, for
the same credentials; a viewer token gets what it is shown there. The body is no JSON object and has no `request_id`;
errors are as everywhere.

**NDJSON** is one event a line, exactly as it is listed.

**CSV** is a table in UTF-8 with a line of names (RFC 4180). The columns are always the same:
`{"`, `".join(csvlines.COLUMNS)}`. `metadata`, `changes` and `redactions` are JSON; what an event does not have, or a
viewer is not shown, is empty. A cell that a spreadsheet could take for a formula is preceded by an apostrophe: one that
begins, blanks aside, with `=`, `+`, `-` or `@`, also in full-width and similar forms, or with a tab or a line break. So
is what stands in a cell behind a semicolon, a tab or a line break; in JSON the separator is escaped instead.

**Going on.** The answer is sent while it is read, in chunks. If it breaks (a network, a restart, a key that was revoked
meanwhile), the connection ends without the last chunk, which HTTP clients report. Drop the line that is not whole, if
there is one, and ask again with the same filters and `cursor`: the `id` of the last event that was received, or a
`cursor` of the list of events. No event is repeated, and none skipped that was stored before the export began. After an
export with a `limit`, go on in the same way, until one has fewer events than that.

A key may have {MOST_OF_READER} exports at a time, and so may all viewer tokens of a tenant together. A client that
takes more than 15 seconds for 64 KiB is cut off.
"""


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    event = orjson.dumps(examples.EVENT).decode()
    return (
        Endpoint(
            name="events.export",
            method="GET",
            path="/api/v1/events/export",
            handler=Export(services).export,
            summary="Export events",
            description=_DESCRIPTION,
            about=About.PROJECT,
            query=EventExportQuery,
            success=Success(
                200,
                "The events, one a line.",
                AnyText,
                f"{event}\n",
                headers={
                    "Content-Disposition": ResponseHeader(
                        "A file name, of the project's id and the time.",
                        {
                            "type": "string",
                            "pattern": '^attachment; filename="events-[0-9a-f-]{36}-[0-9TZ]+[.][a-z]+"$',
                        },
                    )
                },
                content_type="application/x-ndjson",
                others={"text/csv": (csvlines.HEAD + csvlines.csv_line(event)).decode()},
            ),
            errors=("rate_limited",),
            cors=True,
        ),
    )
