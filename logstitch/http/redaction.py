"""Redaction rules: what must not be stored of an event. Listed, made, changed, removed, and tried on a sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter

from logstitch import gate
from logstitch.actors.messages.redaction import (
    BUILTIN,
    CreateRule,
    DeleteRule,
    ListRules,
    RedactionRule,
    RuleDraft,
    TryRules,
    UpdateRule,
)
from logstitch.errors import Detail, InvalidRequest
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, page, resource, time_text
from logstitch.http.samples import Samples
from logstitch.http.schemas.common import AnyObject, ProjectPageQuery, ProjectQuery, parse_uuid, read_as
from logstitch.http.schemas.redaction import (
    BuiltinRuleAnswer,
    CreateRuleBody,
    FieldRuleAnswer,
    PatternRuleAnswer,
    RuleDeleted,
    RuleList,
    RuleSettings,
    RulesTried,
    TryRulesBody,
    UpdateRuleBody,
)
from logstitch.http.services import Services
from logstitch.model import validate
from logstitch.redaction.definitions import Behavior, RuleType
from logstitch.redaction.rules import setting_errors

T = TypeVar("T")

_NOT_OF_BUILTINS = ("name", "pattern", "fields")

_CREATE: TypeAdapter[CreateRuleBody] = TypeAdapter(CreateRuleBody)
_UPDATE: TypeAdapter[UpdateRuleBody] = TypeAdapter(UpdateRuleBody)


class RedactionRules:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._redaction = services.redaction
        self._samples = Samples(services.limits)
        self._cursors = Cursors(services.cursor_key)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/redaction/rules``."""
        query, project = call.query(ProjectPageQuery), call.in_project
        listing = Listing.of_rows("redaction rules", [project.id])
        found = await self._redaction.ask(
            project.no,
            ListRules(query.limit, self._cursors.row(listing, query.cursor)),
            timeout=call.seconds_left(),
        )
        return page(call.request_id, "rules", map(_shown, found.rules), self._cursors.after_row(listing, found.next))

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/redaction/rules``."""
        wanted = _read_rule(_CREATE, body)
        rule = await self._redaction.ask(
            call.in_project.no,
            CreateRule(call.caller.key_id, draft_of(wanted["name"], wanted)),
            timeout=call.seconds_left(),
        )
        return resource(call.request_id, _shown(rule), 201)

    async def update(self, call: Call, body: bytes) -> Reply:
        """``PUT /api/v1/redaction/rules/{id}``."""
        rule_id = _rule_id(call)
        try:
            wanted = _read_rule(_UPDATE, body)
        except InvalidRequest as error:
            if rule_id.startswith("builtin_") and error.details:
                raise InvalidRequest(details=_of_builtin(error.details, body)) from None
            raise
        rule = await self._redaction.ask(
            call.in_project.no,
            UpdateRule(
                call.caller.key_id,
                rule_id,
                name=wanted.get("name"),
                pattern=wanted.get("pattern"),
                fields=tuple(wanted["fields"]) if "fields" in wanted else None,
                behavior=Behavior(wanted["behavior"]) if "behavior" in wanted else None,
                enabled=wanted.get("enabled"),
            ),
            timeout=call.seconds_left(),
        )
        return resource(call.request_id, _shown(rule))

    async def delete(self, call: Call, body: bytes) -> Reply:
        """``DELETE /api/v1/redaction/rules/{id}``."""
        rule_id = _rule_id(call)
        await self._redaction.ask(
            call.in_project.no, DeleteRule(call.caller.key_id, rule_id), timeout=call.seconds_left()
        )
        return resource(call.request_id, {"id": rule_id, "deleted": True})

    async def test(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/redaction/test``."""
        wanted = await self._samples.read(body)
        drafts = [
            draft_of(rule.get("name", f"rules.{index}"), rule) for index, rule in enumerate(wanted.get("rules", ()))
        ]
        tried = await self._redaction.ask(
            call.in_project.no, TryRules(wanted["event"], tuple(drafts)), timeout=call.seconds_left()
        )
        fields = {
            "event": tried.event,
            "redacted_count": sum(change.values for change in tried.changes),
            "redactions": [
                {
                    "field": change.field,
                    "rule_id": rule_id,
                    "rule_name": tried.rules[rule_id].name,
                    "behavior": tried.rules[rule_id].behavior,
                }
                for change in tried.changes
                for rule_id in change.rules
            ],
        }
        return resource(call.request_id, fields)


def _rule_id(call: Call) -> str:
    """The id as it is spelled in lists: UUIDs are taken in any letter case."""
    uuid = parse_uuid(call.path["id"])
    return call.path["id"] if uuid is None else str(uuid)


def _of_builtin(details: Iterable[Detail], body: bytes) -> list[Detail]:
    """What is wrong with a change of a built-in rule: what was sent for a field that it has not got does not matter."""
    sent = gate.parse(body)
    forbidden = [name for name in _NOT_OF_BUILTINS if isinstance(sent, dict) and name in sent]
    return [
        *(detail for detail in details if detail.field.partition(".")[0] not in forbidden),
        *(Detail(name, "Cannot be changed on a built-in rule") for name in forbidden),
    ]


def _read_rule(schema: TypeAdapter[T], body: bytes) -> T:
    """A rule. Raises ``InvalidRequest`` that names every bad field."""
    sent = read_as(AnyObject, body)
    try:
        return validate(schema, sent)
    except InvalidRequest as error:
        raise InvalidRequest(details=with_setting_errors(error.details, sent)) from None


def with_setting_errors(details: Sequence[Detail], sent: object, under: str = "") -> list[Detail]:
    """With what is wrong with the pattern and the paths of a rule that was sent as the field ``under``, in which
    something else is wrong: as a rule they are looked at by the actor, which never gets to see it."""
    named = {detail.field.removeprefix(under).partition(".")[0] for detail in details}
    found = setting_errors(sent) if isinstance(sent, dict) else ()
    more = [error for error in found if error.field.partition(".")[0] not in named]
    return [*details, *(Detail(under + error.field, error.message) for error in more)]


def draft_of(name: str, rule: RuleSettings) -> RuleDraft:
    """An unsaved rule as the actors take it: enabled, and replacing what it finds, unless it says otherwise."""
    return RuleDraft(
        name,
        RuleType(rule["type"]),
        rule.get("pattern"),
        tuple(rule.get("fields", ())),
        Behavior(rule.get("behavior", Behavior.REPLACE)),
        rule.get("enabled", True),
    )


def _shown(rule: RedactionRule) -> dict[str, Any]:
    fields: dict[str, Any] = {"id": rule.id, "type": rule.type}
    if rule.type == BUILTIN:
        fields |= {"builtin_id": rule.builtin_id, "name": rule.name}
    else:
        fields |= {"name": rule.name} | (
            {"pattern": rule.pattern} if rule.type == RuleType.PATTERN else {"fields": rule.fields}
        )
    fields |= {"behavior": rule.behavior, "enabled": rule.enabled}
    return fields if rule.created_at is None else fields | {"created_at": time_text(rule.created_at)}


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = RedactionRules(services)
    return (
        Endpoint(
            name="redaction.list",
            method="GET",
            path="/api/v1/redaction/rules",
            handler=handlers.list,
            summary="List redaction rules",
            description="The eight built-ins first, then custom rules in order of creation. Events are redacted before "
            "anything of them is stored or logged: first by rules on fields, then by patterns, each in order of "
            "creation, then by the built-ins. What one rule has replaced, a later one leaves alone.\n\nWhat cannot be "
            "examined within limits is not kept: a text of more than 1 MiB in which something is suspected (64 Ki "
            "characters where it is not ASCII), one that is too long for a large pattern, or one that takes more than "
            "80 ms becomes `[REDACTED]`, and so does what rules would make far longer (an event by more than 64 KiB "
            "and its own size). `redactions` then has `redaction_limit` in the place of a rule's id.",
            about=About.PROJECT,
            query=ProjectPageQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(RuleList),
                {
                    "rules": [examples.BUILTIN_RULE, examples.PATTERN_RULE],
                    **examples.LAST,
                    "request_id": examples.REQUEST_ID,
                },
            ),
        ),
        Endpoint(
            name="redaction.create",
            method="POST",
            path="/api/v1/redaction/rules",
            handler=handlers.create,
            summary="Make a redaction rule",
            description="It applies to every request that arrives after this answer, in every process. A project has "
            "at most 100 custom rules; one more is a `conflict`. Every change of rules is recorded as an event of the "
            "tenant `$logstitch`: who changed what, before and after.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(
                _CREATE,
                {"a pattern": examples.PATTERN_RULE_IN, "fields": examples.FIELD_RULE_IN},
                "A rule of type `pattern` needs `pattern`, one of type `field_redact` needs `fields`.",
            ),
            success=Success(
                201,
                "The rule, which applies.",
                TypeAdapter(PatternRuleAnswer | FieldRuleAnswer),
                {**examples.PATTERN_RULE, "request_id": examples.REQUEST_ID},
            ),
            errors=("conflict",),
        ),
        Endpoint(
            name="redaction.update",
            method="PUT",
            path="/api/v1/redaction/rules/{id}",
            handler=handlers.update,
            summary="Change a redaction rule",
            description="What is not sent stays as it is. Of a built-in, `behavior` and `enabled` may be changed; the "
            "type of a rule never changes. Applies to every request that arrives after this answer, in every process.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(
                _UPDATE,
                {"another behavior": {"behavior": "hash"}, "off": {"enabled": False}},
            ),
            success=Success(
                200,
                "The rule as it is now.",
                TypeAdapter(BuiltinRuleAnswer | PatternRuleAnswer | FieldRuleAnswer),
                {**examples.BUILTIN_RULE, "behavior": "hash", "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="redaction.delete",
            method="DELETE",
            path="/api/v1/redaction/rules/{id}",
            handler=handlers.delete,
            summary="Delete a redaction rule",
            description="For good. What it has redacted stays so. A built-in cannot be deleted, only disabled: "
            "`conflict`.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The rule applies no more.",
                TypeAdapter(RuleDeleted),
                {"id": examples.RULE_ID, "deleted": True, "request_id": examples.REQUEST_ID},
            ),
            errors=("conflict",),
        ),
        Endpoint(
            name="redaction.test",
            method="POST",
            path="/api/v1/redaction/test",
            handler=handlers.test,
            summary="Try redaction on a sample",
            description="What would be stored of an event, by the project's rules as they are and, if any are sent, by "
            "unsaved ones in addition: they apply as if they had just been saved. The sample may be any part of an "
            "event. Nothing is stored. Few samples are tried at a time: `unavailable` asks for another try.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(TypeAdapter(TryRulesBody), {"a sample and a rule": examples.SAMPLE_IN}),
            success=Success(
                200,
                "The sample, and what was changed.",
                TypeAdapter(RulesTried),
                {**examples.SAMPLE_TRIED, "request_id": examples.REQUEST_ID},
            ),
        ),
    )
