"""Evaluators that follow each other: one looks at a time, and between two of them nothing is lost or found twice."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import psycopg
import pytest
import trio

from logstitch import metrics
from logstitch.actors.evaluator import Share
from logstitch.errors import DatabaseUnavailable
from logstitch.recording import evaluation
from logstitch.store.database import Connection, Database
from tests.support.evaluation import (
    MINUTE,
    SECOND,
    START_MS,
    Post,
    failed,
    login,
    open_post,
    until,
)
from tests.support.webhooks import make_webhook

T = TypeVar("T")


# -- gaps ----------------------------------------------------------------------------------------------------------


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


# -- one at a time -------------------------------------------------------------------------------------------------


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
