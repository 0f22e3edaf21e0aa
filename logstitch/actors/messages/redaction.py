"""What is said of redaction: taking out of events what the rules say, the rules themselves, and trying them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.pages import Page, Position
from logstitch.model import IncomingEvent
from logstitch.redaction.definitions import Behavior, RuleType
from logstitch.redaction.engine import Change
from logstitch.redaction.laboratory import Sample


@dataclass(frozen=True, slots=True)
class RedactEvents(Ask["Redacted"]):
    """Take out of these requests' events what the project's rules say; one version of the rules for the whole message.

    Each request has a time of its own that its redaction may take. ``version`` is the one that the tables were seen to
    have, if they were: whoever has rules of another version reads them again first.
    """

    requests: Sequence[Sequence[IncomingEvent]]
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Redacted:
    """The events of all requests, one after the other, as they may be stored; ``changes[i]`` is what was done to event
    ``i``, and ``version`` that of the rules."""

    version: int
    events: Sequence[Mapping[str, object]]
    changes: Sequence[tuple[Change, ...]]


BUILTIN = "builtin"
"""The type of rules that every project has. The types of custom ones are ``RuleType``'s."""


@dataclass(frozen=True, slots=True)
class RedactionRule:
    """A rule as it is shown. ``builtin_id`` is set for a built-in, ``created_at`` for a custom rule, which has a
    ``pattern`` or ``fields`` by its type."""

    id: str
    type: str
    name: str
    behavior: Behavior
    enabled: bool
    builtin_id: str | None = None
    pattern: str | None = None
    fields: tuple[str, ...] = ()
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ListRules(Ask["RulePage"]):
    """The project's rules: the built-ins, then its own in order of creation."""

    limit: int
    after: Page | None


@dataclass(frozen=True, slots=True)
class RulePage:
    """One page of rules. Of a ``Page`` of built-ins, ``created_at`` is the beginning of time."""

    rules: tuple[RedactionRule, ...]
    next: Page | None


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A custom rule that nobody has checked yet."""

    name: str
    type: RuleType
    pattern: str | None
    fields: tuple[str, ...]
    behavior: Behavior
    enabled: bool


@dataclass(frozen=True, slots=True)
class CreateRule(Ask[RedactionRule]):
    """Make a custom rule. Answered when it applies in every process; ``by`` is the key that asks for it.

    Refused with ``InvalidRequest`` (on ``pattern``, ``fields``) or ``Conflict``: there are as many as there may be.
    """

    by: UUID
    draft: RuleDraft


@dataclass(frozen=True, slots=True)
class UpdateRule(Ask[RedactionRule]):
    """Change what is not ``None``. Answered when it applies in every process; ``by`` is the key that asks for it.

    Refused with ``NotFound`` or ``InvalidRequest``, also for what a rule of this type does not have.
    """

    by: UUID
    id: str
    name: str | None = None
    pattern: str | None = None
    fields: tuple[str, ...] | None = None
    behavior: Behavior | None = None
    enabled: bool | None = None

    def changed(self) -> dict[str, Any]:
        """What is to be changed, by its name."""
        names = ("name", "pattern", "fields", "behavior", "enabled")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True, slots=True)
class DeleteRule(Ask[None]):
    """Remove a custom rule. Answered when no process applies it any more; ``by`` is the key that asks for it.

    Refused with ``NotFound``, and with ``Conflict`` for a built-in.
    """

    by: UUID
    id: str


@dataclass(frozen=True, slots=True)
class TryRules(Ask["TriedRules"]):
    """What would become of a sample, whole or partial, by the project's rules and by unsaved ones behind its own.

    Refused with ``InvalidRequest`` on ``rules.0.pattern`` and the like. Nothing is stored.
    """

    event: Mapping[str, object]
    rules: tuple[RuleDraft, ...]


@dataclass(frozen=True, slots=True)
class TriedRules:
    """``event`` is the sample as it would be stored; ``rules`` are those that changed it, the unsaved ones among them
    under the ids ``rules.0``, ``rules.1``…"""

    event: Mapping[str, object]
    changes: tuple[Change, ...]
    rules: Mapping[str, RedactionRule]


@dataclass(frozen=True, slots=True)
class MeasureRule(Ask["RuleEffect"]):
    """What would an unsaved rule do to the stored events of these times (both included, in milliseconds)?

    It looks as far as it comes in a few seconds, newest first, from behind ``after`` on. Refused with
    ``InvalidRequest`` on ``rule.pattern`` and the like, and with ``Unavailable`` while others are looked at.
    """

    project_no: int
    rule: RuleDraft
    start_ms: int | None
    end_ms: int | None
    after: Position | None


@dataclass(frozen=True, slots=True)
class RuleEffect:
    """What it would do to the events that were looked at this time. ``fields``: paths and how often they change, the
    most frequent first; ``next`` is where to go on, ``None`` at the end."""

    scanned: int
    events_changed: int
    fields_changed: int
    fields: tuple[tuple[str, int], ...]
    samples: tuple[Sample, ...]
    next: Position | None
