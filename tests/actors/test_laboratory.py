"""The laboratory: rules are tried on stored events, in a child process, and nobody else feels it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import trio

from logstitch.actors import laboratory
from logstitch.actors.child import open_child
from logstitch.actors.laboratory import Laboratory
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.pages import Position
from logstitch.actors.messages.redaction import MeasureRule, RuleDraft, RuleEffect
from logstitch.actors.supervisor import open_supervisor
from logstitch.errors import InvalidRequest, Unavailable
from logstitch.model import RESERVED_TENANT
from logstitch.redaction.definitions import Behavior, CustomRule, RuleType
from logstitch.redaction.engine import redact
from logstitch.redaction.rules import compile_rules
from logstitch.sections import SECTIONS
from logstitch.store.database import Database, open_database
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.children import child_at_work, running
from tests.support.errors import ErrorLogs
from tests.support.ingest import make_project, open_bench
from tests.support.latency import assert_nobody_feels
from tests.support.stored import AT, an_event, store

ACCOUNTS = RuleDraft("accounts", RuleType.PATTERN, "ACCT-[0-9]{4}", (), Behavior.MASK, enabled=True)
BROKEN = RuleDraft("broken", RuleType.PATTERN, "(", (), Behavior.MASK, enabled=True)
NOTES = RuleDraft("notes", RuleType.FIELD_REDACT, None, ("metadata.note", "changes.**"), Behavior.REPLACE, enabled=True)
# A large program of which a random text keeps most states alive: 4 ms a kilobyte.
SLOW = RuleDraft("slow", RuleType.PATTERN, "(?:[a-z].{0,20}){1,6}[0-9]Z", (), Behavior.REPLACE, enabled=True)


@dataclass(frozen=True, slots=True)
class Lab:
    """A laboratory and a project."""

    database: Database
    address: Address
    project_no: int

    async def measure(self, rule: RuleDraft = ACCOUNTS, **options: Any) -> RuleEffect:
        return await self.address.ask(question(self.project_no, rule, **options), timeout=30)


def question(project_no: int, rule: RuleDraft = ACCOUNTS, **options: Any) -> MeasureRule:
    return MeasureRule(project_no, rule, **{"start_ms": None, "end_ms": None, "after": None, **options})


@asynccontextmanager
async def open_lab(url: str, events: int = 0, **options: Any) -> AsyncIterator[Lab]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        no = await make_project(database)
        if events:
            await fill(database, no, events)
        address = supervisor.start("laboratory", lambda: Laboratory(database, **options), capacity=16)
        yield Lab(database, address, no)


async def fill(database: Database, project_no: int, count: int) -> None:
    await database.transact(lambda conn: store(conn, project_no, some_events(count)), timeout=60)


def some_events(count: int) -> list[tuple[int, dict[str, Any]]]:
    chance = random.Random(count)

    def text() -> str:
        return chance.choice(["nothing", f"from ACCT-{chance.randrange(10_000):04}", "[REDACTED]", "ünïcode ACCT-12"])

    return [
        (
            AT + 1000 * (n // 3),  # three at each moment
            an_event(
                metadata={"note": text(), "list": [text(), {"deep": text()}], chance.choice(["a key", "ACCT-0001"]): n},
                changes=[{"field": "f", "before": text(), "after": chance.choice([text(), None])}],
            ),
        )
        for n in range(count)
    ]


async def bodies(lab: Lab) -> list[dict[str, Any]]:
    rows = await lab.database.transact(
        lambda conn: conn.execute("SELECT body FROM events WHERE project_no = %s", (lab.project_no,)).fetchall(),
        timeout=30,
        read_only=True,
    )
    return [orjson.loads(body) for (body,) in rows]


def counted(events: list[dict[str, Any]], draft: RuleDraft) -> tuple[int, int]:
    """How many events and fields the engine changes, the rule alone, save those that it leaves as they were."""
    rule = CustomRule("rule", "r", draft.type, draft.pattern, draft.fields, draft.behavior, enabled=True)
    rules = compile_rules((), [rule], secret=bytes(32))
    changed = fields = 0
    for stored in events:
        sections = {name: value for name, value in stored.items() if name in SECTIONS}
        redaction = redact(sections, rules)
        if redaction.event != sections:
            changed += 1
            untouched = sum(_at(sections, change.field) == "[REDACTED]" for change in redaction.changes if draft.fields)
            fields += len(redaction.changes) - untouched
    return changed, fields


def _at(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value[int(part)] if isinstance(value, list) else value.get(part)
    return value


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_database(database_url) as database:
        no = await make_project(database)
        # Asked about one project, several would wait for each other; the mailbox, and not that, is what is checked.
        numbers = iter(range(no, no + 100))
        await check(
            Subject(
                factory=lambda: Laboratory(database),
                question=lambda: question(next(numbers), BROKEN),
            )
        )


@pytest.mark.parametrize("rule", [ACCOUNTS, NOTES], ids=["pattern", "fields"])
async def test_it_counts_what_the_engine_changes_in_all_bodies(rule: RuleDraft, database_url: str) -> None:
    async with open_lab(database_url, 3000) as lab:
        effect = await lab.measure(rule)
        stored = await bodies(lab)

    assert effect.next is None
    assert effect.scanned == 3000
    assert (effect.events_changed, effect.fields_changed) == counted(stored, rule)
    assert sum(count for _, count in effect.fields) == effect.fields_changed
    assert [count for _, count in effect.fields] == sorted((count for _, count in effect.fields), reverse=True)
    assert len(effect.samples) == 20
    by_id = {one["id"]: one for one in stored}
    assert all(by_id[sample.id]["occurred_at"] == sample.occurred_at for sample in effect.samples)


@pytest.mark.parametrize(("events", "size"), [(7, 1 << 20), (512, 1000)], ids=["by number", "by bytes"])
async def test_going_on_by_cursor_gives_the_same_sums(events: int, size: int, database_url: str) -> None:
    async with open_lab(database_url, 400) as whole:
        at_once = await whole.measure()
        async with open_supervisor() as supervisor:
            pieces = supervisor.start(
                "pieces",
                lambda: Laboratory(whole.database, max_events=100, batch_events=events, batch_bytes=size),
                capacity=16,
            )
            effects: list[RuleEffect] = []
            after: Position | None = None
            while not effects or after is not None:
                assert len(effects) < 10, "it does not come to an end"
                effects.append(await pieces.ask(question(whole.project_no, after=after), timeout=30))
                after = effects[-1].next

    assert len(effects) in (4, 5)
    for name in ("scanned", "events_changed", "fields_changed"):
        assert sum(getattr(effect, name) for effect in effects) == getattr(at_once, name)
    added: Counter[str] = Counter()
    for effect in effects:
        added.update(dict(effect.fields))
    assert added == dict(at_once.fields)


async def test_a_trial_whose_time_is_up_says_how_far_it_has_come(database_url: str) -> None:
    async with open_lab(database_url, 30, budget_seconds=0.0, batch_events=10) as lab:
        first = await lab.measure()
        second = await lab.measure(after=first.next)
        newest = sorted(((one["occurred_at"], one["id"]) for one in await bodies(lab)), reverse=True)

    assert (first.scanned, second.scanned) == (1, 1)
    assert first.next is not None
    assert second.next is not None
    assert str(second.next.id) == newest[1][1]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(None, None, 30), (0, 0, 3), (1000, None, 27), (None, 999, 3), (None, 1000, 6), (1001, 1999, 0), (9000, 20000, 3)],
)
async def test_only_events_of_the_range_are_looked_at(
    start: int | None, end: int | None, expected: int, database_url: str
) -> None:
    async with open_lab(database_url, 30) as lab:
        other = await make_project(lab.database)
        await fill(lab.database, other, 30)
        effect = await lab.measure(
            start_ms=None if start is None else AT + start, end_ms=None if end is None else AT + end
        )

    assert (effect.scanned, effect.next) == (expected, None)


async def test_what_the_service_records_itself_is_left_alone(database_url: str) -> None:
    async with open_lab(database_url) as lab:
        told = an_event(tenant_id=RESERVED_TENANT, changes=[{"field": "pattern", "after": "ACCT-1234"}])
        await lab.database.transact(lambda conn: store(conn, lab.project_no, [(AT, told)]))
        effect = await lab.measure()

    assert (effect.scanned, effect.events_changed) == (1, 0)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        (BROKEN, "rule.pattern"),
        (RuleDraft("r", RuleType.PATTERN, None, (), Behavior.MASK, enabled=True), "rule.pattern"),
        (
            RuleDraft("r", RuleType.FIELD_REDACT, None, ("metadata.a", "id"), Behavior.MASK, enabled=True),
            "rule.fields.1",
        ),
    ],
)
async def test_a_bad_rule_is_refused_by_its_field(rule: RuleDraft, field: str, database_url: str) -> None:
    async with open_lab(database_url) as lab:
        with pytest.raises(InvalidRequest) as refused:
            await lab.measure(rule)

    assert [detail.field for detail in refused.value.details] == [field]


async def test_one_trial_of_a_project_at_a_time_and_few_that_wait(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: Counter[int] = Counter()
    most: Counter[int] = Counter()
    measure = Laboratory._measure

    async def watched(self: Laboratory, envelope: Any, mailbox: Any) -> RuleEffect:
        project_no = envelope.message.project_no
        running[project_no] += 1
        most[project_no] = max(most[project_no], running[project_no])
        most[-1] = max(most[-1], running.total())
        try:
            return await measure(self, envelope, mailbox)
        finally:
            running[project_no] -= 1

    monkeypatch.setattr(Laboratory, "_measure", watched)
    async with open_lab(database_url, 10) as lab:
        other = await make_project(lab.database)
        third = await make_project(lab.database)
        answers: list[str] = []

        async def ask(project_no: int) -> None:
            try:
                await lab.address.ask(question(project_no), timeout=30)
                answers.append("done")
            except Unavailable:
                answers.append("refused")

        async with trio.open_nursery() as nursery:
            for project_no in (lab.project_no,) * 6 + (other, third):
                nursery.start_soon(ask, project_no)

    assert (most[lab.project_no], most[other], most[-1]) == (1, 1, 2)
    assert Counter(answers) == {"done": 5, "refused": 3}


async def test_a_child_that_dies_costs_its_trial_only(
    database_url: str, monkeypatch: pytest.MonkeyPatch, error_logs: ErrorLogs
) -> None:
    async with open_lab(database_url, 10) as lab:
        with monkeypatch.context() as patch:
            patch.setattr(laboratory, "_CHILD", "raise SystemExit(1)")
            with pytest.raises(Unavailable):
                await lab.measure()
        assert (await lab.measure()).scanned == 10


async def test_a_child_that_does_not_answer_is_killed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_lab(database_url, 10, budget_seconds=0.1, answer_seconds=2) as lab:  # a real one has to do with it
        with monkeypatch.context() as patch:
            patch.setattr(laboratory, "_CHILD", "# laboratory\ntime.sleep(60)")
            with pytest.raises(Unavailable):
                await lab.measure()
        assert not running("laboratory")
        assert (await lab.measure()).scanned > 0


async def test_no_child_is_left_when_the_service_ends_in_the_middle(database_url: str) -> None:
    async with open_lab(database_url, 2000) as lab, trio.open_nursery() as nursery:
        nursery.start_soon(_ignore_refusal, lab)
        with trio.fail_after(10):
            while not running("laboratory"):  # noqa: ASYNC110  # a process has no event
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    assert not running("laboratory")


async def _ignore_refusal(lab: Lab) -> None:
    with pytest.raises(Unavailable):
        await lab.measure(SLOW)


async def test_a_child_is_told_nothing_of_the_service_and_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGSTITCH_DATABASE_URL", "postgresql://secret@example.invalid/x")
    async with open_child(laboratory._CHILD) as child:
        await child.send(b"\0\0\0\1")
        process = await child_at_work("laboratory")
        assert not [name for name in process.environ() if name.startswith("LOGSTITCH_")]
    assert not running("laboratory")


@pytest.mark.slow
async def test_the_slowest_pattern_holds_up_nobody(database_url: str) -> None:
    """While a rule as slow as may be is tried on events as long as may be, another project's events are acknowledged
    as ever, and the event loop is not kept."""
    async with open_bench(database_url) as bench, open_supervisor() as supervisor:
        slow = await make_project(bench.database)
        chance = random.Random(1)
        long_texts = {f"k{n}": "".join(chance.choices("abc ", k=4000)) for n in range(7)}
        rows = [(AT + n, an_event(metadata=long_texts)) for n in range(300)]
        await bench.database.transact(lambda conn: store(conn, slow, rows), timeout=60)
        address = supervisor.start("laboratory", lambda: Laboratory(bench.database), capacity=16)
        effects: list[RuleEffect] = []

        async def measure() -> None:
            effects.append(await address.ask(question(slow, SLOW), timeout=30))

        await assert_nobody_feels(measure, bench)
    print(f"slow rule: {effects[0].scanned} events")
    assert effects[0].scanned >= 1


async def test_an_event_that_is_too_large_for_the_child_is_counted_and_the_others_are_tried(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laboratory, "MAX_BODY_BYTES", 4_000)
    async with open_lab(database_url) as lab:
        notes = ["ACCT-0001", "ACCT-0002" + "x" * 5_000, "ACCT-0003"]
        events = [(AT + n, an_event(metadata={"note": note})) for n, note in enumerate(notes)]
        await lab.database.transact(lambda conn: store(conn, lab.project_no, events), timeout=60)

        effect = await lab.measure()

        assert (effect.scanned, effect.events_changed) == (3, 2)
        assert [sample.before for sample in effect.samples] == ["ACCT-0003", "ACCT-0001"]
