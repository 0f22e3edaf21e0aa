"""The time machine finds what the detector would have, from rows as the server sends them."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.detection.detector import ActiveRule, Detector
from logstitch.detection.facts import Fact
from logstitch.detection.rows import parse_rows
from logstitch.detection.rules import BUILTINS, Distinct, GroupBy, Rule, Severity
from logstitch.detection.timemachine import (
    MAX_FIRINGS,
    Outcome,
    Shown,
    TimeMachine,
    rows_message,
    serve,
    start_message,
)
from logstitch.frames import END, read_frame

T0 = 1_700_000_000_000
RULE = Rule("rule", "Rule", "auth.*", 2, 60, GroupBy.ACTOR_ID, Severity.HIGH, enabled=True, cooldown_seconds=10)

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
TRAILER = struct.pack(">h", -1)


def fact(seq: int, seconds: float = 0, actor: str = "ada", **fields: Any) -> Fact:
    at = T0 + int(seconds * 1000)
    values = {"occurred_at_ms": at, "action": "auth.failed", "tenant_id": "acme", "ip_address": None, **fields}
    return Fact(seq=seq, id=seq.to_bytes(16, "big"), received_at_ms=at, actor_id=actor, **values)


def row(fact: Fact, microseconds: int = 0) -> bytes:
    """As the server writes it."""

    def since_2000(ms: int) -> bytes:
        return struct.pack(">q", (ms - 946_684_800_000) * 1000 + microseconds)

    texts = [None if text is None else text.encode() for text in fact[4:]]
    values = [
        struct.pack(">q", fact.seq),
        fact.id,
        since_2000(fact.received_at_ms),
        since_2000(fact.occurred_at_ms),
        *texts,
    ]
    fields = [struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value for value in values]
    return struct.pack(">h", 8) + b"".join(fields)


# -- rows ----------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
milliseconds = st.integers(-(2**45), 2**45)
facts = st.builds(
    Fact,
    st.integers(0, 2**63 - 1),
    st.binary(min_size=16, max_size=16),
    milliseconds,
    milliseconds,
    *(texts, texts, texts),
    st.none() | texts,
)


@given(st.lists(facts, max_size=5), st.integers(0, 999))
def test_rows_are_read_as_they_were_written(expected: list[Fact], microseconds: int) -> None:
    data = HEADER + b"".join(row(one, microseconds) for one in expected) + TRAILER

    assert parse_rows(data) == expected


def test_the_rows_of_several_copies_are_read_as_one() -> None:
    data = HEADER + row(fact(1)) + TRAILER + HEADER + TRAILER + HEADER[:15] + b"\0\0\0\2xy" + row(fact(2))

    assert parse_rows(data) == [fact(1), fact(2)]
    assert parse_rows(b"") == []


def test_rows_that_are_cut_short_are_refused() -> None:
    data = HEADER + row(fact(1)) + row(fact(2, ip_address="203.0.113.7"))
    whole = {0, len(HEADER), len(HEADER) + len(row(fact(1))), len(data)}

    for end in set(range(len(data))) - whole:
        with pytest.raises(ValueError, match=r"cut short|not of the columns"):
            parse_rows(data[:end])


def test_rows_of_other_columns_are_refused() -> None:
    good = row(fact(1))
    no_action = good[:58] + struct.pack(">i", -1) + good[62 + len("auth.failed") :]
    no_actor = good[:-11] + struct.pack(">ii", -1, -1)
    for bad in (b"\0\7" + good[2:], good[:5] + b"\4" + good[6:], b"PGCOPY\n\0" + good, no_action, no_actor):
        with pytest.raises(ValueError, match=r"not of the columns|is missing"):
            parse_rows(bad)


@given(st.binary(max_size=200), st.integers(0, 100))
def test_no_bytes_do_anything_but_be_refused(noise: bytes, at: int) -> None:
    data = bytearray(HEADER + row(fact(1)))
    data[at : at + len(noise)] = noise
    with suppress(ValueError):
        assert all(isinstance(one, Fact) for one in parse_rows(bytes(data)))


# -- what would have been ------------------------------------------------------------------------------------------

rules = st.builds(
    Rule,
    *(st.just("same id"), st.just("Rule"), st.sampled_from(["*", "auth.*", "*.deleted"])),
    *(st.integers(1, 4), st.sampled_from([60, 300]), st.sampled_from(GroupBy), st.sampled_from(Severity)),
    *(st.booleans(), st.sampled_from([0, 60, 600]), st.sampled_from([None, Distinct.IP_ADDRESS])),
)
moments = st.tuples(
    st.sampled_from([0, 1, 30_000, 61_000]),
    st.sampled_from(["auth.failed", "auth.ok", "x.deleted"]),
    st.sampled_from(["ada", "bob"]),
    st.sampled_from([None, "203.0.113.1", "203.0.113.2", "203.0.*.*"]),
)


@given(rules, st.none() | rules, st.lists(moments, max_size=40), st.integers(1, 12), st.integers(1, 5))
def test_it_finds_what_the_detector_does(
    draft: Rule, existing: Rule | None, story: list[Any], chunk: int, slice_: int
) -> None:
    now, happened = T0, []
    for seq, (step, action, actor, address) in enumerate(story):
        now += step
        happened.append(Fact(seq, seq.to_bytes(16, "big"), now, now, action, "acme", actor, address))
    machine = TimeMachine(draft, existing, slice_=slice_)

    for start in range(0, len(happened), chunk):
        machine.run(happened[start : start + chunk])
    outcome = Outcome.of_json(machine.outcome().as_json())

    assert outcome == machine.outcome()
    assert outcome.exact
    assert (outcome.existing is None) == (existing is None)
    for rule, tally in ((replace(draft, enabled=True), outcome.rule), (existing, outcome.existing)):
        if rule is None or tally is None:
            continue
        detector = Detector([ActiveRule(rule, -1)])
        firings = detector.take(happened)
        assert tally.fired == len(firings)
        assert tally.firings == [
            Shown(one.triggered_at_ms, one.group_key, one.tenant_id, one.event_count) for one in firings
        ]
        assert tally.held_back == (detector.held_back(rule.id) if rule.enabled else 0)


def test_what_it_shows_is_bounded_and_what_it_counts_is_not() -> None:
    machine = TimeMachine(replace(RULE, threshold=1), replace(RULE, threshold=1))
    many = 10_000

    machine.run([fact(seq, actor=f"user{seq}") for seq in range(many)])
    found = machine.outcome()

    assert (found.rule.fired, len(found.rule.firings)) == (many, MAX_FIRINGS)
    assert found.rule.firings[0].group_key == "user0"
    assert len(found.as_json()) < 20_000, "however many groups there are, what passes to the parent is what it shows"


def test_it_says_when_there_were_more_groups_than_it_could_hold() -> None:
    machine = TimeMachine(RULE, groups=10, slice_=10)

    machine.run([fact(seq, actor=f"user{seq}") for seq in range(8)])
    assert machine.outcome().exact
    machine.run([fact(seq, actor=f"user{seq}") for seq in range(8, 100)])
    assert not machine.outcome().exact


# -- between processes ---------------------------------------------------------------------------------------------


def answers(*messages: bytes) -> list[Outcome]:
    sent, received = io.BytesIO(b"".join(messages)), io.BytesIO()
    serve(sent, received)
    received.seek(0)
    found = []
    while received.tell() < len(received.getvalue()):
        found.append(Outcome.of_json(read_frame(received) or b""))
    return found


@pytest.mark.parametrize("existing", [None, *BUILTINS], ids=lambda rule: rule and rule.id)
def test_a_child_answers_with_what_was_found_so_far(existing: Rule | None) -> None:
    happened = [fact(seq, seq, ip_address=f"203.0.113.{seq}") for seq in range(20)]
    rows = [rows_message(HEADER + row(happened[0])), *(rows_message(row(one)) for one in happened[1:])]
    half, whole = TimeMachine(RULE, existing), TimeMachine(RULE, existing)
    half.run(happened[:10])
    whole.run(happened)

    found = answers(start_message(RULE, existing), *rows[:10], END, *rows[10:], rows_message(TRAILER), END)

    assert found == [half.outcome(), whole.outcome()]
    assert found[0].rule.fired == 1


def test_a_child_whose_parent_is_gone_ends() -> None:
    assert answers() == []
    assert answers(start_message(RULE, None), rows_message(row(fact(1)))[:-1]) == []
