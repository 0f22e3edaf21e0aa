"""Redaction rules: made, changed, listed, and tried on a sample."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from logstitch.http.schemas.common import CLOSED, DOTTED_KEYS, Cursor, HasMore, RequestId, TimeText, UuidOut
from logstitch.model import MAX_CHANGES, MAX_PAGE

BehaviorName = Literal["replace", "hash", "mask"]
CustomRuleTypeName = Literal["pattern", "field_redact"]
RuleName = Annotated[str, Field(min_length=1, max_length=100, examples=["Internal account numbers"])]
RulePattern = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        description="Of rules of type `pattern`: a regular expression in RE2 syntax. What it matches is redacted, in "
        "string values, numbers of 13 or more digits, and keys. It must not match the empty string.",
        examples=["ACCT-[0-9]{8}"],
    ),
]
RuleFields = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=512)]],
    Field(
        min_length=1,
        max_length=50,
        description="Of rules of type `field_redact`: dot paths whose whole values are redacted. They start at "
        "`actor`, `target`, `context`, `metadata` or `changes`; `*` is one level, `**` any number of levels. "
        + DOTTED_KEYS,
        examples=[["metadata.**.password", "changes.*.after"]],
    ),
]
RuleBehavior = Annotated[
    BehaviorName,
    Field(
        description="`replace` puts `[REDACTED]` in its place, `hash` a keyed hash that is the same for the same text, "
        "`mask` stars that leave what people recognise it by.",
        examples=["replace"],
    ),
]


class RuleSettings(TypedDict):
    """What an unsaved rule is, but for its name."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    type: CustomRuleTypeName
    pattern: NotRequired[RulePattern]
    fields: NotRequired[RuleFields]
    behavior: NotRequired[Annotated[RuleBehavior, Field(json_schema_extra={"default": "replace"})]]
    enabled: NotRequired[Annotated[bool, Field(json_schema_extra={"default": True})]]


class _Named(TypedDict):
    name: RuleName


class _NamedOrNot(TypedDict):
    name: NotRequired[RuleName]


# The name's base stands first, since the documentation lists fields in the order of the bases.
class CreateRuleBody(_Named, RuleSettings):
    """A custom redaction rule to be made. It has a `pattern` or `fields`, by its type."""


class UnsavedRule(_NamedOrNot, RuleSettings):
    """A rule to be tried. Its place, `rules.0`, stands for its id, and for its name if it has none."""


class UpdateRuleBody(TypedDict):
    """What of a redaction rule is to be changed. Of a built-in that may be `behavior` and `enabled` only."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    name: NotRequired[RuleName]
    pattern: NotRequired[RulePattern]
    fields: NotRequired[RuleFields]
    behavior: NotRequired[RuleBehavior]
    enabled: NotRequired[bool]


class SampleActor(TypedDict, total=False):
    """Who did it, or a part of that."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: str
    type: str
    name: str
    email: str


class SampleTarget(TypedDict, total=False):
    """What it was done to, or a part of that."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: str
    type: str
    name: str


class SampleContext(TypedDict, total=False):
    """Where it came from, or a part of that."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    ip_address: str
    user_agent: str
    location: str
    session_id: str


class SampleChange(TypedDict, total=False):
    """One field that changed, or a part of that."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    field: str
    before: Any
    after: Any


class SampleEvent(TypedDict, total=False):
    """An event, or any part of one. Nothing is required, and text may have any length."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    action: str
    category: str
    actor: SampleActor
    tenant_id: str
    target: SampleTarget
    context: SampleContext
    metadata: Annotated[dict[str, Any], Field(examples=[{"card": "4111 1111 1111 1111"}])]
    changes: Annotated[list[SampleChange], Field(max_length=MAX_CHANGES)]
    idempotency_key: str
    occurred_at: str


class TryRulesBody(TypedDict):
    """A sample, and rules to be tried on it beside the project's own."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    event: SampleEvent
    rules: NotRequired[
        Annotated[
            list[UnsavedRule],
            Field(max_length=100, description="Applied as if they had just been saved: behind the project's own."),
        ]
    ]


class BuiltinRule(TypedDict):
    """A redaction rule that every project has."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: Annotated[str, Field(pattern="^builtin_[a-z0-9_]+$", examples=["builtin_credit_card"])]
    type: Literal["builtin"]
    builtin_id: Annotated[str, Field(examples=["credit_card"])]
    name: Annotated[str, Field(examples=["Credit Card Number"])]
    behavior: BehaviorName
    enabled: bool


class PatternRule(TypedDict):
    """A custom redaction rule that looks for a pattern."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    type: Literal["pattern"]
    name: str
    pattern: str
    behavior: BehaviorName
    enabled: bool
    created_at: TimeText


class FieldRule(TypedDict):
    """A custom redaction rule that takes whole values by their path."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    type: Literal["field_redact"]
    name: str
    fields: list[str]
    behavior: BehaviorName
    enabled: bool
    created_at: TimeText


class BuiltinRuleAnswer(BuiltinRule):
    """A redaction rule that every project has."""

    request_id: RequestId


class PatternRuleAnswer(PatternRule):
    """A custom redaction rule that looks for a pattern."""

    request_id: RequestId


class FieldRuleAnswer(FieldRule):
    """A custom redaction rule that takes whole values by their path."""

    request_id: RequestId


class RuleList(TypedDict):
    """One page of redaction rules: the built-ins, then custom ones in order of creation."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    rules: Annotated[list[BuiltinRule | PatternRule | FieldRule], Field(max_length=MAX_PAGE)]
    cursor: Cursor
    has_more: HasMore
    request_id: RequestId


class RuleDeleted(TypedDict):
    """A redaction rule that no process applies any more."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    id: UuidOut
    deleted: Literal[True]
    request_id: RequestId


class TriedRedaction(TypedDict):
    """One value that one rule would change."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    field: Annotated[str, Field(examples=["metadata.card"])]
    rule_id: Annotated[str, Field(description="`rules.0` for the first unsaved one.", examples=["builtin_credit_card"])]
    rule_name: Annotated[str, Field(examples=["Credit Card Number"])]
    behavior: BehaviorName


class RulesTried(TypedDict):
    """What would be stored of the sample."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]

    event: dict[str, Any]
    redacted_count: Annotated[int, Field(ge=0, description="How many field values would be changed.")]
    redactions: list[TriedRedaction]
    request_id: RequestId
