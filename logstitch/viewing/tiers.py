"""What the holder of a viewer token sees: one tenant's events, and of them what a tier lets through.

A tier leaves out events, by category and action, and fields, by path. What is left out must not show in any other way:
a hidden field is no part of what is answered, and none of what is searched or filtered by. Which events it finds is
decided before a page is cut, in the look-up itself (``store.reading``); hidden fields are taken out of each event
before it counts (``search.pages``).

Paths are those of redaction's field rules, so ``metadata.ssn`` hides the key ``ssn.x`` too, as it hides all that is in
``ssn``. A list item that is hidden is gone, and those behind it move up. A section that is hidden is gone as a whole,
but for the actor, whom every event has and who stays as ``{}``. A section that is too intricate to be looked through to
the end is not shown at all, and neither is one of which redaction has left a text, when something in it is hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final
from uuid import UUID

import orjson

from logstitch.errors import Detail, InvalidRequest
from logstitch.redaction import paths
from logstitch.redaction.budget import Budget
from logstitch.sections import SECTIONS

MAX_NAME_CHARS: Final = 100
MAX_ACTIONS: Final = 20
"""Patterns of one tier: each is compared with every event that is looked at."""
MAX_ACTION_CHARS: Final = 128
MAX_HIDDEN_FIELDS: Final = 50
MAX_TIERS: Final = 100
"""Of a project."""
MAX_STEPS: Final = 50_000
"""Keys, items and places in the tree of paths that one event may take: about 50 ms."""

NOT_FOR_VIEWERS: Final = ("idempotency_key", "redactions")
"""What no viewer gets: how the event came here, and what was taken out of it."""

FILTERS: Final[Mapping[str, tuple[str, str]]] = {
    "actor_id": ("actor", "id"),
    "actor_type": ("actor", "type"),
    "target_id": ("target", "id"),
    "target_type": ("target", "type"),
}
"""Filters that compare a field which can be hidden."""


@dataclass(frozen=True, slots=True)
class Tier:
    """What is shown. None of ``categories`` or of ``actions`` (globs) shows all; an event has to pass both."""

    id: UUID
    name: str
    categories: tuple[str, ...] | None
    actions: tuple[str, ...] | None
    hidden_fields: tuple[str, ...]
    created_at: datetime


def check_tier(tier: Tier) -> None:
    """Raise ``InvalidRequest`` that names every path in ``hidden_fields`` that is none."""
    errors = ((index, paths.path_error(path)) for index, path in enumerate(tier.hidden_fields))
    if details := [Detail(f"hidden_fields.{index}", error) for index, error in errors if error is not None]:
        raise InvalidRequest(details=details)


@dataclass(frozen=True)
class View:
    """What one viewer sees: the events of a tenant through a tier, or all of them without one."""

    tenant_id: str
    tier: Tier | None = None

    @property
    def categories(self) -> tuple[str, ...] | None:
        """The categories that are shown; None for all."""
        return None if self.tier is None else self.tier.categories

    @property
    def actions(self) -> tuple[str, ...] | None:
        """Globs of the actions that are shown; None for all."""
        return None if self.tier is None else self.tier.actions

    @cached_property
    def hidden_filters(self) -> frozenset[str]:
        """The names of filters that would tell of a hidden field."""
        return frozenset(name for name, path in FILTERS.items() if self._hides(path))

    def strip(self, event: Mapping[str, Any]) -> dict[str, Any]:
        """The event as it is shown; ``event`` is left as it is."""
        shown = {name: value for name, value in event.items() if name not in NOT_FOR_VIEWERS}
        if self._root is None:
            return shown
        work = _Work(self._steps)
        for section, (nodes, rule) in self._sections.items():
            if section in shown:
                try:
                    kept = _GONE if rule is not None else _section(shown[section], nodes, work)
                except _TooMuch:
                    kept = _GONE
                if kept is not _GONE:
                    shown[section] = kept
                elif section == "actor":
                    shown[section] = {}
                else:
                    del shown[section]
        return shown

    def strip_text(self, body: str) -> str:
        """The same from JSON to JSON."""
        return orjson.dumps(self.strip(orjson.loads(body))).decode()

    @cached_property
    def _root(self) -> paths.Node | None:
        return None if self.tier is None else paths.tree([self.tier.hidden_fields])

    @cached_property
    def _start(self) -> paths.Nodes:
        return () if self._root is None else paths.start(self._root)

    @cached_property
    def _sections(self) -> dict[str, Step]:
        """Those in which something is hidden, and where the paths are there."""
        steps = {section: paths.step(self._start, section) for section in SECTIONS}
        return {section: step for section, step in steps.items() if step != ((), None)}

    @cached_property
    def _steps(self) -> dict[tuple[paths.Nodes, str], tuple[Step, int]]:
        """Steps that were taken, and what they took: most events have the same keys."""
        return {}

    def _hides(self, path: Sequence[str]) -> bool:
        nodes = self._start
        for part in path:
            nodes, rule = paths.step(nodes, part)
            if rule is not None:
                return True
        return False


Step = tuple[paths.Nodes, int | None]
"""Where the paths are one level down, and the rule that has reached its end there."""

_GONE: Final = object()
_MOST_REMEMBERED: Final = 4096
_LONGEST_REMEMBERED: Final = 64
"""Steps, and characters of their keys, that a view remembers: a megabyte."""


class _TooMuch(Exception):
    """The event would take more steps than it may."""


@dataclass(slots=True)
class _Work:
    """What an event has taken so far."""

    known: dict[tuple[paths.Nodes, str], tuple[Step, int]]
    steps: int = 0

    def step(self, nodes: paths.Nodes, key: str) -> Step:
        found = self.known.get((nodes, key))
        if found is None:
            budget = Budget(lambda: 0.0)
            found = paths.step(nodes, key, budget), 1 + budget.steps
            if len(key) <= _LONGEST_REMEMBERED and len(self.known) < _MOST_REMEMBERED:
                self.known[nodes, key] = found
        self.steps += found[1]
        if self.steps > MAX_STEPS:
            raise _TooMuch
        return found[0]


def _section(value: Any, nodes: paths.Nodes, work: _Work) -> Any:
    if not nodes:
        return value
    # What is no object or list any more is what redaction has made of the whole of it.
    return _kept(value, nodes, work) if isinstance(value, dict | list) else _GONE


def _kept(value: Any, nodes: paths.Nodes, work: _Work) -> Any:
    """What is shown of a value to which ``nodes`` have led. Events are 32 levels deep at most."""
    if isinstance(value, dict):
        members = {}
        for key, inner in value.items():
            below, rule = work.step(nodes, key)
            if rule is None:
                members[key] = _kept(inner, below, work) if below else inner
        return members
    if isinstance(value, list):
        items = []
        for index, inner in enumerate(value):
            below, rule = work.step(nodes, str(index))
            if rule is None:
                items.append(_kept(inner, below, work) if below else inner)
        return items
    return value
