"""Which alerts there must be: told by counting, event by event, from the beginning of the project.

It has no memory to save, no restarts and no database, so what it says is what the rules say. ``detection_reference`` is
plainer still, and too slow for ten thousand events.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from logstitch.detection.detector import ActiveRule
from logstitch.detection.facts import Fact
from logstitch.detection.rules import GroupBy
from tests.support.detection_reference import address_of, counts


class Expected(NamedTuple):
    """An alert that must be there, once."""

    seq: int
    rule_id: str
    group_key: str
    tenant_id: str
    event_count: int
    triggered_at_ms: int


def expected_alerts(facts: Iterable[Fact], rules_at: Callable[[int], Sequence[ActiveRule]]) -> list[Expected]:
    """The alerts of these events, which are all of a project's in order of ``seq``. ``rules_at(7)`` are the rules that
    hold for event 8."""
    windows: dict[object, list[Fact]] = defaultdict(list)
    clocks: dict[object, int] = {}
    fired: dict[tuple[str, str], int] = {}
    alerts = []
    for fact in facts:
        for active in rules_at(fact.seq - 1):
            rule = active.rule
            if not counts(active, fact):
                continue
            key = fact.actor_id if rule.group_by is GroupBy.ACTOR_ID else fact.tenant_id
            # What decides who is counted with whom: after a change of any of it, counting begins anew.
            group = (
                rule.id,
                rule.action_pattern,
                rule.window_seconds,
                rule.group_by,
                rule.distinct,
                active.since_seq,
                key,
            )
            clock = clocks.get(group, fact.received_at_ms)
            if fact.received_at_ms <= clock - rule.window_seconds * 1000:
                continue
            clock = clocks[group] = max(clock, fact.received_at_ms)
            windows[group].append(fact)
            window = windows[group] = [
                one for one in windows[group] if one.received_at_ms > clock - rule.window_seconds * 1000
            ]
            many = len(window) if rule.distinct is None else len({address_of(one.ip_address) for one in window})
            last = fired.get((rule.id, key))
            if many >= rule.threshold and (last is None or clock >= last + rule.cooldown_seconds * 1000):
                fired[rule.id, key] = clock
                alerts.append(Expected(fact.seq, rule.id, key, fact.tenant_id, len(window), clock))
    return sorted(alerts)
