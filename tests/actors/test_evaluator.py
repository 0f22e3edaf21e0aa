"""Evaluators against a real PostgreSQL: each alert once, whoever looks, whatever happens in between."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from typing import Any, TypeVar

import psycopg
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logstitch import metrics
from logstitch.actors import evaluator as actor_module
from logstitch.actors.evaluator import Evaluator, Share
from logstitch.actors.mailbox import Mailbox
from logstitch.actors.messages.alerts import CatchUp
from logstitch.actors.messages.redaction import CreateRule, RuleDraft
from logstitch.actors.supervisor import open_supervisor
from logstitch.detection.detector import ActiveRule, Detector, Fact, Firing, Missing
from logstitch.detection.rules import Distinct, GroupBy, Rule
from logstitch.errors import DatabaseUnavailable
from logstitch.ids import UlidMint
from logstitch.recording import evaluation
from logstitch.recording.alert_rules import rule_change, rules_at
from logstitch.redaction.rules import Behavior, RuleType
from logstitch.store import alerts as store
from logstitch.store.database import Connection, Database, open_database
from logstitch.store.migrations import migrate
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.answering import Answering, Ping
from tests.support.evaluation import (
    ADA,
    START_MS,
    Post,
    create,
    failed,
    login,
    open_post,
    remove,
    rule,
    set_fields,
    spied,
    until,
)
from tests.support.ingest import event
from tests.support.own_server import own_server
from tests.support.webhooks import make_webhook

T = TypeVar("T")
SECOND = 1000
MINUTE = 60 * SECOND
MINT = UlidMint()


# -- what is fired ---------------------------------------------------------------------------------------------------


async def test_what_comes_to_be_too_much_is_an_alert_and_a_delivery_to_whoever_wants_to_know(database_url: str) -> None:
    async with open_post(database_url) as post:
        hook = await post.database.transact(partial(make_webhook, project_no=post.no))
        for n in range(5):
            await post.send(failed("eve", tenant_id=f"t{n}"), at_ms=START_MS + n * SECOND)
        await post.looked()

        bodies = await post.bench.bodies()
        ((alert_id, *fields),) = await post.bench.rows(
            "SELECT alert_id, rule_id, rule_name, severity, status, group_by, group_key, tenant_id, event_count,"
            " threshold, window_seconds, seq, extract(epoch FROM triggered_at)::float, acknowledged_at, resolved_at"
            " FROM alerts WHERE project_no = %(no)s"
        )
        assert fields == [
            *("auth_brute_force", "Auth Brute Force", "high", "open", "actor_id", "eve", "t4", 5, 5, 300, 5),
            *(START_MS / 1000 + 4, None, None),
        ]
        assert alert_id.bytes[:6] == (START_MS + 4 * SECOND).to_bytes(6, "big"), "an id tells when it was fired"
        ((ids,),) = await post.bench.rows("SELECT event_ids FROM alerts WHERE project_no = %(no)s")
        stored = await post.bench.rows("SELECT id FROM events WHERE project_no = %(no)s ORDER BY seq")
        assert [(one,) for one in ids] == stored
        assert len(bodies) == 5
        told = await post.bench.rows("SELECT webhook_id, alert_id, type FROM deliveries WHERE project_no = %(no)s")
        assert told == [(hook.id, alert_id, "alert.triggered")]
        assert await post.row() == (5, 1, True), "the position was written with the alert"


async def test_what_ingest_tells_of_is_not_read(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = spied(monkeypatch, "read_page")
    async with open_post(database_url) as post:
        await post.send(failed())
        await post.looked()
        reads.clear()
        for _ in range(10):
            await post.send(failed("a"), failed("b"))
        await post.looked()
        assert reads == []
        assert [alert.group_key for alert in await post.alerts()] == ["a", "b"]


async def test_what_ingest_tells_of_is_what_is_stored(database_url: str) -> None:
    async with open_post(database_url, looks=False) as post:
        await post.send(
            event(context={"ip_address": "203.0.113.7"}, idempotency_key="k", occurred_at="2025-01-01T00:00:00.123Z"),
            event(context={"session_id": "s"}, metadata={"card": "4111 1111 1111 1111"}),
            event(tenant_id="zażółć", context={"ip_address": "4111 1111 1111 1111"}),
        )
        await post.send(event(), event(idempotency_key="k2"), at_ms=START_MS + 1)
        await post.send(event(idempotency_key="k2"), login(), at_ms=START_MS + 2)  # the first one is a replay
        told = [fact for no, message in post.evaluators.told for fact in message.facts]  # type: ignore[union-attr]
        page = await post.database.transact(
            lambda conn: evaluation.read_page(conn, post.no, 0, evaluation.Interest(lambda _: True, addresses=True)),
            read_only=True,
        )
    assert told == page.facts
    assert [fact.seq for fact in told] == [1, 2, 3, 4, 5, 6]
    assert [fact.ip_address for fact in told[:3]] == ["203.0.113.7", None, "[REDACTED]"]


async def test_nobody_to_tell_is_counted_and_harms_nobody(database_url: str) -> None:
    before = metrics.FACTS_DROPPED._value.get()
    async with open_post(database_url, looks=False) as post:
        post.evaluators.refusal = DatabaseUnavailable("no room")  # type: ignore[union-attr]
        await post.send(event(), event())
        assert await post.head() == 2
    assert metrics.FACTS_DROPPED._value.get() - before == 2


async def test_events_of_before_are_found_when_somebody_begins_to_look(database_url: str) -> None:
    async with open_post(database_url, looks=False) as quiet:
        for n in range(7):
            await quiet.send(*[failed(f"u{n}") for n in range(30)], at_ms=START_MS + n * SECOND)
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
            assert len(await post.alerts()) == 30
            assert await post.alerts() == await post.expected()


async def test_many_alerts_at_once_are_written_in_portions(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "FIRINGS", 3)
    records = spied(monkeypatch, "record")
    async with open_post(database_url, looks=False) as quiet:
        await quiet.change(create(rule(threshold=1, cooldown_seconds=0), START_MS))
        await quiet.send(*[login(f"u{n}") for n in range(100)])
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
            assert len(await post.alerts()) == 100
            assert await post.alerts() == await post.expected()
    assert max(len(values["found"].alerts) for values in records) <= actor_module.SLICE


# -- what is too much for one transaction ----------------------------------------------------------------------------


async def make_rules(post: Post, rules: Sequence[Rule]) -> None:
    """Make them all in one transaction."""

    def make(conn: Connection) -> None:
        now = datetime.fromtimestamp(START_MS / 1000, UTC)
        for one in rules:
            decide = create(one, START_MS)
            rule_change(post.no, decide, by=ADA, event_id=MINT.one(START_MS), now=lambda: now).run(conn)
        head = store.find_head(conn, post.no)
        post.chronicle.note(head, rules_at(conn, post.no, head))

    await post.database.transact(make, timeout=30)


def many_rules(count: int, **changes: Any) -> list[Rule]:
    """Rules that one login fires, all of them."""
    return [rule(**{"threshold": 1, "cooldown_seconds": 0} | changes) for _ in range(count)]


async def told(post: Post) -> list[int]:
    """How often each alert is in the outbox, for one endpoint each time."""
    rows = await post.bench.rows(
        "SELECT count(*) FROM deliveries WHERE project_no = %(no)s GROUP BY alert_id, webhook_id"
    )
    return [number for (number,) in rows]


class Recording(Share):
    """What is told of the transactions that write alerts, before each and after it."""

    async def write(self, work: Callable[[Connection], T], *, seconds: float = 5.0) -> T:
        if not (isinstance(work, partial) and work.func is evaluation.record):
            return await super().write(work, seconds=seconds)
        await self.before(work.keywords["found"])
        result: T = await super().write(work, seconds=self.seconds(seconds))
        await self.after(work.keywords["found"])
        return result

    def seconds(self, seconds: float) -> float:
        return seconds

    async def before(self, found: evaluation.Found) -> None: ...

    async def after(self, found: evaluation.Found) -> None: ...


async def test_an_event_that_fires_every_rule_holds_up_nothing_for_long(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given 500 rules, 20 endpoints and a slow database, where all the alerts of one event take longer than one
    transaction may, when a login fires all rules, they come, and so does what another rule fires behind them."""
    monkeypatch.setattr(actor_module, "SLOW_SECONDS", 0.5)
    sizes: list[int] = []

    class Noting(Detector):
        def take(self, facts: Sequence[Fact]) -> list[Firing]:
            sizes.append(len(facts))
            return super().take(facts)

    class Impatient(Recording):
        def seconds(self, seconds: float) -> float:
            return 1.0

    def copy_rule(conn: Connection) -> None:
        conn.execute(
            "INSERT INTO alert_rules SELECT (jsonb_populate_record(r, jsonb_build_object("
            " 'rule_id', gen_random_uuid(), 'created_at', r.created_at + n * interval '1 ms'))).*"
            " FROM alert_rules r, generate_series(1, 499) n"
        )

    def slow(conn: Connection) -> None:
        conn.execute(
            "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN PERFORM pg_sleep(0.004); RETURN NEW; END $$"
        )
        conn.execute("CREATE TRIGGER dawdle BEFORE INSERT ON alerts FOR EACH ROW EXECUTE FUNCTION dawdle()")

    async with open_post(database_url, looks=False) as quiet:
        await make_rules(quiet, many_rules(1))
        await quiet.database.transact(copy_rule)
        for _ in range(20):
            await quiet.database.transact(partial(make_webhook, project_no=quiet.no))
        await quiet.database.transact(slow)
        await quiet.send(login(), *[failed("eve") for _ in range(5)])
        async with open_post(database_url, beside=quiet, share=Impatient, make_detector=Noting) as post:
            post.wake()
            await post.looked()
            fired = await post.alerts()
            assert len(fired) == 501
            assert fired[-1].rule_id == "auth_brute_force"
            assert await told(post) == [1] * 501 * 20
    assert max(sizes) == 1, "so many rules have a turn with one event"


@pytest.mark.parametrize("parts", range(1, 8))
async def test_one_who_is_killed_between_two_parts_of_an_event_leaves_the_rest_to_the_next(
    database_url: str, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    """Given two logins, each of which fires ten rules, with and without a cooldown, when whoever looks comes to its end
    after any part, every alert is there once and told of once."""
    monkeypatch.setattr(actor_module, "PORTION", 3)
    written: list[evaluation.Found] = []
    over = trio.Event()

    class Mortal(Recording):
        async def after(self, found: evaluation.Found) -> None:
            written.append(found)
            if len(written) == parts:
                await over.wait()

    async with open_post(database_url, looks=False) as quiet:
        await quiet.database.transact(partial(make_webhook, project_no=quiet.no))
        await make_rules(quiet, [*many_rules(5), *many_rules(5, cooldown_seconds=60, group_by=GroupBy.TENANT_ID)])
        await quiet.send(login(), login("u2", tenant_id="other"))
        async with open_post(database_url, beside=quiet, share=Mortal) as first:
            first.wake()
            await until(lambda: len(written) == parts)
            assert (await first.row())[0] == written[-1].position, "all that is before it is written, and no more"
            assert len(await first.alerts()) == 3 * parts - (parts == 7)
            await first.expire()
            async with open_post(database_url, beside=quiet) as second:
                second.wake()
                await second.looked()
                assert await second.alerts() == await second.expected()
                assert await told(second) == [1] * 20
                over.set()
                await until(lambda: not first.leads)
    assert any(not found.whole for found in written)


async def test_a_part_of_which_nobody_heard_is_found_out(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "PORTION", 3)
    monkeypatch.setattr(actor_module, "FIRST_PAUSE", 0.001)

    class Deaf(Recording):
        calls = 0

        async def after(self, found: evaluation.Found) -> None:
            self.calls += 1
            if self.calls % 2:
                raise DatabaseUnavailable("The connection broke.")

    async with open_post(database_url, share=Deaf) as post:
        await post.database.transact(partial(make_webhook, project_no=post.no))
        await make_rules(post, many_rules(10))
        await post.send(login())
        await post.looked()
        assert await post.alerts() == await post.expected()
        assert await told(post) == [1] * 10


async def test_what_fails_after_long_is_tried_by_halves(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "SLOW_SECONDS", 0)
    monkeypatch.setattr(actor_module, "FIRST_PAUSE", 0.001)
    sizes: list[int] = []

    class Narrow(Recording):
        async def before(self, found: evaluation.Found) -> None:
            sizes.append(len(found.alerts))
            if len(found.alerts) > 5:
                raise DatabaseUnavailable("The database did not answer in time.")

    async with open_post(database_url, share=Narrow) as post:
        await make_rules(post, many_rules(40))
        await post.send(login())
        await post.looked()
        assert await post.alerts() == await post.expected()
        assert sizes == [40, 20, 10] + [5] * 8


async def test_what_fails_at_once_is_not_tried_by_halves(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor_module, "FIRST_PAUSE", 0.001)
    sizes: list[int] = []

    class Flaky(Recording):
        async def before(self, found: evaluation.Found) -> None:
            sizes.append(len(found.alerts))
            if len(sizes) < 3:
                raise DatabaseUnavailable("The database cannot be reached.")

    async with open_post(database_url, share=Flaky) as post:
        await make_rules(post, many_rules(40))
        await post.send(login())
        await post.looked()
        assert sizes == [40, 40, 40]


async def test_one_who_cannot_write_tells_how_far_it_is_behind_and_keeps_the_lease(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actor_module, "LAST_PAUSE", 0.1)
    monkeypatch.setattr(actor_module, "RENEW_SECONDS", 0.1)

    class Refusing(Recording):
        refuses = True

        async def before(self, found: evaluation.Found) -> None:
            if Refusing.refuses:
                raise DatabaseUnavailable("The database did not answer in time.")

    async with open_post(database_url, share=Refusing) as post:
        await post.send(*[failed("eve") for _ in range(5)])
        await until(lambda: post.gauges().get("lag") == 5)
        await post.send(*[login() for _ in range(7)])
        await until(lambda: post.gauges().get("lag") == 12)
        await post.expire()
        await until(lambda: _held(post))
        Refusing.refuses = False
        await post.looked()
        assert await post.alerts() == await post.expected()
        assert len(await post.alerts()) == 1


async def _held(post: Post) -> bool:
    return (await post.row())[1:] == (1, True)


async def test_others_have_a_turn_while_many_events_are_looked_at(database_url: str) -> None:
    beats = 0
    takes: list[int] = []

    class Slow(Detector):
        def take(self, facts: Sequence[Fact]) -> list[Firing]:
            takes.append(beats)
            time.sleep(actor_module.YIELD_SECONDS)
            return super().take(facts)

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await trio.lowlevel.checkpoint()

    async with open_post(database_url, looks=False) as quiet:
        await quiet.send(*[login() for _ in range(200)])
        async with open_post(database_url, beside=quiet, make_detector=Slow) as post, trio.open_nursery() as nursery:
            nursery.start_soon(beat)
            post.wake()
            await post.looked()
            nursery.cancel_scope.cancel()
    assert len(takes) >= 200 / actor_module.SLICE
    # The beat of a turn comes before or after what else is done in it, so that two slices may see the same one.
    assert max(Counter(takes).values()) <= 2, "between any two slices there was a turn"


# -- while it works --------------------------------------------------------------------------------------------------


class Work:
    """What is done, in order: parts of the detector's work, ``keep`` and ``progress``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, slow: bool) -> None:
        self.done = done = list[str]()
        self.slow = slow
        """Each part of the work takes so long that the lease is due to be renewed."""
        work = self

        class Noting(Detector):
            def missing(self, facts: Sequence[Fact]) -> Missing:
                done.append("missing")
                if work.slow:
                    monkeypatch.setattr(actor_module, "WRITE_SECONDS", 0)
                    monkeypatch.setattr(actor_module, "RENEW_SECONDS", 0)
                return super().missing(facts)

            def take(self, facts: Sequence[Fact]) -> list[Firing]:
                done.append("take")
                return super().take(facts)

        def note(owner: Any, name: str) -> None:
            real = getattr(owner, name)

            def noting(*args: Any, **values: Any) -> Any:
                done.append(name)
                return real(*args, **values)

            monkeypatch.setattr(owner, name, noting)

        self.detector = Noting
        note(evaluation, "keep")
        note(Mailbox, "progress")

    def most(self, part: str, without: str) -> int:
        """How many such parts were done in a row, at most, without that other thing between them."""
        only = "".join("x" if name == part else " " for name in self.done if name in (part, without))
        return max(map(len, only.split()))


async def test_while_a_long_page_is_looked_at_the_lease_is_kept_and_work_is_seen_to_get_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given so many events on one page that they take longer than the lease, on a slow machine with many rules."""
    monkeypatch.setattr(actor_module, "CHUNK", 50)
    monkeypatch.setattr(actor_module, "SLICE", 10)
    work = Work(monkeypatch, slow=True)
    reads = spied(monkeypatch, "read_page")
    async with open_post(database_url, looks=False) as quiet:
        await quiet.send(*[failed(f"u{n % 90}") for n in range(500)])
        async with open_post(database_url, beside=quiet, make_detector=work.detector) as post:
            post.wake()
            await post.looked()
            assert await post.alerts() == await post.expected()
            assert len(await post.alerts()) == 90
    assert work.done.count("take") == 50
    assert work.done.count("missing") == 10
    assert [values["after"] for values in reads][:1] == [0]
    assert all(values["after"] == 500 for values in reads[1:]), "it was one page"
    for part, most in (("take", 5), ("missing", 1)):
        for between in ("keep", "progress"):
            assert work.most(part, between) <= most


async def test_between_what_ingest_tells_of_the_lease_is_kept_and_work_is_seen_to_get_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given messages that have piled up, each of which may have a thousand events."""
    work = Work(monkeypatch, slow=False)
    reads = spied(monkeypatch, "read_page")
    async with open_post(database_url, make_detector=work.detector) as post:
        await post.send(*[failed("eve") for _ in range(4)])
        await post.looked()
        reads.clear()
        with psycopg.connect(database_url) as blocker:
            blocker.execute("SELECT FROM evaluators FOR UPDATE")
            await post.send(failed("eve"))  # it wants to write this alert, and has to wait
            for _ in range(10):
                await post.send(login())
            work.slow = True
            work.done.clear()
            blocker.rollback()
        await post.looked()
    assert reads == []
    assert work.done.count("take") == 10
    assert work.most("take", "keep") == 1
    assert work.most("take", "progress") == 1


@pytest.mark.parametrize("large", [True, False])
async def test_a_large_memory_is_trimmed_while_others_have_their_turns(
    database_url: str, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Given 100 groups, to drop them is the loop's work or, where that is too long for it, a thread's."""
    monkeypatch.setattr(actor_module, "TRIM_AT_ONCE", 99 if large else 100)
    in_threads: list[bool] = []

    class Noting(Detector):
        def trim(self) -> None:
            in_threads.append(threading.current_thread() is not threading.main_thread())
            super().trim()

    async with open_post(database_url, make_detector=Noting) as post:
        await post.send(*[failed(f"u{n}") for n in range(100)])
        await post.looked()
        await until(lambda: bool(in_threads))
    assert in_threads == [large]


async def test_a_page_of_more_groups_than_fit_into_memory_is_looked_at_in_parts(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given events of 60 actors and room for 20 groups, when they are read together, then no more are in memory."""
    monkeypatch.setattr(actor_module, "GROUPS", 20)
    most = 0

    class Small(Detector):
        def __init__(self, rules: Sequence[ActiveRule]) -> None:
            super().__init__(rules, groups=20)

        def take(self, facts: Sequence[Fact]) -> list[Firing]:
            nonlocal most
            firings = super().take(facts)
            most = max(most, self.memory[0])
            return firings

    async with open_post(database_url, make_detector=Small) as post:
        await post.send(*[failed(f"u{n % 60}") for n in range(300)])
        await post.looked()
        assert len(await post.alerts()) == 60
    assert most <= 2 * 20


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=30), st.integers(0, 6))
def test_parts_are_all_events_in_order_and_each_has_few_keys(keys: list[tuple[int, int]], most: int) -> None:
    facts = [
        Fact(seq, bytes(16), 0, 0, "a.b", f"t{tenant}", f"a{actor}", None)
        for seq, (tenant, actor) in enumerate(keys, 1)
    ]

    parts = list(actor_module.in_parts(facts, most))

    assert [fact for part in parts for fact in part] == facts
    for part in parts:
        assert part
        assert len(part) == 1 or len({f.actor_id for f in part}) + len({f.tenant_id for f in part}) <= most
    for part, following in itertools.pairwise(parts):
        more = [*part, following[0]]
        assert len({f.actor_id for f in more}) + len({f.tenant_id for f in more}) > most


# -- gaps ------------------------------------------------------------------------------------------------------------


async def test_what_there_is_no_room_for_is_read(database_url: str) -> None:
    before = metrics.FACTS_DROPPED._value.get()
    async with open_post(database_url, capacity=1) as post:
        await post.send(*[failed("first") for _ in range(4)])
        await post.looked()
        with psycopg.connect(database_url) as blocker:
            blocker.execute("SELECT FROM evaluators FOR UPDATE")
            await post.send(failed("first"))  # it wants to write this alert, and has to wait
            for n in range(40):
                await post.send(failed(f"u{n % 7}"), login(), at_ms=START_MS + n * SECOND)
            blocker.rollback()
        await post.looked()
        assert metrics.FACTS_DROPPED._value.get() > before
        assert await post.alerts() == await post.expected()
        assert len(await post.alerts()) == 8


async def test_what_other_processes_commit_is_seen_within_a_second_or_two(database_url: str) -> None:
    async with open_post(database_url) as post, open_post(database_url, beside=post, looks=False) as other:
        await post.send(login())
        await post.looked()
        await other.send(*[failed("eve") for _ in range(5)])
        await until(lambda: _any(post))
        assert await post.alerts() == await post.expected()


async def _any(post: Post) -> bool:
    return bool(await post.alerts())


# -- one at a time ---------------------------------------------------------------------------------------------------


async def test_of_two_processes_one_looks_and_every_alert_is_there_once(database_url: str) -> None:
    async with open_post(database_url) as one, open_post(database_url, beside=one) as two:

        async def work(post: Post, seed: int) -> None:
            chance = random.Random(seed)
            for n in range(60):
                at = START_MS + n * SECOND
                await post.send(*[failed(f"u{chance.randrange(9)}") for _ in range(chance.randrange(1, 9))], at_ms=at)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, one, 1)
            nursery.start_soon(work, two, 2)
        assert one.leads != two.leads
        leader = one if one.leads else two
        await leader.looked()
        assert await one.alerts() == await one.expected()
        assert len(await one.alerts()) == 9


class GatedShare(Share):
    """Its writes wait while the gate is closed, as those of a process that was stopped for a while."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.gate = trio.Event()
        self.gate.set()
        self.waiting = 0

    async def write(self, work: Callable[[Connection], T], *, seconds: float = 5.0) -> T:
        self.waiting += 1
        await self.gate.wait()
        self.waiting -= 1
        return await super().write(work, seconds=seconds)


async def test_a_holder_who_slept_through_the_end_of_its_lease_writes_nothing(database_url: str) -> None:
    """Given one who has found an alert and has not written it, when its lease is over and another one has written the
    alert, then the first one finds out, forgets all, and stands by."""
    shares: list[GatedShare] = []

    def gated(database: Database) -> Share:
        shares.append(GatedShare(database))
        return shares[0]

    async with open_post(database_url, share=gated) as sleeper:
        (share,) = shares
        await sleeper.send(*[failed("eve") for _ in range(4)])
        await sleeper.looked()
        share.gate = trio.Event()
        await sleeper.send(failed("eve"))
        await until(lambda: share.waiting == 1)
        await sleeper.expire()
        async with open_post(database_url, beside=sleeper) as other:
            other.wake()
            await other.looked()
            assert [alert.group_key for alert in await other.alerts()] == ["eve"]
            share.gate.set()
            await until(lambda: not sleeper.leads)
            await sleeper.send(*[failed("bob") for _ in range(5)])
            await until(lambda: _count(other, 2))
            assert other.leads
            assert not sleeper.leads
            assert await other.alerts() == await other.expected()
            assert (await other.row())[1] == 2


async def _count(post: Post, number: int) -> bool:
    return len(await post.alerts()) == number


async def test_a_commit_of_which_nobody_heard_is_found_out(database_url: str) -> None:
    """Given an alert whose transaction was committed though the connection broke, it is not written again."""

    class Deaf(Share):
        deaf = 0

        async def write(self, work: Callable[[Connection], T], *, seconds: float = 5.0) -> T:
            result = await super().write(work, seconds=seconds)
            if isinstance(work, partial) and work.func is evaluation.record and not self.deaf:
                self.deaf += 1
                raise DatabaseUnavailable("The connection broke.")
            return result

    async with open_post(database_url, share=Deaf) as post:
        await post.database.transact(partial(make_webhook, project_no=post.no))
        for n in range(8):
            await post.send(failed("eve"), at_ms=START_MS + n)
        await post.looked()
        assert await post.alerts() == await post.expected()
        assert await post.bench.rows("SELECT count(*) FROM deliveries WHERE project_no = %(no)s") == [(1,)]
        assert post.leads
        assert (await post.row())[1] == 1, "and it is still the same evaluator"


@pytest.mark.parametrize("ending", ["stopped", "killed"])
async def test_a_window_that_spans_two_lives_fires_once(database_url: str, ending: str) -> None:
    async with open_post(database_url, looks=False) as quiet:
        with trio.CancelScope() as life:
            async with open_post(database_url, beside=quiet) as first:
                await first.send(*[failed("eve") for _ in range(3)])
                await first.looked()
                if ending == "stopped":
                    await first.stop()
                    assert await quiet.row() == (3, 1, False)
                    life.cancel()
                await quiet.send(failed("eve"), at_ms=START_MS + SECOND)
                life.cancel()
                await trio.sleep_forever()
        if ending == "killed":  # what it wrote when it was cancelled was never written
            await quiet.database.transact(
                lambda conn: conn.execute("UPDATE evaluators SET seq = 0, lease_until = NULL") and None
            )
        async with open_post(database_url, beside=quiet) as second:
            await second.send(failed("eve"), failed("eve"), at_ms=START_MS + 2 * SECOND)
            await second.looked()
            (alert,) = await second.alerts()
            assert [alert] == await second.expected()


async def test_the_cooldown_holds_across_lives(database_url: str) -> None:
    async with open_post(database_url, looks=False) as quiet:
        for minute in (0, 30, 59, 60, 61):  # of an hour's cooldown
            async with open_post(database_url, beside=quiet) as post:
                await post.send(*[failed("eve") for _ in range(5)], at_ms=START_MS + minute * MINUTE)
                await post.looked()
                await post.stop()
        assert [alert.triggered_at_ms for alert in await quiet.alerts()] == [START_MS, START_MS + 60 * MINUTE]
        assert await quiet.alerts() == await quiet.expected()


# -- rules -----------------------------------------------------------------------------------------------------------


async def test_what_lies_behind_a_change_of_rules_is_judged_by_the_new_ones_however_late(database_url: str) -> None:
    mine = rule(threshold=3)
    async with open_post(database_url, looks=False) as quiet:
        # So many that they are not read, for no rule that holds at the beginning counts them or a login.
        await quiet.send(*[event(action="page.seen") for _ in range(evaluation.FEW_EVENTS)])
        await quiet.send(login(), login())
        await quiet.change(create(mine, START_MS))
        await quiet.send(login(), login())  # two that count
        await quiet.change(set_fields(mine.id, {"threshold": 2}))
        await quiet.send(login())  # the next one fires, with three
        await quiet.change(set_fields("suspicious_ip_change", {"enabled": True}))
        await quiet.send(*[login("mallory", context={"ip_address": f"203.0.113.{n}"}) for n in range(3)])
        await quiet.change(set_fields(mine.id, {"action_pattern": "auth.*"}))
        await quiet.send(login("bob"), login("bob"))
        await quiet.change(set_fields("auth_brute_force", {"enabled": False}))
        await quiet.send(*[failed("eve") for _ in range(6)])
        await quiet.change(remove(mine.id))
        await quiet.send(*[failed("zoe") for _ in range(6)])
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
            assert await post.alerts() == await post.expected()
            assert [(alert.rule_id, alert.group_key) for alert in await post.alerts()] == [
                (mine.id, "u1"),
                (mine.id, "mallory"),
                ("suspicious_ip_change", "mallory"),
                (mine.id, "eve"),
            ]


async def test_a_change_of_rules_is_heard_of_while_it_looks(database_url: str) -> None:
    mine = rule()
    async with open_post(database_url) as post:
        await post.send(*[login() for _ in range(3)])
        await post.looked()
        await post.change(create(mine, START_MS))
        await post.send(*[login() for _ in range(3)])
        await post.looked()
        assert [alert.seq for alert in await post.alerts()] == [7]
        assert await post.alerts() == await post.expected()


async def test_a_longer_cooldown_counts_from_what_was_fired_before(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a firing so long ago that nobody remembers it, when the cooldown becomes longer, it is silent again."""
    recalled = spied(monkeypatch, "read_past")
    mine = rule(threshold=1, cooldown_seconds=0)
    async with open_post(database_url) as post:
        await post.change(create(mine, START_MS))
        await post.send(login(), at_ms=START_MS)
        await post.looked()
        await post.send(login("somebody else"), at_ms=START_MS + 20 * MINUTE)
        await post.looked()
        await post.change(set_fields(mine.id, {"cooldown_seconds": 3600}), at_ms=START_MS + 20 * MINUTE)
        await post.send(login(), at_ms=START_MS + 30 * MINUTE)
        await post.send(login(), at_ms=START_MS + 60 * MINUTE)
        await post.looked()
        assert [alert.seq for alert in await post.alerts()] == [2, 3, 6]
        assert await post.alerts() == await post.expected()
        assert recalled == [], "the past is read once, and not for each group"


async def test_versions_that_nobody_needs_are_dropped(database_url: str) -> None:
    mine = rule()
    async with open_post(database_url, looks=False) as quiet:
        await quiet.change(create(mine, START_MS))
        for threshold in (4, 5, 6):
            await quiet.change(set_fields(mine.id, {"threshold": threshold}))
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()

            async def one_is_left() -> bool:
                rows = await post.bench.rows("SELECT threshold FROM alert_rules WHERE project_no = %(no)s")
                return rows == [(6,)]

            await until(one_is_left)


# -- memory ----------------------------------------------------------------------------------------------------------


def small(rules: Sequence[ActiveRule]) -> Detector:
    """A detector that can remember two groups."""
    return Detector(rules, groups=2, times=40)


@pytest.mark.parametrize("group_by", GroupBy)
async def test_what_had_to_be_dropped_is_read_back(database_url: str, group_by: GroupBy) -> None:
    mine = rule(threshold=4, window_seconds=600, group_by=group_by, cooldown_seconds=120)
    async with open_post(database_url, make_detector=small) as post:
        await post.change(create(mine, START_MS))
        for n in range(12):
            at = START_MS + n * 30 * SECOND
            await post.send(*[login(f"u{n}", tenant_id=f"t{n}") for n in range(8)], failed("eve"), at_ms=at)
            await post.looked()
        assert await post.alerts() == await post.expected()
        assert len(await post.alerts()) > 16


async def test_what_is_missing_is_asked_for_in_slices_and_read_back_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a page of a long time, it is all of its events' pasts that are read back, and not the last one's only."""
    monkeypatch.setattr(actor_module, "SLICE_WORK", 1)
    monkeypatch.setattr(evaluation, "PAGE_FACTS", 640)
    recalled = spied(monkeypatch, "find_past")
    mine = rule(threshold=25, window_seconds=600, cooldown_seconds=50)
    async with open_post(database_url, looks=False) as quiet:
        await quiet.change(create(mine, START_MS))
        for n in range(160):
            await quiet.send(*[login(f"u{n}") for n in range(8)], at_ms=START_MS + n * 20 * SECOND)
        async with open_post(database_url, beside=quiet, make_detector=small) as post:
            post.wake()
            await post.looked()
            assert await post.alerts() == await post.expected()
            assert len(await post.alerts()) == 46 * 8
    assert [len(values["missing"].groups) for values in recalled] == [8]


async def test_distinct_addresses_are_read_back_too(database_url: str) -> None:
    async with open_post(database_url, make_detector=small) as post:
        await post.change(set_fields("suspicious_ip_change", {"enabled": True}))
        for n in range(3):
            for actor in range(5):
                await post.send(login(f"u{actor}", context={"ip_address": f"203.0.113.{n}"}), at_ms=START_MS + n)
            await post.looked()
        assert await post.alerts() == await post.expected()
        assert len(await post.alerts()) == 5


async def test_only_the_past_that_matters_is_read_at_the_start(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_post(database_url, looks=False) as quiet:
        for n in range(40):
            await quiet.send(*[failed("eve", tenant_id=str(n)) for _ in range(100)], at_ms=START_MS + n * 10 * MINUTE)
        await quiet.database.transact(
            lambda conn: (
                conn.execute("INSERT INTO evaluators (project_no, seq) VALUES (%s, 4000)", (quiet.no,)) and None
            )
        )
        reads = spied(monkeypatch, "read_page")
        async with open_post(database_url, beside=quiet) as post:
            post.wake()
            await post.looked()
        assert min(values["after"] for values in reads) >= 3500


async def test_an_actor_whose_id_redaction_has_made_long_goes_by_its_digest(database_url: str) -> None:
    """Told, read, and read back: it is one group, and its key is one that an index takes."""
    async with open_post(database_url, make_detector=small) as post:
        hashing = CreateRule(ADA, RuleDraft("letters", RuleType.PATTERN, "[a-z]", (), Behavior.HASH, enabled=True))
        await post.bench.redaction.ask(post.no, hashing, timeout=15)
        long = "m" * 18 + "0" * 238
        await post.send(failed(long), failed(long))  # told
        await post.looked()
        await post.stop()
        await post.send(*[failed(f"{n}") for n in range(3)])
        await post.looked()
        await post.send(failed(long), failed(long), failed(long))  # read back, and told
        await post.looked()
        await post.stop()
        await post.send(*[failed(long) for _ in range(3)], at_ms=START_MS + 2 * 60 * MINUTE)
        await post.stop()
        async with open_post(database_url, beside=post, make_detector=small) as other:
            await other.send(failed(long), failed(long), at_ms=START_MS + 2 * 60 * MINUTE)
            await other.looked()
        keys = [(alert.rule_id, alert.group_key) for alert in await post.alerts()]
        ((actor_id,),) = await post.bench.rows("SELECT actor_id FROM events WHERE length(actor_id) > 1000 LIMIT 1")
        digest = f"sha256:{sha256(actor_id.encode()).hexdigest()}"
        assert keys == [("auth_brute_force", digest), ("auth_brute_force", digest)]


# -- rest and trouble ------------------------------------------------------------------------------------------------


async def test_a_position_without_alerts_is_written_soon(database_url: str) -> None:
    async with open_post(database_url) as post:
        await post.send(login())

        async def written() -> bool:
            return (await post.row())[0] == 1

        await until(written)


async def test_one_who_has_nothing_to_do_leaves(database_url: str) -> None:
    async with open_post(database_url, idle_after=0.3) as post:
        await post.send(login())
        await until(lambda: not post.gauges())

        async def left() -> bool:
            return await post.row() == (1, 1, False)

        await until(left)
        await post.send(login())
        await post.looked()
        assert (await post.row())[1:] == (2, True)


async def test_while_the_database_is_away_it_waits_and_then_goes_on(error_logs: object) -> None:
    with own_server() as server:
        server.start()
        migrate(server.url)
        async with open_post(server.url) as post:
            await post.send(*[failed("eve") for _ in range(4)])
            await post.looked()
            server.kill()
            await trio.sleep(0.5)
            server.start()
            await post.send(failed("eve"))
            await post.looked()
            assert await post.alerts() == await post.expected()
            assert len(await post.alerts()) == 1
            assert (await post.row())[1] == 1, "and it is still the same evaluator"


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_alerts_are_those_of_the_rules(database_url: str, seed: int) -> None:
    """Two processes that ingest, look, stop, are cut off from their leases and change rules, in a random order."""
    chance = random.Random(seed)
    rules = [rule(threshold=chance.randrange(1, 5), cooldown_seconds=chance.choice((0, 30, 600))) for _ in range(3)]
    there: set[str] = set()
    detectors = [partial(Detector, groups=chance.choice((3, 50)), times=chance.choice((60, 10_000))) for _ in range(2)]
    async with (
        open_post(database_url, make_detector=detectors[0], capacity=2) as one,
        open_post(database_url, make_detector=detectors[1], beside=one) as two,
    ):
        now = START_MS
        for _ in range(60):
            post, (kind,) = chance.choice((one, two)), chance.choices(("send", "rule", "stop", "expire"), (20, 4, 2, 1))
            now += chance.choice((0, 500, 5_000, 20_000, 61_000))
            if kind == "send":
                sent = [
                    chance.choice((login, failed))(
                        f"u{chance.randrange(6)}",
                        tenant_id=f"t{chance.randrange(3)}",
                        context={"ip_address": f"203.0.113.{chance.randrange(4)}"},
                    )
                    for _ in range(chance.randrange(1, 20))
                ]
                await post.send(*sent, at_ms=now - chance.choice((0, 0, 3_000)))
            elif kind == "stop":
                await post.stop()
            elif kind == "expire":
                await one.expire()
            else:
                await _change_something(post, rules, there, chance, now)
        one.wake()
        two.wake()

        async def all_looked() -> bool:
            one.wake()
            two.wake()
            return (await one.row())[0] == await one.head()

        await until(all_looked)
        assert await one.alerts() == await one.expected()
        assert await one.alerts()


async def _change_something(post: Post, rules: Sequence[Any], there: set[str], chance: random.Random, now: int) -> None:
    mine = chance.choice(rules)
    if mine.id not in there:
        there.add(mine.id)
        await post.change(create(mine, now), at_ms=now)
        return
    fields = chance.choice(
        (
            {"threshold": chance.randrange(1, 6)},
            {"cooldown_seconds": chance.choice((0, 20, 3600))},
            {"action_pattern": chance.choice(("*", "auth.*", "user.login"))},
            {"enabled": chance.random() < 0.7},
            {"group_by": chance.choice([*GroupBy])},
            {"distinct": chance.choice((None, Distinct.IP_ADDRESS))},
            {"window_seconds": chance.choice((60, 120))},
        )
    )
    await post.change(set_fields(mine.id, fields), at_ms=now)


# -- the kernel's demands --------------------------------------------------------------------------------------------


@asynccontextmanager
async def a_project(url: str) -> AsyncIterator[Post]:
    async with open_post(url, looks=False) as post:
        await post.send(login())
        yield post


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with a_project(database_url) as post, open_database(database_url) as database:
        share = Share(database)
        await check(Subject(factory=lambda: Answering(Evaluator(share, post.no)), question=Ping))


async def test_messages_do_not_pile_up_while_it_stands_by(database_url: str) -> None:
    async with open_post(database_url) as one:
        await one.send(login())
        await one.looked()
        async with open_database(database_url) as database, open_supervisor() as supervisor:
            share = Share(database)
            address = supervisor.start("evaluator", lambda: Evaluator(share, one.no), capacity=4)
            for _ in range(40):
                address.tell(CatchUp())
                await until(lambda: address.health().depth == 0)
            assert address.health().gauges == {"leads": 0, "lag": 0}
            assert one.leads
