"""Alerts: the rules that events are held against, what they have found, and what they would have found in the past."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from logstitch.actors.messages.alerts import (
    AlertFilter,
    AlertRule,
    AlertRuleDraft,
    CreateAlertRule,
    DeleteAlertRule,
    GetAlert,
    ListAlertRules,
    ListAlerts,
    ReplayRule,
    RuleOutcome,
    SetAlertStatus,
    UpdateAlertRule,
)
from logstitch.detection.alerts import AlertStatus, alert_fields
from logstitch.detection.rules import DEFAULT_COOLDOWN_SECONDS, Distinct, GroupBy, Severity
from logstitch.errors import InvalidRequest, NotFound
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, page, resource, time_text
from logstitch.http.schemas.alerts import (
    AlertAnswer,
    AlertList,
    AlertListQuery,
    AlertRuleDeleted,
    AlertRuleList,
    BuiltinAlertRuleAnswer,
    CreateAlertRuleBody,
    CustomAlertRuleAnswer,
    ReplayRuleBody,
    RuleReplayed,
    SetAlertStatusBody,
    UpdateAlertRuleBody,
)
from logstitch.http.schemas.common import ProjectPageQuery, ProjectQuery, parse_uuid, read_as, read_dates
from logstitch.http.services import Services
from logstitch.ids import IdKind, as_uuid, parse_id
from logstitch.times import format_time

_CREATE: TypeAdapter[CreateAlertRuleBody] = TypeAdapter(CreateAlertRuleBody)
_UPDATE: TypeAdapter[UpdateAlertRuleBody] = TypeAdapter(UpdateAlertRuleBody)
_STATUS: TypeAdapter[SetAlertStatusBody] = TypeAdapter(SetAlertStatusBody)
_REPLAY: TypeAdapter[ReplayRuleBody] = TypeAdapter(ReplayRuleBody)


class AlertRules:
    """The handlers of rules."""

    def __init__(self, services: Services) -> None:
        self._alerts = services.alerts
        self._timemachine = services.timemachine
        self._cursors = Cursors(services.cursor_key)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/alerts/rules``."""
        query, project = call.query(ProjectPageQuery), call.in_project
        listing = Listing.of_rows("alert rules", [project.id])
        found = await self._alerts.ask(
            ListAlertRules(project.no, query.limit, self._cursors.row(listing, query.cursor)),
            timeout=call.seconds_left(),
        )
        return page(call.request_id, "rules", map(_shown, found.rules), self._cursors.after_row(listing, found.next))

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/alerts/rules``."""
        caller = call.caller
        message = CreateAlertRule(
            call.in_project.no,
            caller.key_id,
            caller.plan.limits.custom_alert_rules,
            _draft(read_as(_CREATE, body)),
        )
        rule = await self._alerts.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, _shown(rule), 201)

    async def update(self, call: Call, body: bytes) -> Reply:
        """``PATCH /api/v1/alerts/rules/{id}``."""
        wanted = read_as(_UPDATE, body)
        if not wanted:
            raise InvalidRequest("The body names nothing that is to be changed.")
        changed: dict[str, Any] = {**wanted}
        for name, kind in (("group_by", GroupBy), ("severity", Severity), ("distinct", Distinct)):
            if changed.get(name) is not None:
                changed[name] = kind(changed[name])
        caller = call.caller
        message = UpdateAlertRule(
            call.in_project.no,
            caller.key_id,
            caller.plan.limits.custom_alert_rules,
            _rule_id(call.path["id"]),
            changed,
        )
        rule = await self._alerts.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, _shown(rule))

    async def delete(self, call: Call, body: bytes) -> Reply:
        """``DELETE /api/v1/alerts/rules/{id}``."""
        rule_id = _rule_id(call.path["id"])
        message = DeleteAlertRule(call.in_project.no, call.caller.key_id, rule_id)
        await self._alerts.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, {"id": rule_id, "deleted": True})

    async def replay(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/alerts/rules/test``."""
        wanted = read_as(_REPLAY, body)
        start_ms, end_ms = read_dates(wanted.get("start_date"), wanted.get("end_date"))
        rule_id = _rule_id(wanted["rule_id"]) if "rule_id" in wanted else None
        message = ReplayRule(call.in_project.no, _draft(wanted["rule"]), rule_id, start_ms, end_ms)
        history = await self._timemachine.ask(message, timeout=call.seconds_left())
        fields = {
            "scanned": history.scanned,
            **_outcome(history.outcome),
            "existing": None if history.existing is None else _outcome(history.existing),
            "complete": history.through_ms is None,
            "through": None if history.through_ms is None else format_time(history.through_ms),
        }
        return resource(call.request_id, fields)


class Alerts:
    """The handlers of what they have found."""

    def __init__(self, services: Services) -> None:
        self._alerts = services.alerts
        self._cursors = Cursors(services.cursor_key)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/alerts``."""
        query, project = call.query(AlertListQuery), call.in_project
        wanted = _filter(query)
        listing = Listing.of_alerts(project, wanted)
        found = await self._alerts.ask(
            ListAlerts(project.no, wanted, query.limit, self._cursors.row(listing, query.cursor)),
            timeout=call.seconds_left(),
        )
        cursor = self._cursors.after_row(listing, found.next)
        return page(call.request_id, "alerts", map(alert_fields, found.alerts), cursor)

    async def get(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/alerts/{id}``."""
        message = GetAlert(call.in_project.no, _alert_id(call))
        alert = await self._alerts.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, alert_fields(alert))

    async def update(self, call: Call, body: bytes) -> Reply:
        """``PATCH /api/v1/alerts/{id}``."""
        status = AlertStatus(read_as(_STATUS, body)["status"])
        message = SetAlertStatus(call.in_project, call.caller.key_id, _alert_id(call), status)
        alert = await self._alerts.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, alert_fields(alert))


def _rule_id(text: str) -> str:
    """The id as it is spelled in lists: UUIDs are taken in any letter case."""
    uuid = parse_uuid(text)
    return text if uuid is None else str(uuid)


def _alert_id(call: Call) -> UUID:
    try:
        return as_uuid(parse_id(IdKind.ALERT, call.path["id"]))
    except ValueError:
        raise NotFound("There is no such alert.") from None


def _draft(rule: CreateAlertRuleBody) -> AlertRuleDraft:
    """An unsaved rule as the actors take it."""
    return AlertRuleDraft(
        rule["name"],
        rule["action_pattern"],
        rule["threshold"],
        rule["window_seconds"],
        GroupBy(rule["group_by"]),
        Severity(rule["severity"]),
        rule.get("cooldown_seconds", DEFAULT_COOLDOWN_SECONDS),
        rule.get("enabled", True),
        Distinct(rule["distinct"]) if "distinct" in rule else None,
    )


def _filter(query: AlertListQuery) -> AlertFilter:
    """What is to be looked for."""
    start_ms, end_ms = read_dates(query.start_date, query.end_date)
    return AlertFilter(
        None if query.status is None else AlertStatus(query.status),
        None if query.severity is None else Severity(query.severity),
        None if query.rule_id is None else _rule_id(query.rule_id),
        query.group_key,
        start_ms,
        end_ms,
    )


def _shown(shown: AlertRule) -> dict[str, Any]:
    fields = asdict(shown.rule)
    if shown.rule.distinct is None:
        del fields["distinct"]
    fields = {"id": fields.pop("id"), "type": shown.type, **fields}
    return fields if shown.created_at is None else fields | {"created_at": time_text(shown.created_at)}


def _outcome(outcome: RuleOutcome) -> dict[str, Any]:
    return {
        "fired": outcome.fired,
        "held_back": outcome.held_back,
        "alerts": [
            {
                "triggered_at": format_time(alert.triggered_at_ms),
                "group_key": alert.group_key,
                "tenant_id": alert.tenant_id,
                "event_count": alert.event_count,
            }
            for alert in outcome.alerts
        ],
    }


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of both resources."""
    return (*_rule_endpoints(AlertRules(services)), *_alert_endpoints(Alerts(services)))


def _rule_endpoints(handlers: AlertRules) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            name="alert_rules.list",
            method="GET",
            path="/api/v1/alerts/rules",
            handler=handlers.list,
            summary="List alert rules",
            description="The six built-ins first, then custom rules in order of creation. A rule fires when the events "
            "of one group, within its window, reach the threshold; then it is silent about that group for the "
            "cooldown. Events are counted as they are stored, by `received_at`, soon after they were stored: detection "
            "delays no event.",
            about=About.PROJECT,
            query=ProjectPageQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(AlertRuleList),
                {
                    "rules": [examples.BUILTIN_ALERT_RULE, examples.ALERT_RULE],
                    **examples.LAST,
                    "request_id": examples.REQUEST_ID,
                },
            ),
        ),
        Endpoint(
            name="alert_rules.create",
            method="POST",
            path="/api/v1/alerts/rules",
            handler=handlers.create,
            summary="Make an alert rule",
            description="It counts events that are stored after this answer. How many custom rules a project may have "
            "depends on the plan: none on `free`, 25 on `pro`, 500 on `enterprise`; one more is "
            "`alert_rule_limit_reached`. Every change of rules is recorded as an event of the tenant `$logstitch`: who "
            "changed what, before and after. Try a rule on the past first: `POST /api/v1/alerts/rules/test`.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_CREATE, {"password guessing": examples.ALERT_RULE_IN}),
            success=Success(
                201,
                "The rule, which counts from now on.",
                TypeAdapter(CustomAlertRuleAnswer),
                {**examples.ALERT_RULE, "request_id": examples.REQUEST_ID},
            ),
            errors=("alert_rule_limit_reached",),
        ),
        Endpoint(
            name="alert_rules.update",
            method="PATCH",
            path="/api/v1/alerts/rules/{id}",
            handler=handlers.update,
            summary="Change an alert rule",
            description="What is not sent stays as it is, and something has to be sent. Of a built-in, `enabled` and "
            "`cooldown_seconds` may be changed. Events that are stored after this answer are judged by the rule as it "
            "is then. Where the change decides which events count (`action_pattern`, `group_by`, `distinct`, "
            "`window_seconds`, or switching a rule on), counting begins anew: earlier events count no more. A project "
            "that has more custom rules than its plan allows, since the plan was a larger one when they were made, can "
            "change and disable them, and they go on firing; to enable one is `alert_rule_limit_reached`.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_UPDATE, {"a higher threshold": {"threshold": 50}, "off": {"enabled": False}}),
            success=Success(
                200,
                "The rule as it is now.",
                TypeAdapter(BuiltinAlertRuleAnswer | CustomAlertRuleAnswer),
                {**examples.ALERT_RULE, "threshold": 50, "request_id": examples.REQUEST_ID},
            ),
            errors=("alert_rule_limit_reached",),
        ),
        Endpoint(
            name="alert_rules.delete",
            method="DELETE",
            path="/api/v1/alerts/rules/{id}",
            handler=handlers.delete,
            summary="Delete an alert rule",
            description="For good. Its alerts stay. A built-in cannot be deleted, only disabled: `conflict`.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The rule fires no more.",
                TypeAdapter(AlertRuleDeleted),
                {"id": examples.ALERT_RULE_ID, "deleted": True, "request_id": examples.REQUEST_ID},
            ),
            errors=("conflict",),
        ),
        Endpoint(
            name="alert_rules.test",
            method="POST",
            path="/api/v1/alerts/rules/test",
            handler=handlers.replay,
            summary="Try a rule on the past",
            description="When and for whom an unsaved rule would have fired on the stored events that were received "
            "in these times, and how often the cooldown would have held it back; with `rule_id`, what that stored rule "
            "would have done as well, as it is set now. The unsaved rule is tried whether it is `enabled` or not; a "
            "stored one that is switched off would have done nothing. It is the very detection that looks at new "
            "events, but there are no alerts and no webhooks, and nothing of the rule is kept. Windows begin empty: "
            "events before `start_date` do not count. The same question about the past has the same answer. A request "
            "looks at as many events as it can in about six seconds, the oldest first. If that were not all of them, "
            "`complete` is false, and the answer holds for the time up to `through`. One rule of a project is tried at "
            "a time; more wait for a moment, or are answered `unavailable`.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_REPLAY, {"a rule, a built-in and a week": examples.REPLAY_IN}),
            success=Success(
                200,
                "What the rule would have done.",
                TypeAdapter(RuleReplayed),
                {**examples.REPLAYED, "request_id": examples.REQUEST_ID},
            ),
        ),
    )


def _alert_endpoints(handlers: Alerts) -> tuple[Endpoint, ...]:
    return (
        Endpoint(
            name="alerts.list",
            method="GET",
            path="/api/v1/alerts",
            handler=handlers.list,
            summary="List alerts",
            description="Newest first, by `triggered_at`. All filters that are sent must fit.",
            about=About.PROJECT,
            query=AlertListQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(AlertList),
                {"alerts": [examples.ALERT], **examples.LAST, "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="alerts.get",
            method="GET",
            path="/api/v1/alerts/{id}",
            handler=handlers.get,
            summary="Get an alert",
            description="One alert, with the ids of the events that fired it.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200, "The alert.", TypeAdapter(AlertAnswer), {**examples.ALERT, "request_id": examples.REQUEST_ID}
            ),
        ),
        Endpoint(
            name="alerts.update",
            method="PATCH",
            path="/api/v1/alerts/{id}",
            handler=handlers.update,
            summary="Acknowledge or resolve an alert",
            description="An open alert can be acknowledged; an open or acknowledged one can be resolved. Anything else "
            "is a `conflict`: of two who acknowledge it at the same time, one gets that answer. It is recorded as an "
            "event of the tenant `$logstitch`, and webhooks are told.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_STATUS, {"acknowledged": {"status": "acknowledged"}, "resolved": {"status": "resolved"}}),
            success=Success(
                200,
                "The alert as it is now.",
                TypeAdapter(AlertAnswer),
                {**examples.ACKNOWLEDGED_ALERT, "request_id": examples.REQUEST_ID},
            ),
            errors=("conflict",),
        ),
    )
