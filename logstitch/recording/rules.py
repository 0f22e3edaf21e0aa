"""A change of redaction rules is one transaction: the rules, their version, and the event that tells of the change.

The event belongs to the reserved tenant of the project and says who changed what, before and after. It is written as
any other, under the same head row, so a change that happened is on record and one that is on record has happened. It
does not go through redaction: what it holds is the rules themselves, which a rule must not hide.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

from logstitch.errors import Conflict, Detail, InvalidRequest, NotFound
from logstitch.ids import as_uuid
from logstitch.model import RESERVED_TENANT, IncomingEvent
from logstitch.recording.commit import GroupCommit, PreparedBatch, Recorded
from logstitch.recording.preparation import Preparation
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
from logstitch.store import events
from logstitch.store import redaction as store
from logstitch.store.database import Connection
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


@dataclass(frozen=True, slots=True)
class Amendment:
    """One rule before and after: ``None`` before it is made, and after it is removed."""

    before: Rule | None
    after: Rule | None


Decision = Callable[[RuleBook], Amendment]
"""What is to change, or the error that says why it may not."""


def creation(row: RuleRow) -> Decision:
    """Add a rule. Raises ``InvalidRequest``, and ``Conflict`` when there are as many as there may be."""
    return partial(_create, row)


def update(rule_id: str, fields: Mapping[str, Any]) -> Decision:
    """Set these of ``name, pattern, fields, behavior, enabled``. Raises ``NotFound`` and ``InvalidRequest``."""
    return partial(_update, rule_id, fields)


def deletion(rule_id: str) -> Decision:
    """Remove a custom rule. Raises ``NotFound``, and ``Conflict`` for a built-in."""
    return partial(_delete, rule_id)


def _create(row: RuleRow, rules: RuleBook) -> Amendment:
    check_rule(custom_rule(row))
    if len(rules.custom) >= MAX_CUSTOM:
        raise Conflict(f"The project has {MAX_CUSTOM} custom redaction rules, and may not have more.")
    return Amendment(None, row)


def _update(rule_id: str, fields: Mapping[str, Any], rules: RuleBook) -> Amendment:
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


def _delete(rule_id: str, rules: RuleBook) -> Amendment:
    before = rules.find(rule_id)
    if isinstance(before, BuiltinState):
        raise Conflict("A built-in rule cannot be deleted; it can be disabled.")
    return Amendment(before, None)


# -- the transaction ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Amended:
    """What a change came to: the rules after it, and what of them is new."""

    rules: RuleBook
    amendment: Amendment


class RuleChange:
    """One change of one project's rules. ``run`` is the work of a transaction, and may be run again after one of which
    nobody knows whether it was committed.

    ``by`` is the id of the key that asked for it, ``event_id`` a fresh id, and ``now`` the time.
    """

    def __init__(self, project_no: int, decide: Decision, *, by: UUID, event_id: bytes, now: datetime) -> None:
        self._project_no = project_no
        self._decide = decide
        self._by = by
        self._event_id = event_id
        self._now = now
        self._attempt: Amended | None = None

    def run(self, conn: Connection) -> Amended:
        """Change the rules. Nothing is written, and nothing recorded, where they are so already."""
        no = self._project_no
        events.lock_head(conn, no)
        if self._attempt is not None and events.has_event(conn, no, as_uuid(self._event_id)):
            return self._attempt
        self._attempt = None
        rules = read_rules(conn, no)
        amendment = self._decide(rules)
        if amendment.before == amendment.after:
            return Amended(rules, amendment)
        amendment = _write(conn, no, amendment)
        version = store.raise_version(conn, no)
        self._record(conn, amendment, version, rules.secret)
        self._attempt = Amended(read_rules(conn, no), amendment)
        return self._attempt

    def _record(self, conn: Connection, amendment: Amendment, version: int, secret: bytes) -> None:
        raw = audit_event(amendment, by=self._by)
        received_at_ms = int(self._now.timestamp() * 1000)
        prepared = Preparation(secret).prepare(
            [IncomingEvent(raw, None)], [raw], [()], received_at_ms=received_at_ms, ids=[self._event_id]
        )
        batch = PreparedBatch(prepared, False, received_at_ms, None, version)
        (outcome,) = GroupCommit(self._project_no).run(conn, [batch])
        if not isinstance(outcome, Recorded):
            raise TypeError(f"a change of rules was not recorded: {type(outcome).__name__}")


def _write(conn: Connection, project_no: int, amendment: Amendment) -> Amendment:
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


def audit_event(amendment: Amendment, *, by: UUID) -> dict[str, Any]:
    """The event that tells of a change."""
    before, after = amendment.before, amendment.after
    rule = after or before
    if rule is None:
        raise ValueError("a change of nothing is none")
    verb = "created" if before is None else "deleted" if after is None else "updated"
    old, new = _fields(before), _fields(after)
    return {
        "action": f"logstitch.redaction_rule.{verb}",
        "category": "admin",
        "actor": {"id": str(by), "type": "api_key"},
        "tenant_id": RESERVED_TENANT,
        "target": {"id": id_of(rule), "type": "redaction_rule", "name": name_of(rule)},
        "changes": [
            {
                "field": name,
                **({"before": old[name]} if name in old else {}),
                **({"after": new[name]} if name in new else {}),
            }
            for name in old | new
            if name not in old or name not in new or old[name] != new[name]
        ],
    }


def _fields(rule: Rule | None) -> dict[str, Any]:
    if rule is None:
        return {}
    if isinstance(rule, BuiltinState):
        return {"behavior": rule.behavior.value, "enabled": rule.enabled}
    what = {"fields": list(rule.fields)} if rule.pattern is None else {"pattern": rule.pattern}
    return {"name": rule.name, "type": rule.type, **what, "behavior": str(rule.behavior), "enabled": rule.enabled}
