"""``logstitch verify`` before forged rows: each is told of, and none keeps the others from being found."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any

import orjson
import pytest
import trio

from logstitch.evidence.canonical import canonical
from logstitch.evidence.commitments import SALT_BYTES, commit, header_of
from logstitch.sections import SECTIONS
from logstitch.store.database import Connection
from logstitch.verify import MAX_PROBLEMS, Finding, verify
from tests.support.ingest import Bench, event, open_bench

ELSEWHERE = "event 7: the column action does not say what the body says"
"""What is wrong farther on, and must be found whatever is wrong before."""


@asynccontextmanager
async def ten_events(url: str) -> AsyncIterator[Bench]:
    """A project of ten events, the seventh with a wrong column."""
    async with open_bench(url) as bench:
        await bench.submit(*[event(target={"id": "d1", "type": "doc"}) for _ in range(10)])
        await alter(bench, "UPDATE events SET action = 'user.logon' WHERE seq = 7")
        yield bench


async def alter(bench: Bench, statement: str, **values: object) -> None:
    """What only the owner of the tables can do."""

    def work(conn: Connection) -> None:
        conn.execute("ALTER TABLE events DISABLE TRIGGER events_immutable")
        conn.execute(statement.encode(), values)
        conn.execute("ALTER TABLE events ENABLE TRIGGER events_immutable")

    await bench.database.transact(work)


async def forge(bench: Bench, changes: dict[str, Any]) -> None:
    """Make another event of the third, with a hash and salts that are its own; ``None`` takes a field away."""
    (body,) = await bench.rows("SELECT body FROM events WHERE project_no = %(no)s AND seq = 3")
    made = {name: value for name, value in (orjson.loads(body[0]) | changes).items() if value is not None}
    salts = {name: os.urandom(SALT_BYTES) for name in SECTIONS if name in made}
    commitments = {name: commit(canonical(made[name]), salt).hex() for name, salt in salts.items()}
    digest = sha256(header_of(made, commitments)).digest()
    made["content_hash"] = digest.hex()
    await alter(
        bench,
        "UPDATE events SET body = %(body)s, salts = %(salts)s, content_hash = %(digest)s WHERE seq = 3",
        body=canonical(made).decode(),
        salts=b"".join(salts.values()),
        digest=digest,
    )


async def found(bench: Bench) -> Finding:
    (finding,) = await verify(bench.database, lambda _: None)
    return finding


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"actor": None}, "event 3: the body is not an event"),
        ({"actor": "u1"}, "event 3: the body is not an event"),
        ({"target": ["d1", "doc"]}, "event 3: the body is not an event"),
        ({"changes": {}}, "event 3: the body is not an event"),
        ({"metadata": []}, "event 3: the body is not an event"),
        ({"tenant_id": 7}, "event 3: the body is not an event"),
        ({"received_at": 7}, "event 3: the body is not an event"),
        ({"redactions": "none"}, "event 3: the body is not an event"),
        ({"idempotency_key": 7}, "event 3: the body is not an event"),
        ({"actor": {"type": "user"}}, "event 3: the column actor_id does not say what the body says"),
        ({"actor": {"id": "u1"}}, "event 3: the column actor_type does not say what the body says"),
        ({"target": {"id": ["d1"], "type": "doc"}}, "event 3: the column target_id does not say what the body says"),
        ({"target": None}, "event 3: the column target_id does not say what the body says"),
        ({"occurred_at": "x"}, "event 3: the body's occurred_at is not a time"),
        ({"received_at": "2026-13-01T00:00:00.000Z"}, "event 3: the body's received_at is not a time"),
    ],
)
async def test_a_forged_body_with_a_hash_of_its_own_is_told_of(
    database_url: str, changes: dict[str, Any], problem: str
) -> None:
    async with ten_events(database_url) as bench:
        await forge(bench, changes)

        finding = await found(bench)

        assert problem in finding.problems
        assert ELSEWHERE in finding.problems
        assert finding.events == 10


@pytest.mark.parametrize("column", ["occurred_at", "received_at"])
@pytest.mark.parametrize("time", ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "20000-01-01 00:00:00+00"])
async def test_a_time_beyond_the_calendar_is_told_of(database_url: str, column: str, time: str) -> None:
    async with ten_events(database_url) as bench:
        await alter(bench, f"UPDATE events SET {column} = '{time}' WHERE seq = 3")

        finding = await found(bench)

        assert finding.problems == (f"event 3: the column {column} does not say what the body says", ELSEWHERE)


async def test_a_time_that_is_a_microsecond_off_is_told_of(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        await alter(bench, "UPDATE events SET occurred_at = occurred_at + interval '1 microsecond' WHERE seq = 3")

        finding = await found(bench)

        assert finding.problems == ("event 3: the column occurred_at does not say what the body says", ELSEWHERE)


async def test_a_body_nested_beyond_any_event_is_told_of(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        deep = '{"a":' * 1000 + "1" + "}" * 1000
        await alter(
            bench, "UPDATE events SET body = left(body, -1) || %(more)s WHERE seq = 3", more=f',"metadata":{deep}}}'
        )

        finding = await found(bench)

        assert finding.problems == ("event 3: the body is not an event", ELSEWHERE)


# -- what no reader looks for --------------------------------------------------------------------------------------

COPY_OF_THE_THIRD = """
    INSERT INTO events SELECT (e.r).* FROM (
        SELECT jsonb_populate_record(e, jsonb_build_object('project_no', %(project)s::int, 'seq', %(seq)s::bigint,
                                     'id', gen_random_uuid(), 'key_hash', NULL)) AS r
        FROM events e WHERE e.project_no = %(no)s AND e.seq = 3) e
"""
"""An event as somebody would slip it in who may write the tables: all but its number is in order."""


@pytest.mark.parametrize("seq", [0, -1, -(2**63), 11, 12, 2**63 - 1])
async def test_an_event_outside_of_the_project_s_numbers_is_told_of(database_url: str, seq: int) -> None:
    async with ten_events(database_url) as bench:
        await alter(bench, COPY_OF_THE_THIRD, project=bench.project_no, no=bench.project_no, seq=seq)

        finding = await found(bench)

        assert finding.problems == (ELSEWHERE, f"event {seq}: is outside of the project's events, 1 to 10")
        assert finding.events == 10


async def test_many_events_outside_are_counted_and_the_first_of_them_told(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        for seq in range(-110, 0):
            await alter(bench, COPY_OF_THE_THIRD, project=bench.project_no, no=bench.project_no, seq=seq)

        finding = await found(bench)

        assert finding.problem_count == 111
        assert finding.problems[:2] == (ELSEWHERE, "event -110: is outside of the project's events, 1 to 10")
        assert len(finding.problems) == MAX_PROBLEMS


async def test_a_head_that_was_put_back_hides_no_event(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        await alter(bench, "UPDATE project_heads SET seq = 8")

        finding = await found(bench)

        assert "event 9: is outside of the project's events, 1 to 8" in finding.problems
        assert "event 10: is outside of the project's events, 1 to 8" in finding.problems
        assert ELSEWHERE in finding.problems


async def test_a_head_that_is_gone_is_told_of_and_the_events_are_verified(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        await alter(bench, "DELETE FROM project_heads")

        finding = await found(bench)

        assert finding.problems == (ELSEWHERE, "its head is missing, which numbers the events to come")
        assert finding.events == 10


async def test_events_of_a_project_that_is_gone_are_verified(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        await alter(bench, "DELETE FROM projects WHERE project_no = %(no)s", no=bench.project_no)

        finding = await found(bench)

        assert finding.project.id is None
        assert finding.problems == (ELSEWHERE, "no project has this number")
        assert finding.events == 10


async def test_an_event_under_the_number_of_no_project_is_told_of(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        for project in (-5, 2**31 - 1):
            await alter(bench, COPY_OF_THE_THIRD, project=project, no=bench.project_no, seq=1)

        below, ours, above = await verify(bench.database, lambda _: None)

        assert (below.project.no, ours.project.no, above.project.no) == (-5, bench.project_no, 2**31 - 1)
        assert below.problems[0] == above.problems[0]
        assert "no project has this number" in below.problems
        assert "its head is missing, which numbers the events to come" in above.problems
        assert ours.problems == (ELSEWHERE,)


async def test_a_log_under_the_number_of_no_project_is_told_of(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        await alter(bench, "INSERT INTO tenants SELECT 77, tenant_no, tenant_id, size, edge FROM tenants")

        _, other = await verify(bench.database, lambda _: None)

        assert other.project.no == 77
        assert "no project has this number" in other.problems
        assert "tenant 'acme': the head of its log is not that of its events" in other.problems


async def test_a_hash_of_leaves_that_are_not_there_is_told_of(database_url: str) -> None:
    async with ten_events(database_url) as bench:
        await alter(
            bench,
            "INSERT INTO tenant_subtrees SELECT project_no, tenant_no, 3, sha256('x') FROM tenants",
        )

        finding = await found(bench)

        assert finding.problems == (
            ELSEWHERE,
            "tenant number 1: has a hash of leaves 768 to 1023, which it does not have",
        )


async def test_what_is_written_meanwhile_is_no_problem(database_url: str) -> None:
    """The head and what is outside of it are read in one snapshot: events that come later are neither."""
    async with ten_events(database_url) as bench, trio.open_nursery() as nursery:

        async def go_on() -> None:
            for _ in range(20):
                await bench.submit(event(), event())

        nursery.start_soon(go_on)
        for _ in range(5):
            finding = await found(bench)
            assert finding.problems == (ELSEWHERE,)
