"""The time machine: unsaved alert rules are tried on stored events, in a child process, by the very detector."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest
import trio

from logstitch.actors import timemachine
from logstitch.actors.child import open_child
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.alerts import AlertRuleDraft, ReplayedAlert, ReplayRule, RuleHistory, RuleOutcome
from logstitch.actors.queueing import AT_ONCE
from logstitch.actors.supervisor import open_supervisor
from logstitch.actors.timemachine import FIRST_PAGE, TimeMachine
from logstitch.detection import timemachine as engine
from logstitch.detection.detector import GRACE_MS
from logstitch.detection.facts import Fact
from logstitch.detection.rules import BUILTINS, Distinct, GroupBy, Rule, Severity
from logstitch.errors import DatabaseUnavailable, InvalidRequest, NotFound, Unavailable
from logstitch.ids import UlidMint
from logstitch.recording.alert_rules import creation, rule_change, update
from logstitch.store.database import Connection, Database, open_database
from logstitch.store.timemachine import copy_facts
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.children import child_at_work, running
from tests.support.errors import ErrorLogs
from tests.support.ingest import make_project, open_bench
from tests.support.latency import assert_nobody_feels
from tests.support.stored import AT, an_event, store

DRAFT = AlertRuleDraft("guessing", "auth.failed*", 3, 60, GroupBy.ACTOR_ID, Severity.HIGH, 120, True, None)
BROKEN = replace(DRAFT, threshold=0)
ANY = replace(DRAFT, action_pattern="*", threshold=20, group_by=GroupBy.TENANT_ID)
ADDRESSES = replace(DRAFT, action_pattern="*", window_seconds=600, distinct=Distinct.IP_ADDRESS)
NOTHING = replace(DRAFT, action_pattern="no.such.action")
ACTIONS = ["auth.failed", "auth.failed.totp", "auth.login", "document.viewed", "document.deleted"]
FORGETFUL = """
import functools
from logstitch.detection import timemachine
timemachine.TimeMachine = functools.partial(timemachine.TimeMachine, groups=40, slice_=1)
timemachine.serve(sys.stdin.buffer, sys.stdout.buffer)
"""


@dataclass(frozen=True, slots=True)
class Machine:
    """A time machine and a project."""

    database: Database
    address: Address
    project_no: int

    async def replay(self, rule: AlertRuleDraft = DRAFT, **options: Any) -> RuleHistory:
        return await self.address.ask(question(self.project_no, rule, **options), timeout=30)


def question(project_no: int, rule: AlertRuleDraft = DRAFT, **options: Any) -> ReplayRule:
    return ReplayRule(project_no, rule, **{"rule_id": None, "start_ms": None, "end_ms": None, **options})


@asynccontextmanager
async def open_machine(
    url: str, given: Sequence[tuple[int, dict[str, Any]]] = (), **options: Any
) -> AsyncIterator[Machine]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        no = await make_project(database)
        if given:
            await database.transact(lambda conn: store(conn, no, given), timeout=60)
        address = supervisor.start("timemachine", lambda: TimeMachine(database, **options), capacity=16)
        yield Machine(database, address, no)


def some_events(count: int, *, disorder_ms: int = 0, seed: int = 1) -> list[tuple[int, dict[str, Any]]]:
    """Events a second apart, received out of order by up to that much; a few actors, tenants and addresses."""
    chance = random.Random(seed)
    addresses = ["203.0.113.1", "203.0.113.2", "::ffff:203.0.113.2", "198.51.100.*", "2001:db8::1", None]
    given = []
    for n in range(count):
        address = chance.choice(addresses)
        event = an_event(
            action=chance.choice(ACTIONS),
            tenant_id=chance.choice(["acme", "globex", "żółć 🦊"]),
            actor={"id": chance.choice(["ada", "bob", "eve"]), "type": "user"},
            context=None if address is None else {"ip_address": address},
        )
        given.append((AT + 1000 * n - chance.randrange(disorder_ms + 1), event))
    return given


def expected(
    given: Sequence[tuple[int, dict[str, Any]]],
    draft: AlertRuleDraft,
    existing: Rule | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> RuleHistory:
    """What the engine says of those that were received in time, all at once and in this process."""
    facts = [
        Fact(
            seq,
            UUID(int=seq).bytes,
            at,
            at,
            event["action"],
            event["tenant_id"],
            event["actor"]["id"],
            event.get("context", {}).get("ip_address"),
        )
        for seq, (at, event) in enumerate(given, start=1)
        if (start_ms is None or at >= start_ms) and (end_ms is None or at <= end_ms)
    ]
    machine = engine.TimeMachine(draft.rule(""), existing)
    machine.run(facts)
    found = machine.outcome()
    return RuleHistory(len(facts), _outcome(found.rule), _outcome(found.existing) if found.existing else None, None)


def _outcome(tally: engine.Tally) -> RuleOutcome:
    return RuleOutcome(tally.fired, tally.held_back, tuple(ReplayedAlert(*one) for one in tally.firings))


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_database(database_url) as database:
        no = await make_project(database)
        # Asked about one project, several would wait for each other; the mailbox, and not that, is what is checked.
        numbers = iter(range(no, no + 100))
        await check(Subject(factory=lambda: TimeMachine(database), question=lambda: question(next(numbers), BROKEN)))


# -- what it finds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"max_page": 7, "ask_every": 100}, {"max_page": 1, "ask_every": 1}], ids=["whole", "pages", "one"]
)
@pytest.mark.parametrize("rule", [DRAFT, ANY, ADDRESSES, NOTHING], ids=["glob", "any", "addresses", "nothing"])
async def test_it_finds_what_the_detector_would_have(
    rule: AlertRuleDraft, options: dict[str, Any], database_url: str
) -> None:
    given = some_events(300, disorder_ms=GRACE_MS)
    async with open_machine(database_url, given, **options) as machine:
        other = await make_project(machine.database)
        await machine.database.transact(lambda conn: store(conn, other, some_events(50)))
        found = await machine.replay(rule, rule_id="auth_brute_force")

    assert found == expected(given, rule, BUILTINS[0])
    assert rule is NOTHING or found.outcome.fired > 0


async def test_the_same_question_has_the_same_answer(database_url: str) -> None:
    async with open_machine(database_url, some_events(300), max_page=50) as machine:
        first = await machine.replay(ANY)
        second = await machine.replay(ANY)

    assert first == second


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (None, None),
        (0, None),
        (None, 0),
        (100_000, 200_000),
        (100_001, 199_999),
        (150_000, 150_000),
        (200_000, 100_000),
        (10**9, None),
        (None, -(10**9)),
        (-(10**9), 10**9),
        (-(10**15), 10**15),
    ],
)
@pytest.mark.parametrize("disorder_ms", [0, GRACE_MS])
async def test_exactly_the_events_of_the_range_are_looked_at(
    disorder_ms: int, start: int | None, end: int | None, database_url: str
) -> None:
    given = some_events(400, disorder_ms=disorder_ms)
    start_ms, end_ms = (None if bound is None else AT + bound for bound in (start, end))
    async with open_machine(database_url, given, max_page=5) as machine:
        found = await machine.replay(ANY, start_ms=start_ms, end_ms=end_ms)

    assert found == expected(given, ANY, start_ms=start_ms, end_ms=end_ms)


@pytest.mark.parametrize(("start", "end"), [(None, 0), (0, 0), (GRACE_MS, None), (1, GRACE_MS)])
async def test_an_event_may_come_as_late_as_may_be(start: int | None, end: int | None, database_url: str) -> None:
    given = [(AT + GRACE_MS, an_event()), (AT, an_event()), (AT + GRACE_MS, an_event()), (AT, an_event())]
    start_ms, end_ms = (None if bound is None else AT + bound for bound in (start, end))
    async with open_machine(database_url, given, max_page=1) as machine:
        found = await machine.replay(ANY, start_ms=start_ms, end_ms=end_ms)

    assert (found.scanned, found.through_ms) == (2, None)


async def test_windows_begin_empty(database_url: str) -> None:
    given = [(AT + 1000 * n, an_event(action="auth.failed")) for n in range(4)]
    async with open_machine(database_url, given) as machine:
        whole = await machine.replay()
        late = await machine.replay(start_ms=AT + 2000)

    assert [alert.triggered_at_ms for alert in whole.outcome.alerts] == [AT + 2000]
    assert (whole.outcome.held_back, late.outcome.fired) == (1, 0)


async def test_what_is_stored_meanwhile_does_not_count(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = some_events(100)
    more = some_events(100, seed=2)
    async with open_machine(database_url, given, max_page=10) as machine:
        started = trio.Event()

        def watched(*args: Any, **options: Any) -> Any:
            trio.from_thread.run_sync(started.set)
            return copy_facts(*args, **options)

        monkeypatch.setattr(timemachine, "copy_facts", watched)

        async def store_more() -> None:
            await started.wait()
            await machine.database.transact(lambda conn: store(conn, machine.project_no, more))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store_more)
            found = await machine.replay(ANY)
        after = await machine.replay(ANY)

    assert found == expected(given, ANY)
    assert after.scanned == 200


async def test_a_project_without_events(database_url: str) -> None:
    async with open_machine(database_url) as machine:
        for bounds in ({}, {"start_ms": AT, "end_ms": AT}):
            found = await machine.replay(ANY, **bounds)
            assert found == RuleHistory(0, RuleOutcome(0, 0, ()), None, None)


async def test_the_stored_rule_is_tried_as_it_is_set_now(database_url: str) -> None:
    given = some_events(300)
    own = Rule(str(uuid4()), "own", "document.*", 2, 60, GroupBy.ACTOR_ID, Severity.LOW, True, 0)
    async with open_machine(database_url, given) as machine:
        await change(machine, creation(own, datetime_of(AT), limit=500))
        await change(machine, update("auth_brute_force", {"cooldown_seconds": 0}, limit=500))
        # The events that tell of the changes are stored behind the others, and later.
        end_ms = AT + 10**7
        mine = await machine.replay(rule_id=own.id, end_ms=end_ms)
        builtin = await machine.replay(rule_id="auth_brute_force", end_ms=end_ms)
        off = await machine.replay(rule_id="suspicious_ip_change", end_ms=end_ms)

    assert mine == expected(given, DRAFT, own)
    assert builtin == expected(given, DRAFT, replace(BUILTINS[0], cooldown_seconds=0))
    assert off.existing == RuleOutcome(0, 0, ())


async def change(machine: Machine, decide: Any) -> None:
    work = rule_change(
        machine.project_no, decide, by=UUID(int=7), event_id=UlidMint().one(AT), now=lambda: datetime_of(AT + 10**8)
    )
    await machine.database.transact(work.run)


def datetime_of(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


async def test_only_the_first_hundred_alerts_are_shown(database_url: str) -> None:
    given = [(AT + 1000 * n, an_event(action="auth.failed")) for n in range(150)]
    async with open_machine(database_url, given) as machine:
        found = await machine.replay(replace(DRAFT, threshold=1, cooldown_seconds=0))

    assert (found.outcome.fired, len(found.outcome.alerts)) == (150, 100)
    assert found.outcome.alerts[0].triggered_at_ms == AT


# -- when there is not the time for all ----------------------------------------------------------------------------


async def test_a_rule_whose_time_is_up_says_how_far_it_came(database_url: str) -> None:
    given = some_events(300)
    async with open_machine(database_url, given, budget_seconds=0.0, answer_seconds=20.0, max_page=100) as machine:
        found = await machine.replay(ANY)
        late = await machine.replay(ANY, start_ms=AT + 100_000)

    assert found.through_ms == AT + 1000 * (FIRST_PAGE - 1)
    assert replace(found, through_ms=None) == expected(given, ANY, end_ms=found.through_ms)
    assert late.through_ms is not None
    assert replace(late, through_ms=None) == expected(given, ANY, start_ms=AT + 100_000, end_ms=late.through_ms)


async def test_where_something_had_to_be_forgotten_it_stops_before(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds of memory are crossed by the 40th group, and the child is asked after every ten events."""
    given = [(AT + n, an_event(action="auth.failed", actor={"id": f"actor {n}", "type": "user"})) for n in range(100)]
    monkeypatch.setattr(timemachine, "_CHILD", FORGETFUL)
    async with open_machine(database_url, given, max_page=10, ask_every=10) as machine:
        found = await machine.replay(replace(DRAFT, threshold=2))
        nothing_shown = await machine.replay(replace(DRAFT, threshold=2), end_ms=AT + 5)

    assert found.through_ms is not None
    assert found.scanned in (20, 30, 40)
    assert replace(found, through_ms=None) == expected(given, replace(DRAFT, threshold=2), end_ms=found.through_ms)
    assert nothing_shown.through_ms is None


async def test_a_page_that_takes_too_long_is_read_again_in_smaller_ones(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = some_events(1000)
    sizes: list[int] = []

    def slow(conn: Connection, no: int, span: Any, first: int, last: int, **options: Any) -> Any:
        sizes.append(last - first + 1)
        if last - first >= 200:
            raise DatabaseUnavailable("The database did not answer in time.")
        return copy_facts(conn, no, span, first, last, **options)

    monkeypatch.setattr(timemachine, "copy_facts", slow)
    async with open_machine(database_url, given) as machine:
        assert await machine.replay(ANY) == expected(given, ANY)
    assert max(sizes) > 200


async def test_a_database_that_is_away_is_said_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*args: Any, **options: Any) -> Any:
        raise DatabaseUnavailable("The database cannot be reached.")

    async with open_machine(database_url, some_events(10)) as machine:
        with monkeypatch.context() as patch:
            patch.setattr(timemachine, "copy_facts", away)
            with pytest.raises(DatabaseUnavailable):
                await machine.replay()
        assert (await machine.replay()).scanned == 10


# -- what is refused -----------------------------------------------------------------------------------------------


async def test_a_bad_rule_is_refused_by_its_fields(database_url: str) -> None:
    async with open_machine(database_url) as machine:
        with pytest.raises(InvalidRequest) as refused:
            await machine.replay(replace(DRAFT, threshold=10_001, action_pattern=""))

    assert {detail.field for detail in refused.value.details} == {"rule.threshold", "rule.action_pattern"}


@pytest.mark.parametrize("rule_id", ["no_such_rule", "6f1d3c2a-9f0e-4b7d-8a55-0c1e2d3f4a5b"])
async def test_an_unknown_rule_is_not_found(rule_id: str, database_url: str) -> None:
    async with open_machine(database_url) as machine:
        with pytest.raises(NotFound):
            await machine.replay(rule_id=rule_id)


async def test_one_rule_of_a_project_at_a_time_and_few_that_wait(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: Counter[int] = Counter()
    most: Counter[int] = Counter()
    release = trio.Event()

    async def watched(self: TimeMachine, envelope: Any, mailbox: Any) -> RuleHistory:
        project_no = envelope.message.project_no
        running[project_no] += 1
        most[project_no] = max(most[project_no], running[project_no])
        most[-1] = max(most[-1], running.total())
        try:
            await release.wait()
            return RuleHistory(0, RuleOutcome(0, 0, ()), None, None)
        finally:
            running[project_no] -= 1

    monkeypatch.setattr(TimeMachine, "_replay", watched)
    async with open_machine(database_url) as machine:
        answers: list[str] = []

        async def ask(project_no: int) -> None:
            try:
                await machine.address.ask(question(project_no), timeout=30)
                answers.append("done")
            except Unavailable:
                answers.append("refused")

        async with trio.open_nursery() as nursery:
            for project_no in (1, 1, 1, 1, 1, 1, 2, 3):
                nursery.start_soon(ask, project_no)
            with trio.fail_after(10):
                while len(answers) < 3:  # noqa: ASYNC110  # those that are refused at once
                    await trio.sleep(0.005)
            release.set()

    assert (most[1], most[2], most[-1]) == (1, 1, 2)
    assert Counter(answers) == {"done": 5, "refused": 3}


# -- the child -----------------------------------------------------------------------------------------------------


async def test_a_child_that_dies_costs_its_question_only(
    database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    async with open_machine(database_url, some_events(10)) as machine:
        with monkeypatch.context() as patch:
            patch.setattr(timemachine, "_CHILD", "raise SystemExit(1)")
            with pytest.raises(Unavailable):
                await machine.replay()
        assert (await machine.replay()).scanned == 10


async def test_a_child_that_does_not_answer_is_killed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_machine(database_url, some_events(10), budget_seconds=0.1, answer_seconds=0.4) as machine:
        with monkeypatch.context() as patch:
            patch.setattr(timemachine, "_CHILD", "# timemachine\ntime.sleep(60)")
            with pytest.raises(Unavailable):
                await machine.replay()
        assert not running("timemachine")


async def test_no_child_is_left_when_the_service_ends_in_the_middle(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timemachine, "_CHILD", "# timemachine\ntime.sleep(60)")
    async with (
        open_machine(database_url, some_events(10), budget_seconds=0.5) as machine,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(_ignore_refusal, machine)
        with trio.fail_after(10):
            while not running("timemachine"):  # noqa: ASYNC110  # a process has no event
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert not running("timemachine")


async def _ignore_refusal(machine: Machine) -> None:
    with pytest.raises(Unavailable):
        await machine.replay()


async def test_a_child_is_told_nothing_of_the_service_and_is_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGSTITCH_DATABASE_URL", "postgresql://secret@example.invalid/x")
    async with open_child(timemachine._CHILD) as child:
        await child.send(b"\0\0\0\1")
        process = await child_at_work("timemachine")
        assert not [name for name in process.environ() if name.startswith("LOGSTITCH_")]
    assert not running("timemachine")


@pytest.mark.slow
async def test_rules_tried_one_after_another_hold_up_nobody(database_url: str) -> None:
    """While as many rules are tried as may be, on events whose bodies have to be read, another project's events are
    acknowledged as ever, and the event loop is not kept."""
    async with open_bench(database_url) as bench, open_supervisor() as supervisor:
        given = some_events(25_000)
        busy = [await make_project(bench.database) for _ in range(AT_ONCE)]
        for no in busy:
            await bench.database.transact(lambda conn, no=no: store(conn, no, given), timeout=60)  # type: ignore[misc]
        address = supervisor.start("timemachine", lambda: TimeMachine(bench.database), capacity=16)
        found: list[RuleHistory] = []

        async def replay(no: int, until: float) -> None:
            while trio.current_time() < until:
                found.append(await address.ask(question(no, ADDRESSES, rule_id="auth_brute_force"), timeout=30))

        async def replay_all() -> None:
            async with trio.open_nursery() as nursery:
                for no in busy:
                    nursery.start_soon(replay, no, trio.current_time() + 3)

        await assert_nobody_feels(replay_all, bench)
    print(f"{len(found)} rules on {found[0].scanned} events each")
    assert all(one.scanned > 0 for one in found)
