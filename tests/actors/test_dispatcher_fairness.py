"""The dispatcher: one endpoint's trouble is no other's, and one project's none of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from uuid import UUID

import pytest
import trio
import trio.testing

from logstitch.actors.dispatcher import (
    IN_FLIGHT,
    IN_FLIGHT_EACH,
    IN_FLIGHT_OF_PROJECT,
)
from logstitch.egress.client import Outcome
from logstitch.store.database import Connection
from tests.support.dispatching import Looks, ended_attempts, endpoint_in, has_sent, open_bench, project_in
from tests.support.webhooks import (
    NOW,
    Sent,
    StubEgress,
    alert,
    answer,
    tell,
)


def slow_until(let_go: trio.Event) -> Callable[[Sent], Awaitable[Outcome]]:
    """Receivers of which those whose URL says that they are slow answer then, and the others at once."""

    async def receive(sent: Sent) -> Outcome:
        if "slow" in sent.url:
            await let_go.wait()
        return answer(200)

    return receive


async def test_a_slow_endpoint_with_a_long_queue_delays_no_other(database_url: str) -> None:
    let_go = trio.Event()
    egress = StubEgress(slow_until(let_go))
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        slow = await endpoint_in(bench, project, url="https://slow.example/")
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(500)]))
        quick = await endpoint_in(bench, project, url="https://quick.example/")

        began = trio.current_time()
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(20)]))
        await bench.until_statuses(quick, delivered=20)

        assert trio.current_time() - began < 5
        assert await bench.statuses(slow) == {"pending": 520}
        assert sum("slow" in sent.url for sent in egress.sent) == IN_FLIGHT_EACH
        let_go.set()
        await bench.until_statuses(delivered=540)
    assert Counter(Counter(sent.id for sent in egress.sent).values()) == {1: 540}


async def test_no_more_are_in_flight_than_may_be_and_everybody_has_a_turn(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    let_go = trio.Event()
    projects, each = IN_FLIGHT // IN_FLIGHT_OF_PROJECT + 2, 9

    async def wait(sent: Sent) -> Outcome:
        await let_go.wait()
        return answer(200)

    egress = StubEgress(wait)
    async with open_bench(database_url, egress) as bench:
        for number in range(projects):
            project = await project_in(bench)
            for _ in range(each):
                await endpoint_in(bench, project, url=f"https://receiver{number}.example/")
            await bench.do(partial(_tell_five, project=project))
        await bench.until(has_sent(egress, IN_FLIGHT))
        await looks.more()
        assert egress.most == IN_FLIGHT

        let_go.set()
        await bench.until_statuses(delivered=5 * each * projects)

    assert egress.most == IN_FLIGHT
    # Whoever had to wait came next, before those that had been served.
    first_turns = [sent.url for sent in egress.sent[: IN_FLIGHT + 2 * IN_FLIGHT_OF_PROJECT]]
    assert len(set(first_turns)) == projects


def _tell_five(conn: Connection, project: tuple[int, UUID]) -> None:
    tell(conn, project, *[alert() for _ in range(5)])


async def test_slow_endpoints_of_one_project_delay_no_other_project(database_url: str) -> None:
    let_go = trio.Event()
    egress = StubEgress(slow_until(let_go))
    async with open_bench(database_url, egress) as bench:
        slow = await project_in(bench)
        rows = [await endpoint_in(bench, slow, url="https://slow.example/") for _ in range(20)]
        await bench.do(lambda conn: tell(conn, slow, *[alert() for _ in range(20)]))
        await bench.until(has_sent(egress, IN_FLIGHT_OF_PROJECT))
        quick = await project_in(bench)
        row = await endpoint_in(bench, quick, url="https://quick.example/")
        await bench.do(lambda conn: tell(conn, quick, *[alert() for _ in range(20)]))
        await bench.until_statuses(row, delivered=20)

        assert sum("slow" in sent.url for sent in egress.sent) == IN_FLIGHT_OF_PROJECT
        query = "SELECT DISTINCT webhook_id FROM deliveries WHERE attempt = 1 AND project_no = %s"
        served = await bench.do(lambda conn: conn.execute(query, (slow[0],)).fetchall())
        assert len(served) == len(rows)  # each of them has one, before any has all that it may
        let_go.set()
        await bench.until_statuses(delivered=420)


async def test_endpoints_to_which_nothing_gets_through_have_one_in_flight_each(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = Looks(monkeypatch)
    let_go = trio.Event()

    async def fail(sent: Sent) -> Outcome:
        await let_go.wait()
        return answer(503)

    egress = StubEgress(fail)
    async with open_bench(database_url, egress) as bench:
        project = await project_in(bench)
        failing = [await endpoint_in(bench, project, failing_since=NOW) for _ in range(3)]
        await bench.do(lambda conn: conn.execute("UPDATE webhooks SET failing_since = now()") and None)
        await bench.do(lambda conn: tell(conn, project, *[alert() for _ in range(5)]))
        await bench.until(has_sent(egress, len(failing)))
        await looks.more()
        assert len(egress.sent) == len(failing)
        let_go.set()
        await bench.until(ended_attempts(bench, 15))
