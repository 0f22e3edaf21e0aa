"""Events: sending, listing, and looking at one.

The hot path is ``create``: it touches an event's JSON once, to check it; everything else is the ingest actor's.
"""

from __future__ import annotations

import trio
from pydantic import TypeAdapter

from logstitch import gate, metrics, model, times
from logstitch.actors.messages import EventFilter, GetEvent, ListEvents, Order, SubmitEvents
from logstitch.errors import Detail, InvalidRequest, NotFound
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, ResponseHeader, Success
from logstitch.http.responses import Headers, Reply, page_of_texts, resource, resource_of_text
from logstitch.http.schemas import EventAnswer, EventList, EventListQuery, EventsCreated, ProjectQuery
from logstitch.http.services import Services
from logstitch.ids import as_uuid, parse_event_id
from logstitch.search.terms import query_words

MAX_SEARCH_WORDS = 16


class Events:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._cursors = Cursors(services.cursor_key)
        # Big bodies hold a core for milliseconds; two at a time leave the loop its turns.
        self._threads = trio.CapacityLimiter(2)

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/events``: answered when the events are stored for good."""
        project, now_ms = call.in_project, call.head.received_at_ms
        if len(body) < self._services.limits.thread_bytes:
            events, batch = _read(body, now_ms)
        else:
            events, batch = await trio.to_thread.run_sync(_read, body, now_ms, limiter=self._threads)
        accepted = await self._services.events_in.ask(
            project.no,
            SubmitEvents(events, batch, len(body), now_ms, call.caller.plan.limits.events_per_day),
            timeout=call.seconds_left(),
        )
        metrics.EVENTS_ACCEPTED.inc(len(accepted.ids) - accepted.replays)
        if accepted.replays:
            metrics.EVENTS_REPLAYED.inc(accepted.replays)
        if accepted.redacted_count:
            metrics.VALUES_REDACTED.inc(accepted.redacted_count)
        headers: Headers = ()
        if any("idempotency_key" in event.raw for event in events):
            headers = ((b"idempotent-replays", b"%d" % accepted.replays),)
        fields = {"ids": accepted.ids, "redacted_count": accepted.redacted_count}
        return resource(call.request_id, fields, 201, headers)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/events``: one page."""
        query, project = call.query(EventListQuery), call.in_project
        wanted, order = filter_of(query), Order(query.order)
        listing = Listing.of_events(project, wanted, order)
        after = self._cursors.event(listing, query.cursor)
        page = await self._services.reader.ask(
            ListEvents(project.no, wanted, order, query.limit, after), timeout=call.seconds_left()
        )
        return page_of_texts(call.request_id, "events", page.bodies, self._cursors.after_event(listing, page.next))

    async def get(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/events/{id}``."""
        try:
            id = as_uuid(parse_event_id(call.path["id"]))
        except ValueError:
            raise NotFound("There is no such event.") from None
        text = await self._services.reader.ask(GetEvent(call.in_project.no, id), timeout=call.seconds_left())
        return resource_of_text(call.request_id, text)


def _read(body: bytes, now_ms: int) -> tuple[tuple[model.IncomingEvent, ...], bool]:
    parsed = gate.parse(body)
    return model.validate_events(parsed, now_ms=now_ms), type(parsed) is list


def filter_of(query: EventListQuery) -> EventFilter:
    """What the store is to look for. Raises ``InvalidRequest`` on bad dates, and on a search without words."""
    details = []
    bounds: dict[str, int | None] = {"start_date": None, "end_date": None}
    for name, text, parse in (
        ("start_date", query.start_date, times.parse_start),
        ("end_date", query.end_date, times.parse_end),
    ):
        if text is not None:
            try:
                bounds[name] = parse(text)
            except ValueError as error:
                details.append(Detail(name, str(error)))
    words = tuple(query_words(query.search)) if query.search is not None else ()
    if query.search is not None and not words:
        details.append(Detail("search", "Must have at least one letter or digit"))
    elif len(words) > MAX_SEARCH_WORDS:
        details.append(Detail("search", f"Must have at most {MAX_SEARCH_WORDS} different words"))
    if details:
        raise InvalidRequest(details=details)
    return EventFilter(
        tenant_id=query.tenant_id,
        actor_id=query.actor_id,
        actor_type=query.actor_type,
        action=query.action,
        category=query.category,
        target_id=query.target_id,
        target_type=query.target_type,
        start_ms=bounds["start_date"],
        end_ms=bounds["end_date"],
        words=words,
    )


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = Events(services)
    return (
        Endpoint(
            name="events.create",
            method="POST",
            path="/api/v1/events",
            handler=handlers.create,
            summary="Send events",
            description="One event, or an array of 1 to 100. A batch is stored as a whole or not at all: one bad item "
            "refuses it, and the details name every bad item. The answer comes after the events are committed to disk. "
            "With an `idempotency_key`, the same event may be sent again safely: it is stored once, and both answers "
            "carry its id. The same key with another event is a `conflict`.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(
                TypeAdapter(model.EventIn | list[model.EventIn]),
                {"one event": examples.EVENT_IN, "several": [examples.EVENT_IN, examples.SMALL_EVENT_IN]},
                "One event, or an array of 1 to 100. At most 5 MiB.",
            ),
            success=Success(
                201,
                "Every event is stored.",
                TypeAdapter(EventsCreated),
                {"ids": [examples.EVENT["id"]], "redacted_count": 0, "request_id": examples.REQUEST_ID},
                {
                    "Idempotent-Replays": ResponseHeader(
                        "How many of the events an earlier request had stored. Sent when any event has an "
                        "`idempotency_key`.",
                        {"type": "integer", "minimum": 0, "maximum": model.MAX_BATCH},
                    )
                },
            ),
            errors=("conflict", "daily_event_limit_reached"),
        ),
        Endpoint(
            name="events.list",
            method="GET",
            path="/api/v1/events",
            handler=handlers.list,
            summary="List events",
            description="A project's events, newest first. All filters given must match. Paging repeats no event and "
            "skips none that was stored before the first page, however many arrive meanwhile.",
            about=About.PROJECT,
            query=EventListQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(EventList),
                {"events": [examples.EVENT], **examples.MORE, "request_id": examples.REQUEST_ID},
            ),
            cors=True,
        ),
        Endpoint(
            name="events.get",
            method="GET",
            path="/api/v1/events/{id}",
            handler=handlers.get,
            summary="Look at one event",
            description="The event as it is stored. An id of another project is unknown here.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The event.",
                TypeAdapter(EventAnswer),
                {**examples.EVENT, "request_id": examples.REQUEST_ID},
            ),
            cors=True,
        ),
    )
