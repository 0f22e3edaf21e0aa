"""Alert rules of a project, and what may be changed of them.

Every change is one event in the project's log, and a new version of the rule begins at that event: what is stored
before it is judged by the old one, what is stored behind it by the new one, whoever looks at it and whenever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import Enum
from functools import partial
from typing import Any, Final
from uuid import UUID

from logstitch.detection.detector import ActiveRule
from logstitch.detection.rules import BUILTINS, Distinct, GroupBy, Rule, Severity, check_rule
from logstitch.errors import AlertRuleLimitReached, Conflict, Detail, InvalidRequest, NotFound
from logstitch.recording.audit import Amendment, AuditedChange, DecisionOver, Moment, audit_event
from logstitch.store import alert_rules as store
from logstitch.store.alert_rules import AlertRuleRow
from logstitch.store.database import Connection
from logstitch.store.events import Head

_DEFAULTS: Final[Mapping[str, Rule]] = {rule.id: rule for rule in BUILTINS}
_CHANGEABLE: Final = ("enabled", "cooldown_seconds")
"""Of a built-in rule."""
_COUNTING: Final = ("action_pattern", "group_by", "distinct", "window_seconds")
"""What decides which events count, and for whom. When it changes, counting begins anew."""


@dataclass(frozen=True, slots=True)
class StoredRule:
    """A rule as it is now. ``since_seq``: events up to and with this one do not count for it. ``created_at`` is
    ``None`` for a built-in."""

    rule: Rule
    since_seq: int
    created_at: datetime | None


@dataclass(frozen=True, slots=True)
class RuleBook:
    """A project's rules: all built-ins in their order, and its own in order of creation."""

    builtins: tuple[StoredRule, ...]
    custom: tuple[StoredRule, ...]

    @property
    def rules(self) -> tuple[StoredRule, ...]:
        """All of them, in the order in which they are listed."""
        return (*self.builtins, *self.custom)

    def find(self, rule_id: str) -> StoredRule:
        """The rule with this id (``auth_brute_force``, or a UUID). Raises ``NotFound``."""
        for stored in self.rules:
            if stored.rule.id == rule_id:
                return stored
        raise NotFound("There is no such alert rule.")


def read_rules(conn: Connection, project_no: int) -> RuleBook:
    """The project's rules as they are now; under the head row, as they are for the next event."""
    return _book(store.current_rules(conn, project_no))


def rules_at(conn: Connection, project_no: int, seq: int) -> list[ActiveRule]:
    """The rules that hold for the event behind ``seq``, disabled ones among them, in the order of their list.

    The same for every ``seq`` until the next event that tells of a change of rules, and from it on another one.
    """
    book = _book(store.rules_at(conn, project_no, seq))
    return [ActiveRule(stored.rule, stored.since_seq) for stored in book.rules]


def _book(rows: list[AlertRuleRow]) -> RuleBook:
    found = {row.rule_id: row for row in rows}
    builtins = [
        StoredRule(_rule(found[id_]), found[id_].since_seq, None) if id_ in found else StoredRule(rule, 0, None)
        for id_, rule in _DEFAULTS.items()
    ]
    custom = [StoredRule(_rule(row), row.since_seq, row.created_at) for row in rows if row.rule_id not in _DEFAULTS]
    return RuleBook(tuple(builtins), tuple(custom))


def _rule(row: AlertRuleRow) -> Rule:
    return Rule(
        row.rule_id,
        row.name,
        row.action_pattern,
        row.threshold,
        row.window_seconds,
        GroupBy(row.group_by),
        Severity(row.severity),
        row.enabled,
        row.cooldown_seconds,
        None if row.distinct_of is None else Distinct(row.distinct_of),
    )


# -- what may be changed, decided over the rules as they are --------------------------------------------------------


Decision = DecisionOver[RuleBook, StoredRule]


def creation(rule: Rule, created_at: datetime, *, limit: int) -> Decision:
    """Add a rule. Raises ``InvalidRequest``, and ``AlertRuleLimitReached`` where ``limit`` custom rules are there."""
    return partial(_create, rule, created_at, limit)


def update(rule_id: str, fields: Mapping[str, Any], *, limit: int) -> Decision:
    """Set these fields of a rule, by their names in ``Rule``. Raises ``NotFound`` and ``InvalidRequest``, and
    ``AlertRuleLimitReached`` where it would switch on a custom rule of a project that has more than ``limit`` of them
    left from a larger plan."""
    return partial(_update, rule_id, fields, limit)


def deletion(rule_id: str) -> Decision:
    """Remove a custom rule. Raises ``NotFound``, and ``Conflict`` for a built-in."""
    return partial(_delete, rule_id)


def _create(rule: Rule, created_at: datetime, limit: int, rules: RuleBook) -> Amendment[StoredRule]:
    check_rule(rule)
    if len(rules.custom) >= limit:
        raise AlertRuleLimitReached(
            f"The plan's {limit} custom alert rules are used up." if limit else "The plan has no custom alert rules."
        )
    return Amendment(None, StoredRule(rule, 0, created_at))


def _update(rule_id: str, fields: Mapping[str, Any], limit: int, rules: RuleBook) -> Amendment[StoredRule]:
    before = rules.find(rule_id)
    if before.created_at is None and (forbidden := [name for name in fields if name not in _CHANGEABLE]):
        raise InvalidRequest(details=[Detail(name, "Cannot be changed on a built-in rule") for name in forbidden])
    rule = replace(before.rule, **fields)
    check_rule(rule)
    if before.created_at is not None and rule.enabled and not before.rule.enabled and len(rules.custom) > limit:
        raise AlertRuleLimitReached(
            f"The project has {len(rules.custom)} custom alert rules, and the plan {limit}: none can be enabled."
        )
    return Amendment(before, replace(before, rule=rule))


def _delete(rule_id: str, rules: RuleBook) -> Amendment[StoredRule]:
    before = rules.find(rule_id)
    if before.created_at is None:
        raise Conflict("A built-in rule cannot be deleted; it can be disabled.")
    return Amendment(before, None)


# -- the transaction ------------------------------------------------------------------------------------------------


def rule_change(
    project_no: int, decide: Decision, *, by: UUID, event_id: bytes, now: Moment
) -> AuditedChange[StoredRule | None]:
    """One change of one project's rules, as the work of a transaction: the rule as it is then, ``None`` once it is
    removed. ``by`` is the id of the key that asks for it."""

    def change(conn: Connection, head: Head, at: datetime) -> tuple[StoredRule | None, Mapping[str, Any] | None]:
        amendment = decide(read_rules(conn, project_no))
        if amendment.before == amendment.after:
            return amendment.after, None
        # The event that tells of the change has the next number; what is behind it is judged by the new version.
        after = _write(conn, project_no, amendment, head.seq + 1, at)
        return after, _audit_event(amendment, by)

    return AuditedChange(project_no, change, event_id=event_id, now=now)


def _write(
    conn: Connection, project_no: int, amendment: Amendment[StoredRule], seq: int, at: datetime
) -> StoredRule | None:
    """End the old version at ``seq`` and begin the new one there; the rule as it is stored."""
    before, after = amendment.before, amendment.after
    if before is not None:
        store.end_version(conn, project_no, seq, before.rule.id)
    if after is None:
        return None
    since_seq = seq if before is None or _counts_anew(before.rule, after.rule) else before.since_seq
    row = _row(after.rule, since_seq, after.created_at or at)
    created_at = store.begin_version(conn, project_no, seq, row, new=before is None)
    return StoredRule(after.rule, since_seq, after.created_at and created_at)


def _counts_anew(before: Rule, after: Rule) -> bool:
    """Whether what was counted for a rule says nothing about it any more."""
    switched_on = after.enabled and not before.enabled
    return switched_on or any(getattr(before, name) != getattr(after, name) for name in _COUNTING)


def _row(rule: Rule, since_seq: int, created_at: datetime) -> AlertRuleRow:
    return AlertRuleRow(
        rule.id,
        since_seq,
        rule.name,
        rule.action_pattern,
        rule.threshold,
        rule.window_seconds,
        rule.group_by.value,
        None if rule.distinct is None else rule.distinct.value,
        rule.severity.value,
        rule.cooldown_seconds,
        rule.enabled,
        created_at,
    )


def _audit_event(amendment: Amendment[StoredRule], by: UUID) -> dict[str, Any]:
    rule = amendment.subject.rule
    before, after = _settings(amendment.before), _settings(amendment.after)
    return audit_event("alert_rule", rule.id, rule.name, before, after, by)


def _settings(stored: StoredRule | None) -> dict[str, Any] | None:
    """The rule's fields, but for its id, as JSON has them."""
    if stored is None:
        return None
    fields = {name: value for name, value in asdict(stored.rule).items() if name != "id" and value is not None}
    return {name: value.value if isinstance(value, Enum) else value for name, value in fields.items()}
