"""What a redaction rule is, before anything is compiled: the eight built-ins and the shape of a customer's own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

REDACTED: Final = "[REDACTED]"
"""What ``replace`` puts in the place of a match, and what a value becomes that could not be examined to the end."""

LIMIT: Final = "redaction_limit"
"""On record in the place of a rule's id where no rule has found what was replaced: the value is too long or takes too
long to be examined, or what rules make of it is far longer than it was."""


class Behavior(StrEnum):
    """What takes the place of a match."""

    REPLACE = "replace"
    HASH = "hash"
    MASK = "mask"


class RuleType(StrEnum):
    """The kinds of custom rules."""

    PATTERN = "pattern"
    FIELD_REDACT = "field_redact"


@dataclass(frozen=True, slots=True)
class Builtin:
    """A rule that every project has. ``enabled`` is its state until the project changes it."""

    slug: str
    name: str
    enabled: bool

    @property
    def id(self) -> str:
        """The rule's id on the wire."""
        return f"builtin_{self.slug}"


BUILTINS: Final = (
    Builtin("credit_card", "Credit Card Number", True),
    Builtin("ssn", "Social Security Number", True),
    Builtin("email", "Email Address", False),
    Builtin("phone", "Phone Number", False),
    Builtin("ipv4", "IPv4 Address", False),
    Builtin("jwt", "JWT Token", True),
    Builtin("bearer_token", "Bearer / API Token", True),
    Builtin("aws_key", "AWS Access Key", True),
)
"""In the order in which they are listed."""

BUILTIN_ORDER: Final = ("jwt", "bearer_token", "aws_key", "credit_card", "ssn", "email", "phone", "ipv4")
"""The slugs in the order in which they are applied, after every custom rule."""


@dataclass(frozen=True, slots=True)
class BuiltinState:
    """How a project has set one built-in."""

    slug: str
    enabled: bool
    behavior: Behavior


DEFAULT_BUILTINS: Final = tuple(BuiltinState(rule.slug, rule.enabled, Behavior.REPLACE) for rule in BUILTINS)
"""The state of the built-ins of a project that never changed one."""


@dataclass(frozen=True, slots=True)
class CustomRule:
    """A customer's rule. A ``pattern`` rule has a pattern, a ``field_redact`` rule has fields; the other is empty."""

    id: str
    name: str
    type: RuleType
    pattern: str | None
    fields: tuple[str, ...]
    behavior: Behavior
    enabled: bool
