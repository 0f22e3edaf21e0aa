"""Looking at a project's committed events, as short transactions: a lease, pages of events, and what they fired.

What fires is a function of the events in the order of ``seq`` and of the rules, which are versions by ``seq``. So it
does not matter who looks, when, or how often; and what was fired is written with the position up to which somebody has
looked, in one transaction. Whoever looks again begins at the position, and fires nothing twice.

What one event fires may be too much for one transaction. Then it is written in parts, and the position stays before the
event until the last one. Whoever looks at it again finds what is written, which is neither stored nor told again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from logstitch.detection.alerts import Alert, AlertStatus
from logstitch.detection.detector import GRACE_MS, ActiveRule, Firing, Missing
from logstitch.detection.facts import Fact
from logstitch.ids import UlidMint, as_uuid
from logstitch.model import RESERVED_TENANT
from logstitch.recording.alert_rules import rules_at
from logstitch.recording.outbox import announce
from logstitch.store import alerts as store
from logstitch.store.alerts import Lease, NewAlert
from logstitch.store.database import Connection
from logstitch.times import from_ms, to_ms
from logstitch.webhooks.payloads import WebhookEvent

PAGE_FACTS: Final = 2_000
"""Events of one page: 20 ms to read, and as much to look at by a handful of rules."""
PAGE_SCAN: Final = 20_000
"""Events among which those of a page are looked for, where few actions matter: 20 ms, if none of them is found."""
FEW_EVENTS: Final = 200
"""Up to here it is not worth asking which actions matter."""
MAX_ACTIONS: Final = 1_000
"""Of a project; if there are more, its events are read whatever their action is."""
FIRED_PAGE: Final = 5_000
"""Alerts of the past that are read at a time."""

RULE_ACTIONS: Final = frozenset(f"logstitch.alert_rule.{verb}" for verb in ("created", "updated", "deleted"))
"""What the events are called that tell of a change of rules."""

_SEARCHED: Final = 256
"""Events that are read in vain are cheaper than the search for a better place to begin."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where whoever has the lease begins: the project's id outside, its newest ``seq``, the rules that hold behind the
    position, and when the event at the position was received (``None`` at the very beginning)."""

    project_id: UUID
    head: int
    rules: Sequence[ActiveRule]
    received_at_ms: int | None


@dataclass(frozen=True, slots=True)
class Page:
    """The events up to ``through`` that matter, of a project whose newest is ``head``."""

    facts: Sequence[Fact]
    through: int
    head: int


@dataclass(frozen=True, slots=True)
class Interest:
    """What is worth reading: events with an action that ``wants`` lets pass, and their addresses or not."""

    wants: Callable[[str], bool]
    addresses: bool


def changes_rules(fact: Fact) -> bool:
    """Whether the event tells of a change of rules: those behind it are judged by others."""
    return fact.tenant_id == RESERVED_TENANT and fact.action in RULE_ACTIONS


# -- beginning ------------------------------------------------------------------------------------------------------


def begin(conn: Connection, project_no: int) -> Lease | None:
    """The right to look at the project's events, or ``None`` while another one has it."""
    return store.take_lease(conn, project_no)


def standing(conn: Connection, project_no: int, position: int) -> Standing:
    """What there is to know before looking at what is behind the position."""
    return Standing(
        store.find_project_id(conn, project_no),
        store.find_head(conn, project_no),
        rules_at(conn, project_no, position),
        store.received_at_ms(conn, project_no, position) if position else None,
    )


def find_start(conn: Connection, project_no: int, position: int, after_ms: int) -> int:
    """A ``seq``, ``position`` or less, up to which all events were received at ``after_ms`` or before.

    By bisection, since later events were received later; but for the disorder that detection allows.
    """
    edge = after_ms - GRACE_MS

    def is_old(seq: int) -> bool:
        return store.received_at_ms(conn, project_no, seq) <= edge

    high, step = position, 1024
    low = max(0, high - step)
    while low and not is_old(low):
        high, step = low, step * 2
        low = max(0, high - step)
    while high - low > _SEARCHED:
        middle = (low + high) // 2
        if is_old(middle):
            low = middle
        else:
            high = middle
    return low


def fired_since(
    conn: Connection, project_no: int, after_ms: int, after_id: UUID | None
) -> tuple[dict[tuple[str, str], int], tuple[int, UUID] | None]:
    """A page of what fired after a time: when a rule last fired for a group, in milliseconds, by both; and the place
    behind which the next page begins, ``None`` behind the last one."""
    rows = store.list_fired(conn, project_no, after_ms, after_id, FIRED_PAGE)
    fired = {(row.rule_id, row.group_key): row.triggered_at_ms for row in rows}
    return fired, (rows[-1].triggered_at_ms, rows[-1].alert_id) if len(rows) == FIRED_PAGE else None


# -- reading --------------------------------------------------------------------------------------------------------


def read_page(
    conn: Connection,
    project_no: int,
    after: int,
    interest: Interest,
    until: int | None = None,
    limit: int | None = None,
) -> Page:
    """The next events behind ``after``, up to the newest, or to ``until``; but for those that were claimed. At most
    ``limit``, by default ``PAGE_FACTS``."""
    limit = PAGE_FACTS if limit is None else limit
    head = store.find_head(conn, project_no)
    after, through = _unclaimed(conn, project_no, after, head if until is None else until)
    actions = _actions(conn, project_no, interest) if through - after > FEW_EVENTS else None
    rows = store.read_events(conn, project_no, after, through, limit, actions=actions, addresses=interest.addresses)
    facts = [*map(Fact._make, rows)]
    if len(facts) == limit:
        through = facts[-1].seq
    return Page(facts, through, head)


def read_past(conn: Connection, project_no: int, after: int, missing: Missing, interest: Interest) -> Page:
    """The next events behind ``after`` that detection misses."""
    until = missing.before_seq - 1
    after, through = _unclaimed(conn, project_no, after, until)
    rows = store.read_events_about(
        conn,
        project_no,
        after,
        through,
        PAGE_FACTS,
        actor_ids=missing.actor_ids,
        tenant_ids=missing.tenant_ids,
        actions=_actions(conn, project_no, interest),
        addresses=interest.addresses,
    )
    facts = [*map(Fact._make, rows)]
    if len(facts) == PAGE_FACTS:
        through = facts[-1].seq
    return Page(facts, through, until)


def _unclaimed(conn: Connection, project_no: int, after: int, until: int) -> tuple[int, int]:
    """The next range of events behind ``after``, of a page's length at most, of which none was claimed; it is empty
    when there are no more of them up to ``until``."""
    while after < until:
        through = min(until, after + PAGE_SCAN)
        claim = store.next_claim(conn, project_no, after, through)
        if claim is None:
            return after, through
        first, last = claim
        if first > after + 1:
            return after, first - 1
        after = min(last, until)
    return until, until


def _actions(conn: Connection, project_no: int, interest: Interest) -> list[str] | None:
    """The actions to ask for; ``None`` where that would be too many, or all of them."""
    known = store.find_actions(conn, project_no, MAX_ACTIONS)
    if known is None:
        return None
    wanted = [action for action in known if action in RULE_ACTIONS or interest.wants(action)]
    return None if len(wanted) == len(known) else wanted


def find_past(
    conn: Connection, project_no: int, position: int, missing: Missing
) -> tuple[int, dict[tuple[str, str], int]]:
    """Behind which ``seq`` the events begin that detection misses, and when what it misses has fired."""
    start = find_start(conn, project_no, position, missing.after_ms) if position else 0
    return start, store.find_fired(conn, project_no, missing.groups)


# -- writing --------------------------------------------------------------------------------------------------------


def alerts_of(firings: Sequence[Firing], mint: UlidMint) -> list[tuple[Alert, int]]:
    """The alerts that rules have fired, open, each with the ``seq`` of the event that made it fire."""
    return [
        (
            Alert(
                id=as_uuid(mint.one(firing.triggered_at_ms)),
                rule_id=firing.rule.id,
                rule_name=firing.rule.name,
                severity=firing.rule.severity,
                status=AlertStatus.OPEN,
                group_by=firing.rule.group_by,
                group_key=firing.group_key,
                tenant_id=firing.tenant_id,
                event_count=firing.event_count,
                event_ids=firing.event_ids,
                threshold=firing.rule.threshold,
                window_seconds=firing.rule.window_seconds,
                triggered_at=from_ms(firing.triggered_at_ms),
                acknowledged_at=None,
                resolved_at=None,
            ),
            firing.seq,
        )
        for firing in firings
    ]


@dataclass(frozen=True, slots=True)
class Found:
    """What looking at the events up to ``seq`` has come to, or the next part of it, to be written under ``fence``."""

    project: tuple[int, UUID]
    """Its number, and its id outside."""
    fence: int
    seq: int
    alerts: Sequence[tuple[Alert, int]]
    whole: bool = True
    """Whether the event ``seq`` has fired nothing more than is in here and was written before."""

    @property
    def position(self) -> int:
        """Up to where all is written when this is."""
        return self.seq if self.whole else self.seq - 1


def record(conn: Connection, found: Found, *, mint: UlidMint, now: datetime) -> int:
    """Write the position, the alerts, and whom to tell of them. ``mint`` is for the ids of deliveries.
    Returns the newest ``seq``.

    It may be run again after a run of which nobody knows whether it was committed: the position tells, and of a part of
    what an event has fired, the alerts that are there. Nobody else writes them under this fence. Raises ``LeaseLost``.
    """
    project_no, _ = found.project
    before, head = store.advance(conn, project_no, found.fence, found.position)
    if before >= found.seq:
        return head
    new = [_new_alert(alert, seq) for alert, seq in found.alerts]
    stored = store.insert_alerts(conn, project_no, new)
    announced = [alert for alert, _ in found.alerts if alert.id in stored]
    announce(conn, found.project, WebhookEvent.TRIGGERED, announced, mint=mint, now=now)
    return head


def _new_alert(alert: Alert, seq: int) -> NewAlert:
    return NewAlert(
        id=alert.id,
        rule_id=alert.rule_id,
        rule_name=alert.rule_name,
        severity=alert.severity.value,
        group_by=alert.group_by.value,
        group_key=alert.group_key,
        tenant_id=alert.tenant_id,
        event_count=alert.event_count,
        event_ids=alert.event_ids,
        threshold=alert.threshold,
        window_seconds=alert.window_seconds,
        seq=seq,
        triggered_at_ms=to_ms(alert.triggered_at),
    )


def keep(conn: Connection, project_no: int, fence: int, position: int, *, forget: bool) -> int:
    """Write the position and renew the lease; returns the newest ``seq``. ``forget``: there may be versions of rules
    that hold for nothing behind the position. To lose this in a crash costs a repetition. Raises ``LeaseLost``."""
    store.commit_later(conn)
    _, head = store.advance(conn, project_no, fence, position)
    if forget:
        store.forget_versions(conn, project_no, position)
    return head


def end(conn: Connection, project_no: int, fence: int, position: int) -> None:
    """Write the position, and leave the lease to whoever wants it."""
    store.commit_later(conn)
    store.release(conn, project_no, fence, position)
