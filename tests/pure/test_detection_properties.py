"""Whatever is dropped, read back, replaced and started anew: what fires is what the rules say, word by word."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from logstitch.detection.detector import GRACE_MS, ActiveRule, Detector
from logstitch.detection.facts import Fact
from logstitch.detection.forgotten import Forgotten
from logstitch.detection.rules import Distinct, GroupBy, Rule, Severity
from tests.support.detection_reference import Tables

START_MS = 1_700_000_000_000
KEPT = 5

rules = st.builds(
    Rule,
    id=st.sampled_from(["r1", "r2", "r3"]),
    name=st.just("Rule"),
    action_pattern=st.sampled_from(["*", "auth.*", "auth.failed", "*.deleted", "x.*y"]),
    threshold=st.integers(1, KEPT),
    window_seconds=st.sampled_from([60, 61, 300]),
    group_by=st.sampled_from(GroupBy),
    severity=st.sampled_from(Severity),
    enabled=st.sampled_from([True, True, True, False]),
    cooldown_seconds=st.sampled_from([0, 1, 60, 600]),
    distinct=st.sampled_from([None, None, Distinct.IP_ADDRESS]),
)
# A rule and, in terms of the newest event there is, from where on it counts.
drafts = st.tuples(rules, st.sampled_from([None, None, -3, 0, 2]))
rule_sets = st.lists(drafts, min_size=1, max_size=3, unique_by=lambda draft: draft[0].id)

addresses = st.sampled_from(
    [None, "", "203.0.113.7", "::ffff:203.0.113.7", "2001:db8::1", "2001:DB8:0:0::1", "203.0.*.*", "sha256:aa", "host"]
)
# How far the time goes on, how far this event lies behind it, and how long before it occurred.
steps = st.sampled_from([0, 0, 1, 500, 20_000, 60_000, 61_000, 121_000, 400_000])
events = st.tuples(
    steps,
    st.sampled_from([0, 0, 0, 1, 500, 59_999, GRACE_MS]),
    st.sampled_from([0, 0, 0, -5000, 60_000, 60_001, 300_000, 300_001]),
    st.sampled_from(["auth.failed", "auth.failed", "auth.ok", "x.deleted", "x.yy"]),
    st.sampled_from(["a", "b", "acme"]),
    st.sampled_from(["acme", "a"]),
    addresses,
    st.integers(1, 2),
)
chunks = st.tuples(st.just("events"), st.lists(events, min_size=1, max_size=12))
ends = st.one_of(
    st.tuples(st.just("trim"), st.none()),
    st.tuples(st.just("restart"), st.sampled_from(["cold", "fired", "warm", "warm by one"])),
    st.tuples(st.just("rules"), st.tuples(rule_sets, st.booleans())),
)
stories = st.lists(st.one_of(chunks, chunks, ends), min_size=1, max_size=14)
bounds = st.sampled_from([{}, {"groups": 3}, {"groups": 1}, {"times": 8}, {"groups": 4, "times": 30, "cell_bits": 2}])


class World:
    """The tables, and a detector that lives on them."""

    def __init__(self, limits: dict[str, int], first: Sequence[tuple[Rule, int | None]]) -> None:
        self.limits = {"kept": KEPT, **limits}
        self.tables = Tables(self.limits["kept"])
        self.seq, self.now = 0, START_MS
        self.rules = self.active(first)
        self.restart("cold")

    def active(self, drafts: Sequence[tuple[Rule, int | None]]) -> list[ActiveRule]:
        return [ActiveRule(rule, -1 if since is None else max(0, self.seq + since)) for rule, since in drafts]

    def restart(self, how: str) -> None:
        fired = self.tables.fired
        self.detector = Detector(self.rules, fired if how == "fired" else None, **self.limits)
        if not how.startswith("warm"):
            return
        past = self.tables.events
        last = past[-1].received_at_ms if past else START_MS
        recent = [fact for fact in past if fact.received_at_ms > last - self.detector.horizon_ms]
        alerts = {group: at for group, at in fired.items() if at > last - self.detector.silence_ms}
        if how == "warm":
            self.detector.warm(iter(recent), alerts)
            return
        self.detector.warm([], alerts)
        for fact in recent:
            self.detector.warm([fact], {})
            self.detector.trim()

    def replace(self, drafts: Sequence[tuple[Rule, int | None]], with_fired: bool) -> None:
        self.rules = self.active(drafts)
        self.detector.replace_rules(self.rules, self.tables.fired if with_fired else None)

    def happen(self, chunk: Sequence[tuple[Any, ...]]) -> None:
        facts = []
        for step, behind, before, action, actor, tenant, address, gap in chunk:
            self.seq += gap
            self.now += step
            at = self.now - behind
            facts.append(Fact(self.seq, self.seq.to_bytes(16, "big"), at, at - before, action, tenant, actor, address))
        missing = self.detector.missing(facts)
        if missing:
            found = [
                fact
                for fact in self.tables.events
                if fact.received_at_ms > missing.after_ms
                and (fact.actor_id in missing.actor_ids or fact.tenant_id in missing.tenant_ids)
            ]
            self.detector.recall(missing, found, self.tables.fired)
        before_them = len(self.tables.alerts)
        for fact in facts:
            self.tables.add(fact, self.rules)
        assert self.detector.take(facts) == self.tables.alerts[before_them:]

    def trim(self) -> None:
        self.detector.trim()
        groups, times = self.detector.memory
        assert groups <= self.limits.get("groups", groups)
        assert times <= self.limits.get("times", times)
        watches = self.detector._watches
        assert times == sum(window.size for watch in watches for window in watch.windows.values())


def rule(**changes: Any) -> Rule:
    values: dict[str, Any] = {
        **{"id": "r1", "name": "Rule", "action_pattern": "*", "threshold": 2, "window_seconds": 60},
        **{"group_by": GroupBy.ACTOR_ID, "severity": Severity.LOW, "enabled": True, "cooldown_seconds": 600},
    }
    return Rule(**values | changes)


def event(step: int = 0, actor: str = "a", behind: int = 0, address: str | None = None) -> tuple[Any, ...]:
    return (step, behind, 0, "auth.failed", actor, "acme", address, 1)


@settings(max_examples=600)
@given(bounds, rule_sets, stories)
@example({"groups": 1}, [(rule(), None)], [("events", [event()]), ("trim", None), ("events", [event(1)])])
def test_it_fires_what_the_rules_say(limits: dict[str, int], first: Any, story: Any) -> None:
    world = World(limits, first)
    for kind, what in story:
        if kind == "events":
            world.happen(what)
        elif kind == "trim":
            world.trim()
        elif kind == "restart":
            world.restart(what)
        else:
            world.replace(*what)


@given(bounds, rule_sets, st.lists(events, max_size=40), st.integers(1, 10))
def test_bounds_hold_after_every_trim(limits: dict[str, int], first: Any, story: Any, size: int) -> None:
    world = World(limits, first)
    for start in range(0, len(story), size):
        world.happen(story[start : start + size])
        world.trim()


def long_story(rng: Random) -> None:
    """Few groups and coarse times, so that much happens at the same time and at the edges; and little memory."""
    limits = rng.choice([{}, {}, {"groups": 1}, {"groups": 2}, {"groups": 4}, {"times": 20}, {"groups": 4, "times": 8}])
    limits = {**limits, "kept": rng.choice([KEPT, KEPT, 130])}
    drafts: list[tuple[Rule, int | None]] = []
    for rule_id in ("r1", "r2")[: rng.choice([1, 1, 2])]:
        one = rule(
            id=rule_id,
            threshold=rng.randint(2, KEPT),
            window_seconds=rng.choice([60, 300]),
            cooldown_seconds=rng.choice([0, 0, 60, 200]),
            distinct=rng.choice([None, None, Distinct.IP_ADDRESS]),
        )
        drafts.append((one, None))
    world = World(limits, drafts)
    actors = "abcd"[: rng.randint(1, 4)]
    seconds = rng.choice([0.3, 2, 10])
    restarts = rng.choice([0, 0.02, 0.1])
    for _ in range(rng.randint(20, 60)):
        world.happen(
            [
                event(
                    step=rng.choice([0, 0, 0, 1, 2]) * int(seconds * 1000),
                    actor=rng.choice(actors),
                    behind=rng.choice([0, 0, rng.randint(0, 6) * 10_000]),
                    address=rng.choice("123456789"[: rng.randint(1, 9)]),
                )
                for _ in range(rng.randint(1, 6))
            ]
        )
        if rng.random() < 0.8:
            world.trim()
        if rng.random() < restarts:
            world.restart(rng.choice(["cold", "fired", "warm", "warm by one"]))


@settings(max_examples=120)
@given(st.integers(0, 2**32))
def test_it_fires_what_the_rules_say_in_long_stories(seed: int) -> None:
    long_story(Random(seed))


@given(rule_sets, st.lists(events, max_size=40))
def test_it_counts_what_was_held_back(first: Any, story: Any) -> None:
    world = World({}, first)
    world.happen(story) if story else None
    enabled = [active.rule.id for active in world.rules if active.rule.enabled]

    assert sum(map(world.detector.held_back, enabled)) == world.tables.held_back


@given(
    st.lists(st.tuples(st.text(max_size=3), st.integers(-(2**40), 2**43))),
    st.integers(0, 4),
)
def test_what_was_dropped_is_never_forgotten(dropped: list[tuple[str, int]], cell_bits: int) -> None:
    forgotten = Forgotten(cell_bits)
    for thing, until in dropped:
        forgotten.remember(thing, until)

    assert all(forgotten.matters(thing, until - 1) for thing, until in dropped)


def test_little_else_seems_to_have_been_dropped() -> None:
    forgotten = Forgotten(12)
    for number in range(100):
        forgotten.remember((0, number), 1000)

    assert not any(forgotten.matters((0, number), 1000) for number in range(100))
    assert sum(forgotten.matters((1, number), 0) for number in range(1000)) <= 10
