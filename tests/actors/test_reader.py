"""The reader: answers pages and single events, several at a time, and what goes wrong with one hurts no other."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logstitch.actors.mailbox import Address
from logstitch.actors.messages.events import EventFilter, EventPage, GetEvent, ListEvents
from logstitch.actors.messages.pages import Order
from logstitch.actors.reader import MOST_WAITING, MOST_WAITING_OF_TENANT, Reader
from logstitch.actors.supervisor import open_supervisor
from logstitch.errors import AskTimeout, DatabaseUnavailable, NotFound, Unavailable
from logstitch.store.database import Database, open_database
from logstitch.viewing.tiers import View
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.stored import AT, Stored, an_event, request, store


@asynccontextmanager
async def open_reader(url: str) -> AsyncIterator[tuple[Database, Address]]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        yield database, supervisor.start("reader", lambda: Reader(database), capacity=64)


async def fill(database: Database, count: int) -> list[Stored]:
    given = [(AT + n, an_event(actor={"id": f"u{n % 3}", "type": "user"})) for n in range(count)]
    return await database.transact(lambda conn: store(conn, 1, given))


async def test_pages_follow_each_other_to_the_end(database_url: str) -> None:
    async with open_reader(database_url) as (database, reader):
        stored = await fill(database, 25)
        wanted = EventFilter(actor_id="u1")
        first = await reader.ask(request(wanted, limit=5), timeout=5)
        assert first.next is not None
        second = await reader.ask(request(wanted, limit=5, after=first.next), timeout=5)
        assert second.next is None
    assert [*first.bodies, *second.bodies] == [one.body for one in reversed(stored) if one.event["actor"]["id"] == "u1"]


async def test_a_page_that_ends_with_the_last_event_has_no_next(database_url: str) -> None:
    async with open_reader(database_url) as (database, reader):
        stored = await fill(database, 4)
        page = await reader.ask(request(EventFilter(), order=Order.ASC, limit=4), timeout=5)
        assert page == EventPage(tuple(one.body for one in stored), None)


async def test_one_event(database_url: str) -> None:
    async with open_reader(database_url) as (database, reader):
        stored = await fill(database, 3)
        assert await reader.ask(GetEvent(1, stored[1].id), timeout=5) == stored[1].body


async def test_an_event_of_another_project_is_not_found(database_url: str) -> None:
    async with open_reader(database_url) as (database, reader):
        (stored,) = await fill(database, 1)
        for project_no, event_id in ((2, stored.id), (1, uuid.uuid4())):
            with pytest.raises(NotFound, match="no such event"):
                await reader.ask(GetEvent(project_no, event_id), timeout=5)


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_database(database_url) as database:
        await check(Subject(factory=lambda: Reader(database), question=lambda: request(EventFilter())))


class Slow:
    """A database of which each call takes as long as the test says, and says what the test says."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.running = 0
        self.most = 0
        self.calls = 0
        self.gates = [trio.Event() for _ in answers]

    async def transact(self, work: Callable[[Any], Any], **options: Any) -> Any:
        number, self.calls = self.calls, self.calls + 1
        assert options["read_only"]
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.gates[number].wait()
        finally:
            self.running -= 1
        if isinstance(self.answers[number], Exception):
            raise self.answers[number]
        return self.answers[number]


@asynccontextmanager
async def open_slow(slow: Slow, *, concurrency: int, stuck_after: float = 30.0) -> AsyncIterator[Address]:
    async with open_supervisor(stuck_after=stuck_after) as supervisor:
        database = cast(Database, slow)
        yield supervisor.start("reader", lambda: Reader(database, concurrency=concurrency), capacity=8)


def page(number: int) -> EventPage:
    return EventPage((str(number),), None)


async def test_a_slow_search_holds_up_no_other(autojump_clock: MockClock) -> None:
    slow = Slow(page(0), page(1))
    slow.gates[1].set()
    async with open_slow(slow, concurrency=3) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: reader.ask(request(EventFilter()), timeout=20))
        await wait_all_tasks_blocked()
        assert await reader.ask(request(EventFilter()), timeout=1) == page(1)
        slow.gates[0].set()


async def test_projects_take_turns(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a project whose key searches much, then it has two at a time, another's are next, and single events wait
    for none of them."""
    order: list[int] = []
    gates: list[trio.Event] = []

    async def look_up(_: Reader, asked: ListEvents) -> EventPage:
        order.append(asked.project_no)
        gates.append(trio.Event())
        await gates[len(order) - 1].wait()
        return page(asked.project_no)

    monkeypatch.setattr(Reader, "_list", look_up)
    slow = Slow("the event")
    slow.gates[0].set()
    async with open_slow(slow, concurrency=4) as reader, trio.open_nursery() as nursery:
        for project_no in (1, 1, 1, 1, 2, 2, 3):
            message = request(EventFilter(), project_no=project_no)
            nursery.start_soon(partial(reader.ask, message, timeout=20))
            await wait_all_tasks_blocked()
        assert order == [1, 1, 2]
        assert await reader.ask(GetEvent(1, uuid.uuid4()), timeout=1) == "the event"
        for number in range(7):
            gates[number].set()
            await wait_all_tasks_blocked()
        assert order == [1, 1, 2, 2, 3, 1, 1]


async def test_slow_searches_of_a_tenant_hold_up_neither_another_nor_the_key(autojump_clock: MockClock) -> None:
    """Given many slow searches of one tenant's viewers, then another tenant's and the key's are looked up at once, and
    so are single events."""
    slow = Slow(page(0), page(1), page(2), "the event", *map(page, range(4, 12)))
    for gate in slow.gates[1:4]:
        gate.set()
    asked = request(EventFilter())
    async with open_slow(slow, concurrency=4) as reader, trio.open_nursery() as nursery:
        for _ in range(MOST_WAITING_OF_TENANT + 1):
            nursery.start_soon(partial(reader.ask, replace(asked, view=View("big")), timeout=20))
            await wait_all_tasks_blocked()
        assert slow.calls == 1
        with pytest.raises(Unavailable) as refused:
            await reader.ask(replace(asked, view=View("big")), timeout=20)
        assert refused.value.retry_after == 1
        assert await reader.ask(replace(asked, view=View("small")), timeout=1) == page(1)
        assert await reader.ask(asked, timeout=1) == page(2)
        assert await reader.ask(GetEvent(1, uuid.uuid4(), View("small")), timeout=1) == "the event"
        for gate in slow.gates:
            gate.set()


async def test_a_project_can_have_so_many_waiting(autojump_clock: MockClock) -> None:
    """One more than that is refused at once, unless nobody waits for one of the others any more."""
    slow = Slow(*map(page, range(100)))
    async with open_slow(slow, concurrency=2) as reader:

        async def ask(timeout: float) -> None:
            with suppress(AskTimeout):
                await reader.ask(request(EventFilter()), timeout=timeout)

        async with trio.open_nursery() as nursery:
            for number in range(MOST_WAITING + 1):
                nursery.start_soon(ask, 5 if number == 7 else 20)
                await wait_all_tasks_blocked()
            with pytest.raises(Unavailable, match="As many reads"):
                await reader.ask(request(EventFilter()), timeout=20)
            await trio.sleep(6)
            nursery.start_soon(ask, 20)
            await wait_all_tasks_blocked()
            for gate in slow.gates:
                gate.set()
        assert slow.calls == MOST_WAITING + 1
        health = reader.health()
        assert (health.depth, health.in_flight, slow.most) == (0, 0, 1)


async def test_a_question_that_nobody_waits_for_any_more_is_not_looked_up(autojump_clock: MockClock) -> None:
    slow = Slow(page(0), page(1))
    async with open_slow(slow, concurrency=1) as reader, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: reader.ask(request(EventFilter()), timeout=20))
        await wait_all_tasks_blocked()
        with pytest.raises(AskTimeout):
            await reader.ask(request(EventFilter()), timeout=1)
        slow.gates[0].set()
        slow.gates[1].set()
        assert await reader.ask(request(EventFilter()), timeout=5) == page(1)
        assert slow.calls == 2
        health = reader.health()
        assert (health.depth, health.in_flight) == (0, 0)


@pytest.mark.parametrize("error", [DatabaseUnavailable("away"), ZeroDivisionError("a defect")])
async def test_an_error_is_its_askers_alone(autojump_clock: MockClock, error: Exception) -> None:
    slow = Slow(error, page(1))
    for gate in slow.gates:
        gate.set()
    async with open_slow(slow, concurrency=2) as reader:
        with pytest.raises(type(error)):
            await reader.ask(request(EventFilter()), timeout=1)
        assert await reader.ask(request(EventFilter()), timeout=1) == page(1)
        assert reader.health().restarts == 0
