"""Redaction as the contract words it, with nothing done to be fast: every text of an event goes through every rule.

What the engine does with scans, hits and copies on write must come to the same, and so must what it does with a tree
of all field paths: here every path is tried on every place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unicodedata import normalize

from logstitch.redaction import paths
from logstitch.redaction.behaviors import replace_value
from logstitch.redaction.budget import Budget
from logstitch.redaction.engine import Change, Redaction, RuleSet, number_text
from logstitch.redaction.folding import fold
from logstitch.redaction.texts import text_slices
from logstitch.redaction.turns import result_of
from logstitch.sections import SECTIONS

NAMES = {
    "actor": {"id", "type", "name", "email"},
    "target": {"id", "type", "name"},
    "context": {"ip_address", "user_agent", "location", "session_id"},
}


def takes(path: Sequence[str], place: Sequence[str]) -> bool:
    """Whether a field path, in parts, names the value at ``place``: the keys (and indexes) that lead to it.

    Each key is one level, or as many as it has parts between dots; the value is below each level of its own key.
    """
    # Everything below: at least one level.
    path = [*path, "*"] if path[-1] == "**" else list(path)
    at = _with_none(path, {0})
    ended = False
    for key in place:
        after: set[int] = set()
        ended = False
        for name in {key, normalize("NFC", key), fold(key)}:
            for levels in ([name], name.split(".")):
                here = at
                for level in levels:
                    here = _with_none(path, {n for i in here for n in _one_level(path, i, level)})
                    ended = ended or len(path) in here
                after |= here
        at = after
    return ended


def _one_level(path: Sequence[str], at: int, level: str) -> Iterator[int]:
    """How many parts of the path are behind after one level more, in each way there is."""
    if at < len(path):
        part = path[at]
        if part == "**":
            yield at
        elif part in ("*", level):
            yield at + 1


def _with_none(path: Sequence[str], at: set[int]) -> set[int]:
    """The same where ``**`` may also stand for no level."""
    return at | {end for i in at for end in range(i, len(path) + 1) if all(part == "**" for part in path[i:end])}


def paths_of(node: paths.Node | None, parts: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every path in a tree, in parts, with the first rule that has it."""
    if node is not None:
        if node.rule is not None:
            yield parts, node.rule
        for name, below in [*node.named.items(), ("*", node.any)]:
            yield from paths_of(below, (*parts, name))


def redact_slowly(event: Mapping[str, Any], rules: RuleSet) -> Redaction:
    """What ``engine.redact`` must answer, but that the event is always a new one."""
    changes: list[Change] = []
    budget = Budget(lambda: 0.0)
    all_paths = list(paths_of(rules.root))

    def rule_on(*place: str) -> int | None:
        return min((rule for path, rule in all_paths if takes(path, place)), default=None)

    def text(value: str) -> tuple[str, tuple[str, ...]]:
        redacted = result_of(text_slices(value, rules.texts, budget))
        return (value, ()) if redacted is None else (redacted.text, redacted.rules)

    def whole(value: Any, rule: int) -> str:
        found = rules.fields[rule]
        return replace_value(value, found.behavior, found.replace)

    def member(value: Any, path: str, place: tuple[str, ...], before: tuple[str, ...], known: set[str]) -> Any:
        if (rule := rule_on(*place)) is not None:
            changes.append(Change(path, (*before, rules.fields[rule].id)))
            return whole(value, rule)
        if isinstance(value, dict | list):
            new = container(value, path, place, known)
            if before:
                changes.append(Change(path, before))
            return new
        ids: tuple[str, ...] = ()
        if isinstance(value, str):
            value, ids = text(value)
        elif isinstance(value, int | float) and not isinstance(value, bool) and (digits := number_text(value)):
            new, ids = text(digits)
            value = new if ids else value
        if merged := tuple(dict.fromkeys(before + ids)):
            changes.append(Change(path, merged))
        return value

    def container(value: Any, path: str, place: tuple[str, ...], known: set[str]) -> Any:
        if isinstance(value, list):
            items = []
            for index, item in enumerate(value):
                inner = {"field", "before", "after"} if path == "changes" else set()
                items.append(member(item, f"{path}.{index}", (*place, str(index)), (), inner))
            return items
        outcome = {key: (key, ()) if key in known else text(key) for key in value}
        taken = {key for key, (_, ids) in outcome.items() if not ids}
        new: dict[str, Any] = {}
        names = {}
        for key, (shown, ids) in outcome.items():
            if ids:
                number, name = 1, shown
                while name in taken:
                    number += 1
                    name = f"{shown} ({number})"
                taken.add(name)
                names[key] = name
        for key, item in value.items():
            shown = names.get(key, key)
            part = shown if len(shown) <= 200 else shown[:200] + "…"
            new[shown] = member(item, f"{path}.{part}", (*place, key), outcome[key][1], set())
        return new

    redacted = dict(event)
    for section in SECTIONS:
        if section in event:
            rule = rule_on(section)
            value = event[section]
            if rule is not None and section in ("actor", "target") and isinstance(value, dict):
                redacted[section] = {name: whole(value.get(name, ""), rule) for name in ("id", "type")}
                changes.append(Change(section, (rules.fields[rule].id,)))
            else:
                redacted[section] = member(value, section, (section,), (), NAMES.get(section, set()))
    return Redaction(redacted, tuple(changes))
