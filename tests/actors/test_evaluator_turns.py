"""Evaluators with much to do: in parts that are short, while others have their turns and the lease is kept."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import psycopg
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from logstitch.actors import evaluator as actor_module
from logstitch.actors.evaluator import Share
from logstitch.actors.mailbox import Mailbox
from logstitch.detection.detector import ActiveRule, Detector, Firing, Missing
from logstitch.detection.facts import Fact
from logstitch.detection.rules import GroupBy, Rule
from logstitch.errors import DatabaseUnavailable
from logstitch.ids import UlidMint
from logstitch.recording import evaluation
from logstitch.recording.alert_rules import rule_change, rules_at
from logstitch.store import alerts as store
from logstitch.store.database import Connection
from tests.support.evaluation import (
    ADA,
    START_MS,
    Post,
    create,
    failed,
    login,
    open_post,
    rule,
    spied,
    until,
)
from tests.support.webhooks import make_webhook

T = TypeVar("T")
MINT = UlidMint()


# -- what is too much for one transaction --------------------------------------------------------------------------


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


# -- while it works ------------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(actor_module, "CHUNK", 1)  # each is enough to be looked at by itself,
    monkeypatch.setattr(actor_module, "GATHER_SECONDS", 0)  # and the first one waits for no other
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


async def test_what_is_committed_shortly_after_one_another_is_looked_at_together(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given ten commits within the time that the first waits for the others."""
    monkeypatch.setattr(actor_module, "GATHER_SECONDS", 1)
    work = Work(monkeypatch, slow=False)
    reads = spied(monkeypatch, "read_page")
    async with open_post(database_url, make_detector=work.detector) as post:
        await post.send(login())
        await post.looked()
        reads.clear()
        work.done.clear()
        for _ in range(10):
            await post.send(login())
        await post.looked()
    assert reads == []
    assert work.done.count("take") == 1


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
