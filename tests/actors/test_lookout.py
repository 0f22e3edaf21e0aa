"""The lookout finds the projects whose events nobody looks at."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest
import trio

from logstitch.actors.lookout import Lookout
from logstitch.actors.messages.alerts import CatchUp
from logstitch.actors.supervisor import open_supervisor
from logstitch.errors import MailboxFull
from logstitch.store import alerts as store
from logstitch.store.database import Connection, Database, open_database
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.answering import Answering, Ping
from tests.support.evaluation import failed, open_post, until
from tests.support.ingest import Evaluators

POLL = 0.05


@dataclass(frozen=True, slots=True)
class Hill:
    """A lookout, and whom it tells."""

    database: Database
    told: Evaluators

    def numbers(self) -> list[int]:
        """The projects that it told of."""
        return [no for no, _ in self.told.told]


@asynccontextmanager
async def open_hill(url: str, *, poll_seconds: float = POLL, projects: int = 100) -> AsyncIterator[Hill]:
    told = Evaluators()
    async with open_database(url) as database, open_supervisor() as supervisor:
        make = partial(Lookout, database, told, poll_seconds=poll_seconds, projects=projects)
        supervisor.start("lookout", make, capacity=4)
        yield Hill(database, told)


def make_heads(*heads: int) -> Callable[[Connection], None]:
    """Projects 1, 2, 3… with so many events."""

    def work(conn: Connection) -> None:
        for no, seq in enumerate(heads, start=1):
            conn.execute("INSERT INTO project_heads (project_no, seq) VALUES (%s, %s)", (no, seq))

    return work


async def test_it_tells_of_projects_with_events_that_nobody_has_looked_at(database_url: str) -> None:
    async with open_hill(database_url) as hill:
        await hill.database.transact(make_heads(0, 7))
        await until(lambda: 2 in hill.numbers())
    assert set(hill.numbers()) == {2}
    assert {type(message) for _, message in hill.told.told} == {CatchUp}


async def test_it_goes_on_looking_by_itself_until_somebody_is_at_work(database_url: str) -> None:
    async with open_hill(database_url) as hill:
        await hill.database.transact(make_heads(7))
        await until(lambda: len(hill.numbers()) >= 3)
        await hill.database.transact(lambda conn: store.take_lease(conn, 1))
        # What was under way is over after one more look.
        hill.told.told.clear()
        await trio.sleep(3 * POLL)
        assert len(hill.numbers()) <= 1


async def test_no_project_starves_behind_others(database_url: str) -> None:
    async with open_hill(database_url, projects=2) as hill:
        await hill.database.transact(make_heads(*[5] * 12))
        await until(lambda: set(hill.numbers()) == {*range(1, 13)})


async def test_one_who_has_no_room_does_not_keep_it_from_the_others(database_url: str) -> None:
    async with open_hill(database_url) as hill:
        refused: list[int] = []

        class Full(Evaluators):
            def tell(self, key: int, message: object) -> None:
                refused.append(key)
                raise MailboxFull("no room")

        async with open_supervisor() as supervisor:
            supervisor.start("other", lambda: Lookout(hill.database, Full(), poll_seconds=POLL), capacity=4)
            await hill.database.transact(make_heads(1, 1, 1))
            await until(lambda: set(refused) == {1, 2, 3})


async def test_the_events_of_a_process_that_was_killed_are_looked_at_by_another(database_url: str) -> None:
    """Given events that were committed and a lease that nobody renews, when it is over, another process goes on."""
    async with open_post(database_url, looks=False) as killed:
        await killed.send(*[failed("eve") for _ in range(5)])
        await killed.database.transact(lambda conn: store.take_lease(conn, killed.no, seconds=0.5))
        async with open_post(database_url, beside=killed) as other, open_supervisor() as supervisor:
            supervisor.start(
                "lookout", lambda: Lookout(other.database, other.evaluators, poll_seconds=POLL), capacity=4
            )
            await until(lambda: other.leads)
            await other.looked()
            assert await other.alerts() == await other.expected()
            assert len(await other.alerts()) == 1


async def test_it_ends_with_its_mailbox_between_two_looks(database_url: str) -> None:
    async with open_database(database_url) as database, open_supervisor() as supervisor:
        told = Evaluators()
        await database.transact(make_heads(7))
        supervisor.start("lookout", lambda: Lookout(database, told, poll_seconds=math.inf), capacity=4)
        await until(lambda: bool(told.told))

        with trio.fail_after(10):
            await supervisor.stop("lookout", deadline_seconds=60)


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_database(database_url) as database:
        await check(Subject(factory=lambda: Answering(Lookout(database, Evaluators())), question=Ping))
