"""Alert rules and alerts of a deployment in memory: what HTTP tests of them are run against.

Rules are decided over by the functions that the real actor calls, under no lock. Alerts do not fire here: a test puts
them there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from logstitch.actors.alerts import page_of_rules, shown
from logstitch.actors.messages.alerts import (
    AlertFilter,
    AlertPage,
    AlertRuleDraft,
    CreateAlertRule,
    DeleteAlertRule,
    GetAlert,
    ListAlertRules,
    ListAlerts,
    ReplayedAlert,
    ReplayRule,
    RuleHistory,
    RuleOutcome,
    SetAlertStatus,
    UpdateAlertRule,
)
from logstitch.actors.messages.pages import Page
from logstitch.detection.alerts import TRANSITIONS, Alert, AlertStatus
from logstitch.detection.facts import Fact
from logstitch.detection.rules import BUILTINS, GroupBy, Rule, Severity, check_rule
from logstitch.detection.timemachine import Tally, TimeMachine
from logstitch.errors import Conflict, Detail, InvalidRequest, NotFound
from logstitch.recording.alert_rules import Decision, RuleBook, StoredRule, creation, deletion, update
from logstitch.times import parse_time


def an_alert(triggered_at: datetime, **changes: Any) -> Alert:
    """An open alert of the built-in that looks for guessed passwords."""
    fields: dict[str, Any] = {
        "id": uuid4(),
        "rule_id": "auth_brute_force",
        "rule_name": "Auth Brute Force",
        "severity": Severity.HIGH,
        "status": AlertStatus.OPEN,
        "group_by": GroupBy.ACTOR_ID,
        "group_key": "usr_77",
        "tenant_id": "acme",
        "event_count": 5,
        "event_ids": tuple(UUID(int=n).bytes for n in range(5)),
        "threshold": 5,
        "window_seconds": 300,
        "triggered_at": triggered_at,
        "acknowledged_at": None,
        "resolved_at": None,
    }
    fields["id"] = UUID(int=int(triggered_at.timestamp() * 1000) << 80 | fields["id"].int >> 48)
    return Alert(**(fields | changes))


class AlertsWorld:
    """What is known of alerts. ``facts`` are the stored events of a project, for the time machine."""

    def __init__(self, later: Callable[[], datetime], events: Callable[[int], Sequence[dict[str, Any]]]) -> None:
        self.alerts: list[tuple[int, Alert]] = []
        self.rules: dict[int, RuleBook] = {}
        self.through_ms: int | None = None
        """How far the time machine comes; ``None``: to the end."""
        self._later = later
        self._events = events

    def add(self, project_no: int, *alerts: Alert) -> None:
        """These have fired."""
        self.alerts += [(project_no, alert) for alert in alerts]

    def answer(self, message: object) -> Any:
        """Answer what is asked about alerts; ``NotImplemented`` for anything else."""
        match message:
            case ListAlertRules(project_no):
                return page_of_rules(self._book(project_no), message)
            case CreateAlertRule(project_no, _, limit, draft):
                return self._change(project_no, creation(draft.rule(str(uuid4())), self._later(), limit=limit))
            case UpdateAlertRule(project_no, _, limit, rule_id, changed):
                return self._change(project_no, update(rule_id, changed, limit=limit))
            case DeleteAlertRule(project_no, _, rule_id):
                return self._change(project_no, deletion(rule_id))
            case ListAlerts():
                return self._list(message)
            case GetAlert(project_no, alert_id):
                return self._find(project_no, alert_id)
            case SetAlertStatus(project, _, alert_id, status):
                return self._set_status(project.no, alert_id, status)
            case ReplayRule():
                return self._replay(message)
        return NotImplemented

    # -- rules -----------------------------------------------------------------------------------------------------

    def _book(self, project_no: int) -> RuleBook:
        return self.rules.get(project_no) or RuleBook(tuple(StoredRule(rule, 0, None) for rule in BUILTINS), ())

    def _change(self, project_no: int, decide: Decision) -> Any:
        book = self._book(project_no)
        amendment = decide(book)
        before, after = amendment.before, amendment.after
        rules = [after if rule is before else rule for rule in book.rules] + ([after] if before is None else [])
        self.rules[project_no] = RuleBook(
            tuple(rule for rule in rules if rule is not None and rule.created_at is None),
            tuple(rule for rule in rules if rule is not None and rule.created_at is not None),
        )
        return None if after is None else shown(after)

    # -- alerts ----------------------------------------------------------------------------------------------------

    def _list(self, message: ListAlerts) -> AlertPage:
        wanted = message.filter
        found = [alert for no, alert in self.alerts if no == message.project_no and _fits(alert, wanted)]
        found.sort(key=lambda alert: (alert.triggered_at, alert.id), reverse=True)
        if (after := message.after) is not None:
            found = [alert for alert in found if (alert.triggered_at, alert.id) < (after.created_at, after.id)]
        page = tuple(found[: message.limit])
        return AlertPage(page, Page(page[-1].triggered_at, page[-1].id) if len(found) > message.limit else None)

    def _find(self, project_no: int, alert_id: UUID) -> Alert:
        for no, alert in self.alerts:
            if (no, alert.id) == (project_no, alert_id):
                return alert
        raise NotFound("There is no such alert.")

    def _set_status(self, project_no: int, alert_id: UUID, status: AlertStatus) -> Alert:
        alert = self._find(project_no, alert_id)
        if (alert.status, status) not in TRANSITIONS:
            raise Conflict(f"The alert is {alert.status}, and cannot become {status}.")
        now = self._later()
        changed = (
            replace(alert, status=status, acknowledged_at=now)
            if status is AlertStatus.ACKNOWLEDGED
            else replace(alert, status=status, resolved_at=now)
        )
        self.alerts[self.alerts.index((project_no, alert))] = project_no, changed
        return changed

    # -- the time machine ------------------------------------------------------------------------------------------

    def _replay(self, message: ReplayRule) -> RuleHistory:
        rule = _checked(message.rule)
        existing = None if message.rule_id is None else self._book(message.project_no).find(message.rule_id).rule
        facts = [_fact(seq, event) for seq, event in enumerate(self._events(message.project_no), start=1)]
        wanted = [
            fact
            for fact in facts
            if (message.start_ms is None or fact.received_at_ms >= message.start_ms)
            and (message.end_ms is None or fact.received_at_ms <= message.end_ms)
        ]
        machine = TimeMachine(rule, existing)
        machine.run(wanted)
        found = machine.outcome()
        return RuleHistory(
            len(wanted),
            _outcome(found.rule),
            None if found.existing is None else _outcome(found.existing),
            self.through_ms,
        )


def _checked(draft: AlertRuleDraft) -> Rule:
    rule = draft.rule("rule")
    try:
        check_rule(rule)
    except InvalidRequest as error:
        raise InvalidRequest(details=[Detail(f"rule.{one.field}", one.message) for one in error.details]) from None
    return rule


def _outcome(tally: Tally) -> RuleOutcome:
    return RuleOutcome(tally.fired, tally.held_back, tuple(ReplayedAlert(*one) for one in tally.firings))


def _fact(seq: int, event: dict[str, Any]) -> Fact:
    return Fact(
        seq,
        seq.to_bytes(16, "big"),
        parse_time(event["received_at"]),
        parse_time(event["occurred_at"]),
        event["action"],
        event["tenant_id"],
        event["actor"]["id"],
        event.get("context", {}).get("ip_address"),
    )


def _fits(alert: Alert, wanted: AlertFilter) -> bool:
    ms = alert.triggered_at.timestamp() * 1000
    exact = (
        (wanted.status, alert.status),
        (wanted.severity, alert.severity),
        (wanted.rule_id, alert.rule_id),
        (wanted.group_key, alert.group_key),
    )
    return (
        all(value is None or value == found for value, found in exact)
        and (wanted.start_ms is None or ms >= wanted.start_ms)
        and (wanted.end_ms is None or ms <= wanted.end_ms)
    )
