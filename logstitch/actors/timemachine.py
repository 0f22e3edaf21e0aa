"""Time machine: one actor a process that finds out what unsaved alert rules would have done, a few seconds at a time.

It is the laboratory's twin: events are read in small read-only transactions with a pause after each, the very detector
that looks at new events runs over them in a child process of low priority, one rule a project is tried at a time, and
few in all. The events are those that were stored when it began, in the order of ``seq``, so the answer is a function of
them and of the rule.

Facts pass from the database to the child without being looked at here. The child is asked now and then what it has
found, and says whether that is exact; where it had to let go of something, the answer is what was found before that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import structlog
import trio

from logstitch.actors.child import Child, ChildFailed, open_child
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.alerts import AlertRuleDraft, ReplayedAlert, ReplayRule, RuleHistory, RuleOutcome
from logstitch.actors.queueing import Limits, answer_in_turn
from logstitch.detection.detector import GRACE_MS
from logstitch.detection.globs import compile_glob
from logstitch.detection.rules import Rule, check_rule
from logstitch.detection.timemachine import Outcome, Tally, rows_message, start_message
from logstitch.errors import DatabaseUnavailable, InvalidRequest, Unavailable
from logstitch.frames import END
from logstitch.recording.alert_rules import read_rules
from logstitch.store.alerts import find_actions, received_at_ms
from logstitch.store.database import Connection, Database
from logstitch.store.timemachine import Span, copy_facts, find_span

R = TypeVar("R")

log = structlog.get_logger("logstitch.timemachine")

BUDGET_SECONDS: Final = 6.0
"""For one rule, from its first look at the tables."""
MAX_WAIT_SECONDS: Final = 2.0
"""That a rule may have waited for others; later there would not be the time for it."""
ANSWER_SECONDS: Final = 1.5
"""For the child to come to the end of what it was given, beyond the budget."""
FIRST_PAGE: Final = 64
"""Events that are read in the first transaction, and again after one that took too long: with addresses, their bodies
have to be read, and those may be large."""
MAX_PAGE: Final = 4096
"""Events that are read in one transaction: some 8 ms, and 400 KB of facts."""
PAGE_SECONDS: Final = 0.05
"""That one transaction should take. The next page is twice or half as large."""
READ_SECONDS: Final = 1.5
"""That one transaction may take."""
ASK_EVERY: Final = 250_000
"""Events between two questions of what was found."""
REST: Final = 0.25
"""The pause after a page, as a part of the time that the page took."""
MAX_ACTIONS: Final = 20_000
"""Distinct actions of a project that are looked at to find those that matter."""
MAX_NAMED_ACTIONS: Final = 2_000
"""Actions that are named to the database. Where a rule matches more, all events are read."""

_CHILD: Final = """
import gc
gc.disable()  # facts have no cycles, and the process lives for seconds
from logstitch.detection.timemachine import serve
serve(sys.stdin.buffer, sys.stdout.buffer)
"""


@dataclass(frozen=True, slots=True)
class Journey:
    """What is to be looked at: the events of ``span`` with one of ``actions`` (``None``: any), and whether their
    addresses matter."""

    span: Span
    existing: Rule | None
    actions: Sequence[str] | None
    addresses: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What was found when all events up to ``seq`` had been looked at, ``scanned`` of them."""

    outcome: Outcome
    seq: int
    scanned: int


class TimeMachine:
    """Answers ``ReplayRule``."""

    def __init__(
        self,
        database: Database,
        *,
        budget_seconds: float = BUDGET_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        max_page: int = MAX_PAGE,
        ask_every: int = ASK_EVERY,
    ) -> None:
        self._database = database
        self._budget_seconds = budget_seconds
        self._answer_seconds = answer_seconds
        self._max_page = max_page
        self._ask_every = ask_every

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        await answer_in_turn(
            mailbox,
            self._answer,
            lambda question: question.project_no,
            Limits(MAX_WAIT_SECONDS),
            doing="rules are being tried",
        )

    async def _answer(self, envelope: Envelope[ReplayRule], mailbox: Mailbox) -> None:
        try:
            envelope.reply(await self._replay(envelope, mailbox))
        except ChildFailed as error:
            log.warning("timemachine.child_failed", exc_info=error)
            envelope.refuse(Unavailable("The trial was cut short. Try again, with fewer events."))

    async def _replay(self, envelope: Envelope[ReplayRule], mailbox: Mailbox) -> RuleHistory:
        request = envelope.message
        until = trio.current_time() + self._budget_seconds
        rule = _checked(request.rule)
        journey = await self._read(lambda conn: _plan(conn, request, rule))

        def go_on() -> bool:
            mailbox.progress()
            return trio.current_time() < until and not mailbox.closed and not envelope.abandoned

        found: list[Found] = []
        async with open_child(_CHILD) as child:
            with trio.move_on_at(until + self._answer_seconds):
                await child.send(start_message(rule, journey.existing))
                await self._travel(child, request.project_no, journey, go_on, found.append)
        if not found:
            raise ChildFailed
        return await self._history(request, journey.span, found[-1])

    async def _travel(
        self,
        child: Child,
        project_no: int,
        journey: Journey,
        go_on: Callable[[], bool],
        report: Callable[[Found], None],
    ) -> None:
        """Give the child the events, page by page and one page at least, and report what it has found so far."""
        span = journey.span
        seq, scanned, unasked, size = span.first - 1, 0, 0, min(FIRST_PAGE, self._max_page)
        asked = False
        while True:
            at_end = seq >= span.last or (seq >= span.first and not go_on())
            if at_end or unasked >= self._ask_every:
                outcome = await _ask(child)
                if outcome.exact:
                    report(Found(outcome, seq, scanned))
                elif not asked:
                    report(Found(_nothing(journey), span.first - 1, 0))
                if at_end or not outcome.exact:
                    return
                asked, unasked = True, 0
            began = trio.current_time()
            last = min(seq + size, span.last)
            try:
                count, chunks = await self._read(
                    lambda conn, first=seq + 1, last=last: copy_facts(  # type: ignore[misc]
                        conn,
                        project_no,
                        span,
                        first,
                        last,
                        actions=journey.actions,
                        addresses=journey.addresses,
                    )
                )
            except DatabaseUnavailable:
                if size <= FIRST_PAGE or not go_on():
                    raise
                size = FIRST_PAGE
                continue
            took = trio.current_time() - began
            for chunk in chunks:
                await child.send(rows_message(chunk))
            unasked += last - seq
            scanned, seq = scanned + count, last
            size = min(2 * size, self._max_page) if took < PAGE_SECONDS else max(size // 2, FIRST_PAGE)
            await trio.sleep(took * REST)

    async def _history(self, request: ReplayRule, span: Span, found: Found) -> RuleHistory:
        through_ms = None
        if found.seq < span.last:
            # Where nothing was looked at, it holds up to the beginning.
            at = await self._read(lambda conn: received_at_ms(conn, request.project_no, max(found.seq, 1)))
            through_ms = max(at, 0 if request.start_ms is None else request.start_ms)
            if request.end_ms is not None:
                through_ms = min(through_ms, request.end_ms)
        existing = found.outcome.existing
        return RuleHistory(
            found.scanned,
            _outcome(found.outcome.rule),
            None if existing is None else _outcome(existing),
            through_ms,
        )

    async def _read(self, work: Callable[[Connection], R]) -> R:
        return await self._database.transact(work, timeout=READ_SECONDS, read_only=True)


def _plan(conn: Connection, request: ReplayRule, rule: Rule) -> Journey:
    """What has to be looked at, as of now. Raises ``NotFound`` for an unknown ``rule_id``."""
    no = request.project_no
    existing = None if request.rule_id is None else read_rules(conn, no).find(request.rule_id).rule
    span = find_span(conn, no, start_ms=request.start_ms, end_ms=request.end_ms, disorder_ms=GRACE_MS)
    rules = [rule] if existing is None or not existing.enabled else [rule, existing]
    return Journey(span, existing, _actions(conn, no, rules), addresses=any(one.distinct is not None for one in rules))


def _actions(conn: Connection, project_no: int, rules: Sequence[Rule]) -> list[str] | None:
    """The actions of the project that one of the rules matches; ``None`` where it is not worth while to name them."""
    known = find_actions(conn, project_no, MAX_ACTIONS)
    if known is None:
        return None
    globs = [compile_glob(rule.action_pattern) for rule in rules]
    matching = [action for action in known if any(matches(action) for matches in globs)]
    return None if len(matching) == len(known) or len(matching) > MAX_NAMED_ACTIONS else matching


def _checked(draft: AlertRuleDraft) -> Rule:
    """The rule as the engine takes it. Raises ``InvalidRequest`` that names what is wrong with it."""
    rule = draft.rule("")
    try:
        check_rule(rule)
    except InvalidRequest as error:
        raise error.under("rule") from None
    return rule


async def _ask(child: Child) -> Outcome:
    """What it found in everything that it was sent."""
    await child.send(END)
    return Outcome.of_json(await child.receive())


def _nothing(journey: Journey) -> Outcome:
    return Outcome(existing=None if journey.existing is None else Tally())


def _outcome(tally: Tally) -> RuleOutcome:
    return RuleOutcome(tally.fired, tally.held_back, tuple(ReplayedAlert(*firing) for firing in tally.firings))
