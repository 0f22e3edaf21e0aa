"""How far each project's events were looked at and by whom, the events themselves, and the alerts that they fire.

One process looks at a project's events at a time: the one with the lease. A lease runs out by the database's clock, so
its holder may find out late. What keeps such a one from writing is the fence, a number that every new holder raises:
whatever is written names the fence that it is written under, and under an older one nothing is (M. Kleppmann, How to
do distributed locking, 2016).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final, NamedTuple
from uuid import UUID

from logstitch.store.database import Connection
from logstitch.store.queries import load
from logstitch.store.reading import settle_plans
from logstitch.times import to_ms

_sql = load("alerts")

LEASE_SECONDS: Final = 10.0
"""For which a project is left alone when its holder was killed; a holder that lives renews three times as often."""

_LOWEST_ID: Final = UUID(int=0)
_FETCHED: Final = 250
"""Rows that psycopg makes into Python's objects at a time: a millisecond, in which no other thread runs."""


class LeaseLost(Exception):
    """Another one holds the lease now, or none: nothing was written."""


class Lease(NamedTuple):
    """The events up to ``seq`` were looked at, and ``fence`` is the number to write under."""

    seq: int
    fence: int


EventRow = tuple[int, bytes, int, int, str, str, str, str | None]
"""What is looked at of an event: its ``seq``, its id (16 bytes), ``received_at`` and ``occurred_at`` in milliseconds,
its action, tenant and actor, and its IP address where that was asked for."""


class FiredRow(NamedTuple):
    """When an alert was fired, in milliseconds, by which rule and for whom."""

    triggered_at_ms: int
    alert_id: UUID
    rule_id: str
    group_key: str


@dataclass(frozen=True, slots=True)
class NewAlert:
    """An alert to be stored; it will be open."""

    id: UUID
    rule_id: str
    rule_name: str
    severity: str
    group_by: str
    group_key: str
    tenant_id: str
    event_count: int
    event_ids: Sequence[bytes]
    threshold: int
    window_seconds: int
    seq: int
    triggered_at_ms: int


# -- who looks, and how far -----------------------------------------------------------------------------------------


def take_lease(conn: Connection, project_no: int, *, seconds: float = LEASE_SECONDS) -> Lease | None:
    """The lease on a project, if nobody has it; else ``None``."""
    row = conn.execute(_sql.take_lease, {"project_no": project_no, "seconds": seconds}).fetchone()
    return None if row is None else Lease(*row)


class Advance(NamedTuple):
    """How far had been looked ``before``, and the newest ``seq`` of the project, its ``head``."""

    before: int
    head: int


def advance(conn: Connection, project_no: int, fence: int, seq: int, *, seconds: float = LEASE_SECONDS) -> Advance:
    """Write how far we have looked, which is never less than it was, and renew the lease, even where it has run out
    and nobody has noticed. Until the transaction ends, nobody else writes it.

    Raises ``LeaseLost``.
    """
    values = {"project_no": project_no, "fence": fence, "seq": seq, "seconds": seconds}
    row = conn.execute(_sql.advance, values).fetchone()
    if row is None:
        raise LeaseLost
    before, head = row
    return Advance(before, head or 0)


def release(conn: Connection, project_no: int, fence: int, seq: int) -> None:
    """Write how far we have looked, and leave the rest to others. Nothing happens where others have it already."""
    conn.execute(_sql.release, {"project_no": project_no, "fence": fence, "seq": seq})


def commit_later(conn: Connection) -> None:
    """Have this transaction survive a crash of the server only if that comes a moment after its commit."""
    conn.execute(_sql.commit_later)


def find_waiting(conn: Connection, limit: int) -> list[int]:
    """Projects with events that were not looked at and that nobody is at work on, any ``limit`` of them."""
    return [number for (number,) in conn.execute(_sql.find_waiting, {"limit": limit})]


# -- what is looked at ----------------------------------------------------------------------------------------------


def find_head(conn: Connection, project_no: int) -> int:
    """The newest ``seq`` of the project, 0 for none."""
    row = conn.execute(_sql.find_head, {"project_no": project_no}).fetchone()
    return 0 if row is None else int(row[0])


def find_project_id(conn: Connection, project_no: int) -> UUID:
    """The id that stands for the project outside. Raises ``LookupError`` when there is no such project."""
    row = conn.execute(_sql.find_project_id, {"project_no": project_no}).fetchone()
    if row is None:
        raise LookupError(f"there is no project {project_no}")
    found: UUID = row[0]
    return found


def find_actions(conn: Connection, project_no: int, limit: int) -> list[str] | None:
    """All actions of the project's events; ``None`` when there are more than ``limit``."""
    rows = conn.execute(_sql.find_actions, {"project_no": project_no, "limit": limit + 1}).fetchall()
    return None if len(rows) > limit else [action for (action,) in rows]


def received_at_ms(conn: Connection, project_no: int, seq: int) -> int:
    """When the event was received, in milliseconds, or claimed from a stream. Raises ``LookupError`` for no event."""
    row = conn.execute(_sql.received_at, {"project_no": project_no, "seq": seq}).fetchone()
    if row is None:
        raise LookupError(f"project {project_no} has no event {seq}")
    return to_ms(row[0])


def next_claim(conn: Connection, project_no: int, after: int, through: int) -> tuple[int, int] | None:
    """The first and the last ``seq`` of the next events behind ``after``, up to ``through``, that were claimed from a
    stream, as far as these reach in both directions; ``None`` for none."""
    values = {"project_no": project_no, "after": after, "through": through}
    row = conn.execute(_sql.next_claim, values).fetchone()
    return None if row is None else (row[0], row[1])


def read_events(
    conn: Connection,
    project_no: int,
    after: int,
    through: int,
    limit: int,
    *,
    actions: Collection[str] | None = None,
    addresses: bool = False,
) -> list[EventRow]:
    """The events behind ``after``, up to and with ``through``, at most ``limit``, in order of ``seq``; of ``actions``,
    if these are given. ``addresses``: with their IP address, which costs the reading of their bodies."""
    values: dict[str, Any] = {"after": after, "through": through, "limit": limit, "addresses": addresses}
    if actions is None:
        return _events(conn, _sql.read_events, project_no, values)
    return _events(conn, _sql.read_events_of, project_no, {**values, "actions": list(actions)})


def read_events_about(
    conn: Connection,
    project_no: int,
    after: int,
    through: int,
    limit: int,
    *,
    actor_ids: Collection[str],
    tenant_ids: Collection[str],
    actions: Collection[str] | None = None,
    addresses: bool = False,
) -> list[EventRow]:
    """The same of the events of these actors or tenants."""
    tenants = conn.execute(_sql.find_tenant_nos, {"project_no": project_no, "tenant_ids": list(tenant_ids)}).fetchone()
    values = {
        "after": after,
        "through": through,
        "limit": limit,
        "addresses": addresses,
        "actor_ids": list(actor_ids),
        "tenant_nos": tenants[0] if tenants else [],
        "actions": None if actions is None else list(actions),
    }
    return _events(conn, _sql.read_events_about, project_no, values)


def _events(conn: Connection, statement: Any, project_no: int, values: dict[str, Any]) -> list[EventRow]:
    settle_plans(conn)
    # Planned anew each time: a plan for any list of actions compares every event with each of them.
    cursor = conn.cursor(binary=True).execute(statement, {"project_no": project_no, **values}, prepare=False)
    found: list[EventRow] = []
    while rows := cursor.fetchmany(_FETCHED):
        found += rows
    found.sort(key=itemgetter(0))  # They come so, but nobody has promised it.
    return found


# -- alerts ---------------------------------------------------------------------------------------------------------


def list_fired(conn: Connection, project_no: int, after_ms: int, after_id: UUID | None, limit: int) -> list[FiredRow]:
    """The next ``limit`` alerts at most, oldest first, behind the place that the two name: ``after_ms`` alone is the
    beginning of that millisecond."""
    values = {"project_no": project_no, "after_ms": after_ms, "after_id": after_id or _LOWEST_ID, "limit": limit}
    return [FiredRow(*row) for row in conn.execute(_sql.list_fired, values)]


def find_fired(conn: Connection, project_no: int, groups: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """When a rule last fired for a group, in milliseconds, by (rule id, group key), for those of these that did."""
    pairs = [*groups]
    values = {
        "project_no": project_no,
        "rule_ids": [rule_id for rule_id, _ in pairs],
        "group_keys": [key for _, key in pairs],
    }
    return {(rule_id, key): at for rule_id, key, at in conn.execute(_sql.find_fired, values)}


def insert_alerts(conn: Connection, project_no: int, alerts: Sequence[NewAlert]) -> set[UUID]:
    """Store them, but for those that an earlier look has found: of the same rule, fired by the same event. Returns the
    ids of the others."""
    values = {
        "project_no": project_no,
        "alert_ids": [alert.id for alert in alerts],
        "rule_ids": [alert.rule_id for alert in alerts],
        "rule_names": [alert.rule_name for alert in alerts],
        "severities": [alert.severity for alert in alerts],
        "group_bys": [alert.group_by for alert in alerts],
        "group_keys": [alert.group_key for alert in alerts],
        "tenant_ids": [alert.tenant_id for alert in alerts],
        "event_counts": [alert.event_count for alert in alerts],
        # Arrays of different lengths make no array of arrays.
        "event_ids": ["{" + ",".join(map(bytes.hex, alert.event_ids)) + "}" for alert in alerts],
        "thresholds": [alert.threshold for alert in alerts],
        "windows": [alert.window_seconds for alert in alerts],
        "seqs": [alert.seq for alert in alerts],
        "triggered_ms": [alert.triggered_at_ms for alert in alerts],
    }
    return {alert_id for (alert_id,) in conn.execute(_sql.insert_alerts, values)}


def forget_versions(conn: Connection, project_no: int, seq: int) -> None:
    """Drop the versions of alert rules that hold for no event behind ``seq``, up to which all were looked at."""
    conn.execute(_sql.forget_versions, {"project_no": project_no, "seq": seq})
