"""What is said about alerts: rules and their changes, alerts and their states, and events that were committed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import Project
from logstitch.detection.alerts import Alert, AlertStatus
from logstitch.detection.facts import Fact
from logstitch.detection.rules import Distinct, GroupBy, Rule, Severity

# -- to the evaluator of a project ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Committed:
    """These events were committed, all of them in one transaction and in the order of their ``seq``."""

    facts: Sequence[Fact]


@dataclass(frozen=True, slots=True)
class CatchUp:
    """There may be events that nobody has told of."""


# -- rules ---------------------------------------------------------------------------------------------------------


class AlertRuleType(StrEnum):
    """Every project has the built-in ones."""

    BUILTIN = "builtin"
    CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class AlertRule:
    """A rule as it is shown; a custom one was created at some time."""

    rule: Rule
    created_at: datetime | None

    @property
    def type(self) -> AlertRuleType:
        """Built-in rules are those that nobody created."""
        return AlertRuleType.BUILTIN if self.created_at is None else AlertRuleType.CUSTOM


@dataclass(frozen=True, slots=True)
class ListAlertRules(Ask["AlertRulePage"]):
    """The project's rules: the built-ins, then its own in order of creation."""

    project_no: int
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class AlertRulePage:
    """One page of rules. Of a ``Page`` of built-ins, ``created_at`` is the beginning of time."""

    rules: tuple[AlertRule, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class AlertRuleDraft:
    """A custom rule that nobody has checked yet."""

    name: str
    action_pattern: str
    threshold: int
    window_seconds: int
    group_by: GroupBy
    severity: Severity
    cooldown_seconds: int
    enabled: bool
    distinct: Distinct | None

    def rule(self, id: str) -> Rule:
        """The same as the engine takes it, not checked."""
        return Rule(
            id,
            self.name,
            self.action_pattern,
            self.threshold,
            self.window_seconds,
            self.group_by,
            self.severity,
            self.enabled,
            self.cooldown_seconds,
            self.distinct,
        )


@dataclass(frozen=True, slots=True)
class CreateAlertRule(Ask[AlertRule]):
    """Make a custom rule: it counts events that are stored after the answer. ``by`` is the key that asks for it.

    Refused with ``InvalidRequest`` or ``AlertRuleLimitReached`` (``limit``: how many the plan has).
    """

    project_no: int
    by: UUID
    limit: int
    draft: AlertRuleDraft


@dataclass(frozen=True, slots=True)
class UpdateAlertRule(Ask[AlertRule]):
    """Set these fields of a rule, by their names in ``Rule``. Events that are stored after the answer are judged by the
    rule as it is then.

    Refused with ``NotFound`` or ``InvalidRequest``, also for what a built-in does not let change, and with
    ``AlertRuleLimitReached`` where it would switch on a custom rule of a project that has more than ``limit`` of them.
    """

    project_no: int
    by: UUID
    limit: int
    id: str
    changed: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteAlertRule(Ask[None]):
    """Remove a custom rule; its alerts stay. Refused with ``NotFound``, and with ``Conflict`` for a built-in."""

    project_no: int
    by: UUID
    id: str


# -- alerts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AlertFilter:
    """What to look for; dates are of ``triggered_at``, both included, in milliseconds since the epoch."""

    status: AlertStatus | None = None
    severity: Severity | None = None
    rule_id: str | None = None
    group_key: str | None = None
    start_ms: int | None = None
    end_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ListAlerts(Ask["AlertPage"]):
    """One page of a project's alerts, newest first."""

    project_no: int
    filter: AlertFilter
    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class AlertPage:
    """One page of alerts; ``created_at`` of a ``Page`` is ``triggered_at``."""

    alerts: tuple[Alert, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class GetAlert(Ask[Alert]):
    """One alert. Refused with ``NotFound``."""

    project_no: int
    id: UUID


@dataclass(frozen=True, slots=True)
class SetAlertStatus(Ask[Alert]):
    """Acknowledge or resolve an alert. Refused with ``NotFound``, or ``Conflict`` where it cannot become that."""

    project: Project
    by: UUID
    id: UUID
    status: AlertStatus


# -- the time machine ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReplayRule(Ask["RuleHistory"]):
    """What would an unsaved rule have done about the stored events that were received in these times (both included,
    in milliseconds)? And what the stored rule ``rule_id``, if one is named?

    Refused with ``InvalidRequest`` on ``rule.threshold`` and the like, ``NotFound`` for an unknown ``rule_id``, and
    ``Unavailable`` while others are looked at.
    """

    project_no: int
    rule: AlertRuleDraft
    rule_id: str | None
    start_ms: int | None
    end_ms: int | None


@dataclass(frozen=True, slots=True)
class ReplayedAlert:
    """When and for whom a rule would have fired."""

    triggered_at_ms: int
    group_key: str
    tenant_id: str
    event_count: int


@dataclass(frozen=True, slots=True)
class RuleOutcome:
    """What one rule would have done: how often it would have fired, how often the cooldown would have held it back, and
    the first of the alerts."""

    fired: int
    held_back: int
    alerts: tuple[ReplayedAlert, ...]


@dataclass(frozen=True, slots=True)
class RuleHistory:
    """What was found. ``through_ms``: how far it looked when its time was up before the end; ``None`` where it came to
    the end. ``scanned`` events were looked at."""

    scanned: int
    outcome: RuleOutcome
    existing: RuleOutcome | None
    through_ms: int | None
