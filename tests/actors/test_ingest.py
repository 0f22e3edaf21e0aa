"""The ingest actor against a real PostgreSQL: order, idempotency, limits, evidence."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import psycopg
import pytest
import trio
from psycopg import errors as pg

from logstitch.actors.bounds import THREAD_BYTES
from logstitch.actors.ingest import QUEUE_SECONDS, Ingest
from logstitch.actors.messages.events import Accepted
from logstitch.errors import Conflict, DailyEventLimitReached, Unavailable
from logstitch.evidence.commitments import verify_event
from logstitch.evidence.merkle import TenantHead, append, leaf_hash
from logstitch.ids import UlidMint
from logstitch.recording.preparation import Preparation
from logstitch.store.database import Connection
from logstitch.verify import verify
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.errors import ErrorLogs
from tests.support.ingest import Evaluators, event, open_bench, submission

DAY_MS = 86_400_000


async def test_what_is_accepted_is_stored_in_order_and_comes_back_equal(database_url: str) -> None:
    sent = [
        event(
            metadata={"n": n, "big": 2**63, "float": 0.1, "text": "zażółć 🦊"}, changes=[{"field": "a", "before": None}]
        )
        for n in range(250)
    ]
    async with open_bench(database_url) as bench:
        for start in range(0, 250, 100):
            await bench.submit(*sent[start : start + 100])
        stored = await bench.bodies()
        assert [{k: v for k, v in body.items() if k in sent[0]} for body in stored] == sent
        assert [
            seq for (seq,) in await bench.rows("SELECT seq FROM events WHERE project_no = %(no)s ORDER BY seq")
        ] == [*range(1, 251)]


async def test_ids_are_answered_in_request_order(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        accepted = await bench.submit(*[event(metadata={"n": n}) for n in range(10)])
        by_id = {body["id"]: body["metadata"]["n"] for body in await bench.bodies()}
        assert [by_id[event_id] for event_id in accepted.ids] == [*range(10)]


async def test_a_replay_answers_the_first_id_and_is_counted(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        first = await bench.submit(event(idempotency_key="k"), event())
        again = await bench.submit(event(), event(idempotency_key="k"))
        assert again.ids[1] == first.ids[0]
        assert (first.replays, again.replays) == (0, 1)
        assert len(await bench.bodies()) == 3


async def test_a_conflict_stores_nothing_of_its_batch_and_leaves_others_alone(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event(idempotency_key="k"))
        results: list[object] = []

        async def submit(*events: dict[str, object]) -> None:
            try:
                results.append(await bench.submit(*events))
            except Conflict as error:
                results.append([detail.field for detail in error.details])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit, event(), event(idempotency_key="k", category="admin"))
            nursery.start_soon(submit, event(tenant_id="other"))
        assert ["1.idempotency_key"] in results
        assert sorted(body["tenant_id"] for body in await bench.bodies()) == ["acme", "other"]


async def test_fifty_parallel_twins_in_two_processes_are_one_event(database_url: str) -> None:
    async with open_bench(database_url) as one, open_bench(database_url, project_no=one.project_no) as other:
        ids: list[str] = []

        async def submit(number: int) -> None:
            accepted = await (one, other)[number % 2].submit(event(idempotency_key="twin"))
            ids.extend(accepted.ids)

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(submit, number)
        assert len(ids) == 50
        assert len(set(ids)) == 1
        assert len(await one.bodies()) == 1


async def test_two_processes_share_one_gap_free_order_and_one_log_a_tenant(database_url: str) -> None:
    async with open_bench(database_url) as one, open_bench(database_url, project_no=one.project_no) as other:

        async def submit(number: int) -> None:
            await (one, other)[number % 2].submit(*[event(tenant_id=f"t{n % 3}") for n in range(number % 7 + 1)])

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(submit, number)
        rows = await one.rows("SELECT seq, tenant_no, tenant_seq FROM events WHERE project_no = %(no)s ORDER BY seq")
        assert [seq for seq, _, _ in rows] == [*range(1, len(rows) + 1)]
        sizes: Counter[int] = Counter()
        for _, tenant_no, tenant_seq in rows:
            assert tenant_seq == sizes[tenant_no]
            sizes[tenant_no] += 1
        findings = await verify(one.database, lambda _: None)
        assert [finding.problems for finding in findings] == [()]


async def test_every_stored_event_proves_itself_and_its_tenants_log(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        for _ in range(6):
            await bench.submit(
                *[event(target={"id": "d", "type": "doc"}, context={"session_id": "s"}) for _ in range(100)]
            )
        rows = await bench.rows(
            "SELECT body, salts, content_hash FROM events WHERE project_no = %(no)s ORDER BY tenant_seq"
        )
        assert all(verify_event(body.encode(), salts) for body, salts, _ in rows)
        head, subtrees = append(TenantHead(), [leaf_hash(content_hash) for _, _, content_hash in rows])
        assert await bench.rows("SELECT size, edge FROM tenants WHERE project_no = %(no)s") == [(head.size, head.edge)]
        stored = await bench.rows(
            "SELECT subtree, hash FROM tenant_subtrees WHERE project_no = %(no)s ORDER BY subtree"
        )
        assert stored == subtrees


@pytest.mark.parametrize(
    ("tampering", "found"),
    [
        (
            "UPDATE events SET body = replace(body, 'user.login', 'user.logon') WHERE seq = 2",
            "event 2: the content hash",
        ),
        ("UPDATE events SET content_hash = sha256('x') WHERE seq = 2", "event 2: the content hash beside the body"),
        ("UPDATE events SET salts = sha256('x') WHERE seq = 2", "event 2: the salts do not fit"),
        ("UPDATE events SET action = 'user.logon' WHERE seq = 2", "event 2: the column action"),
        ("UPDATE events SET actor_id = 'u2' WHERE seq = 2", "event 2: the column actor_id"),
        ("UPDATE events SET occurred_at = now() WHERE seq = 2", "event 2: the column occurred_at"),
        ("UPDATE events SET id = gen_random_uuid() WHERE seq = 2", "event 2: the column id"),
        ("DELETE FROM events WHERE seq = 2", "events 2 to 2 are missing"),
        ("DELETE FROM events WHERE seq = 300", "events 300 to 300 are missing"),
        ("UPDATE tenants SET size = 299, edge = substr(edge, 1, 160)", "the head of its log"),
        ("UPDATE tenant_subtrees SET hash = sha256('x')", "the hash of leaves 0 to 255"),
    ],
)
async def test_verify_finds_what_was_altered_behind_the_services_back(
    database_url: str, tampering: str, found: str
) -> None:
    async with open_bench(database_url) as bench:
        for _ in range(3):
            await bench.submit(*[event() for _ in range(100)])

        def tamper(conn: Connection) -> None:
            conn.execute("ALTER TABLE events DISABLE TRIGGER events_immutable")
            conn.execute(tampering.encode())
            conn.execute("ALTER TABLE events ENABLE TRIGGER events_immutable")

        await bench.database.transact(tamper)
        (finding,) = await verify(bench.database, lambda _: None)
        assert found in finding.problems[0]
        assert finding.problem_count <= 3, "one thing that was altered is not a flood of problems"


@pytest.mark.parametrize("statement", ["UPDATE events SET body = ''", "DELETE FROM events", "TRUNCATE events"])
async def test_the_database_itself_refuses_to_change_events(database_url: str, statement: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        with pytest.raises(pg.RestrictViolation, match="immutable"):
            await bench.database.transact(lambda conn: conn.execute(statement.encode()) and None)


async def test_the_daily_limit_counts_new_events_only_and_refuses_whole_batches(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        noon = 20_000 * DAY_MS + DAY_MS // 2
        await bench.submit(event(idempotency_key="k"), event(), daily_limit=3, received_at_ms=noon)
        with pytest.raises(DailyEventLimitReached) as refused:
            await bench.submit(event(), event(), daily_limit=3, received_at_ms=noon)
        assert refused.value.retry_after == 12 * 3600
        replay = await bench.submit(event(idempotency_key="k"), event(), daily_limit=3, received_at_ms=noon)
        assert replay.replays == 1
        tomorrow = await bench.submit(event(), event(), event(), daily_limit=3, received_at_ms=noon + DAY_MS)
        assert len(tomorrow.ids) == 3


async def test_occurred_at_defaults_to_the_time_of_receipt(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event(), received_at_ms=1_700_000_000_123)
        (body,) = await bench.bodies()
        assert body["occurred_at"] == body["received_at"] == "2023-11-14T22:13:20.123Z"


async def test_one_bad_request_in_a_group_fails_alone(database_url: str, error_logs: ErrorLogs) -> None:
    # NUL cannot be stored in a text column; the gate refuses it long before, so this stands for any unforeseen failure.
    error_logs.expect("ingest.request_failed")
    async with open_bench(database_url) as bench:
        outcomes: list[object] = []

        async def submit(tenant_id: str) -> None:
            message = submission(event())
            message.events[0].raw["tenant_id"] = tenant_id
            try:
                accepted: Accepted = await bench.ingest.ask(bench.project_no, message, timeout=10)
                outcomes.append(accepted)
            except Exception as error:
                outcomes.append(type(error).__name__)

        async with trio.open_nursery() as nursery:
            for tenant_id in ("a", "b\0", "c"):
                nursery.start_soon(submit, tenant_id)
        assert sum(isinstance(outcome, Accepted) for outcome in outcomes) == 2
        assert sorted(body["tenant_id"] for body in await bench.bodies()) == ["a", "c"]


async def test_under_overload_what_would_be_late_is_refused_and_the_rest_is_stored(database_url: str) -> None:
    async with open_bench(database_url) as bench:

        def make_slow(conn: Connection) -> None:
            conn.execute(
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql"
                " AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'"
            )
            conn.execute("CREATE TRIGGER slow AFTER INSERT ON events FOR EACH STATEMENT EXECUTE FUNCTION slow()")

        await bench.database.transact(make_slow)
        accepted: list[str] = []
        refused = 0

        async def submit() -> None:
            nonlocal refused
            try:
                accepted.extend((await bench.submit(*[event() for _ in range(100)])).ids)
            except Unavailable:
                refused += 1

        async with trio.open_nursery() as nursery:
            for _ in range(200):  # twenty groups of 0.3 s and more: the last ones would wait six seconds
                nursery.start_soon(submit)
        assert refused > 50
        assert len(accepted) > 2000
        assert {body["id"] for body in await bench.bodies()} == set(accepted)


async def test_what_nobody_waits_for_any_more_is_put_away(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        with psycopg.connect(database_url) as blocker:
            blocker.execute("SELECT FROM project_heads FOR UPDATE")
            async with trio.open_nursery() as nursery:
                for _ in range(40):
                    nursery.start_soon(bench.submit, *[event() for _ in range(100)])
                await trio.sleep(0.5)
                nursery.cancel_scope.cancel()
            blocker.rollback()
        await bench.submit(event())
        (health,) = [health for health in bench.supervisor.health() if health.path.startswith("ingest/")]
        assert (health.depth, health.in_flight) == (0, 0)


async def test_what_waited_through_an_outage_is_not_refused_for_its_age(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await bench.submit(event())
        with psycopg.connect(database_url) as blocker:
            blocker.execute("SELECT FROM project_heads FOR UPDATE")
            accepted: list[Accepted] = []

            async def submit() -> None:
                accepted.append(await bench.submit(*[event() for _ in range(100)]))

            async with trio.open_nursery() as nursery:
                for _ in range(40):  # more than is prepared ahead: some wait in the mailbox all the time
                    nursery.start_soon(submit)
                await trio.sleep(QUEUE_SECONDS + 0.5)
                blocker.rollback()
        assert len(accepted) == 40


@pytest.mark.parametrize(("size", "in_a_thread"), [(THREAD_BYTES - 1, False), (THREAD_BYTES, True)])
async def test_a_big_request_is_prepared_in_a_thread(
    database_url: str, monkeypatch: pytest.MonkeyPatch, size: int, in_a_thread: bool
) -> None:
    threads: list[int] = []
    prepare = Preparation.prepare

    def note(*arguments: Any, **options: Any) -> Any:
        threads.append(threading.get_ident())
        return prepare(*arguments, **options)

    monkeypatch.setattr(Preparation, "prepare", note)
    async with open_bench(database_url) as bench:
        await bench.ingest.ask(bench.project_no, replace(submission(event()), size=size), timeout=15)
    assert [thread != threading.get_ident() for thread in threads] == [in_a_thread]


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_bench(database_url) as bench:
        mint = UlidMint()
        await check(
            Subject(
                factory=lambda: Ingest(bench.database, bench.redaction, Evaluators(), bench.project_no, mint),
                question=lambda: submission(event()),
            )
        )
