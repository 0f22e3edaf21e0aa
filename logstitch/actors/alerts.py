"""Alerts: one actor a process that lists and changes alert rules, and lists alerts and says what was done about them.

It keeps nothing: what it answers is in the tables, where every process sees it. Whoever looks at events learns of a
change of rules from the log itself, see ``recording.alert_rules``.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from logstitch.actors.bounds import CONCURRENCY, HOLD_SECONDS
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.alerts import (
    AlertFilter,
    AlertPage,
    AlertRule,
    AlertRulePage,
    CreateAlertRule,
    DeleteAlertRule,
    GetAlert,
    ListAlertRules,
    ListAlerts,
    SetAlertStatus,
    UpdateAlertRule,
)
from logstitch.actors.messages.pages import Page, page_of
from logstitch.actors.queueing import answer_together
from logstitch.detection.alerts import Alert
from logstitch.ids import UlidMint
from logstitch.recording.alert_rules import (
    Decision,
    RuleBook,
    StoredRule,
    creation,
    deletion,
    read_rules,
    rule_change,
    update,
)
from logstitch.recording.alerts import alert_of, find_alert, status_change
from logstitch.store.alert_log import Place, Wanted, list_alerts
from logstitch.store.database import Connection, Database
from logstitch.times import to_ms

R = TypeVar("R")


class Alerts:
    """Answers ``ListAlertRules``, ``CreateAlertRule``, ``UpdateAlertRule``, ``DeleteAlertRule``, ``ListAlerts``,
    ``GetAlert`` and ``SetAlertStatus``."""

    def __init__(
        self, database: Database, mint: UlidMint, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._mint = mint
        self._now = now

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        await answer_together(mailbox, self._answer, at_once=CONCURRENCY)

    async def _answer(self, envelope: Envelope[Any]) -> None:
        match envelope.message:
            case ListAlertRules() as request:
                envelope.reply(page_of_rules(await self._read_rules(request.project_no), request))
            case CreateAlertRule(project_no, by, limit, draft):
                decide = creation(draft.rule(str(uuid4())), self._now(), limit=limit)
                await self._change(envelope, project_no, decide, by)
            case UpdateAlertRule(project_no, by, limit, rule_id, changed):
                await self._change(envelope, project_no, update(rule_id, changed, limit=limit), by)
            case DeleteAlertRule(project_no, by, rule_id):
                await self._change(envelope, project_no, deletion(rule_id), by)
            case ListAlerts() as request:
                envelope.reply(await self._list(request))
            case GetAlert(project_no, alert_id):
                envelope.reply(await self._read(lambda conn: find_alert(conn, project_no, alert_id)))
            case SetAlertStatus() as request:
                await self._set_status(envelope, request)

    async def _read(self, work: Callable[[Connection], R]) -> R:
        return await self._database.transact(work, hold=HOLD_SECONDS, read_only=True)

    async def _read_rules(self, project_no: int) -> RuleBook:
        return await self._read(lambda conn: read_rules(conn, project_no))

    async def _change(self, envelope: Envelope[Any], project_no: int, decide: Decision, by: UUID) -> None:
        change = rule_change(project_no, decide, by=by, event_id=self._event_id(), now=self._now)
        after = await self._database.transact(change.run, hold=HOLD_SECONDS)
        # No checkpoint from the commit to the answer.
        envelope.reply(None if after is None else shown(after))

    async def _list(self, request: ListAlerts) -> AlertPage:
        after = None if request.after is None else Place(request.after.created_at, request.after.id)
        rows, place = await self._read(
            lambda conn: list_alerts(conn, request.project_no, wanted(request.filter), limit=request.limit, after=after)
        )
        return AlertPage(tuple(map(alert_of, rows)), None if place is None else Page(*place))

    async def _set_status(self, envelope: Envelope[SetAlertStatus], request: SetAlertStatus) -> None:
        project = request.project
        change = status_change(
            (project.no, project.id),
            request.id,
            request.status,
            by=request.by,
            event_id=self._event_id(),
            now=self._now,
        )
        alert: Alert = await self._database.transact(change.run, hold=HOLD_SECONDS)
        # No checkpoint from the commit to the answer.
        envelope.reply(alert)

    def _event_id(self) -> bytes:
        return self._mint.one(to_ms(self._now()))


def wanted(filter: AlertFilter) -> Wanted:
    """The same for the store, which knows texts only."""
    return Wanted(
        None if filter.status is None else filter.status.value,
        None if filter.severity is None else filter.severity.value,
        filter.rule_id,
        filter.group_key,
        filter.start_ms,
        filter.end_ms,
    )


def page_of_rules(book: RuleBook, request: ListAlertRules) -> AlertRulePage:
    """The page that was asked for."""
    rules, more = page_of(book.rules, _place, request.after, request.limit)
    return AlertRulePage(tuple(map(shown, rules)), more)


def shown(stored: StoredRule) -> AlertRule:
    """A stored rule as it is shown."""
    return AlertRule(stored.rule, stored.created_at)


def _place(stored: StoredRule) -> Page | None:
    return None if stored.created_at is None else Page(stored.created_at, UUID(stored.rule.id))
