"""The event schema refuses what the contract refuses, names every bad field, and repeats no value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from logstitch.errors import Detail, InvalidRequest
from logstitch.evidence.canonical import canonical
from logstitch.gate import parse
from logstitch.model import (
    EVENT,
    EVENTS,
    MAX_METADATA_BYTES,
    ActorTypeName,
    CategoryName,
    Plan,
    validate,
    validate_events,
)
from logstitch.times import parse_time

VECTORS = Path(__file__).parent / "vectors"
CASES: dict[str, Any] = json.loads((VECTORS / "events.json").read_bytes())
SMALLEST: dict[str, Any] = CASES["event"]
FULL: dict[str, Any] = json.loads((VECTORS / "event.json").read_bytes())
NOW = parse_time("2026-11-23T08:00:00Z")


def details(body: object) -> list[Detail]:
    with pytest.raises(InvalidRequest) as caught:
        validate_events(body, now_ms=NOW)
    return list(caught.value.details)


def fields(body: object) -> list[str]:
    return [detail.field for detail in details(body)]


def test_an_event_passes_exactly_as_sent() -> None:
    (event,) = validate_events(FULL, now_ms=NOW)
    assert event.raw is FULL
    assert event.occurred_at_ms is None


def test_a_batch_keeps_its_order() -> None:
    batch = [SMALLEST | {"tenant_id": f"t{i}", "occurred_at": f"2026-11-23T07:00:00.{i:03d}Z"} for i in range(100)]
    events = validate_events(batch, now_ms=NOW)
    assert [event.raw["tenant_id"] for event in events] == [f"t{i}" for i in range(100)]
    assert [event.occurred_at_ms for event in events] == [NOW - 3_600_000 + i for i in range(100)]
    assert [event.raw["occurred_at"] for event in events] == [event["occurred_at"] for event in batch]


@pytest.mark.parametrize(("case"), CASES["refused"], ids=lambda case: json.dumps(case["set"])[:50])
def test_refuses_and_says_where_and_why(case: dict[str, Any]) -> None:
    bad = SMALLEST | case["set"]
    alone = next(detail for detail in details(bad) if detail.field == case["field"])
    assert case["message"] in alone.message
    assert f"1.{case['field']}" in fields([SMALLEST, bad])


@pytest.mark.parametrize("field", ["action", "category", "actor", "tenant_id"])
def test_what_is_missing_is_required(field: str) -> None:
    event = {name: value for name, value in SMALLEST.items() if name != field}
    assert details(event) == [Detail(field, "Required")]
    assert details([SMALLEST, event]) == [Detail(f"1.{field}", "Required")]


def test_every_bad_field_of_every_item_is_named_in_order() -> None:
    deep: Any = 1
    for _ in range(17):
        deep = {"a": deep}
    bad = {"action": "x", "actor": {"type": "bot", "a": 1}, "metadata": deep, "occurred_at": "now", "zebra": 1}
    assert fields([SMALLEST, bad, 5, {**SMALLEST, "tenant_id": 1}]) == [
        *("1.action", "1.category", "1.actor.id", "1.actor.type", "1.actor.a", "1.tenant_id", "1.occurred_at"),
        *("1.zebra", "1.metadata", "2", "3.tenant_id"),
    ]
    assert "1.metadata" not in fields(bad)
    assert "metadata" in fields(bad)


@pytest.mark.parametrize(
    ("field", "shortest", "longest"),
    [
        ("action", 3, 128),
        ("tenant_id", 1, 256),
        ("idempotency_key", 1, 255),
        ("actor.id", 1, 256),
        ("actor.name", 0, 256),
        ("actor.email", 0, 320),
        ("target.id", 1, 256),
        ("target.type", 1, 128),
        ("target.name", 0, 256),
        ("context.ip_address", 0, 64),
        ("context.user_agent", 0, 1024),
        ("context.location", 0, 256),
        ("context.session_id", 0, 256),
        ("changes.0.field", 1, 256),
    ],
)
def test_lengths_count_code_points(field: str, shortest: int, longest: int) -> None:
    def event(length: int) -> dict[str, Any]:
        value = "a." + "b" * (length - 2) if field == "action" else "😀" * length
        changed: dict[str, Any] = json.loads(json.dumps(FULL))
        at: Any = changed
        *path, last = [int(part) if part.isdigit() else part for part in field.split(".")]
        for part in path:
            at = at[part]
        at[last] = value
        return changed

    for length in (shortest, longest):
        validate_events(event(length), now_ms=NOW)
    for length in {longest + 1, max(shortest - 1, 0)} - {0 if shortest == 0 else -1}:
        assert fields(event(length)) == [field]


def test_metadata_is_measured_in_canonical_bytes() -> None:
    room = MAX_METADATA_BYTES - len(canonical({"a": "", "n": 1.0}))
    for text, fits in (("x" * room, True), ("x" * (room + 1), False), ("é" * (room // 2 + 1), False)):
        event = SMALLEST | {"metadata": {"n": 1.0, "a": text}}
        if fits:
            validate_events(event, now_ms=NOW)
        else:
            assert details(event) == [Detail("metadata", "Must be at most 32768 bytes of canonical JSON")]
            assert fields([event]) == ["0.metadata"]
    validate_events(SMALLEST | {"changes": [{"field": "a", "after": "x" * 50_000}]}, now_ms=NOW)


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]], ids=["objects", "arrays"])
def test_metadata_is_sixteen_levels_deep_at_most(wrap: Any) -> None:
    value: Any = {} if isinstance(wrap(0), dict) else []
    for _ in range(14):
        value = wrap(value)
    validate_events(SMALLEST | {"metadata": {"a": value}}, now_ms=NOW)
    assert details(SMALLEST | {"metadata": {"a": wrap(value)}}) == [
        Detail("metadata", "Must be at most 16 levels deep")
    ]
    wide: dict[str, Any] = {str(i): {} for i in range(50)}  # Many brackets are not many levels.
    validate_events(SMALLEST | {"metadata": wide}, now_ms=NOW)


def test_a_hundred_changes_at_most() -> None:
    validate_events(SMALLEST | {"changes": [{"field": "a", "before": None, "after": {}}] * 100}, now_ms=NOW)
    assert details(SMALLEST | {"changes": [{"field": "a"}] * 101}) == [Detail("changes", "Must have at most 100 items")]


def test_a_day_ahead_and_no_more() -> None:
    (event,) = validate_events(SMALLEST | {"occurred_at": "2026-11-24T08:00:00Z"}, now_ms=NOW)
    assert event.occurred_at_ms == NOW + 86_400_000
    assert fields(SMALLEST | {"occurred_at": "2026-11-24T08:00:00.001Z"}) == ["occurred_at"]


@pytest.mark.parametrize(
    ("body", "says"),
    [([], "1 to 100"), ([SMALLEST] * 101, "this one has 101"), ("text", "event object"), (None, "event object")],
)
def test_other_bodies_are_refused(body: object, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        validate_events(body, now_ms=NOW)
    assert says in caught.value.message


def test_a_crowd_of_unknown_fields_is_not_rendered_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rendering 50,000 errors takes a tenth of a second, in which nobody else is served.
    monkeypatch.setattr("logstitch.model.errors_to_details", lambda error: pytest.fail("all of them were rendered"))
    crowd = {f"unknown{i}": 1 for i in range(50_000)}
    assert fields(SMALLEST | crowd) == [f"unknown{i}" for i in range(100)]
    assert fields([SMALLEST, SMALLEST | {"actor": crowd}]) == [f"1.actor.unknown{i}" for i in range(100)]
    assert fields(SMALLEST | {"changes": [{"field": "a"}, crowd]})[99] == "changes.1.unknown99"


def test_details_are_bounded_in_number_and_length() -> None:
    assert len(details([5] * 99 + [{}])) == 100
    (detail,) = details(SMALLEST | {"k" * 10_000: 1})
    assert len(detail.field) < 300


_wild = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.just("SECRET"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*EVENT.json_schema()["properties"], "id", "type", "field"]), inner, max_size=6
        )
    ),
    max_leaves=12,
)


@given(_wild)
def test_nothing_but_invalid_request_comes_out_and_no_value_with_it(body: object) -> None:
    refusal = None
    try:
        validate_events(body, now_ms=NOW)
    except InvalidRequest as error:
        refusal = error
    if refusal is not None:
        assert "SECRET" not in refusal.message
        assert not any("SECRET" in detail.message for detail in refusal.details)
        assert all(detail.field for detail in refusal.details)


def test_the_gate_and_the_schema_go_together() -> None:
    body = json.dumps([FULL, SMALLEST]).encode()
    assert [event.raw for event in validate_events(parse(body), now_ms=NOW)] == [FULL, SMALLEST]


def test_sections_that_are_encoded_without_looking_for_floats_hold_strings_only() -> None:
    schema = EVENT.json_schema()
    for name in ("ActorIn", "TargetIn", "ContextIn"):
        assert {part["type"] for part in schema["$defs"][name]["properties"].values()} == {"string"}
        assert schema["$defs"][name]["additionalProperties"] is False


def test_the_schema_documents_itself() -> None:
    schema = EVENTS.json_schema()["$defs"]["EventIn"]
    assert schema["required"] == ["action", "category", "actor", "tenant_id"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["category"]["enum"] == list(get_args(CategoryName))
    assert schema["properties"]["occurred_at"]["format"] == "date-time"
    assert schema["properties"]["occurred_at"]["type"] == "string"
    assert schema["properties"]["action"]["pattern"].endswith("$")
    for name in ("action", "tenant_id", "metadata", "idempotency_key", "occurred_at"):
        assert schema["properties"][name]["description"]
        assert schema["properties"][name]["examples"]
    assert get_args(ActorTypeName) == ("user", "api_key", "service", "system")


def test_plans() -> None:
    assert [plan.limits.custom_alert_rules for plan in Plan] == [0, 25, 500]
    assert [plan.limits.events_per_day for plan in Plan] == [1000, None, None]
    assert [plan.limits.webhooks for plan in Plan] == [False, True, True]


def test_any_schema_reports_its_errors_the_same_way() -> None:
    class Page(BaseModel):
        limit: int
        flag: bool = False

    with pytest.raises(InvalidRequest) as caught:
        validate(TypeAdapter(Page), {"limit": "SECRET", "flag": "SECRET"}, prefix="rule")
    assert caught.value.details == (
        Detail("rule.limit", "Expected an integer"),
        Detail("rule.flag", "Expected true or false"),
    )
    with pytest.raises(InvalidRequest) as caught:
        validate(TypeAdapter(Page), 5, prefix="rule")
    assert caught.value.details == (Detail("rule", "Expected an object"),)
