"""The reaper: in small steps, and at its time."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import trio

from logstitch import metrics
from logstitch.actors.mailbox import Mailbox, open_mailbox
from logstitch.actors.reaper import Reaper
from logstitch.actors.supervisor import open_supervisor
from logstitch.errors import StreamExpired
from logstitch.recording.outbox import announce_test
from logstitch.store import streams as store
from logstitch.store import webhooks
from logstitch.store.database import Connection, open_database
from logstitch.streams import LIFE_DAYS, StreamStatus
from logstitch.times import DAY_MS
from logstitch.webhooks.schedule import KEPT_FOR
from tests.support.ingest import event
from tests.support.own_server import eventually
from tests.support.streams import StreamBench, fill, moment, new_token, open_stream_bench
from tests.support.webhooks import NOW, alert, make_project, make_webhook, tell


def a_reaper(bench: StreamBench, **options: Any) -> Reaper:
    return Reaper(bench.database, now=lambda: moment(bench.clock.ms), **options)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each step of a reaper has removed so far."""
    taken: list[int] = []
    reap = store.reap

    def counted(*arguments: Any) -> Any:
        done = reap(*arguments)
        taken.append(done.events)
        return done

    monkeypatch.setattr(store, "reap", counted)
    return taken


async def test_what_has_expired_goes_in_steps_and_the_token_stays_refused(database_url: str, steps: list[int]) -> None:
    async with open_stream_bench(database_url) as bench:
        old, young = new_token(), new_token()
        await fill(bench.database, old, [event() for _ in range(1_234)])
        bench.clock.ms += LIFE_DAYS * DAY_MS
        await bench.submit(young, event())
        metrics.STREAMS_ACTIVE.set(0)
        async with open_supervisor() as supervisor:
            supervisor.start("reaper", lambda: a_reaper(bench), capacity=4)
            await eventually(lambda: metrics.REGISTRY.get_sample_value("logstitch_streams_active") == 1)

        assert steps == [500, 500, 234, 0]
        with pytest.raises(StreamExpired):
            await bench.submit(old, event())
        with pytest.raises(StreamExpired):
            await bench.claim(old)
        info = await bench.info(old)
        assert (info.status, info.event_count) == (StreamStatus.EXPIRED, 1_234)
        assert (await bench.totals()).streams == 1
        assert await bench.count("SELECT count(*) FROM stream_events") == 1


async def test_deliveries_that_ended_long_ago_go_in_steps(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    remove_old = webhooks.remove_old

    def counted(conn: Connection, kept_for: timedelta, limit: int) -> int:
        assert (kept_for, limit) == (KEPT_FOR, 5)
        steps.append(remove_old(conn, kept_for, limit))
        return steps[-1]

    def put(conn: Connection) -> None:
        project = make_project(conn)
        row = make_webhook(conn, project[0])
        tell(conn, project, *[alert() for _ in range(14)])
        query = "UPDATE deliveries SET status = 'failed', due_at = NULL, ended_at = now() - %s"
        conn.execute(query, (KEPT_FOR,))
        announce_test(conn, project, row.id, delivery_id=UUID(int=1), now=NOW)

    monkeypatch.setattr(webhooks, "remove_old", counted)
    async with open_stream_bench(database_url) as bench, open_supervisor() as supervisor:
        await bench.database.transact(put)
        supervisor.start("reaper", lambda: a_reaper(bench, step_rows=5, poll_seconds=math.inf), capacity=4)
        await eventually(lambda: steps[-1:] == [0])

        assert steps == [5, 5, 4, 0]
        assert await bench.count("SELECT count(*) FROM deliveries") == 1


async def test_it_looks_again_by_itself(database_url: str, steps: list[int]) -> None:
    async with open_stream_bench(database_url) as bench:
        await bench.submit(new_token(), event())
        async with open_supervisor() as supervisor:
            supervisor.start("reaper", lambda: a_reaper(bench, poll_seconds=0.02), capacity=4)
            await eventually(lambda: steps[:1] == [0])
            bench.clock.ms += LIFE_DAYS * DAY_MS

            await eventually(lambda: sum(steps) == 1)


async def test_it_ends_with_its_mailbox_between_two_rounds(database_url: str, steps: list[int]) -> None:
    metrics.STREAMS_ACTIVE.set(1)
    async with open_stream_bench(database_url) as bench, open_supervisor() as supervisor:
        supervisor.start("reaper", lambda: a_reaper(bench, poll_seconds=math.inf), capacity=4)
        await eventually(lambda: metrics.REGISTRY.get_sample_value("logstitch_streams_active") == 0)
        assert steps == [0]

        with trio.fail_after(10):
            await supervisor.stop("reaper", deadline_seconds=60)


async def test_it_outlives_a_database_that_is_away() -> None:
    async with open_database("postgresql://nobody@127.0.0.1:1/none") as away:
        _, mailbox = open_mailbox("reaper", 4)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, Reaper(away, poll_seconds=0.01), mailbox)
            await eventually(lambda: away.statistics().errors >= 2)
            mailbox.close()


async def _run(reaper: Reaper, mailbox: Mailbox) -> None:
    with trio.fail_after(10):
        await reaper.run(mailbox)
