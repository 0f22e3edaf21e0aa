"""Rules are checked when they are saved and compiled once into a rule set; neither happens while an event waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import re2

from logstitch.errors import Detail, InvalidRequest
from logstitch.redaction.behaviors import MASKS, mask_text, replacement
from logstitch.redaction.budget import CALL_UNITS, Budget, OverBudget
from logstitch.redaction.builtins import FINDERS, Finder, Found, compile_re2, may_match
from logstitch.redaction.definitions import (
    BUILTIN_ORDER,
    BUILTINS,
    DEFAULT_BUILTINS,
    REDACTED,
    Behavior,
    Builtin,
    BuiltinState,
    CustomRule,
    RuleType,
)
from logstitch.redaction.engine import FieldRule, RuleSet
from logstitch.redaction.paths import key_patterns, path_error, tree
from logstitch.redaction.scan import Scan, builtin_scan, pattern_scans, without_assertions
from logstitch.redaction.texts import TextRule

__all__ = [
    "BUILTINS",
    "BUILTIN_ORDER",
    "DEFAULT_BUILTINS",
    "REDACTED",
    "Behavior",
    "Builtin",
    "BuiltinState",
    "CustomRule",
    "RuleType",
    "check_rule",
    "compile_rules",
    "setting_errors",
]


MAX_PATTERN_CHARS: Final = 512
MAX_FIELDS: Final = 50
MAX_PROGRAM: Final = 2000
"""Instructions that a pattern may compile to, forwards or backwards: what one byte of text can cost, at worst."""
MAX_PATTERN_MEMORY: Final = 2 << 20
"""Bytes that the automaton of one pattern may grow to."""
MAX_MEMORY: Final = 64 << 20
"""The same for the patterns of a rule set together, as far as that leaves each what it needs to be compiled."""
_CHECK_MEMORY: Final = 768 * 1024
"""Bytes for a pattern that is checked: room for twice ``MAX_PROGRAM`` in both directions. What is far larger is refused
while it is being compiled, after milliseconds and not tens of them."""
_RE2_TOO_LARGE: Final = "pattern too large"
_FAR_TOO_LARGE: Final = f"Is too large: compiles to far more than {MAX_PROGRAM} instructions"

# Matching the empty string may need a certain place: the edge of a word, a line, the text.
_PLACES: Final = (b"", b"a", b"a b", b" ", b"-", b"\n", b"a\n")


def check_rule(rule: CustomRule) -> None:
    """Raise ``InvalidRequest`` that names what is wrong with ``rule``: ``pattern``, ``fields`` or ``fields.2``."""
    if rule.type is RuleType.PATTERN:
        message = _pattern_error(rule.pattern)
        details = [Detail("pattern", message)] if message else []
        if rule.fields:
            details.append(Detail("fields", "Only for rules of type field_redact"))
    else:
        details = _field_errors(rule.fields)
        if rule.pattern is not None:
            details.append(Detail("pattern", "Only for rules of type pattern"))
    if details:
        raise InvalidRequest(details=details)


def setting_errors(sent: Mapping[str, object]) -> list[Detail]:
    """What is wrong with ``pattern`` and ``fields`` of a rule as it was sent, whatever else is wrong with it."""
    details = []
    pattern, fields = sent.get("pattern"), sent.get("fields")
    if isinstance(pattern, str) and (message := _pattern_error(pattern)):
        details.append(Detail("pattern", message))
    if isinstance(fields, list) and fields and all(isinstance(path, str) for path in fields):
        details += _field_errors(fields)
    return details


def compile_rules(
    builtins: Sequence[BuiltinState], custom: Sequence[CustomRule], *, secret: bytes, version: int = 0
) -> RuleSet:
    """The rule set of the enabled ones among these rules, in the order of the contract: field rules, then patterns,
    each as given (by time of creation), then the built-ins in their fixed order.

    ``secret`` is the project's, for the behaviour ``hash``. Custom rules must have passed ``check_rule``.
    """
    enabled = [rule for rule in custom if rule.enabled]
    fields = [rule for rule in enabled if rule.type is RuleType.FIELD_REDACT]
    patterns = [rule for rule in enabled if rule.type is RuleType.PATTERN]
    behaviors = {state.slug: state.behavior for state in builtins if state.enabled}
    slugs = [slug for slug in BUILTIN_ORDER if slug in behaviors]

    max_mem = min(MAX_PATTERN_MEMORY, max(_CHECK_MEMORY, MAX_MEMORY // max(1, len(patterns))))
    texts = [
        TextRule(rule.id, pattern_finder(rule.pattern or "", max_mem), replacement(rule.behavior, mask_text, secret))
        for rule in patterns
    ]
    texts += [
        TextRule(f"builtin_{slug}", FINDERS[slug], replacement(behaviors[slug], MASKS[slug], secret)) for slug in slugs
    ]
    bare = [without_assertions(rule.pattern or "") for rule in patterns]
    known = [pattern for pattern in bare if pattern is not None]
    scannable = len(known) == len(bare)
    keys = [key for rule in fields for key in key_patterns(rule.fields)]
    return RuleSet(
        version,
        texts=tuple(texts),
        fields=tuple(
            FieldRule(rule.id, rule.behavior, replacement(rule.behavior, mask_text, secret)) for rule in fields
        ),
        root=tree(rule.fields for rule in fields),
        json_scans=_scans(slugs, known, keys, json=True) if scannable else None,
        text_scans=_scans(slugs, known, (), json=False) if scannable else None,
    )


def pattern_finder(pattern: str, max_mem: int = MAX_PATTERN_MEMORY) -> Finder:
    """Where a customer's pattern matches, from left to right. Matches of nothing, which only an odd place makes, count
    for nothing. Raises ``OverBudget`` for a text that is too long for a program of that size, unless it lacks a word
    without which the pattern matches nothing."""
    regex = compile_re2(pattern, max_mem)
    size = max(regex.programsize, regex.reverseprogramsize)
    words = may_match(pattern)

    def find(data: bytes, budget: Budget) -> Found:
        if len(data) * size > CALL_UNITS:
            budget.count(len(data))
            if words(data):
                raise OverBudget
            return
        pos = 0
        while pos <= len(data):
            budget.count(len(data) - pos, size)
            if (match := regex.search(data, pos)) is None:
                return
            start, pos = match.span()
            if start < pos:
                yield start, pos
            else:
                yield None
                pos += 1

    return find


def _scans(slugs: Sequence[str], patterns: Sequence[str], keys: Sequence[str], *, json: bool) -> tuple[Scan, ...]:
    builtin = builtin_scan(slugs, json=json)
    return (*([builtin] if builtin else []), *pattern_scans(patterns, keys, json=json))


def _pattern_error(pattern: str | None) -> str | None:
    if pattern is None:
        return "Required"
    if not pattern:
        return "Must have at least 1 character(s)"
    if len(pattern) > MAX_PATTERN_CHARS:
        return f"Must have at most {MAX_PATTERN_CHARS} characters"
    try:
        regex = compile_re2(pattern, _CHECK_MEMORY)
    except re2.error as error:
        reason = error.args[0]
        reason = str(reason.decode(errors="replace") if isinstance(reason, bytes) else reason)
        return _FAR_TOO_LARGE if reason.startswith(_RE2_TOO_LARGE) else reason
    except UnicodeEncodeError:
        return "Must be valid Unicode"
    if (size := regex.programsize) <= MAX_PROGRAM:  # Else the other direction need not be compiled.
        size = regex.reverseprogramsize
    if size < 0:  # It did not fit.
        return _FAR_TOO_LARGE
    if size > MAX_PROGRAM:
        return f"Is too large: compiles to {size} instructions, of at most {MAX_PROGRAM}"
    bare = without_assertions(pattern)
    if bare is None:
        return "Must not use \\C: it matches half a character"
    if compile_re2(bare).search(b"") is not None or any(
        match.start() == match.end() for place in _PLACES for match in regex.finditer(place)
    ):
        return "Must not match the empty string"
    return None


def _field_errors(fields: Sequence[str]) -> list[Detail]:
    if not fields:
        return [Detail("fields", "Required")]
    if len(fields) > MAX_FIELDS:
        return [Detail("fields", f"Must have 1 to {MAX_FIELDS} items")]
    return [Detail(f"fields.{index}", message) for index, path in enumerate(fields) if (message := path_error(path))]
