"""Rules are refused when they are saved, in the engine's own words, and never later."""

from __future__ import annotations

import time
from typing import Any

import pytest
import re2

from logstitch.errors import Detail, InvalidRequest
from logstitch.redaction import builtins, scan
from logstitch.redaction import rules as redaction_rules
from logstitch.redaction.engine import redact
from logstitch.redaction.rules import (
    BUILTIN_ORDER,
    BUILTINS,
    DEFAULT_BUILTINS,
    Behavior,
    CustomRule,
    RuleType,
    check_rule,
    compile_rules,
)
from logstitch.redaction.scan import without_assertions


def pattern_rule(pattern: str | None, fields: tuple[str, ...] = ()) -> CustomRule:
    return CustomRule("r", "rule", RuleType.PATTERN, pattern, fields, Behavior.REPLACE, True)


def field_rule(*fields: str) -> CustomRule:
    return CustomRule("r", "rule", RuleType.FIELD_REDACT, None, fields, Behavior.REPLACE, True)


def details(rule: CustomRule) -> list[tuple[str, str]]:
    with pytest.raises(InvalidRequest) as caught:
        check_rule(rule)
    return [(detail.field, detail.message) for detail in caught.value.details]


def test_the_built_ins_are_those_of_the_contract() -> None:
    assert [(rule.slug, rule.enabled) for rule in BUILTINS] == [
        ("credit_card", True),
        ("ssn", True),
        ("email", False),
        ("phone", False),
        ("ipv4", False),
        ("jwt", True),
        ("bearer_token", True),
        ("aws_key", True),
    ]
    assert sorted(BUILTIN_ORDER) == sorted(rule.slug for rule in BUILTINS)
    assert [state.slug for state in DEFAULT_BUILTINS] == [rule.slug for rule in BUILTINS]
    assert {state.behavior for state in DEFAULT_BUILTINS} == {Behavior.REPLACE}


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "a(?=b)", r"(a)\1", "a{1001}", "*", r"\8", "(?P<>a)"])
def test_what_the_engine_does_not_take_is_refused_in_its_own_words(pattern: str) -> None:
    quiet = re2.Options()
    quiet.log_errors = False
    with pytest.raises(re2.error) as error:
        re2.compile(pattern.encode(), quiet)

    assert details(pattern_rule(pattern)) == [("pattern", error.value.args[0].decode())]


@pytest.mark.parametrize(
    "pattern", ["a*", "a|", "^", "$", r"\b", r"\B", "(?m)^$", "x?y?", "()", r"\z", r"^\b|a", "(?:)"]
)
def test_a_pattern_that_matches_nothing_at_all_somewhere_is_refused(pattern: str) -> None:
    assert details(pattern_rule(pattern)) == [("pattern", "Must not match the empty string")]


def test_a_pattern_has_limits() -> None:
    check_rule(pattern_rule("a" * 512))
    assert details(pattern_rule("a" * 513)) == [("pattern", "Must have at most 512 characters")]
    assert details(pattern_rule("")) == [("pattern", "Must have at least 1 character(s)")]
    assert details(pattern_rule(None)) == [("pattern", "Required")]
    ((field, message),) = details(pattern_rule(r"\pL{20}"))
    assert field == "pattern"
    assert message.startswith("Is too large: compiles to ")
    assert details(pattern_rule(r"a\Cb")) == [("pattern", r"Must not use \C: it matches half a character")]
    assert details(pattern_rule("a\ud800")) == [("pattern", "Must be valid Unicode")]


@pytest.mark.parametrize("pattern", [r"(?i)[\pL\pN]{60}x", r"[\pL\pN]{200}", r"(?i)(?:\pL{10}){30}", r"\PM{900}"])
def test_a_pattern_that_is_far_too_large_is_refused_at_once(pattern: str) -> None:
    start = time.thread_time()
    ((field, message),) = details(pattern_rule(pattern))
    used = time.thread_time() - start

    assert field == "pattern"
    assert message.startswith("Is too large: compiles to ")
    assert used < 0.02


@pytest.mark.parametrize(
    "pattern",
    ["(?:a|bc)" * 60, "a?" * 250 + "b", "[ab]*a[ab]{950}[ab]{950}c", r"\pL{1}x", "(?i)" + "straße|" * 70 + "x"],
)
def test_a_pattern_that_is_just_not_too_large_is_taken(pattern: str) -> None:
    check_rule(pattern_rule(pattern))


def test_every_bad_field_path_is_named() -> None:
    check_rule(field_rule("actor", "target.name", "context.*", "metadata.**.ssn", "changes.0.before"))
    assert details(field_rule("metadata.a", "tenant_id", "", "metadata..a", "action.x")) == [
        ("fields.1", "Must start with one of actor, target, context, metadata, changes"),
        ("fields.2", "Must start with one of actor, target, context, metadata, changes"),
        ("fields.3", "Must not have an empty part"),
        ("fields.4", "Must start with one of actor, target, context, metadata, changes"),
    ]
    assert details(field_rule()) == [("fields", "Required")]
    assert details(field_rule(*["metadata.a"] * 51)) == [("fields", "Must have 1 to 50 items")]
    assert details(field_rule("*.a"))[0][0] == "fields.0"
    assert details(field_rule("metadata" + ".a" * 32)) == [("fields.0", "Must have at most 32 parts")]
    assert details(field_rule("metadata." + "a" * 512)) == [("fields.0", "Must have at most 512 characters")]


def test_what_belongs_to_the_other_type_is_refused() -> None:
    assert details(pattern_rule("a", ("metadata",))) == [("fields", "Only for rules of type field_redact")]
    rule = CustomRule("r", "rule", RuleType.FIELD_REDACT, "a", ("metadata",), Behavior.REPLACE, True)
    assert details(rule) == [("pattern", "Only for rules of type pattern")]


def test_a_refusal_is_an_invalid_request() -> None:
    with pytest.raises(InvalidRequest) as caught:
        check_rule(pattern_rule("("))
    assert caught.value.details == (Detail("pattern", "missing ): ("),)


@pytest.mark.parametrize(
    ("pattern", "bare"),
    [
        (r"^a\bc$", "(?:)a(?:)c(?:)"),
        (r"[\d^$]", r"[\d^$]"),
        (r"[]^]$", "[]^](?:)"),
        (r"[[:alpha:]$]^", "[[:alpha:]$](?:)"),
        (r"\Q^$\E^", r"\Q^$\E(?:)"),
        (r"\Q^$", r"\Q^$\E"),
        ("\\Q^\\", "\\Q^\\\\E"),
        (r"\^\$\\b", r"\^\$\\b"),
        (r"(?P<x>a)(?<y>b)", "(?:a)(?:b)"),
        (r"\Aa\z", "(?:)a(?:)"),
        (r"\p{Greek}\x{2028}", r"\p{Greek}\x{2028}"),
        (r"\p{^Greek}^\P{^L}[\p{^L}]\pL", r"\p{^Greek}(?:)\P{^L}[\p{^L}]\pL"),
        (r"^*a", "(?:)*a"),
    ],
)
def test_assertions_are_taken_out_of_a_pattern(pattern: str, bare: str) -> None:
    assert without_assertions(pattern) == bare


def test_a_rule_set_has_its_version_and_only_what_is_enabled() -> None:
    off = CustomRule("r", "rule", RuleType.PATTERN, "secret", (), Behavior.REPLACE, False)

    rules = compile_rules(DEFAULT_BUILTINS, [off], secret=b"s", version=42)

    event = {"metadata": {"a": "secret", "mail": "ada@example.com"}}
    assert rules.version == 42
    assert redact(event, rules).event is event
    assert compile_rules((), (), secret=b"s").empty


@pytest.mark.parametrize("count", [1, 20, 100])
def test_what_the_automata_of_all_patterns_may_grow_to_is_bounded(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    granted: list[int] = []

    def compile_re2(pattern: str, max_mem: int | None = None) -> Any:
        if max_mem is None:  # only looked at, and dropped
            return builtins.compile_re2(pattern)
        granted.append(max_mem)
        return builtins.compile_re2(pattern, max_mem)

    monkeypatch.setattr(redaction_rules, "compile_re2", compile_re2)
    monkeypatch.setattr(scan, "compile_re2", compile_re2)
    patterns = [f"x?(?:[ab]a|\\pN)[abcdeé]{{{180 + n}}}[yz]q" for n in range(count)]
    rules = [CustomRule(f"{n}", "p", RuleType.PATTERN, p, (), Behavior.REPLACE, True) for n, p in enumerate(patterns)]

    compile_rules((), rules, secret=b"s")

    assert len(granted) >= count
    assert min(granted) >= 768 * 1024
    assert sum(granted) <= 256 << 20
