"""What an alert rule is: the six that every project has, and the bounds of a customer's own."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from logstitch.errors import Detail, InvalidRequest

MAX_NAME_CHARS: Final = 100
MAX_PATTERN_CHARS: Final = 128
"""As long as an action may be."""
MAX_THRESHOLD: Final = 10_000
MIN_WINDOW_SECONDS: Final = 60
MAX_WINDOW_SECONDS: Final = 3600
MAX_COOLDOWN_SECONDS: Final = 604_800
DEFAULT_COOLDOWN_SECONDS: Final = 3600


class Severity(StrEnum):
    """How bad it is. As text, ``high`` sorts before ``low``: compare by ``rank``."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for the lowest, and one more for each that is worse."""
        return _RANKS[self]


_RANKS: Final = {severity: rank for rank, severity in enumerate(Severity)}


class GroupBy(StrEnum):
    """Whose events are counted together: those of one actor (``actor.id``) or of one tenant."""

    ACTOR_ID = "actor_id"
    TENANT_ID = "tenant_id"


class Distinct(StrEnum):
    """What is counted in place of the events: how many different values they have there."""

    IP_ADDRESS = "ip_address"


@dataclass(frozen=True, slots=True)
class Rule:
    """Fires when ``threshold`` events of one group lie within ``window_seconds``; then is silent about that group for
    ``cooldown_seconds``. ``id`` is a built-in's slug or a UUID; ``action_pattern`` is a glob (see ``globs``)."""

    id: str
    name: str
    action_pattern: str
    threshold: int
    window_seconds: int
    group_by: GroupBy
    severity: Severity
    enabled: bool
    cooldown_seconds: int
    distinct: Distinct | None = None


def _builtin(
    slug: str,
    name: str,
    pattern: str,
    counts: tuple[int, int],
    group_by: GroupBy,
    severity: Severity,
    enabled: bool = True,
    distinct: Distinct | None = None,
) -> Rule:
    threshold, window = counts
    return Rule(slug, name, pattern, threshold, window, group_by, severity, enabled, DEFAULT_COOLDOWN_SECONDS, distinct)


_ACTOR, _TENANT = GroupBy.ACTOR_ID, GroupBy.TENANT_ID

BUILTINS: Final = (
    _builtin("auth_brute_force", "Auth Brute Force", "auth.failed*", (5, 300), _ACTOR, Severity.HIGH),
    _builtin(
        "privilege_escalation_burst",
        "Privilege Escalation Burst",
        "*.role.updated",
        (3, 600),
        _ACTOR,
        Severity.CRITICAL,
    ),
    _builtin(
        "rapid_api_key_creation", "Rapid API Key Creation", "*.api_key.created", (3, 300), _ACTOR, Severity.MEDIUM
    ),
    _builtin("bulk_data_export", "Bulk Data Export", "*.exported", (5, 600), _ACTOR, Severity.MEDIUM),
    _builtin("account_deletion_spike", "Account Deletion Spike", "*.deleted", (5, 600), _TENANT, Severity.HIGH),
    _builtin(
        "suspicious_ip_change",
        "Suspicious IP Change",
        "*",
        (3, 1800),
        _ACTOR,
        Severity.MEDIUM,
        enabled=False,
        distinct=Distinct.IP_ADDRESS,
    ),
)
"""In the order in which they are listed, and as they are until a project changes them."""


def check_rule(rule: Rule) -> None:
    """Raise ``InvalidRequest`` that names everything that is wrong with ``rule``, by the names of its fields."""
    details = [
        *_length("name", rule.name, MAX_NAME_CHARS),
        *_length("action_pattern", rule.action_pattern, MAX_PATTERN_CHARS),
        *_range("threshold", rule.threshold, 1, MAX_THRESHOLD),
        *_range("window_seconds", rule.window_seconds, MIN_WINDOW_SECONDS, MAX_WINDOW_SECONDS),
        *_range("cooldown_seconds", rule.cooldown_seconds, 0, MAX_COOLDOWN_SECONDS),
    ]
    if details:
        raise InvalidRequest(details=details)


def _length(field: str, text: str, longest: int) -> list[Detail]:
    if not text:
        return [Detail(field, "Must have at least 1 character(s)")]
    return [Detail(field, f"Must have at most {longest} characters")] if len(text) > longest else []


def _range(field: str, number: int, least: int, most: int) -> list[Detail]:
    if number < least:
        return [Detail(field, f"Must be at least {least}")]
    return [Detail(field, f"Must be at most {most}")] if number > most else []
