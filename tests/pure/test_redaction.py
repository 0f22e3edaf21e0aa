"""What redaction does to an event: what is found where, what takes its place, and what is put on record."""

from __future__ import annotations

import hashlib
import hmac
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.redaction import paths
from logstitch.redaction.budget import REQUEST_GROWTH, OverBudget
from logstitch.redaction.definitions import LIMIT
from logstitch.redaction.engine import MAX_RECORD_BYTES, MAX_RECORDS, Change, RuleSet, redact, redact_batch, slices
from logstitch.redaction.rules import DEFAULT_BUILTINS, Behavior, CustomRule, RuleType, compile_rules
from logstitch.redaction.turns import if_quick, result_of

CARD = "4111111111111111"
SECRET = b"the project's"


def pattern(text: str, behavior: Behavior = Behavior.REPLACE, id: str = "p") -> CustomRule:
    return CustomRule(id, id, RuleType.PATTERN, text, (), behavior, True)


def on(*fields: str, behavior: Behavior = Behavior.REPLACE, id: str = "f") -> CustomRule:
    return CustomRule(id, id, RuleType.FIELD_REDACT, None, fields, behavior, True)


def rules(*custom: CustomRule, builtins: str = "", behavior: Behavior = Behavior.REPLACE) -> RuleSet:
    wanted = builtins.split()
    states = [replace(state, enabled=state.slug in wanted, behavior=behavior) for state in DEFAULT_BUILTINS]
    return compile_rules(states, custom, secret=SECRET)


DEFAULT = compile_rules(DEFAULT_BUILTINS, (), secret=SECRET)


def metadata(value: Any, rule_set: RuleSet = DEFAULT) -> Any:
    return redact({"metadata": value}, rule_set).event["metadata"]


def text(value: str, rule_set: RuleSet = DEFAULT) -> Any:
    return metadata({"t": value}, rule_set)["t"]


# -- what is looked at ---------------------------------------------------------------------------------------------


def test_a_clean_event_comes_back_itself() -> None:
    event = {"action": "a.b", "actor": {"id": "u", "type": "user"}, "metadata": {"n": [1, {"x": "y"}]}}

    result = redact(event, DEFAULT)

    assert result.event is event
    assert result.changes == ()
    assert redact(event, RuleSet()).event is event


def test_strings_numbers_and_keys_are_looked_at_at_any_depth_in_every_section() -> None:
    event = {
        "actor": {"id": CARD, "type": "user"},
        "target": {"id": "t", "type": "x", "name": f"card {CARD}"},
        "context": {"user_agent": CARD},
        "metadata": {"deep": [[{"x": {CARD: int(CARD)}}]], "float": float(CARD), "short": 411111111111},
        "changes": [{"field": CARD, "before": CARD, "after": {"a": CARD}}],
    }

    result = redact(event, DEFAULT)

    assert result.event == {
        "actor": {"id": "[REDACTED]", "type": "user"},
        "target": {"id": "t", "type": "x", "name": "card [REDACTED]"},
        "context": {"user_agent": "[REDACTED]"},
        "metadata": {
            "deep": [[{"x": {"[REDACTED]": "[REDACTED]"}}]],
            "float": "[REDACTED]",
            "short": 411111111111,
        },
        "changes": [{"field": "[REDACTED]", "before": "[REDACTED]", "after": {"a": "[REDACTED]"}}],
    }
    assert [change.field for change in result.changes] == [
        "actor.id",
        "target.name",
        "context.user_agent",
        "metadata.deep.0.0.x.[REDACTED]",
        "metadata.float",
        "changes.0.field",
        "changes.0.before",
        "changes.0.after.a",
    ]
    assert {change.rules for change in result.changes} == {("builtin_credit_card",)}


def test_what_is_never_looked_at_stays() -> None:
    event = {
        "action": "secret.secret",
        "category": "secret",
        "tenant_id": CARD,
        "idempotency_key": CARD,
        "occurred_at": "2024-01-01T00:00:00Z",
        "metadata": {"short": 4111, "none": None, "flag": True},
    }
    assert redact(event, rules(pattern("secret|2024|4111|true|null"), builtins="credit_card")).event is event


def test_the_names_of_the_schema_are_no_keys_of_the_sender() -> None:
    event = {
        "actor": {"id": "id", "type": "type", "name": "name", "email": "email"},
        "changes": [{"field": "field", "before": {"before": 1}}],
    }

    result = redact(event, rules(pattern("id|type|name|email|field|before")))

    assert result.event == {
        "actor": dict.fromkeys(("id", "type", "name", "email"), "[REDACTED]"),
        "changes": [{"field": "[REDACTED]", "before": {"[REDACTED]": 1}}],
    }


@pytest.mark.parametrize("section", ["actor", "target", "context", "metadata", "changes"])
@pytest.mark.parametrize("value", [CARD, [CARD], {"x": CARD}, int(CARD), None, True, {}, []])
def test_a_partial_or_odd_sample_is_looked_at_all_the_same(section: str, value: Any) -> None:
    assert CARD not in repr(redact({section: value}, DEFAULT).event)


def test_only_the_match_is_replaced_wherever_it_stands() -> None:
    assert text(f"from {CARD} to 5555-5555-5555-4444, thanks") == "from [REDACTED] to [REDACTED], thanks"
    assert text("４１１１\u200b１１１１\u00a01111\u2011١١١١!") == "[REDACTED]!"
    assert text("ＡＫＩＡ\u00adIOSFODNN7EXAMPLE") == "[REDACTED]"
    assert text(f"{CARD}²") == "[REDACTED]²"
    assert text(f"{CARD}\u200b{CARD}") == "[REDACTED]\u200b[REDACTED]"


# -- keys ----------------------------------------------------------------------------------------------------------


def test_keys_that_become_equal_keep_their_values() -> None:
    other = "5555555555554444"
    value = {CARD: 1, "[REDACTED] (2)": 2, other: 3, "[REDACTED]": 4, "x" + CARD: 5}

    assert metadata(value) == {
        "[REDACTED] (3)": 1,
        "[REDACTED] (2)": 2,
        "[REDACTED] (4)": 3,
        "[REDACTED]": 4,
        "x[REDACTED]": 5,
    }
    assert list(metadata(value).values()) == [1, 2, 3, 4, 5]


def test_a_record_holds_nothing_of_a_key_that_was_redacted() -> None:
    result = redact({"metadata": {CARD: {"a": [CARD]}, "k" * 300: CARD}}, DEFAULT)

    assert [change.field for change in result.changes] == [
        "metadata.[REDACTED].a.0",
        "metadata.[REDACTED]",
        f"metadata.{'k' * 200}…",
    ]


def test_records_are_bounded() -> None:
    event = {"metadata": {"a": [CARD] * 1500, "ssn": ["123-45-6789"] * 200}}

    result = redact(event, DEFAULT)

    assert len(result.changes) == MAX_RECORDS + 1
    assert result.changes[-1] == Change("metadata", ("builtin_credit_card", "builtin_ssn"), 700)
    assert set(result.event["metadata"]["a"]) == {"[REDACTED]"}


@pytest.mark.parametrize("letter", ["k", "\u20ac"])
def test_records_are_bounded_in_bytes(letter: str) -> None:
    value: Any = [CARD] * 500
    for _ in range(20):
        value = {letter * 200: value}

    result = redact({"metadata": value, "changes": [{"field": CARD}]}, DEFAULT)

    assert sum(len(change.field.encode()) for change in result.changes) <= MAX_RECORD_BYTES + 100
    assert 1 < len(result.changes) < 10
    assert result.changes[-2:] == (
        Change("metadata", ("builtin_credit_card",), 502 - len(result.changes)),
        Change("changes", ("builtin_credit_card",)),
    )
    assert CARD not in str(result.event)


@given(st.lists(st.sampled_from(("metadata", "changes", "context")), max_size=3, unique=True), st.integers(0, 3000))
def test_changed_values_are_counted_however_many_are_on_record(sections: list[str], count: int) -> None:
    event = {section: [{"a": CARD, "b": "clean"}] * count for section in sections}

    result = redact(event, DEFAULT)

    assert sum(change.values for change in result.changes) == len(sections) * count
    assert len(result.changes) <= MAX_RECORDS + 3


def test_the_rules_in_records_are_bounded_too() -> None:
    many = rules(*[pattern(char, id=f"rule-{number:03}") for number, char in enumerate("abcdefghijklmnopqrstuvwxyz")])

    result = redact({"metadata": {"t": [f"abcdefghijklmnopqrstuvwxyz{n}" for n in range(900)]}}, many)

    assert sum(len(change.field) + len("".join(change.rules)) for change in result.changes) < 2 * MAX_RECORD_BYTES
    assert len(result.changes[-1].rules) == 27
    assert result.changes[-1].rules[-1] == LIMIT


def test_a_text_that_replacements_make_far_longer_is_replaced() -> None:
    hashed = rules(pattern("a", behavior=Behavior.HASH, id="p1"), pattern("b", id="p2"))

    result = redact({"metadata": {"long": "a" * 2_000, "few": "a" + "x" * 200_000, "short": "aa"}}, hashed)

    assert result.event["metadata"]["long"] == R
    assert len(result.event["metadata"]["few"]) == 200_071
    assert len(result.event["metadata"]["short"]) == 2 * 71
    assert result.changes[0] == Change("metadata.long", ("p1", LIMIT))


def size(event: Any) -> int:
    return len(orjson.dumps(event))


def test_an_id_of_256_characters_stays_short_enough_for_an_index() -> None:
    hashed = rules(pattern("[^t]", behavior=Behavior.HASH))

    assert text("".join(map(chr, range(0x400, 0x500))), hashed) == R
    assert len(text("abcdefghi", hashed)) == 9 * 71


@pytest.mark.parametrize("behavior", Behavior)
@pytest.mark.parametrize(
    "value",
    [
        ["a" * 300] * 5_500,  # the same text again and again
        [f"{n} a b" for n in range(20_000)],
        {f"{n}a": n for n in range(20_000)},
        {"a": {str(n): ["a"] for n in range(20_000)}},
        {"x": {str(n): "a" for n in range(20_000)}},
        ["a"] * 40_000,
    ],
    ids=["equal texts", "texts", "keys", "nested", "members", "short texts"],
)
def test_redaction_makes_an_event_twice_as_long_at_most(behavior: Behavior, value: Any) -> None:
    event = {"metadata": {"k": "a"}, "changes": [{"before": value}]}

    result = redact(event, rules(pattern("a", behavior)))

    assert size(result.event) <= 2 * size(event) + 100
    assert b'"a' not in orjson.dumps(result.event["changes"]).replace(b'"after', b"")
    assert result.event["metadata"]["k"] != "a"
    assert [change.field for change in result.changes][-1].startswith("changes")


@pytest.mark.parametrize("path", ["changes.*.before.*", "changes.**"])
@pytest.mark.parametrize("behavior", Behavior)
def test_so_do_rules_on_fields(behavior: Behavior, path: str) -> None:
    event = {"changes": [{"before": [1] * 100_000}]}

    result = redact(event, rules(on(path, behavior=behavior)))

    assert size(result.event) <= 2 * size(event)
    assert b"1," not in orjson.dumps(result.event)


def test_a_section_that_grows_too_much_is_replaced_and_the_others_are_not() -> None:
    event = {
        "actor": {"id": "a", "type": "user"},
        "metadata": {"t": ["1"] * 100_000, CARD: CARD},
        "changes": [{"field": "a"}],
    }

    result = redact(event, rules(on("metadata.t.*"), pattern("a", behavior=Behavior.HASH), builtins="credit_card"))

    assert result.event["metadata"] == R
    assert result.event["actor"]["id"] == result.event["changes"][0]["field"] != "a"
    assert result.changes == (
        Change("actor.id", ("p",)),
        Change("metadata", (LIMIT,)),
        Change("changes.0.field", ("p",)),
    )


def test_a_value_that_grows_too_much_is_replaced_where_that_is_no_longer() -> None:
    hashed = rules(pattern("[0-9]", behavior=Behavior.HASH))
    event = {"changes": [{"before": [f"the number {n % 10}" for n in range(10_000)]}]}

    result = redact(event, hashed)

    before = result.event["changes"][0]["before"]
    assert before[0].startswith("the number sha256:")
    assert before[-1] == R
    assert result.changes[-1] == Change("changes", ("p", LIMIT), 10_000 + 1 - len(result.changes))


def test_an_actor_that_grows_too_much_is_still_one() -> None:
    event = {"actor": {"id": "u", "type": "user"} | {f"a{n}": "b" for n in range(9_000)}}

    result = redact(event, rules(pattern("a", behavior=Behavior.HASH)))

    assert result.event["actor"] == {"id": R, "type": R}
    assert result.changes == (Change("actor", (LIMIT,)),)


def test_the_events_of_a_request_grow_by_half_a_megabyte_at_most_or_to_twice_their_size() -> None:
    hashed = rules(pattern("[a-z]", behavior=Behavior.HASH))
    events = [{"metadata": {"T": [f"the {n}th of {m}" for m in range(50)]}} for n in range(100)]

    results = redact_batch(events, hashed)

    grown = sum(size(result.event) for result in results) - sum(map(size, events))
    assert grown < max(REQUEST_GROWTH, sum(map(size, events))) + 100
    assert any(result.event["metadata"]["T"][0].startswith("sha256:") for result in results)
    assert all("the" not in str(result.event) for result in results)


def test_so_do_events_that_say_the_same() -> None:
    hashed = rules(pattern("[a-z]", behavior=Behavior.HASH))
    events = [{"metadata": {"T": ["the nth of many"] * 50}} for _ in range(100)]

    results = redact_batch(events, hashed)

    grown = sum(size(result.event) for result in results) - sum(map(size, events))
    assert grown < max(REQUEST_GROWTH, sum(map(size, events))) + 100
    assert results[0].event["metadata"]["T"][0].startswith("sha256:")
    assert "[REDACTED]" in str(results[-1].event)
    assert all("the" not in str(result.event) for result in results)


def test_events_of_several_requests_do_not_use_up_each_others_growth() -> None:
    hashed = rules(pattern("[a-z]", behavior=Behavior.HASH))
    events = [{"metadata": {"T": [f"the {n}th of {m}" for m in range(50)]}} for n in range(100)]

    with pytest.raises(OverBudget):
        result_of(slices(events, hashed, shared=True))
    assert result_of(if_quick(slices(events[:1], hashed, shared=True))) == [redact(events[0], hashed)]
    assert result_of(if_quick(slices(events, hashed, shared=True))) is None


# -- behaviours ----------------------------------------------------------------------------------------------------

MASKED = [
    ("credit_card", "4242-4242-4242-4242", "****-****-****-4242"),
    ("credit_card", "４２４２４２４２４２４２４２４２", "****-****-****-4242"),
    ("ssn", "123-45-6789", "***-**-6789"),
    ("email", "ada.lovelace@example.com", "a***@example.com"),
    ("phone", "+1 (415) 555-2671", "***-***-2671"),
    ("ipv4", "203.0.113.42", "203.0.*.*"),
    ("jwt", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl", "eyJ***"),
    ("bearer_token", "Bearer abcdefgh12345678", "****5678"),
    ("bearer_token", "ghp_" + "a1B2" * 9, "****a1B2"),
    ("aws_key", "AKIAIOSFODNN7EXAMPLE", "AKIA****MPLE"),
]


@pytest.mark.parametrize(("slug", "value", "masked"), MASKED)
def test_a_mask_keeps_what_the_contract_says(slug: str, value: str, masked: str) -> None:
    assert text(f"<{value}>", rules(builtins=slug, behavior=Behavior.MASK)) == f"<{masked}>"


@pytest.mark.parametrize(("slug", "value"), [(slug, value) for slug, value, _ in MASKED])
def test_a_hash_is_keyed_and_of_the_text_as_it_was_sent(slug: str, value: str) -> None:
    expected = "sha256:" + hmac.new(SECRET, value.encode(), hashlib.sha256).hexdigest()
    assert text(f"<{value}>", rules(builtins=slug, behavior=Behavior.HASH)) == f"<{expected}>"


def test_the_mask_of_a_custom_pattern_shows_four_of_eight_or_nothing() -> None:
    masking = rules(pattern("x[0-9]+", Behavior.MASK))
    assert text("x1234567 x123456", masking) == "****4567 ****"


@pytest.mark.parametrize("value", ["P\u200bIN1234", "1\u200b2\u200b3\u200b\u200b4\u200b56"])
def test_a_mask_counts_what_is_seen(value: str) -> None:
    assert text(value, rules(pattern("PIN[0-9]{4}|[0-9]{6}", Behavior.MASK))) == "****"


@pytest.mark.parametrize(("name", "key"), [("p\xe1ssword", "pa\u0301ssword"), ("pa\u0301ssword", "p\xe1ssword")])
def test_a_field_is_found_however_its_accents_are_written(name: str, key: str) -> None:
    rule = rules(on(f"metadata.**.{name}"))
    for spelled in (name, key):
        assert metadata({"a": {spelled: "hunter2"}}, rule) == {"a": {spelled: R}}


@pytest.mark.parametrize(
    ("value", "find"),
    [("²４１１１", "[^0-9]4111"), ("²４１１１", r"\x1f"), ("see ２³", r"\D3"), ("x ５²", r"5\W2")],
)
def test_what_only_one_reading_shows_is_found_by_the_scan(value: str, find: str) -> None:
    given = rules(pattern(find))
    assert text(value, given) == text(value, replace(given, json_scans=None, text_scans=None)) != value


@pytest.mark.parametrize(
    ("value", "mask", "hashed"),
    [
        ("a long text", "****text", b"a long text"),
        ("short", "****", b"short"),
        (123456789, "****6789", b"123456789"),
        (True, "****", b"true"),
        (None, "****", b"null"),
        ({"b": 1, "a": "é"}, "****", '{"a":"é","b":1}'.encode()),
        ([1.5, []], "****", b"[1.5,[]]"),
    ],
)
def test_a_rule_on_a_field_replaces_a_value_of_any_type(value: Any, mask: str, hashed: bytes) -> None:
    digest = "sha256:" + hmac.new(SECRET, hashed, hashlib.sha256).hexdigest()
    for behavior, expected in (
        (Behavior.REPLACE, "[REDACTED]"),
        (Behavior.MASK, mask),
        (Behavior.HASH, digest),
    ):
        assert metadata({"f": value, "g": value}, rules(on("metadata.f", behavior=behavior))) == {
            "f": expected,
            "g": value,
        }


# -- paths ---------------------------------------------------------------------------------------------------------

TREE = {"a": {"b": {"ssn": 1}, "ssn": 2}, "ssn": 3, "list": [{"ssn": 4}, [5]], "a.b": 6}
R = "[REDACTED]"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("metadata.ssn", {**TREE, "ssn": R}),
        ("metadata.*.ssn", {**TREE, "a": {"b": {"ssn": 1}, "ssn": R}}),
        ("metadata.**.ssn", {"a": {"b": {"ssn": R}, "ssn": R}, "ssn": R, "list": [{"ssn": R}, [5]], "a.b": 6}),
        ("metadata.*", dict.fromkeys(TREE, R)),
        ("metadata.**", dict.fromkeys(TREE, R)),
        ("metadata.list.0", {**TREE, "list": [R, [5]]}),
        ("metadata.list.*", {**TREE, "list": [R, R]}),
        ("metadata.list.1.0", {**TREE, "list": [{"ssn": 4}, [R]]}),
        ("metadata.a.b", {**TREE, "a": {"b": R, "ssn": 2}, "a.b": R}),
        ("metadata.a.**.ssn", {**TREE, "a": {"b": {"ssn": R}, "ssn": R}}),
        ("metadata", R),
        ("metadata.ssn.x", TREE),
        ("metadata.SSN", TREE),
    ],
)
def test_a_path_names_values(path: str, expected: Any) -> None:
    assert metadata(TREE, rules(on(path))) == expected


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("metadata.ssn", {"ssn.x", "ssn.", "ssn.x.y"}),
        ("metadata.a.b", {"a.b.c", "a"}),
        ("metadata.*.b", {"a.b.c", "a"}),
        ("metadata.*.*.c", {"a.b.c"}),
        ("metadata.**.b", {"a.b.c", "a"}),
        ("metadata.a.**", {"a.b.c", "a"}),
        ("metadata.ssn.x.y.w", set()),
        ("metadata.x", set()),
        ("metadata.ss", set()),
    ],
)
def test_a_path_that_ends_within_a_key_takes_its_value_as_it_takes_what_is_nested(path: str, taken: set[str]) -> None:
    flat = {"ssn.x": 1, "ssn.": 2, "ssn.x.y": {"z": 3}, "a.b.c": 4, "a": {"b.d": 5}, "ssn_x": 6, ".ss": 7}

    expected = {key: R if key in taken else value for key, value in flat.items()}
    if "a" in taken:
        expected["a"] = {"b.d": R}

    assert metadata(flat, rules(on(path))) == expected


@pytest.mark.parametrize(
    "key", ["ssn.x", "ｓｓｎ.x", "s\u200bsn.x", "ssn．x", "ssn.é", 'ssn."', "ssn.\n", "ssn.a-b c", "ssn.日"]
)
def test_a_key_that_goes_on_is_suspected_alone(key: str) -> None:
    assert metadata({key: "1h"}, rules(on("metadata.ssn"))) == {key: R}


def test_of_rules_that_end_within_a_key_and_at_its_end_the_first_is_named() -> None:
    for order in (("metadata.a.b", "metadata.a"), ("metadata.a", "metadata.a.b")):
        result = redact({"metadata": {"a.b": 1}}, rules(*(on(path, id=path) for path in order)))

        assert result.changes == (Change("metadata.a.b", (order[0],)),)


def test_a_value_that_says_what_a_rule_looks_for_in_keys_is_not_looked_at_closely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"quite_a_long_name_{n}" for n in range(50)]
    rule_set = rules(on(*(f"metadata.**.{name}" for name in names)), on("metadata.user"))
    monkeypatch.setattr(paths, "step", None)
    clean = {
        "action": "user.login",
        "metadata": {"a.x": "user.x quite_a_long_name_49.y", "users.x": ["user.quite_a_long_name_1."]},
    }

    assert redact(clean, rule_set).event is clean
    monkeypatch.undo()
    for name in [*names, "user"]:
        for key in (name, f"{name}.x"):
            assert metadata({"k": 1, key: 2}, rule_set) == {"k": 1, key: R}


def test_a_key_is_found_by_what_it_looks_like() -> None:
    assert metadata({"ＳＳＮ": 1, "s\u200bsn": 2}, rules(on("metadata.SSN", "metadata.ssn"))) == {
        "ＳＳＮ": R,
        "s\u200bsn": R,
    }


def test_a_key_of_too_many_parts_is_taken_where_a_path_may_still_find_it() -> None:
    shown = {"a." * 63 + "ssn": 1, "a." * 63 + "b": 2, "a." * 64 + "ssn": 3, "a." * 64 + "b": 4, "a." * 9000 + "b": 5}

    assert list(metadata(shown, rules(on("metadata.**.ssn"))).values()) == [R, 2, R, R, R]
    assert metadata(shown, rules(on("metadata.a.a.ssn", "metadata.*.b"))) == shown


def test_a_key_that_is_too_long_to_fold_is_taken() -> None:
    long, short = "s\u200bsn" + "\u200b" * 9000, "s\u200bsn" + "\u200b" * 8000

    assert metadata({long: 1, short: 2, "ssn_": 3}, rules(on("metadata.ssn"))) == {long: R, short: R, "ssn_": 3}


def test_a_key_that_paths_may_find_in_too_many_ways_is_taken() -> None:
    crossing = [f"metadata.**.a.{'*.' * n}**.b{n}" for n in range(20)]
    dice = random.Random(2)
    many = [f"metadata.**.{'.'.join(dice.choices('*a', k=29))}.z" for _ in range(50)]
    deep: Any = 1
    for _ in range(25):
        deep = {"a": deep}

    assert metadata({"a.a.a.a": 1, "z": 2}, rules(on(*crossing))) == {"a.a.a.a": 1, "z": 2}
    assert R in str(metadata({"a": deep, "z": 1}, rules(on(*many))))
    assert metadata({"a": {"a": 1}, "z": 1}, rules(on(*many))) == {"a": {"a": 1}, "z": 1}


def test_a_key_that_is_called_like_a_wildcard_is_no_wildcard() -> None:
    assert metadata({"**": {"x": 1}, "*": 2, "x": 3}, rules(on("metadata.**.x"))) == {"**": {"x": R}, "*": 2, "x": R}


def test_an_event_keeps_the_shape_that_it_is_stored_in() -> None:
    event = {
        "actor": {"id": "u1", "type": "user", "name": "Ada"},
        "target": {"id": "t1", "type": "doc"},
        "context": {"ip_address": "::1"},
        "changes": [{"field": "f", "before": 1}],
    }

    result = redact(event, rules(on("actor", "target", "context", "changes")))

    assert result.event == {
        "actor": {"id": R, "type": R},
        "target": {"id": R, "type": R},
        "context": R,
        "changes": R,
    }
    assert result.changes == tuple(Change(name, ("f",)) for name in ("actor", "target", "context", "changes"))
    assert redact(event, rules(on("actor.type"))).event["actor"] == {"id": "u1", "type": R, "name": "Ada"}


# -- order ---------------------------------------------------------------------------------------------------------


def test_the_first_rule_on_a_field_wins_and_patterns_leave_it_alone() -> None:
    rule_set = rules(
        pattern("sha256|REDACTED", id="late"),
        on("metadata.a", id="one"),
        on("metadata.a", behavior=Behavior.MASK, id="again"),
        on("metadata.*", behavior=Behavior.HASH, id="two"),
    )

    result = redact({"metadata": {"a": "x", "b": "y"}}, rule_set)

    assert result.event["metadata"]["a"] == "[REDACTED]"
    assert result.event["metadata"]["b"].startswith("sha256:")
    assert result.changes == (Change("metadata.a", ("one",)), Change("metadata.b", ("two",)))


def test_patterns_come_in_their_order_and_before_the_built_ins() -> None:
    assert text(f"card {CARD}", rules(pattern("1+", Behavior.MASK), builtins="credit_card")) == "card 4****1111"
    assert text("abc", rules(pattern("ab", id="1"), pattern("bc", id="2"))) == "[REDACTED]c"
    assert text("abc", rules(pattern("bc", id="2"), pattern("ab", id="1"))) == "a[REDACTED]"


def test_a_token_in_a_bearer_header_is_a_jwt_first() -> None:
    assert text("Bearer eyJhbGci.eyJzdWIi.c2ln") == "Bearer [REDACTED]"


def test_what_was_replaced_is_not_looked_at_again() -> None:
    rule_set = rules(pattern("x", id="1"), pattern("REDACTED|[][]", id="2"), pattern("sha256", id="3"))
    assert text("axb", rule_set) == "a[REDACTED]b"
    hashing = rules(pattern("x", Behavior.HASH, id="1"), pattern("[0-9a-f]{64}", id="2"))
    assert text("axb", hashing).startswith("asha256:")


def test_what_is_left_of_a_replacement_is_not_joined_with_what_is_right_of_it() -> None:
    assert text("foXbar", rules(pattern("X", id="1"), pattern("foo|foba", id="2"))) == "fo[REDACTED]bar"
    assert text("4111X111111111111", rules(pattern("X"), builtins="credit_card")) == "4111[REDACTED]111111111111"


def test_a_record_names_every_rule_in_order_and_once() -> None:
    result = redact(
        {"metadata": {"t": f"b {CARD} a {CARD} b"}},
        rules(pattern("a", id="A"), pattern("b", id="B"), builtins="credit_card"),
    )

    assert result.changes == (Change("metadata.t", ("A", "B", "builtin_credit_card")),)


def test_a_key_and_its_value_are_one_field() -> None:
    result = redact({"metadata": {CARD: "123-45-6789"}}, DEFAULT)
    assert result.changes == (Change("metadata.[REDACTED]", ("builtin_credit_card", "builtin_ssn")),)


def test_a_batch_is_its_events() -> None:
    events = [{"metadata": {"n": n, "t": CARD if n % 7 == 3 else "clean"}} for n in range(100)]

    results = redact_batch(events, DEFAULT)

    assert [bool(result.changes) for result in results] == [n % 7 == 3 for n in range(100)]
    assert all((result.event is event) == (not result.changes) for event, result in zip(events, results, strict=True))
    assert redact_batch((), DEFAULT) == []
