"""Redaction as the contract words it, with nothing done to be fast: every text of an event goes through every rule.

What the engine does with scans, hits and copies on write must come to the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logstitch.redaction import paths
from logstitch.redaction.behaviors import replace_value
from logstitch.redaction.budget import Budget
from logstitch.redaction.engine import Change, Redaction, RuleSet, number_text
from logstitch.redaction.texts import redact_text
from logstitch.sections import SECTIONS

NAMES = {
    "actor": {"id", "type", "name", "email"},
    "target": {"id", "type", "name"},
    "context": {"ip_address", "user_agent", "location", "session_id"},
}


def redact_slowly(event: Mapping[str, Any], rules: RuleSet) -> Redaction:
    """What ``engine.redact`` must answer, but that the event is always a new one."""
    changes: list[Change] = []
    budget = Budget(lambda: 0.0)

    def text(value: str) -> tuple[str, tuple[str, ...]]:
        redacted = redact_text(value, rules.texts, budget)
        return (value, ()) if redacted is None else (redacted.text, redacted.rules)

    def whole(value: Any, rule: int) -> str:
        found = rules.fields[rule]
        return replace_value(value, found.behavior, found.replace)

    def member(
        value: Any, path: str, nodes: paths.Nodes, rule: int | None, before: tuple[str, ...], known: set[str]
    ) -> Any:
        if rule is not None:
            changes.append(Change(path, (*before, rules.fields[rule].id)))
            return whole(value, rule)
        if isinstance(value, dict | list):
            new = container(value, path, nodes, known)
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

    def container(value: Any, path: str, nodes: paths.Nodes, known: set[str]) -> Any:
        if isinstance(value, list):
            items = []
            for index, item in enumerate(value):
                below, rule = paths.step(nodes, str(index))
                inner = {"field", "before", "after"} if path == "changes" else set()
                items.append(member(item, f"{path}.{index}", below, rule, (), inner))
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
            below, rule = paths.step(nodes, key)
            shown = names.get(key, key)
            part = shown if len(shown) <= 200 else shown[:200] + "…"
            new[shown] = member(item, f"{path}.{part}", below, rule, outcome[key][1], set())
        return new

    redacted = dict(event)
    start = () if rules.root is None else paths.start(rules.root)
    for section in SECTIONS:
        if section in event:
            nodes, rule = paths.step(start, section)
            value = event[section]
            if rule is not None and section in ("actor", "target") and isinstance(value, dict):
                redacted[section] = {name: whole(value.get(name, ""), rule) for name in ("id", "type")}
                changes.append(Change(section, (rules.fields[rule].id,)))
            else:
                redacted[section] = member(value, section, nodes, rule, (), NAMES.get(section, set()))
    return Redaction(redacted, tuple(changes))
