"""Alert rules: the built-in ones, the bounds of others, and what their patterns and addresses match."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.detection.addresses import known_address
from logstitch.detection.globs import compile_glob
from logstitch.detection.rules import BUILTINS, Distinct, GroupBy, Rule, Severity, check_rule
from logstitch.errors import Detail, InvalidRequest

CONTRACT = """
| auth_brute_force | Auth Brute Force | `auth.failed*` | 5 in 300 s | actor_id | high | yes |
| privilege_escalation_burst | Privilege Escalation Burst | `*.role.updated` | 3 in 600 s | actor_id | critical | yes |
| rapid_api_key_creation | Rapid API Key Creation | `*.api_key.created` | 3 in 300 s | actor_id | medium | yes |
| bulk_data_export | Bulk Data Export | `*.exported` | 5 in 600 s | actor_id | medium | yes |
| account_deletion_spike | Account Deletion Spike | `*.deleted` | 5 in 600 s | tenant_id | high | yes |
| suspicious_ip_change | Suspicious IP Change | `*` | 3 distinct ip_address in 1800 s | actor_id | medium | no |
"""


def row(rule: Rule) -> str:
    distinct = "" if rule.distinct is None else f"distinct {rule.distinct} "
    counts = f"{rule.threshold} {distinct}in {rule.window_seconds} s"
    pattern, on = f"`{rule.action_pattern}`", "yes" if rule.enabled else "no"
    return "| " + " | ".join((rule.id, rule.name, pattern, counts, rule.group_by, rule.severity, on)) + " |"


def test_the_built_in_rules_are_those_of_the_contract() -> None:
    assert [row(rule) for rule in BUILTINS] == CONTRACT.strip().splitlines()
    assert {rule.cooldown_seconds for rule in BUILTINS} == {3600}


@pytest.mark.parametrize("builtin", BUILTINS, ids=lambda rule: rule.id)
def test_the_built_in_rules_are_within_the_bounds_of_custom_ones(builtin: Rule) -> None:
    check_rule(builtin)


def test_severities_are_ranked_and_not_compared_as_text() -> None:
    assert sorted(Severity, key=lambda severity: severity.rank) == ["low", "medium", "high", "critical"]


CUSTOM = Rule("id", "Name", "a*", 1, 60, GroupBy.TENANT_ID, Severity.LOW, True, 0, Distinct.IP_ADDRESS)


def custom(field: str, value: Any) -> Rule:
    return replace(CUSTOM, **{field: value})


@pytest.mark.parametrize(
    ("field", "least", "most"),
    [("threshold", 1, 10_000), ("window_seconds", 60, 3600), ("cooldown_seconds", 0, 604_800)],
)
def test_numbers_have_bounds(field: str, least: int, most: int) -> None:
    for number in (least, most):
        check_rule(custom(field, number))
    for number, message in ((least - 1, f"Must be at least {least}"), (most + 1, f"Must be at most {most}")):
        with pytest.raises(InvalidRequest) as refused:
            check_rule(custom(field, number))
        assert refused.value.details == (Detail(field, message),)


@pytest.mark.parametrize(("field", "most"), [("name", 100), ("action_pattern", 128)])
def test_texts_have_bounds(field: str, most: int) -> None:
    for text in ("x", "é" * most):
        check_rule(custom(field, text))
    for text in ("", "x" * (most + 1)):
        with pytest.raises(InvalidRequest) as refused:
            check_rule(custom(field, text))
        assert [detail.field for detail in refused.value.details] == [field]


def test_everything_that_is_wrong_is_named() -> None:
    with pytest.raises(InvalidRequest) as refused:
        check_rule(replace(CUSTOM, name="", action_pattern="", threshold=0, window_seconds=0, cooldown_seconds=-1))

    fields = [detail.field for detail in refused.value.details]
    assert fields == ["name", "action_pattern", "threshold", "window_seconds", "cooldown_seconds"]


# -- patterns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "action", "expected"),
    [
        ("auth.failed*", "auth.failed", True),
        ("auth.failed*", "auth.failed.mfa", True),
        ("auth.failed*", "xauth.failed", False),
        ("*.deleted", "a.b.deleted", True),
        ("*.deleted", "deleted", False),
        ("*", "", True),
        ("a.b", "a.b", True),
        ("a.b", "aXb", False),
        ("a?b", "aXb", False),
        ("[a]", "a", False),
        ("ab*ba", "aba", False),
        ("ab*ba", "abba", True),
        ("a*a", "a", False),
        ("a**b", "ab", True),
        ("*a*ab", "aab", True),
        ("a*b*b", "ab", False),
        ("*aa*aa*", "aaa", False),
        ("A*", "a", False),
        ("*", "a\nb", True),
    ],
)
def test_a_star_is_any_run_of_characters_and_nothing_else_is_special(pattern: str, action: str, expected: bool) -> None:
    assert compile_glob(pattern)(action) is expected


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_pattern_matches_what_the_same_regular_expression_matches(pattern: str, text: str) -> None:
    expression = ".*".join(map(re.escape, pattern.split("*")))

    assert compile_glob(pattern)(text) == (re.fullmatch(expression, text, re.DOTALL) is not None)


@pytest.mark.parametrize("pattern", ["*a*a*a*a*b", "a*" * 63 + "b", "*" * 128, "*aab" * 32])
def test_no_pattern_takes_long(pattern: str) -> None:
    matches = compile_glob(pattern)
    before = time.thread_time()

    for _ in range(100):
        matches("a" * 128)

    assert time.thread_time() - before < 0.1  # 3 ms here; a regular expression would take years


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("::FFFF:cb00:7107", "203.0.113.7"),
        ("2001:DB8:0:0:0::1", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("sha256:" + "0f" * 28, "sha256:" + "0f" * 28),
        ("not an address", "not an address"),
        ("203.0.113.007", "203.0.113.007"),
        ("203.0.*.*", None),
        ("****", None),
        ("[REDACTED]", None),
        ("[REDACTED] (2)", None),
        ("proxy [REDACTED]", None),
        ("", None),
    ],
)
def test_one_address_has_one_spelling_and_what_was_masked_has_none(text: str, address: Any) -> None:
    assert known_address(text) == address
