"""Redaction: one actor a project that owns its compiled rules, takes out of events what they say, and changes them.

Every event passes through here on its way to ingest. Whether the rules are still the project's is not asked here, where
the answer could be old by the time it is used, but under the project's head row when the events are stored; a request
that was redacted by older rules comes back and says which version to read. So a change of rules applies from its answer
on, in every process, without a message between them.

Redaction is done in slices of a few milliseconds, and what needs more than one goes on beside the mailbox: however slow
a project's rules are, they can be changed, and other projects do not notice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import trio

from logstitch import metrics
from logstitch.actors.bounds import HOLD_SECONDS
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.pages import Page, page_of
from logstitch.actors.messages.redaction import (
    BUILTIN,
    CreateRule,
    DeleteRule,
    ListRules,
    Redacted,
    RedactEvents,
    RedactionRule,
    RuleDraft,
    RulePage,
    TriedRules,
    TryRules,
    UpdateRule,
)
from logstitch.actors.slicing import in_turns
from logstitch.errors import Detail, InvalidRequest, LogStitchError, Unavailable
from logstitch.ids import UlidMint
from logstitch.model import IncomingEvent
from logstitch.recording.rules import (
    Amended,
    Decision,
    Rule,
    RuleBook,
    creation,
    deletion,
    id_of,
    name_of,
    read_rules,
    rule_change,
    update,
)
from logstitch.redaction.definitions import LIMIT, Behavior, CustomRule
from logstitch.redaction.engine import Redaction as Result
from logstitch.redaction.engine import RuleSet, slices
from logstitch.redaction.rules import check_rule
from logstitch.redaction.turns import if_quick
from logstitch.store.database import Database
from logstitch.store.redaction import RuleRow
from logstitch.times import to_ms

MAX_MANAGED: Final = 16
"""Requests about rules under way at the same time; more are refused."""
MAX_TRIED: Final = 4
"""Samples that are tried, or wait for it. They are not among the former: anybody with a key may send them, and they may
be slow, but rules can be changed all the same."""

_LIMIT: Final = RedactionRule(LIMIT, BUILTIN, "Limits of redaction", Behavior.REPLACE, enabled=True)
"""What is shown where a value was replaced for no rule."""

Work = Generator[None, None, list[Result]]


class Redaction:
    """Owns the rules of one project, as they were last read, and compiled."""

    def __init__(
        self,
        database: Database,
        project_no: int,
        mint: UlidMint,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._database = database
        self._project_no = project_no
        self._mint = mint
        self._now = now
        self._book: RuleBook | None = None
        self._rules: RuleSet | None = None
        self._reading = trio.Lock()  # reading and changing the rules, one after the other
        self._trying = trio.CapacityLimiter(1)
        self._thread = trio.CapacityLimiter(1)
        self._trial_thread = trio.CapacityLimiter(1)  # its own, since a hundred unsaved rules take long to compile
        self._managed = 0
        self._tried = 0
        self._requests: trio.Nursery

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        async with trio.open_nursery() as self._requests:
            async for envelope in mailbox:
                if isinstance(envelope.message, RedactEvents):
                    self._redact(envelope)
                elif isinstance(envelope.message, TryRules):
                    self._sample(envelope)
                elif self._managed >= MAX_MANAGED:
                    envelope.refuse(Unavailable("Too many requests about redaction rules. Try again in a moment."))
                else:
                    self._managed += 1
                    self._requests.start_soon(self._manage, envelope)

    # -- events ----------------------------------------------------------------------------------------------------

    def _redact(self, envelope: Envelope[RedactEvents]) -> None:
        """Answer at once, if the rules are here and the events can be seen to be clean, or cleaned, in one slice."""
        rules, request = self._rules, envelope.message
        if rules is None or request.version not in (None, rules.version):
            self._requests.start_soon(self._read_and_redact, envelope)
            return
        work = redact_requests(request.requests, rules)
        try:
            next(work)
        except StopIteration as done:
            envelope.reply(_redacted(rules.version, done.value))
        else:
            self._requests.start_soon(self._finish, envelope, work, rules.version)

    async def _read_and_redact(self, envelope: Envelope[RedactEvents]) -> None:
        try:
            rules = await self._read(envelope.message.version)
        except LogStitchError as error:
            envelope.refuse(error)
            return
        await self._finish(envelope, redact_requests(envelope.message.requests, rules), rules.version)

    async def _finish(self, envelope: Envelope[RedactEvents], work: Work, version: int) -> None:
        results = await in_turns(envelope, work)
        if results is not None:
            envelope.reply(_redacted(version, results))

    async def _read(self, version: int | None) -> RuleSet:
        """The compiled rules, read again unless they are of this version (``None`` for any)."""
        async with self._reading:
            if self._book is None or version not in (None, self._book.version):
                self._book = await self._read_book()
            return await self._compile(self._book)

    async def _read_book(self) -> RuleBook:
        return await self._database.transact(
            lambda conn: read_rules(conn, self._project_no), hold=HOLD_SECONDS, read_only=True
        )

    async def _compile(self, book: RuleBook) -> RuleSet:
        if self._rules is None or self._rules.version != book.version:
            self._rules = await trio.to_thread.run_sync(book.compile, limiter=self._thread)
        return self._rules

    # -- rules -----------------------------------------------------------------------------------------------------

    async def _manage(self, envelope: Envelope[Any]) -> None:
        try:
            match envelope.message:
                case ListRules() as request:
                    envelope.reply(await self._list(request))
                case CreateRule(by, draft):
                    await self._change(envelope, creation(_row(draft, self._now())), by)
                case UpdateRule() as request:
                    await self._change(envelope, update(request.id, request.changed()), request.by)
                case DeleteRule(by, rule_id):
                    await self._change(envelope, deletion(rule_id), by)
        except LogStitchError as error:
            envelope.refuse(error)
        finally:
            self._managed -= 1

    def _sample(self, envelope: Envelope[TryRules]) -> None:
        if self._tried >= MAX_TRIED:
            envelope.refuse(Unavailable("Other samples are being tried. Try again in a moment."))
            return
        self._tried += 1
        self._requests.start_soon(self._try_in_turn, envelope)

    async def _try_in_turn(self, envelope: Envelope[TryRules]) -> None:
        try:
            async with self._trying:
                await self._try(envelope, envelope.message)
        except Exception as error:
            # A defect shows where the sample came from. To end here would end the project's ingest for a while.
            envelope.refuse(error)
        finally:
            self._tried -= 1

    async def _change(self, envelope: Envelope[Any], decide: Decision, by: UUID) -> None:
        event_id = self._mint.one(to_ms(self._now()))
        change = rule_change(self._project_no, decide, by=by, event_id=event_id, now=self._now)
        async with self._reading:
            amended: Amended = await self._database.transact(change.run, hold=HOLD_SECONDS)
            # No checkpoint from the commit to the answer.
            self._book = amended.rules
            after = amended.amendment.after
            envelope.reply(None if after is None else shown(after))
            await self._compile(amended.rules)

    async def _list(self, request: ListRules) -> RulePage:
        # Read anew, since another process may have changed them.
        book = await self._read_book()
        return page_of_rules(book, request)

    async def _try(self, envelope: Envelope[TryRules], request: TryRules) -> None:
        book = await self._read_book()
        trial = await trio.to_thread.run_sync(Trial, book, request.rules, limiter=self._trial_thread)
        results = await in_turns(envelope, slices([request.event], trial.rules))
        if results is not None:
            envelope.reply(trial.outcome(results[0]))


class Trial:
    """A project's rules with unsaved ones behind them, to be tried on a sample.

    Raises ``InvalidRequest`` that names what is wrong with the unsaved ones: ``rules.0.pattern``.
    """

    def __init__(self, book: RuleBook, drafts: Sequence[RuleDraft]) -> None:
        unsaved = [_unsaved(index, draft) for index, draft in enumerate(drafts)]
        details: list[Detail] = []
        for rule in unsaved:
            try:
                check_rule(rule)
            except InvalidRequest as error:
                details += error.under(rule.id).details
        if details:
            raise InvalidRequest(details=details)
        self.rules = book.compile(unsaved)
        self._shown = [*map(shown, book.rules), *map(_shown_unsaved, unsaved), _LIMIT]

    def outcome(self, result: Result) -> TriedRules:
        """The answer."""
        used = {rule_id for change in result.changes for rule_id in change.rules}
        rules = {rule.id: rule for rule in self._shown if rule.id in used}
        return TriedRules(result.event, result.changes, rules)


def redact_requests(requests: Sequence[Sequence[IncomingEvent]], rules: RuleSet) -> Work:
    """The events of all requests in one pass, or, where that takes long, request by request; in slices of a few ms.

    A request that cannot be examined in the time that it may take is replaced, so it must not be another one that has
    used that time.
    """
    if len(requests) > 1:
        events = [event.raw for request in requests for event in request]
        together = yield from if_quick(slices(events, rules, shared=True))
        if together is not None:
            return together
    results = []
    for request in requests:
        results += yield from slices([event.raw for event in request], rules)
        if len(requests) > 1:
            yield
    return results


def _redacted(version: int, results: Sequence[Result]) -> Redacted:
    changes = [result.changes for result in results]
    for fields in filter(None, changes):
        metrics.redacted(rule_id for change in fields for rule_id in change.rules)
    return Redacted(version, [result.event for result in results], changes)


def page_of_rules(book: RuleBook, request: ListRules) -> RulePage:
    """The page that was asked for."""
    rules, more = page_of(book.rules, _place, request.after, request.limit)
    return RulePage(tuple(map(shown, rules)), more)


def shown(rule: Rule) -> RedactionRule:
    """A stored rule as it is shown."""
    if isinstance(rule, RuleRow):
        return RedactionRule(
            id_of(rule),
            rule.type,
            rule.name,
            Behavior(rule.behavior),
            rule.enabled,
            pattern=rule.pattern,
            fields=rule.fields,
            created_at=rule.created_at,
        )
    return RedactionRule(id_of(rule), BUILTIN, name_of(rule), rule.behavior, rule.enabled, builtin_id=rule.slug)


def _shown_unsaved(rule: CustomRule) -> RedactionRule:
    return RedactionRule(
        rule.id, rule.type.value, rule.name, rule.behavior, rule.enabled, pattern=rule.pattern, fields=rule.fields
    )


def _row(draft: RuleDraft, now: datetime) -> RuleRow:
    return RuleRow(
        uuid4(), draft.name, draft.type.value, draft.pattern, draft.fields, draft.behavior.value, draft.enabled, now
    )


def _unsaved(index: int, draft: RuleDraft) -> CustomRule:
    return CustomRule(
        f"rules.{index}", draft.name, draft.type, draft.pattern, draft.fields, draft.behavior, draft.enabled
    )


def _place(rule: Rule) -> Page | None:
    return Page(rule.created_at, rule.id) if isinstance(rule, RuleRow) else None
