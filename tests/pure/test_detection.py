"""The detector: when it fires, for whom, and what it says; and that its memory is bounded though nothing is lost."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from logstitch.detection import detector as module
from logstitch.detection.detector import GRACE_MS, KEPT, ActiveRule, Detector, Firing
from logstitch.detection.facts import Fact
from logstitch.detection.rules import BUILTINS, Distinct, GroupBy, Rule, Severity
from logstitch.detection.windows import EVIDENCE

T0 = 1_700_000_000_000
SECOND = 1000

RULE = Rule("rule", "Rule", "auth.*", 3, 60, GroupBy.ACTOR_ID, Severity.HIGH, enabled=True, cooldown_seconds=600)


def fact(seq: int, at: float, action: str = "auth.failed", actor: str = "ada", **fields: Any) -> Fact:
    """An event ``at`` so many seconds."""
    ms = T0 + int(at * SECOND)
    values = {"occurred_at_ms": ms, "tenant_id": "acme", "ip_address": None, **fields}
    return Fact(seq=seq, id=event_id(seq), received_at_ms=ms, action=action, actor_id=actor, **values)


def event_id(seq: int) -> bytes:
    return seq.to_bytes(16, "big")


def detector(*rules: Rule, groups: int = module.GROUPS) -> Detector:
    """One that knows that nothing happened before."""
    made = Detector([ActiveRule(rule, 0) for rule in rules], groups=groups)
    made.warm((), {})
    return made


def fired_at(facts: Sequence[Fact], *rules: Rule) -> list[int]:
    """The ``seq`` of the events that fire, if they are taken one by one."""
    one = detector(*rules)
    return [firing.seq for fact in facts for firing in one.take([fact])]


# -- when it fires -------------------------------------------------------------------------------------------------


def test_it_fires_when_as_many_are_within_the_window() -> None:
    facts = [fact(7, 0), fact(8, 30), fact(9, 59.999, tenant_id="globex")]

    assert detector(RULE).take(facts) == [
        Firing(
            rule=RULE,
            group_key="ada",
            tenant_id="globex",
            event_count=3,
            event_ids=(event_id(7), event_id(8), event_id(9)),
            triggered_at_ms=T0 + 59_999,
            seq=9,
        )
    ]


def test_the_window_is_open_where_it_begins() -> None:
    assert fired_at([fact(1, 0), fact(2, 30), fact(3, 60)], RULE) == []


def test_what_does_not_match_or_is_of_others_does_not_count() -> None:
    facts = [fact(1, 0), fact(2, 1), fact(3, 2, action="authority.failed"), fact(4, 3, actor="Ada")]

    assert fired_at(facts, RULE) == []
    assert fired_at(facts, replace(RULE, group_by=GroupBy.TENANT_ID)) == [4]
    assert fired_at(facts, replace(RULE, enabled=False, threshold=1)) == []


def test_only_what_comes_after_the_rule_counts() -> None:
    one = Detector([ActiveRule(RULE, since_seq=2)])

    assert [firing.seq for firing in one.take([fact(seq, 0) for seq in (1, 2, 3, 4, 5)])] == [5]


def test_backfill_does_not_count() -> None:
    late = fact(3, 2, occurred_at_ms=T0 + 2 * SECOND - 60_000)
    old = fact(3, 2, occurred_at_ms=T0 + 2 * SECOND - 60_001)

    assert fired_at([fact(1, 0), fact(2, 1), late], RULE) == [3]
    assert fired_at([fact(1, 0), fact(2, 1), old], RULE) == []


def test_after_it_fired_it_is_silent_for_the_cooldown_and_then_fires_at_once() -> None:
    rule = replace(RULE, cooldown_seconds=10)
    facts = [fact(seq, seq) for seq in range(1, 30)]
    one = detector(rule)

    assert [firing.seq for firing in one.take(facts)] == [3, 13, 23]
    assert one.held_back("rule") == 24


def test_with_no_cooldown_each_event_fires() -> None:
    assert fired_at([fact(seq, seq) for seq in range(1, 7)], replace(RULE, cooldown_seconds=0)) == [3, 4, 5, 6]


def test_silence_ends_where_the_cooldown_ends() -> None:
    rule = replace(RULE, threshold=1)

    assert fired_at([fact(1, 0), fact(2, 599.999), fact(3, 600)], rule) == [1, 3]


def test_addresses_are_counted_in_place_of_events() -> None:
    rule = replace(RULE, distinct=Distinct.IP_ADDRESS)
    seen = ["203.0.113.1", "203.0.113.2", "::ffff:203.0.113.1", "203.0.*.*", "[REDACTED]", None, "2001:db8::1"]
    facts = [fact(seq, seq, ip_address=address) for seq, address in enumerate(seen, 1)]

    (firing,) = detector(rule).take(facts)

    assert (firing.seq, firing.event_count) == (7, 4)
    assert firing.event_ids == tuple(map(event_id, (1, 2, 3, 7)))


def test_an_address_counts_by_the_last_time_it_was_seen() -> None:
    rule = replace(RULE, distinct=Distinct.IP_ADDRESS)
    moves = [(0, "a"), (10, "b"), (50, "a"), (100, "c"), (109, "d")]
    facts = [fact(seq, at, ip_address=address) for seq, (at, address) in enumerate(moves, 1)]

    assert fired_at(facts, rule) == [5]


def test_an_address_that_comes_late_was_not_seen_longer_ago_for_that() -> None:
    rule = replace(RULE, distinct=Distinct.IP_ADDRESS)
    moves = [(50, "a"), (80, "a"), (60, "a"), (116, "b"), (126, "c")]
    facts = [fact(seq, at, ip_address=address) for seq, (at, address) in enumerate(moves, 1)]

    assert fired_at(facts, rule) == [5]


def test_an_event_that_comes_late_is_counted_where_it_belongs() -> None:
    facts = [fact(1, 50), fact(2, 70), fact(3, 40)]

    (firing,) = detector(RULE).take(facts)

    assert firing.event_ids == (event_id(1), event_id(2), event_id(3))
    assert firing.triggered_at_ms == T0 + 70 * SECOND


def test_an_event_from_before_the_window_does_not_count() -> None:
    rule = replace(RULE, threshold=2, cooldown_seconds=0)

    assert fired_at([fact(1, 60), fact(2, 61), fact(3, 1)], rule) == [2]


def test_it_names_the_newest_events_and_the_one_that_fired_last() -> None:
    rule = replace(RULE, threshold=150)
    facts = [fact(seq, 1 + seq / 10) for seq in range(1, 150)]

    (in_order,) = detector(rule).take([*facts, fact(150, 20)])
    (late,) = detector(rule).take([*facts, fact(150, 0)])

    assert in_order.event_ids == tuple(map(event_id, range(51, 151)))
    assert late.event_ids == tuple(map(event_id, range(51, 151)))
    assert len(late.event_ids) == EVIDENCE


def test_a_count_ends_with_what_is_kept() -> None:
    rule = replace(RULE, threshold=KEPT, window_seconds=3600, cooldown_seconds=0)
    firings = detector(rule).take([fact(seq, seq / 100) for seq in range(1, KEPT + 51)])

    assert [firing.event_count for firing in firings] == [KEPT] * 51


def test_firings_come_in_the_order_of_events_and_then_of_rules() -> None:
    rules = [replace(RULE, id=rule_id, threshold=1, cooldown_seconds=0) for rule_id in ("b", "a")]

    assert [(firing.seq, firing.rule.id) for firing in detector(*rules).take([fact(1, 0), fact(2, 0)])] == [
        *((1, "b"), (1, "a")),
        *((2, "b"), (2, "a")),
    ]


def test_the_same_event_is_not_taken_twice() -> None:
    one = detector(RULE)
    one.take([fact(1, 0), fact(2, 0)])

    with pytest.raises(ValueError, match="after seq 2 comes 2"):
        one.take([fact(2, 0)])
    with pytest.raises(ValueError, match="after seq 2 comes 1"):
        one.warm([fact(1, 0)], {})


def test_a_clock_that_was_ahead_for_a_moment_does_not_make_all_that_follows_old() -> None:
    one = detector(RULE, groups=1)
    one.take([fact(1, 86_400, action="clock.odd")])
    one.trim()

    one.take([fact(2, 2), fact(3, 3, actor="bob")])
    one.trim()

    assert one.missing([fact(4, 4)]).groups == {("rule", "ada")}


# -- rules that change ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"threshold": 4}, {"name": "n"}, {"severity": Severity.LOW}])
def test_a_rule_that_counts_the_same_goes_on(change: dict[str, Any]) -> None:
    one = detector(RULE)
    one.take([fact(seq, seq) for seq in (1, 2)])
    changed = replace(RULE, **change)

    one.replace_rules([ActiveRule(changed, 0)])

    assert not one.missing([fact(3, 3)])
    (firing,) = one.take([fact(seq, seq) for seq in (3, 4)])
    assert (firing.rule, firing.seq) == (changed, changed.threshold)


def test_a_shorter_cooldown_holds_from_the_next_event_on() -> None:
    one = detector(RULE)
    one.take([fact(seq, seq) for seq in (1, 2, 3)])

    one.replace_rules([ActiveRule(replace(RULE, cooldown_seconds=7), 0)])

    assert [firing.seq for firing in one.take([fact(9, 9), fact(10, 10)])] == [10]


@pytest.mark.parametrize(
    "change",
    [
        {"action_pattern": "*"},
        {"window_seconds": 61},
        {"group_by": GroupBy.TENANT_ID},
        {"distinct": Distinct.IP_ADDRESS},
        {"cooldown_seconds": 601},
    ],
)
def test_what_a_changed_rule_would_know_is_missing(change: dict[str, Any]) -> None:
    one = detector(RULE)
    one.take([fact(1, 1), fact(2, 2)])
    changed = replace(RULE, **change)

    one.replace_rules([ActiveRule(changed, 0)], fired={})
    missing = one.missing([fact(3, 3, ip_address="host")])

    assert missing.groups == {("rule", "acme" if "group_by" in change else "ada")}
    assert (missing.after_ms, missing.before_seq) == (T0 + 3 * SECOND - changed.window_seconds * SECOND, 3)


def test_a_rule_that_begins_to_count_anew_does_not_count_what_came_before() -> None:
    one = detector(RULE)
    one.take([fact(1, 1), fact(2, 2)])

    one.replace_rules([ActiveRule(RULE, since_seq=2)], fired={})

    assert not one.missing([fact(3, 3)])
    assert [firing.seq for firing in one.take([fact(3, 3), fact(4, 4), fact(5, 5)])] == [5]


def test_a_new_rule_that_counts_from_now_on_has_nothing_missing_if_it_is_told_what_fired() -> None:
    one = detector()
    one.take([fact(1, 1)])
    rules = [ActiveRule(replace(RULE, threshold=1), since_seq=1)]

    one.replace_rules(rules)
    assert one.missing([fact(2, 2)])

    one.replace_rules([])
    one.replace_rules(rules, fired={("rule", "ada"): T0 - 599 * SECOND, ("other", "bob"): T0})
    facts = [fact(2, 0), fact(3, 0, actor="bob"), fact(4, 1)]
    assert not one.missing(facts)
    assert [firing.seq for firing in one.take(facts)] == [3, 4]


def test_it_knows_which_actions_matter_and_how_far_back() -> None:
    one = detector(*BUILTINS)

    assert [one.interested_in(action) for action in ("auth.failed.mfa", "document.viewed")] == [True, False]
    assert (one.horizon_ms, one.silence_ms) == (600 * SECOND + GRACE_MS, 3600 * SECOND + GRACE_MS)
    assert (detector().horizon_ms, detector().interested_in("a.b")) == (0, False)


def test_the_actions_that_it_remembers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ACTIONS", 3)
    one = detector(replace(RULE, action_pattern="*7"))

    assert [n for n in range(20) if one.interested_in(f"a{n}")] == [7, 17]
    assert len(one._actions) <= 3


# -- the past and the bounds ---------------------------------------------------------------------------------------


def test_what_is_not_known_is_missing_until_it_cannot_matter() -> None:
    one = Detector([ActiveRule(RULE, 0)])
    first = fact(1, 0)

    assert one.missing([first]).groups == {("rule", "ada")}
    assert one.missing([fact(1, 659, actor="bob")])
    assert not one.missing([fact(1, 660, actor="bob")])  # the cooldown, and the grace


def test_what_was_read_back_fires_as_if_it_had_never_been_away() -> None:
    past = [fact(1, 0), fact(2, 1), fact(3, 1, actor="bob")]
    one = Detector([ActiveRule(RULE, 0)])
    missing = one.missing([fact(4, 2)])

    one.recall(missing, [*past, fact(4, 2)], {("rule", "bob"): T0})

    assert [firing.event_count for firing in one.take([fact(4, 2)])] == [3]


def test_a_group_that_was_pushed_out_fires_all_the_same() -> None:
    table: list[Fact] = []
    one = detector(RULE, groups=10)
    fired = []
    for seq in range(1, 301):
        happens = fact(seq, seq / 10, actor="ada" if seq % 100 == 0 else f"user{seq}")
        missing = one.missing([happens])
        one.recall(missing, [past for past in table if past.actor_id in missing.actor_ids], {})
        table.append(happens)
        fired += one.take([happens])
        one.trim()

    assert one.dropped > 200
    assert [(firing.group_key, firing.seq) for firing in fired] == [("ada", 300)]


def test_what_was_pushed_out_is_missing_to_an_event_that_comes_late() -> None:
    one = detector(RULE, groups=1)
    one.take([fact(1, 0)])
    one.take([fact(2, 61, actor="bob")])
    one.trim()

    assert not one.missing([fact(3, 61)])
    assert one.missing([fact(3, 61 - GRACE_MS / 1000)])


def test_a_group_of_the_past_that_was_pushed_out_is_missing_as_a_whole() -> None:
    one = Detector([ActiveRule(RULE, 0)], groups=1)
    one.warm([fact(1, 0), fact(2, 0, actor="bob")], {})
    one.warm([fact(3, 50)], {})

    assert one.missing([fact(4, 100)]).groups == {("rule", "ada")}
    assert not one.missing([fact(4, 110)])


def test_silence_outlives_the_memory_of_it() -> None:
    rule = replace(RULE, threshold=1)
    one = detector(rule, groups=4)
    one.take([fact(1, 0)])
    for seq in range(2, 50):
        one.take([fact(seq, 1, actor=f"user{seq}")])
        one.trim()
    again = [fact(50, 300)]

    missing = one.missing(again)
    one.recall(missing, [], {("rule", "ada"): T0})

    assert ("rule", "ada") in missing.groups
    assert one.take(again) == []


def test_one_rule_with_many_groups_does_not_push_out_those_of_another() -> None:
    few = replace(RULE, id="few", action_pattern="few.*")
    one = detector(RULE, few, groups=1000)
    one.take([fact(seq, 0, action="few.x", actor=f"user{seq}") for seq in range(1, 11)])
    for seq in range(100, 20_000, 100):
        one.take([fact(seq + n, 1, actor=f"user{seq + n}") for n in range(100)])
        one.trim()

    assert not one.missing([fact(30_000, 2, action="few.x", actor="user10")])
    assert one.memory[0] <= 1000


def test_the_groups_that_are_heard_of_stay() -> None:
    one = detector(replace(RULE, threshold=1), groups=32)
    for seq in range(1, 200):
        one.take([fact(seq, seq / 10, actor="ada" if seq % 5 == 1 else f"user{seq}")])
        one.trim()
        assert not one.missing([fact(200, seq / 10)])


def test_what_is_silent_and_not_heard_of_goes_before_what_is() -> None:
    one = detector(RULE, replace(RULE, id="loud", action_pattern="loud", threshold=1), groups=32)
    one.take([fact(seq, 0, action="loud", actor=f"user{seq}") for seq in range(1, 11)])
    one.take([fact(20, 125, action="loud")])
    one.trim()
    assert one.memory == (12, 1)

    one.take([fact(seq, 126, actor=f"user{seq}") for seq in range(21, 53)])
    one.trim()

    assert not one.missing([fact(50, 127, action="loud")])
    assert one.missing([fact(50, 127, action="loud", actor="user1")])


def test_a_group_that_is_known_to_be_silent_is_not_read_back_again() -> None:
    one = detector(replace(RULE, threshold=1), groups=2)
    one.take([fact(seq, 0, actor=f"user{seq}") for seq in range(1, 5)])
    one.trim()
    again = [fact(5, 1, actor="user1")]
    one.recall(one.missing(again), [], {("rule", "user1"): T0})
    one.take(again)

    one.take([fact(6, 200, actor="bob", occurred_at_ms=0)])
    one.trim()

    assert one.memory == (2, 0)  # the last firings of user1 and user4
    assert not one.missing([fact(7, 201, actor="user1")])


def test_what_has_expired_is_dropped() -> None:
    one = detector(RULE, replace(RULE, id="loud", threshold=1))
    one.take([fact(seq, 0, actor=f"user{seq}") for seq in range(1, 100)])

    one.take([fact(100, 600 + GRACE_MS / 1000 - 1, actor="bob")])
    one.trim()
    silent = one.memory
    one.take([fact(101, 600 + GRACE_MS / 1000, actor="bob")])
    one.trim()

    assert silent == (99 + 1 + 2, 2)  # the last firings, and bob's two windows
    assert one.memory == (1 + 2, 4)
    assert one.dropped == 0


def test_many_groups_stay_within_the_bounds_and_are_quick() -> None:
    many, chunk = 150_000, 500
    one = detector(*(replace(rule, enabled=True) for rule in BUILTINS))
    rng = random.Random(7)
    before = time.process_time()
    for start in range(0, many, chunk):
        facts = [
            fact(seq + 1, seq / 1000, actor=f"user{seq}", ip_address=f"203.0.113.{rng.randrange(256)}")
            for seq in range(start, start + chunk)
        ]
        one.missing(facts)
        one.take(facts)
        one.trim()
        groups, times = one.memory
        assert groups <= module.GROUPS
        assert times <= module.TIMES

    assert one.dropped >= many * 2 - module.GROUPS
    assert time.process_time() - before < 30  # 3 s here


def test_a_window_that_is_full_is_as_quick_as_any() -> None:
    rule = replace(RULE, window_seconds=3600, threshold=KEPT, distinct=Distinct.IP_ADDRESS)
    one = detector(rule)
    before = time.process_time()
    for start in range(0, 60_000, 1000):
        one.take([fact(seq + 1, seq / 1000, ip_address=f"10.0.{seq % 20_000}") for seq in range(start, start + 1000)])
        one.trim()

    assert time.process_time() - before < 10  # 1 s here
    assert one.memory[1] <= 12 * KEPT + 100
