"""The redaction laboratory: what an unsaved rule would do to the events that are stored."""

from __future__ import annotations

from pydantic import TypeAdapter

from logstitch.actors.messages.redaction import MeasureRule
from logstitch.errors import InvalidRequest
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.redaction import draft_of, with_setting_errors
from logstitch.http.responses import Reply, resource
from logstitch.http.schemas.common import AnyObject, ProjectQuery, read_as, read_dates
from logstitch.http.schemas.laboratory import MeasureRuleBody, RuleMeasured
from logstitch.http.services import Services
from logstitch.model import validate

_MEASURE: TypeAdapter[MeasureRuleBody] = TypeAdapter(MeasureRuleBody)


class Laboratory:
    """The handler."""

    def __init__(self, services: Services) -> None:
        self._laboratory = services.laboratory
        self._cursors = Cursors(services.cursor_key)

    async def measure(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/redaction/rules/test``."""
        wanted, project = _read(body), call.in_project
        draft = draft_of(wanted["rule"]["name"], wanted["rule"])
        start_ms, end_ms = read_dates(wanted.get("start_date"), wanted.get("end_date"))
        listing = Listing.of_trial(project, draft, start_ms, end_ms)
        after = self._cursors.event(listing, wanted.get("cursor"))
        effect = await self._laboratory.ask(
            MeasureRule(project.no, draft, start_ms, end_ms, after), timeout=call.seconds_left()
        )
        fields = {
            "scanned": effect.scanned,
            "events_changed": effect.events_changed,
            "fields_changed": effect.fields_changed,
            "fields": [{"field": path, "count": count} for path, count in effect.fields],
            "samples": [sample._asdict() for sample in effect.samples],
            "complete": effect.next is None,
            "cursor": self._cursors.after_event(listing, effect.next),
            "has_more": effect.next is not None,
        }
        return resource(call.request_id, fields)


def _read(body: bytes) -> MeasureRuleBody:
    sent = read_as(AnyObject, body)
    try:
        return validate(_MEASURE, sent)
    except InvalidRequest as error:
        raise InvalidRequest(details=with_setting_errors(error.details, sent.get("rule"), "rule.")) from None


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoint."""
    handlers = Laboratory(services)
    return (
        Endpoint(
            name="redaction.measure",
            method="POST",
            path="/api/v1/redaction/rules/test",
            handler=handlers.measure,
            summary="Try a rule on stored events",
            description="How many events and field values an unsaved rule would change, where, and up to 20 of them "
            "before and after. The rule is tried alone, on events as they are stored, the newest first: what is "
            "redacted already stays so. Nothing is changed, and nothing of the rule is kept. A request looks at as "
            "many events as it can in about three seconds. If that were not all of them, `complete` is false: send "
            "the same rule and dates with the `cursor`, and add up the answers. One rule of a project is tried at a "
            "time; more wait for a moment, or are answered `unavailable`.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_MEASURE, {"a rule and three weeks": examples.MEASURE_IN}),
            success=Success(
                200,
                "What the rule would do.",
                TypeAdapter(RuleMeasured),
                {**examples.MEASURED, "request_id": examples.REQUEST_ID},
            ),
        ),
    )
