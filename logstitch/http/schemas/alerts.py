"""Alert rules, the alerts that they fire, and what a rule would have done in the past."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from logstitch.detection.rules import (
    DEFAULT_COOLDOWN_SECONDS,
    MAX_COOLDOWN_SECONDS,
    MAX_NAME_CHARS,
    MAX_PATTERN_CHARS,
    MAX_THRESHOLD,
    MAX_WINDOW_SECONDS,
    MIN_WINDOW_SECONDS,
)
from logstitch.http.schemas.common import (
    CHANGES,
    CLOSED,
    AlertId,
    Cursor,
    EndDate,
    EventId,
    HasMore,
    ProjectPageQuery,
    RequestId,
    SeverityName,
    StartDate,
    TimeText,
    UuidOut,
    end_of,
    start_of,
)
from logstitch.model import MAX_PAGE

StatusName = Literal["open", "acknowledged", "resolved"]
GroupByName = Literal["actor_id", "tenant_id"]
DistinctName = Literal["ip_address"]

MAX_RULE_ID_CHARS = 64
"""Of what may be asked for; a UUID has 36."""

AlertRuleName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS, examples=["Password guessing"])]
ActionPattern = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_PATTERN_CHARS,
        description="Which actions count: a glob, in which `*` stands for any run of characters, dots included, and "
        "nothing else is special.",
        examples=["auth.failed*"],
    ),
]
Threshold = Annotated[
    int, Field(ge=1, le=MAX_THRESHOLD, description="How many within the window fire an alert.", examples=[20])
]
WindowSeconds = Annotated[
    int,
    Field(
        ge=MIN_WINDOW_SECONDS,
        le=MAX_WINDOW_SECONDS,
        description="The length of the sliding window, by `received_at`. Events that occurred longer than this before "
        "they were received do not count.",
        examples=[120],
    ),
]
GroupBy = Annotated[GroupByName, Field(description="Whose events are counted together.", examples=["actor_id"])]
Severity = Annotated[SeverityName, Field(examples=["high"])]
CooldownSeconds = Annotated[
    int,
    Field(
        ge=0,
        le=MAX_COOLDOWN_SECONDS,
        description="How long the rule is silent about the same group after it has fired.",
        examples=[3600],
    ),
]
Distinct = Annotated[
    DistinctName,
    Field(
        description="Counts different values of `context.ip_address` instead of events. Addresses that redaction has "
        "replaced or masked are skipped; hashed ones stay distinct."
    ),
]
RuleId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_RULE_ID_CHARS,
        description="A built-in's name, or the UUID of a custom rule.",
        examples=["auth_brute_force"],
    ),
]


class CreateAlertRuleBody(TypedDict):
    """A custom alert rule to be made."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    name: AlertRuleName
    action_pattern: ActionPattern
    threshold: Threshold
    window_seconds: WindowSeconds
    group_by: GroupBy
    severity: Severity
    cooldown_seconds: NotRequired[
        Annotated[CooldownSeconds, Field(json_schema_extra={"default": DEFAULT_COOLDOWN_SECONDS})]
    ]
    enabled: NotRequired[Annotated[bool, Field(json_schema_extra={"default": True})]]
    distinct: NotRequired[Distinct]


class UpdateAlertRuleBody(TypedDict):
    """What of an alert rule is to be changed. Of a built-in that may be `enabled` and `cooldown_seconds` only."""

    __pydantic_config__ = CHANGES  # type: ignore[misc]

    name: NotRequired[AlertRuleName]
    action_pattern: NotRequired[ActionPattern]
    threshold: NotRequired[Threshold]
    window_seconds: NotRequired[WindowSeconds]
    group_by: NotRequired[GroupBy]
    severity: NotRequired[Severity]
    cooldown_seconds: NotRequired[CooldownSeconds]
    enabled: NotRequired[bool]
    distinct: NotRequired[Annotated[Distinct | None, Field(description="`null` counts events again.")]]


class BuiltinAlertRule(TypedDict):
    """An alert rule that every project has."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: Annotated[str, Field(pattern="^[a-z][a-z_]*$", examples=["auth_brute_force"])]
    type: Literal["builtin"]
    name: str
    action_pattern: str
    threshold: int
    window_seconds: int
    group_by: GroupByName
    severity: SeverityName
    enabled: bool
    cooldown_seconds: int
    distinct: NotRequired[DistinctName]


class CustomAlertRule(TypedDict):
    """An alert rule of the project's own."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    type: Literal["custom"]
    name: str
    action_pattern: str
    threshold: int
    window_seconds: int
    group_by: GroupByName
    severity: SeverityName
    enabled: bool
    cooldown_seconds: int
    distinct: NotRequired[DistinctName]
    created_at: TimeText


class BuiltinAlertRuleAnswer(BuiltinAlertRule):
    """An alert rule that every project has."""

    request_id: RequestId


class CustomAlertRuleAnswer(CustomAlertRule):
    """An alert rule of the project's own."""

    request_id: RequestId


class AlertRuleList(TypedDict):
    """One page of alert rules: the built-ins, then custom ones in order of creation."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    rules: Annotated[list[BuiltinAlertRule | CustomAlertRule], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class AlertRuleDeleted(TypedDict):
    """An alert rule that fires no more."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    deleted: Literal[True]
    request_id: RequestId


# -- alerts --------------------------------------------------------------------------------------------------------


class AlertListQuery(ProjectPageQuery):
    """Which alerts."""

    status: Annotated[StatusName | None, Field(description="In this state.")] = None
    severity: Annotated[SeverityName | None, Field(description="Of exactly this severity.")] = None
    rule_id: Annotated[RuleId | None, Field(description="Fired by this rule, which may have been deleted since.")] = (
        None
    )
    group_key: Annotated[
        str | None, Field(min_length=1, max_length=256, description="About exactly this actor or tenant.")
    ] = None
    start_date: Annotated[StartDate | None, start_of("triggered_at")] = None
    end_date: Annotated[EndDate | None, end_of("triggered_at")] = None


class Alert(TypedDict):
    """An alert. What the rule was when it fired stands in the alert itself."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: AlertId
    rule_id: str
    rule_name: str
    severity: SeverityName
    status: StatusName
    group_by: GroupByName
    group_key: Annotated[str, Field(description="The actor or tenant that it is about.")]
    tenant_id: Annotated[str, Field(description="Of the event that fired it.")]
    event_count: Annotated[int, Field(ge=1, description="Events within the window.")]
    event_ids: Annotated[
        list[EventId], Field(min_length=1, max_length=100, description="The newest of them, the oldest first.")
    ]
    threshold: int
    window_seconds: int
    triggered_at: TimeText
    acknowledged_at: TimeText | None
    resolved_at: TimeText | None


class AlertAnswer(Alert):
    """One alert."""

    request_id: RequestId


class AlertList(TypedDict):
    """One page of alerts, newest first. It may hold fewer than `limit` although there are more."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    alerts: Annotated[list[Alert], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class SetAlertStatusBody(TypedDict):
    """What was done about an alert."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    status: Annotated[StatusName, Field(description="No alert can be opened again.", examples=["acknowledged"])]


# -- the time machine ----------------------------------------------------------------------------------------------


class ReplayRuleBody(TypedDict):
    """An unsaved rule, and the stored events that it is to be tried on."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    rule: CreateAlertRuleBody
    rule_id: NotRequired[Annotated[RuleId, Field(description="A stored rule, to be compared with.")]]
    start_date: NotRequired[Annotated[StartDate, start_of("received_at")]]
    end_date: NotRequired[Annotated[EndDate, end_of("received_at", "2026-11-23")]]


class ReplayedAlert(TypedDict):
    """When and for whom a rule would have fired."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    triggered_at: TimeText
    group_key: str
    tenant_id: str
    event_count: Annotated[int, Field(ge=1)]


class RuleOutcome(TypedDict):
    """What one rule would have done."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    fired: Annotated[int, Field(ge=0, description="How many alerts there would have been.")]
    held_back: Annotated[int, Field(ge=0, description="How many more, but for the cooldown.")]
    alerts: Annotated[list[ReplayedAlert], Field(max_length=100, description="The first of them.")]


class RuleReplayed(RuleOutcome):
    """What the rule would have done, and what the stored one would."""

    scanned: Annotated[int, Field(ge=0, description="Events of these times that were looked at.")]
    existing: Annotated[RuleOutcome | None, Field(description="The same of `rule_id`; null where none was named.")]
    complete: Annotated[bool, Field(description="Whether the last of the events was reached.")]
    through: Annotated[
        TimeText | None, Field(description="Up to when the answer holds, where it is not complete; else null.")
    ]
    request_id: RequestId
