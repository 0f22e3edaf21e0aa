"""Alert rules of a project, in versions: each holds for a range of ``seq``, so that whoever looks at an event later
judges it by the rules that held when it was stored.

A change ends a version at the ``seq`` of the event that tells of it, and begins the next one there. It is written under
the project's head row. A built-in rule has no row until it is changed for the first time.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("alert_rules")


@dataclass(frozen=True, slots=True)
class AlertRuleRow:
    """One version of a rule. Events with a ``seq`` up to ``since_seq`` do not count for it; ``created_at`` is the
    rule's, not the version's."""

    rule_id: str
    since_seq: int
    name: str
    action_pattern: str
    threshold: int
    window_seconds: int
    group_by: str
    distinct_of: str | None
    severity: str
    cooldown_seconds: int
    enabled: bool
    created_at: datetime


def rules_at(conn: Connection, project_no: int, seq: int) -> list[AlertRuleRow]:
    """The versions that hold for the event behind ``seq``, in order of creation of their rules."""
    rows = conn.execute(_sql.rules_at, {"project_no": project_no, "seq": seq})
    return [AlertRuleRow(*row) for row in rows]


def current_rules(conn: Connection, project_no: int) -> list[AlertRuleRow]:
    """The versions that hold now, in the same order."""
    return [AlertRuleRow(*row) for row in conn.execute(_sql.current_rules, {"project_no": project_no})]


def begin_version(conn: Connection, project_no: int, seq: int, row: AlertRuleRow, *, new: bool) -> datetime:
    """Store the version that holds for events behind ``seq``; the one before it must have ended (``end_version``).

    Returns when the rule was created: ``row.created_at``; of one that is ``new`` to the millisecond, or a millisecond
    after the newest rule's where a clock went back.
    """
    values = {**asdict(row), "project_no": project_no, "seq": seq, "is_new": new}
    found = conn.execute(_sql.begin_version, values).fetchone()
    assert found is not None  # noqa: S101  (an INSERT … RETURNING of one row returns one row)
    created_at: datetime = found[0]
    return created_at


def end_version(conn: Connection, project_no: int, seq: int, rule_id: str) -> None:
    """Have the current version of a rule hold up to and with ``seq``. Nothing happens where there is none."""
    conn.execute(_sql.end_version, {"project_no": project_no, "rule_id": rule_id, "seq": seq})
