"""The fast way and the slow way come to the same, for any event and any rules; what came in is left alone."""

from __future__ import annotations

import copy
import unicodedata
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from logstitch.errors import InvalidRequest
from logstitch.redaction.engine import RuleSet, redact, redact_batch
from logstitch.redaction.rules import (
    BUILTINS,
    DEFAULT_BUILTINS,
    Behavior,
    BuiltinState,
    CustomRule,
    RuleType,
    check_rule,
    compile_rules,
)
from tests.support.redaction_reference import redact_slowly

# Pieces from which leaks are put together, whole and in halves, with what may hide them or stand beside them.
PIECES = (
    *("4111", "1111", "4111111111111111", "378282246310005", "6304000000000000000", "2221000000000009"),
    *("123-45-6789", "123-45", "-6789", "2125550123", "(212) 555-", "+1 ", "415.555.2671", "203.0.113.7", ".1"),
    *("a@b.co", "@", "ada", "eyJh.", "eyJhbGciOiJI.eyJzdWIi.c2ln", "Bearer ", "bearer\t", "abc12345", "sk-", "ghp_"),
    *("a1b2c3d4e5f6a7b8c9d0", "AKIA", "IOSFODNN7EXAMPLE", "ASIAIOSFODNN7EXAMPLE", "pk_", "x" * 40, "SG.", "key-"),
    *(
        " ",
        "-",
        "\u2011",
        "\u00a0",
        "\u200b",
        "\u00ad",
        "\u0301",
        "４",
        "１",
        "١",
        "Ａ",
        "ＫＩＡ",
        "é",
        "…",
        "\n",
        "\t",
    ),
    *(
        '"',
        "\\",
        "\\n",
        "\\u0034",
        "\x01",
        "\x7f",
        "\u2028",
        "Жук",
        "日本",
        "🙂",
        "\ufe0f",
        "²",
        ",",
        ":",
        ".",
        "0",
        "secret",
    ),
    *("¹", "²４", "⁻", "①", "，", "（", "）", "～", "：", "क्", "कि", "\u200d", "❤\ufe0f", "ya29.", "eyJ", "212"),
    *("foo", "bar", "A", "B", "12", "3456", "}", "]", "e16", "_", "(2)", "[REDACTED]"),
)
PATTERNS = (
    "foo",
    "^foo",
    "bar$",
    r"\bsecret\b",
    "foo.*bar",
    "(?s)foo.*bar",
    "[A-Z]{2}[0-9]+",
    "é+",
    '"',
    r"\\",
    "\\n",
    "[^a-z]foo",
    r"\Q4.1\E|\x{200b}",
    r"\Qfoo",
    "(?i)SECRET[0-9]*",
    "(?P<name>12)3",
    "1{3,}",
    r"\pL\pN",
    "…",
    " +4",
    r"\A4|\z4|4\z",
    "[[:upper:]]\\B.",
    "a|[]x]y",
    r"\D4",
    r"[^0-9]1{4}",
)
PATHS = (
    "metadata.foo",
    "metadata.*",
    "metadata.**",
    "metadata.**.foo",
    "metadata.**.secret",
    "metadata.*.foo.*",
    "metadata.foo.bar",
    "metadata.foo.0",
    "metadata.*.bar",
    "metadata.**.foo.*.bar",
    "metadata.é",
    'metadata."',
    "changes.*.before",
    "changes.0",
    "changes.**.foo",
    "actor",
    "actor.id",
    "target",
    "context.*",
    "metadata.4111111111111111",
    "metadata.ABC",
)

DOTTED = (
    "foo.x",
    "bar.foo.0",
    "foo.bar.",
    ".foo",
    'foo."',
    "foo.é",
    "secret.a-b c",
    "é.x",
    "ＡBC.x",
    "foo․x",
    "before.x",
)

texts = st.lists(st.sampled_from(PIECES), max_size=7).map("".join) | st.text(max_size=12)
keys = st.sampled_from(("foo", "bar", "foo.bar", "secret", "ＡBC", "id", "**", "*", "0", "é", '"', *DOTTED)) | texts
numbers = (
    st.sampled_from((4111111111111111, -4111111111111111, 4111111111111111.0, 6304000000000000000, 4111111111111111.5))
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)
leaves = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def fields(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, texts))


change = st.fixed_dictionaries({"field": texts}, optional={"before": values, "after": values})
events = st.fixed_dictionaries(
    {},
    optional={
        "action": st.just("a.b"),
        "tenant_id": texts,
        "idempotency_key": texts,
        "actor": fields("id", "type", "name", "email") | values,
        "target": fields("id", "type", "name"),
        "context": fields("ip_address", "user_agent", "location"),
        "metadata": st.dictionaries(keys, values, max_size=5) | values,
        "changes": st.lists(change, max_size=3) | values,
    },
)
behaviors = st.sampled_from(Behavior)
patterns = st.builds(
    CustomRule,
    id=st.just("p"),
    name=st.just("pattern"),
    type=st.just(RuleType.PATTERN),
    pattern=st.sampled_from(PATTERNS),
    fields=st.just(()),
    behavior=behaviors,
    enabled=st.sampled_from((True, True, True, False)),
)
field_rules = st.builds(
    CustomRule,
    id=st.just("f"),
    name=st.just("field"),
    type=st.just(RuleType.FIELD_REDACT),
    pattern=st.none(),
    fields=st.lists(st.sampled_from(PATHS), min_size=1, max_size=3).map(tuple),
    behavior=behaviors,
    enabled=st.booleans(),
)
states = st.tuples(
    *(st.builds(BuiltinState, slug=st.just(rule.slug), enabled=st.booleans(), behavior=behaviors) for rule in BUILTINS)
)


def compiled(builtins: tuple[BuiltinState, ...], custom: list[CustomRule]) -> RuleSet:
    named = [replace(rule, id=f"rule{index}") for index, rule in enumerate(custom)]
    return compile_rules(builtins, named, secret=b"secret", version=7)


rule_sets = st.builds(compiled, states, st.lists(patterns | field_rules, max_size=4))


def plain(rules: RuleSet, batch: list[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(dict(result.event), result.changes) for result in redact_batch(batch, rules)]


def test_every_pattern_of_these_tests_could_be_saved() -> None:
    for pattern in PATTERNS:
        check_rule(CustomRule("p", "p", RuleType.PATTERN, pattern, (), Behavior.REPLACE, True))
    check_rule(CustomRule("f", "f", RuleType.FIELD_REDACT, None, PATHS, Behavior.REPLACE, True))


@settings(max_examples=400)
@given(st.lists(events, max_size=4), rule_sets)
def test_the_fast_way_equals_the_slow_way(batch: list[dict[str, Any]], rules: RuleSet) -> None:
    assert plain(rules, batch) == [(event, changes) for event, changes in (redact_slowly(e, rules) for e in batch)]


NAMES = ("비밀번호", "κωδικός", "contraseña", "mật_khẩu", "\u1f71", "प़", "Å")


@given(
    st.lists(
        st.tuples(st.sampled_from(NAMES), st.sampled_from(["NFC", "NFD", "NFKC", "NFKD"])), min_size=1, max_size=3
    ),
    st.sampled_from(NAMES),
)
def test_names_are_the_same_in_every_normal_form(keys: list[tuple[str, Any]], name: str) -> None:
    rules = compiled(
        (), [CustomRule("f", "f", RuleType.FIELD_REDACT, None, (f"metadata.**.{name}",), Behavior.REPLACE, True)]
    )
    metadata = {unicodedata.normalize(form, key): "secret" for key, form in keys}
    event = {"action": "a.b", "metadata": metadata}

    ((redacted, changes),) = plain(rules, [event])

    assert (redacted, changes) == tuple(redact_slowly(event, rules))
    wanted = unicodedata.normalize("NFC", name)
    for key, value in redacted["metadata"].items():
        assert (value == "secret") == (unicodedata.normalize("NFC", key) != wanted)


@settings(max_examples=500)
@given(st.lists(texts | numbers, min_size=1, max_size=3), states, st.sampled_from(PATTERNS) | st.none())
@example([4111111111111111e2, "x"], DEFAULT_BUILTINS, None)
@example(["4111\x011111\x0111111111"], DEFAULT_BUILTINS, None)
@example(["４111111111111111"], DEFAULT_BUILTINS, None)
@example([63040000000000000e2], DEFAULT_BUILTINS, "0{15}")
@example(['foo"bar'], (), 'foo"bar')
@example(["foo\tbar"], (), r"foo\sbar")
@example(["\\n"], (), r"\\")
@example(["x\nsk-abcdefghij0123456789"], DEFAULT_BUILTINS, None)
@example(["Bearer\nabc12345", "Bearer\u00a0\tabc12345"], DEFAULT_BUILTINS, None)
def test_nothing_that_the_rules_find_is_overlooked_in_the_scan(
    items: list[Any], builtins: tuple[BuiltinState, ...], pattern: str | None
) -> None:
    custom = () if pattern is None else [CustomRule("p", "p", RuleType.PATTERN, pattern, (), Behavior.REPLACE, True)]
    rules = compile_rules(builtins, custom, secret=b"secret")
    without_scan = replace(rules, json_scans=None, text_scans=None)
    event = {"metadata": {"items": items}}

    result = redact(event, rules)

    assert result == redact_slowly(event, rules)
    assert result == redact(event, without_scan)


SYNTAX = (
    *(r"\Q", r"\E", "\\", "(", "(?:", "(?i)", "(?P<n>", ")", "[", "[^", "]", "|", "*", "+", "?", "{2}", "^", "$"),
    *(r"\b", r"\B", r"\A", r"\z", r"\pL", r"\p{^L}", r"\P{Greek}", r"\x{e9}", r"\d", "[[:alpha:]]", ".", "#", "-"),
    *("a", "b", "4", "é", " ", ":", "1,"),
)


@settings(max_examples=600)
@given(
    st.lists(st.sampled_from(SYNTAX), min_size=1, max_size=6).map("".join),
    st.lists(st.text(alphabet="aAb4\\-é :(", max_size=6), min_size=1, max_size=3),
)
@example(r"\Qa", ["a"])
@example("\\Qa\\", ["a\\"])
def test_every_pattern_that_may_be_saved_works_and_is_not_overlooked(pattern: str, items: list[str]) -> None:
    rule = CustomRule("p", "p", RuleType.PATTERN, pattern, (), Behavior.REPLACE, True)
    try:
        check_rule(rule)
    except InvalidRequest:
        return
    rules = compile_rules((), [rule, replace(rule, id="q", pattern="b")], secret=b"s")
    event = {"metadata": {"items": items}}

    assert redact(event, rules) == redact_slowly(event, rules)


@settings(max_examples=150)
@given(events, rule_sets)
def test_the_event_that_came_in_is_left_alone(event: dict[str, Any], rules: RuleSet) -> None:
    before = copy.deepcopy(event)

    result = redact(event, rules)

    assert event == before
    assert (result.event is event) == (result.changes == ())
    assert list(result.event) == list(event)
    for name in ("action", "tenant_id", "idempotency_key"):
        assert result.event.get(name) == event.get(name)


@settings(max_examples=150)
@given(events, rule_sets)
@example({"metadata": {"foo": "4111111111111111"}}, compile_rules((), (), secret=b""))
def test_no_value_is_lost(event: dict[str, Any], rules: RuleSet) -> None:
    """As many members and items as before, where no rule took a whole container."""
    rules = replace(rules, fields=(), root=None)

    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return [shape(item) for item in value.values()]
        return [shape(item) for item in value] if isinstance(value, list) else None

    assert shape(dict(redact(event, rules).event)) == shape(event)
