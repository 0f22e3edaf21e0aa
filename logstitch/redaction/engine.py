"""Apply a rule set to an event.

An empty rule set changes nothing, and says so: the event that comes back is the very one that went in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One version of a project's rules, in the order in which they apply."""

    version: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """One field value that was changed: its dot path, and the ids of the rules that changed it."""

    field: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Redaction:
    """A redacted event, and what was done to it."""

    event: dict[str, Any]
    changes: tuple[Change, ...]


def redact(event: Mapping[str, Any], rules: RuleSet) -> Redaction:
    """``event`` as ``rules`` allow it to be stored. The event that was passed in is never modified."""
    return Redaction(event if isinstance(event, dict) else dict(event), ())
