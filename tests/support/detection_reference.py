"""Detection as its rules say it, word by word and from the beginning for each event: slow, and plain to see."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from logstitch.detection.detector import ActiveRule, Firing
from logstitch.detection.facts import Fact
from logstitch.detection.rules import GroupBy, Rule


def matches(pattern: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), text, re.DOTALL) is not None


def address_of(text: str | None) -> str | None:
    if not text or "*" in text or "[REDACTED]" in text:
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(address if mapped is None else mapped)


def group_of(rule: Rule, fact: Fact) -> str:
    return fact.actor_id if rule.group_by is GroupBy.ACTOR_ID else fact.tenant_id


def counts(active: ActiveRule, fact: Fact) -> bool:
    rule = active.rule
    return (
        rule.enabled
        and fact.seq > active.since_seq
        and matches(rule.action_pattern, fact.action)
        and fact.occurred_at_ms >= fact.received_at_ms - rule.window_seconds * 1000
        and (rule.distinct is None or address_of(fact.ip_address) is not None)
    )


class Tables:
    """Everything that ever happened, and the alerts. ``kept`` as the detector has it."""

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.events: list[Fact] = []
        self.alerts: list[Firing] = []
        self.held_back = 0

    @property
    def fired(self) -> dict[tuple[str, str], int]:
        latest: dict[tuple[str, str], int] = {}
        for alert in self.alerts:
            group = (alert.rule.id, alert.group_key)
            latest[group] = max(latest.get(group, 0), alert.triggered_at_ms)
        return latest

    def add(self, fact: Fact, rules: Iterable[ActiveRule]) -> None:
        """The event happens, and fires what it fires."""
        self.events.append(fact)
        for active in rules:
            alert = self._judge(active, fact)
            if alert is not None:
                self.alerts.append(alert)

    def _judge(self, active: ActiveRule, last: Fact) -> Firing | None:
        rule, key = active.rule, group_of(active.rule, last)
        span = rule.window_seconds * 1000
        group: list[Fact] = []
        for fact in self.events:
            if group_of(rule, fact) == key and counts(active, fact):
                clock = max((one.received_at_ms for one in group), default=fact.received_at_ms)
                if fact.received_at_ms > clock - span:
                    group.append(fact)
        if not group or group[-1] is not last:
            return None
        clock = max(fact.received_at_ms for fact in group)
        window = [fact for fact in group if fact.received_at_ms > clock - span]
        many = len(window) if rule.distinct is None else len({address_of(fact.ip_address) for fact in window})
        if many < rule.threshold:
            return None
        before = self.fired.get((rule.id, key))
        if before is not None and clock < before + rule.cooldown_seconds * 1000:
            self.held_back += 1
            return None
        others = sorted(window, key=lambda fact: (fact.received_at_ms, fact.seq))
        others.remove(last)
        count = min(len(window), self.kept)
        shown = others[len(others) - (min(count, 100) - 1) :]
        return Firing(rule, key, last.tenant_id, count, (*(one.id for one in shown), last.id), clock, last.seq)
