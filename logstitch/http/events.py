"""Events: sending, listing, and looking at one. Holders of viewer tokens are shown what their view lets through.

The hot path is ``create``; what it shares with anonymous streams is in :mod:`logstitch.http.intake`.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter

from logstitch import metrics
from logstitch.actors.messages.events import EventFilter, GetEvent, ListEvents, SubmitEvents
from logstitch.actors.messages.pages import Order
from logstitch.actors.messages.viewers import Viewer
from logstitch.errors import Detail, InvalidRequest, NotFound
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, Success
from logstitch.http.intake import EVENTS_BODY, EVENTS_CREATED, Intake, created
from logstitch.http.responses import Reply, page_of_texts, resource_of_text
from logstitch.http.schemas.common import ProjectQuery, read_dates
from logstitch.http.schemas.events import EventAnswer, EventFilterQuery, EventList, EventListQuery
from logstitch.http.services import Services
from logstitch.ids import as_uuid, parse_event_id
from logstitch.search.terms import query_words
from logstitch.viewing.tiers import FILTERS, View


class Events:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._cursors = Cursors(services.cursor_key)
        self._intake = Intake(services.limits)

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/events``: answered when the events are stored for good."""
        project, now_ms = call.in_project, call.head.received_at_ms
        events, batch = await self._intake.read(body, now_ms)
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
        return created(call.request_id, events, accepted)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/events``: one page."""
        query, project = call.query(EventListQuery), call.in_project
        wanted, order = shown_to(call.viewer, filter_of(query)), Order(query.order)
        view = view_of(call)
        listing = Listing.of_events(project, wanted, order, view)
        after = self._cursors.event(listing, query.cursor)
        page = await self._services.reader.ask(
            ListEvents(project.no, wanted, order, query.limit, after, view), timeout=call.seconds_left()
        )
        return page_of_texts(call.request_id, "events", page.bodies, self._cursors.after_event(listing, page.next))

    async def get(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/events/{id}``."""
        try:
            id = as_uuid(parse_event_id(call.path["id"]))
        except ValueError:
            raise NotFound("There is no such event.") from None
        message = GetEvent(call.in_project.no, id, view_of(call))
        text = await self._services.reader.ask(message, timeout=call.seconds_left())
        return resource_of_text(call.request_id, text)


def filter_of(query: EventFilterQuery) -> EventFilter:
    """What the store is to look for."""
    start_ms, end_ms = read_dates(query.start_date, query.end_date)
    return EventFilter(
        tenant_id=query.tenant_id,
        actor_id=query.actor_id,
        actor_type=query.actor_type,
        action=query.action,
        category=query.category,
        target_id=query.target_id,
        target_type=query.target_type,
        start_ms=start_ms,
        end_ms=end_ms,
        words=() if query.search is None else tuple(query_words(query.search)),
    )


def view_of(call: Call) -> View | None:
    """What the caller is shown; None for all of the project."""
    return None if call.viewer is None else call.viewer.view


def shown_to(viewer: Viewer | None, wanted: EventFilter) -> EventFilter:
    """The filter as it holds for a viewer: of the token's tenant, whatever tenant was asked for.

    Raises ``InvalidRequest`` on a filter that would tell what stands in a hidden field.
    """
    if viewer is None:
        return wanted
    hidden = [name for name in FILTERS if name in viewer.view.hidden_filters and getattr(wanted, name) is not None]
    if hidden:
        raise InvalidRequest(details=[Detail(name, "Is about a field that is hidden from you") for name in hidden])
    return replace(wanted, tenant_id=viewer.view.tenant_id)


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
            body=EVENTS_BODY,
            success=EVENTS_CREATED,
            errors=("conflict", "daily_event_limit_reached"),
        ),
        Endpoint(
            name="events.list",
            method="GET",
            path="/api/v1/events",
            handler=handlers.list,
            summary="List events",
            description="A project's events, newest first. All filters given must match. Paging repeats no event and "
            "skips none that was stored before the first page, however many arrive meanwhile. A viewer token reads its "
            "own tenant's events, whatever `tenant_id` says: those that its tier shows, without the fields that it "
            "hides, without `idempotency_key` and without `redactions`. What is hidden is not searched, and a filter "
            "on it is refused.",
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
            description="The event as it is stored; to a viewer token, as it is listed. An id of another project is "
            "unknown here, and so is one that a viewer token does not show.",
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
