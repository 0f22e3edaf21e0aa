"""Redaction rules of a project, and what may be changed of them.

A change raises the version of the rules under the project's head row, where whoever stores events compares it.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from logstitch.errors import Conflict, Detail, InvalidRequest, NotFound
from logstitch.recording.audit import Amendment, AuditedChange, DecisionOver, Moment, audit_event
from logstitch.redaction.engine import RuleSet
from logstitch.redaction.rules import (
    BUILTINS,
    DEFAULT_BUILTINS,
    Behavior,
    BuiltinState,
    CustomRule,
    RuleType,
    check_rule,
    compile_rules,
)
from logstitch.store import redaction as store
from logstitch.store.database import Connection
from logstitch.store.events import Head
from logstitch.store.redaction import BuiltinRow, RuleRow

MAX_CUSTOM: Final = 100
"""Custom rules of a project."""

Rule = BuiltinState | RuleRow
"""A rule as it is stored."""

_BUILTINS = {builtin.slug: builtin for builtin in BUILTINS}
_DEFAULTS = {state.slug: state for state in DEFAULT_BUILTINS}
_PURPOSE = b"redaction"


@dataclass(frozen=True, slots=True)
class RuleBook:
    """A project's rules of one version: all built-ins in their order, and its own in order of creation."""

    version: int
    builtins: tuple[BuiltinState, ...]
    custom: tuple[RuleRow, ...]
    secret: bytes
    """The project's: 32 bytes."""

    @property
    def rules(self) -> tuple[Rule, ...]:
        """All of them, in the order in which they are listed."""
        return (*self.builtins, *self.custom)

    @property
    def hash_key(self) -> bytes:
        """What hashes are keyed with: derived from the project's secret (HMAC-SHA-256 under a purpose of its own), so
        that a hash in an event says nothing of idempotency digests, nor they of it."""
        return hmac.digest(self.secret, _PURPOSE, "sha256")

    def find(self, rule_id: str) -> Rule:
        """The rule with this id (``builtin_ssn``, or a UUID). Raises ``NotFound``."""
        for rule in self.rules:
            if rule_id == id_of(rule):
                return rule
        raise NotFound("There is no such redaction rule.")

    def compile(self, unsaved: Sequence[CustomRule] = ()) -> RuleSet:
        """The rules as the engine takes them, with ``unsaved`` ones (checked) behind the project's own."""
        custom = [custom_rule(row) for row in self.custom]
        return compile_rules(self.builtins, [*custom, *unsaved], secret=self.hash_key, version=self.version)


def read_rules(conn: Connection, project_no: int) -> RuleBook:
    """The project's rules; to be called in a snapshot or under the head row."""
    rules = store.load_rules(conn, project_no)
    states = _DEFAULTS | {
        row.slug: BuiltinState(row.slug, row.enabled, Behavior(row.behavior))
        for row in rules.builtins
        if row.slug in _DEFAULTS
    }
    return RuleBook(rules.version, tuple(states.values()), tuple(rules.custom), rules.secret)


def custom_rule(row: RuleRow) -> CustomRule:
    """A stored rule as the engine takes it."""
    return CustomRule(
        str(row.id), row.name, RuleType(row.type), row.pattern, row.fields, Behavior(row.behavior), row.enabled
    )


def id_of(rule: Rule) -> str:
    """The rule's id on the wire."""
    return str(rule.id) if isinstance(rule, RuleRow) else _BUILTINS[rule.slug].id


def name_of(rule: Rule) -> str:
    """What people call it."""
    return rule.name if isinstance(rule, RuleRow) else _BUILTINS[rule.slug].name


# -- what may be changed, decided over the rules as they are --------------------------------------------------------


Decision = DecisionOver[RuleBook, Rule]


def creation(row: RuleRow) -> Decision:
    """Add a rule. Raises ``InvalidRequest``, and ``Conflict`` when there are as many as there may be."""
    return partial(_create, row)


def update(rule_id: str, fields: Mapping[str, Any]) -> Decision:
    """Set these of ``name, pattern, fields, behavior, enabled``. Raises ``NotFound`` and ``InvalidRequest``."""
    return partial(_update, rule_id, fields)


def deletion(rule_id: str) -> Decision:
    """Remove a custom rule. Raises ``NotFound``, and ``Conflict`` for a built-in."""
    return partial(_delete, rule_id)


def _create(row: RuleRow, rules: RuleBook) -> Amendment[Rule]:
    check_rule(custom_rule(row))
    if len(rules.custom) >= MAX_CUSTOM:
        raise Conflict(f"The project has {MAX_CUSTOM} custom redaction rules, and may not have more.")
    return Amendment(None, row)


def _update(rule_id: str, fields: Mapping[str, Any], rules: RuleBook) -> Amendment[Rule]:
    before = rules.find(rule_id)
    after: Rule
    if isinstance(before, RuleRow):
        after = row = replace(before, **fields)
        check_rule(custom_rule(row))
    else:
        if forbidden := [name for name in fields if name not in ("behavior", "enabled")]:
            raise InvalidRequest(details=[Detail(name, "Cannot be changed on a built-in rule") for name in forbidden])
        after = replace(before, **fields)
    return Amendment(before, after)


def _delete(rule_id: str, rules: RuleBook) -> Amendment[Rule]:
    before = rules.find(rule_id)
    if isinstance(before, BuiltinState):
        raise Conflict("A built-in rule cannot be deleted; it can be disabled.")
    return Amendment(before, None)


# -- the transaction ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amended:
    """What a change came to: the rules after it, and what of them is new."""

    rules: RuleBook
    amendment: Amendment[Rule]


def rule_change(project_no: int, decide: Decision, *, by: UUID, event_id: bytes, now: Moment) -> AuditedChange[Amended]:
    """One change of one project's rules, as the work of a transaction. ``by`` is the id of the key that asks for it."""

    def change(conn: Connection, head: Head, at: datetime) -> tuple[Amended, Mapping[str, Any] | None]:
        rules = read_rules(conn, project_no)
        amendment = decide(rules)
        if amendment.before == amendment.after:
            return Amended(rules, amendment), None
        amendment = _write(conn, project_no, amendment)
        store.raise_version(conn, project_no)
        return Amended(read_rules(conn, project_no), amendment), _audit_event(amendment, by)

    return AuditedChange(project_no, change, event_id=event_id, now=now)


def _write(conn: Connection, project_no: int, amendment: Amendment[Rule]) -> Amendment[Rule]:
    """Bring the tables to what the amendment says; the amendment, with what the database decides filled in."""
    before, after = amendment.before, amendment.after
    if isinstance(after, BuiltinState):
        if after == _DEFAULTS[after.slug]:
            store.forget_builtin(conn, project_no, after.slug)
        else:
            store.save_builtin(conn, project_no, BuiltinRow(after.slug, after.enabled, after.behavior.value))
    elif after is None:
        if isinstance(before, RuleRow):
            store.delete_rule(conn, project_no, before.id)
    elif before is None:
        return Amendment(None, replace(after, created_at=store.insert_rule(conn, project_no, after)))
    else:
        store.update_rule(conn, project_no, after)
    return amendment


def _audit_event(amendment: Amendment[Rule], by: UUID) -> dict[str, Any]:
    rule = amendment.subject
    before, after = _fields(amendment.before), _fields(amendment.after)
    return audit_event("redaction_rule", id_of(rule), name_of(rule), before, after, by)


def _fields(rule: Rule | None) -> dict[str, Any] | None:
    if rule is None:
        return None
    if isinstance(rule, BuiltinState):
        return {"behavior": rule.behavior.value, "enabled": rule.enabled}
    what = {"fields": list(rule.fields)} if rule.pattern is None else {"pattern": rule.pattern}
    return {"name": rule.name, "type": rule.type, **what, "behavior": str(rule.behavior), "enabled": rule.enabled}
