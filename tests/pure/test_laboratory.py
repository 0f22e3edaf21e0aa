"""The redaction laboratory's engine: what it counts is what the engine changes, and what it shows can be read."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.redaction import laboratory, turns
from logstitch.redaction.definitions import DEFAULT_BUILTINS, Behavior, CustomRule, RuleType
from logstitch.redaction.engine import Redaction, RuleSet, redact
from logstitch.redaction.laboratory import (
    CHUNK,
    MAX_PATHS,
    MAX_SAMPLE_CHARS,
    MAX_SAMPLES,
    Experiment,
    Sample,
    Tally,
    differences,
    events_message,
    experiment_message,
    serve,
)
from logstitch.redaction.rules import compile_rules

SECRET = bytes(32)


def pattern(text: str, behavior: Behavior = Behavior.REPLACE) -> CustomRule:
    return CustomRule("rule", "r", RuleType.PATTERN, text, (), behavior, enabled=True)


def fields(*paths: str, behavior: Behavior = Behavior.REPLACE) -> CustomRule:
    return CustomRule("rule", "r", RuleType.FIELD_REDACT, None, paths, behavior, enabled=True)


def stored(number: int = 0, **sections: Any) -> dict[str, Any]:
    return {
        "id": f"evt_{number}",
        "occurred_at": "2026-11-23T08:00:00.123Z",
        "tenant_id": "acme",
        "actor": {"id": "u1", "type": "user"},
        **sections,
    }


def run(rule: CustomRule, *events: dict[str, Any], exempt: str | None = None) -> Tally:
    return Experiment(rule, secret=SECRET, exempt=exempt).run(events, seconds=60)


@pytest.mark.parametrize(
    ("sections", "paths"),
    [
        ({"metadata": {"a": "ACCT-1"}}, ["metadata.a"]),
        ({"metadata": {"a": {"b": ["x", "ACCT-1", ["ACCT-2"]]}}}, ["metadata.a.b.*", "metadata.a.b.*.*"]),
        ({"metadata": {"2024": "ACCT-1"}}, ["metadata.2024"]),
        ({"metadata": {"k" * 200: "ACCT-1", "k" * 201: "ACCT-1"}}, [f"metadata.{'k' * 200}", f"metadata.{'k' * 200}…"]),
        ({"metadata": {"ACCT-1": "x"}}, ["metadata.[REDACTED]"]),
        ({"metadata": {"ACCT-1": "ACCT-2"}}, ["metadata.[REDACTED]"]),
        ({"metadata": {"ACCT-1": {"a": "ACCT-2"}}}, ["metadata.[REDACTED]", "metadata.[REDACTED].a"]),
        ({"changes": [{"field": "f", "before": "ACCT-1", "after": {"ACCT-1": 1}}]}, None),
        ({"actor": {"id": "ACCT-1", "type": "user"}}, ["actor.id"]),
    ],
)
def test_a_path_names_where_a_value_changes(sections: dict[str, Any], paths: list[str] | None) -> None:
    expected = paths or ["changes.*.before", "changes.*.after.[REDACTED]"]

    assert sorted(run(pattern("ACCT-[0-9]+"), stored(**sections)).fields) == sorted(expected)


@pytest.mark.parametrize("section", ["actor", "target", "metadata", "changes", "context"])
def test_a_section_that_is_taken_whole_is_one_field(section: str) -> None:
    value: Any = [{"field": "f"}] if section == "changes" else {"id": "a", "type": "b"}

    tally = run(fields(section), stored(**{section: value}))

    assert (tally.fields_changed, dict(tally.fields)) == (1, {section: 1})


@pytest.mark.parametrize("behavior", Behavior)
@pytest.mark.parametrize(
    "text",
    [
        "[REDACTED]",
        "[REDACTED] (2)",
        "sha256:" + "0f" * 32,
        "****-****-****-1234",
        "***-**-1234",
        "***-***-1234",
        "a***@example.com",
        "203.0.*.*",
        "eyJ***",
        "AKIA****WXYZ",
        "****abcd",
        "****",
    ],
)
def test_what_is_redacted_already_stays_so(text: str, behavior: Behavior) -> None:
    event = stored(metadata={"": text})

    assert run(pattern(".", behavior), event).fields == {"actor.id": 1, "actor.type": 1}
    assert run(fields("metadata.*", behavior=behavior), event).fields_changed == 0
    around = run(pattern("[a-zA-Z0-9]+"), stored(metadata={"": f"from {text} to"}))
    assert [sample.after for sample in around.samples if sample.field == "metadata."] == [
        f"[REDACTED] {text} [REDACTED]"
    ]


def test_events_of_the_exempt_tenant_are_looked_at_and_left_alone() -> None:
    tally = run(pattern("ACCT"), stored(tenant_id="$own", metadata={"a": "ACCT"}), exempt="$own")

    assert (tally.scanned, tally.events_changed) == (1, 0)


def test_a_disabled_rule_is_tried_all_the_same() -> None:
    rule = CustomRule("rule", "r", RuleType.PATTERN, "ACCT", (), Behavior.REPLACE, enabled=False)

    assert run(rule, stored(metadata={"a": "ACCT"})).events_changed == 1


def test_a_hash_is_the_one_that_the_project_would_get() -> None:
    (sample,) = run(fields("metadata.a", behavior=Behavior.HASH), stored(metadata={"a": "x"})).samples
    rules = compile_rules((), [fields("metadata.a", behavior=Behavior.HASH)], secret=SECRET)

    assert sample.after == redact(stored(metadata={"a": "x"}), rules).event["metadata"]["a"]


def test_a_long_text_is_shown_around_what_changes() -> None:
    text = "a" * 5000 + "ACCT-1" + "b" * 5000

    (sample,) = run(pattern("ACCT-1"), stored(metadata={"a": text})).samples

    assert "ACCT-1" in sample.before
    assert "[REDACTED]" in sample.after
    assert sample.before.startswith("…a")
    assert sample.before.endswith("b…")
    assert max(len(sample.before), len(sample.after)) <= MAX_SAMPLE_CHARS + 2


def test_values_of_any_type_are_shown_as_text() -> None:
    samples = run(fields("metadata.*"), stored(metadata={"n": 1.5, "o": {"b": 1, "a": None}, "t": True})).samples

    assert [sample.before for sample in samples] == ["1.5", '{"a":null,"b":1}', "true"]


def test_examples_are_few_and_of_different_fields() -> None:
    common = [stored(n, metadata={"a": "ACCT"}) for n in range(50)]
    rare = [stored(50 + n, metadata={f"rare{n}": "ACCT"}) for n in range(5)]

    tally = run(pattern("ACCT"), *common, *rare)

    assert len(tally.samples) == MAX_SAMPLES
    assert Counter(sample.field for sample in tally.samples) == {
        "metadata.a": 15,
        **{f"metadata.rare{n}": 1 for n in range(5)},
    }


def test_paths_are_bounded_and_the_sum_is_not() -> None:
    tally = run(pattern("ACCT"), *(stored(n, metadata={f"k{n}": "ACCT"}) for n in range(MAX_PATHS + 10)))

    assert len(tally.fields) == MAX_PATHS
    assert tally.fields_changed == MAX_PATHS + 10


def test_it_stops_when_the_time_is_up_but_looks_at_one_event_at_least() -> None:
    now = iter(range(100))

    tally = Experiment(pattern("x"), secret=SECRET).run([stored(n) for n in range(10)], seconds=3, clock=now.__next__)

    assert tally.scanned == 3
    assert Experiment(pattern("x"), secret=SECRET).run([stored(), stored()], seconds=0).scanned == 1


def test_what_is_slow_is_done_event_by_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what is slow about one does not use up the time of those beside it, which would then be replaced."""
    alone: list[object] = []

    def one(event: Mapping[str, Any], rules: RuleSet) -> Redaction:
        alone.append(event["metadata"])
        return redact(event, rules)

    monkeypatch.setattr(laboratory, "redact", one)
    found = [stored(n, metadata={"n": "ACCT"}) for n in range(CHUNK + 3)]
    assert run(pattern("ACCT"), *found).fields_changed == CHUNK + 3
    assert alone == []

    monkeypatch.setattr(turns, "TOGETHER_SECONDS", 0.0)
    assert run(pattern("ACCT"), *found).fields_changed == CHUNK + 3
    assert len(alone) == CHUNK + 3


texts = st.sampled_from(["ACCT-1", "card 4111 1111 1111 1111", "a@example.com", "x", "[REDACTED]", "ＡＣＣＴ-２", ""])
values = st.recursive(
    texts | st.integers(-(2**63), 2**63 - 1) | st.none() | st.just(4111111111111111),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    lambda metadata, before: stored(metadata=metadata, changes=[{"field": "f", "before": before}]),
    st.dictionaries(texts, values, max_size=4),
    values,
)


@given(events)
def test_what_differs_is_what_the_engine_says_it_has_changed(event: dict[str, Any]) -> None:
    """With rules whose replacement is never what was there, in events in which nothing was redacted before."""
    event = orjson.loads(orjson.dumps(event).replace(b"[REDACTED]", b"plain"))
    rules = compile_rules(DEFAULT_BUILTINS, [pattern("ACCT-[0-9]")], secret=SECRET)
    redaction = redact(event, rules)

    found = list(differences(event, redaction))

    assert len(found) == len(redaction.changes)
    assert all(one.before != one.after for one in found)


@given(st.lists(st.lists(events, max_size=4), max_size=4))
def test_a_tally_of_parts_is_that_of_the_whole(parts: list[list[dict[str, Any]]]) -> None:
    experiment = Experiment(pattern("ACCT-[0-9]"), secret=SECRET)
    whole = experiment.run([event for part in parts for event in part], seconds=60)
    added = Tally()
    for part in parts:
        added.add(Tally.of_json(experiment.run(part, seconds=60).as_json()))

    assert (added.scanned, added.events_changed, added.fields_changed, added.fields) == (
        whole.scanned,
        whole.events_changed,
        whole.fields_changed,
        whole.fields,
    )
    assert len(added.samples) == len(whole.samples)


@pytest.mark.parametrize("rule", [pattern("ACCT", Behavior.MASK), fields("metadata.a", "changes.*.before")])
def test_the_child_answers_what_the_parent_asks(rule: CustomRule) -> None:
    event = stored(metadata={"a": "ACCT"})
    ask = experiment_message(rule, secret=SECRET, exempt="$own")
    ask += events_message([orjson.dumps(event)] * 2, seconds=60) + events_message([], seconds=60)
    answers = io.BytesIO()

    serve(io.BytesIO(ask), answers)

    first, second = _messages(answers.getvalue())
    assert Tally.of_json(first) == run(rule, event, event)
    assert Tally.of_json(second) == Tally()
    assert isinstance(Tally.of_json(first).samples[0], Sample)


def _messages(data: bytes) -> list[bytes]:
    found = []
    while data:
        size = int.from_bytes(data[:4], "big")
        found.append(data[4 : 4 + size])
        data = data[4 + size :]
    return found
