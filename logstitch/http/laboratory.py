"""The redaction laboratory: what an unsaved rule would do to the events that are stored."""

from __future__ import annotations

from pydantic import TypeAdapter

from logstitch import times
from logstitch.actors.messages import MeasureRule, RuleDraft
from logstitch.errors import Detail, InvalidRequest
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, resource
from logstitch.http.schemas import CreateRuleBody, MeasureRuleBody, ProjectQuery, RuleMeasured, read_as
from logstitch.http.services import Services
from logstitch.redaction.definitions import Behavior, RuleType

_MEASURE: TypeAdapter[MeasureRuleBody] = TypeAdapter(MeasureRuleBody)


class Laboratory:
    """The handler."""

    def __init__(self, services: Services) -> None:
        self._laboratory = services.laboratory
        self._cursors = Cursors(services.cursor_key)

    async def measure(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/redaction/rules/test``."""
        wanted, project = read_as(_MEASURE, body), call.in_project
        draft = _draft(wanted["rule"])
        start_ms, end_ms = _dates(wanted)
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


def _draft(rule: CreateRuleBody) -> RuleDraft:
    return RuleDraft(
        rule["name"],
        RuleType(rule["type"]),
        rule.get("pattern"),
        tuple(rule.get("fields", ())),
        Behavior(rule.get("behavior", Behavior.REPLACE)),
        enabled=True,
    )


def _dates(wanted: MeasureRuleBody) -> tuple[int | None, int | None]:
    """Both bounds, in milliseconds. Raises ``InvalidRequest`` that names the bad ones."""
    details = []
    bounds: list[int | None] = []
    for name, text, parse in (
        ("start_date", wanted.get("start_date"), times.parse_start),
        ("end_date", wanted.get("end_date"), times.parse_end),
    ):
        try:
            bounds.append(None if text is None else parse(text))
        except ValueError as error:
            details.append(Detail(name, str(error)))
    if details:
        raise InvalidRequest(details=details)
    return bounds[0], bounds[1]


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
