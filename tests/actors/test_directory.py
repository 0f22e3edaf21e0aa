"""One actor a key: started on first use, stopped when idle, never two at once, never more than the cap."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logstitch.actors.directory import Directory
from logstitch.actors.mailbox import Ask, KeyedAsks, Mailbox
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.errors import Draining, MailboxFull, Unavailable


@dataclass(frozen=True, slots=True)
class Count(Ask[str]):
    """Answered ``key.run.message``: which run of which key's actor this is, and how many messages it has had."""

    seconds: float = 0.0


@dataclass
class World:
    """What the actors of one directory share: how often each ran, and how many run."""

    runs: dict[int, int] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    most: int = 0
    cleanup_seconds: float = 0.0


@dataclass
class Counter:
    key: int
    world: World

    async def run(self, mailbox: Mailbox) -> None:
        world = self.world
        assert self.key not in world.running, "two actors of one key"
        world.running.add(self.key)
        world.most = max(world.most, len(world.running))
        world.runs[self.key] = world.runs.get(self.key, 0) + 1
        messages = 0
        async for envelope in mailbox:
            messages += 1
            await trio.sleep(envelope.message.seconds)
            envelope.reply(f"{self.key}.{world.runs[self.key]}.{messages}")
        await trio.sleep(world.cleanup_seconds)
        world.running.discard(self.key)


@dataclass
class Town:
    supervisor: Supervisor
    directory: Directory
    world: World

    async def ask(self, key: int, seconds: float = 0.0) -> str:
        return await self.directory.ask(key, Count(seconds), timeout=100)


@asynccontextmanager
async def open_town(*, cap: int = 3, cleanup_seconds: float = 0.0) -> AsyncIterator[Town]:
    world = World(cleanup_seconds=cleanup_seconds)
    async with open_supervisor() as supervisor:
        directory = Directory(supervisor, "counter", lambda key: Counter(key, world), capacity=4, cap=cap)
        yield Town(supervisor, directory, world)


async def test_each_key_has_one_actor_started_by_its_first_message(autojump_clock: MockClock) -> None:
    async with open_town() as town:
        assert town.supervisor.addresses() == {}
        assert [await town.ask(key) for key in (1, 2, 1, 1)] == ["1.1.1", "2.1.1", "1.1.2", "1.1.3"]
        assert list(town.supervisor.addresses()) == ["counter/1", "counter/2"]


async def test_a_directory_is_what_handlers_are_typed_with(autojump_clock: MockClock) -> None:
    async with open_town() as town:
        held: KeyedAsks = town.directory
        assert await held.ask(7, Count(), timeout=1) == "7.1.1"


async def test_a_tell_starts_the_actor_too(autojump_clock: MockClock) -> None:
    async with open_town() as town:
        town.directory.tell(1, Count())
        assert await town.ask(1) == "1.1.2"


async def test_an_idle_actor_is_stopped_and_the_next_message_starts_a_new_one(autojump_clock: MockClock) -> None:
    async with open_town() as town:
        await town.ask(1)
        await trio.sleep(50)
        assert await town.ask(1) == "1.1.2"
        await trio.sleep(59)
        assert town.world.running == {1}
        await trio.sleep(2)
        assert town.world.running == set()
        assert town.supervisor.health() == []
        assert await town.ask(1) == "1.2.1"


async def test_who_asks_while_the_idle_one_puts_its_things_away_is_answered_by_its_successor(
    autojump_clock: MockClock,
) -> None:
    async with open_town(cleanup_seconds=5) as town:
        await town.ask(1)
        await trio.sleep(61)
        assert town.world.running == {1}
        town.directory.tell(1, Count())
        assert await town.ask(1) == "1.2.2"
        assert trio.current_time() == pytest.approx(65)


async def test_no_message_is_lost_however_it_meets_the_idle_stop(autojump_clock: MockClock) -> None:
    # Waits of exactly the idle time and of a little less or more, and a cleanup that the next message falls into.
    waits = [60 + offset for offset in (0.0, 0.25, -0.25, 1e-9, -1e-9, 0.5, 0.0)]
    answers = []
    async with open_town(cleanup_seconds=0.25, cap=2) as town:

        async def ask_now_and_then(key: int) -> None:
            for wait in waits:
                answers.append(await town.ask(key))
                await trio.sleep(wait)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_now_and_then, 1)
            nursery.start_soon(ask_now_and_then, 2)
    assert len(answers) == len(set(answers)) == 2 * len(waits)
    assert town.world.runs[1] > 1


async def test_at_the_cap_the_idle_one_that_was_used_least_recently_makes_room(autojump_clock: MockClock) -> None:
    async with open_town(cap=3) as town:
        for key in (1, 2, 3, 1):
            await town.ask(key)
        await town.ask(4)
        assert town.world.running == {1, 3, 4}
        assert await town.ask(2) == "2.2.1"


async def test_the_newcomer_waits_for_the_slot_so_the_cap_is_never_exceeded(autojump_clock: MockClock) -> None:
    async with open_town(cap=3, cleanup_seconds=5) as town:
        async with trio.open_nursery() as nursery:
            for key in range(3):
                nursery.start_soon(town.ask, key)
        async with trio.open_nursery() as nursery:
            for key in range(3, 6):
                nursery.start_soon(town.ask, key)
        assert trio.current_time() == pytest.approx(5)
        assert town.world.running == {3, 4, 5}
        assert town.world.most == 3


async def test_when_all_are_at_work_there_is_no_room(autojump_clock: MockClock) -> None:
    async with open_town(cap=2) as town, trio.open_nursery() as nursery:
        nursery.start_soon(town.ask, 1, 10)
        nursery.start_soon(town.ask, 2, 10)
        await wait_all_tasks_blocked()
        with pytest.raises(Unavailable) as caught:
            await town.ask(3)
        assert type(caught.value) is Unavailable
        assert caught.value.retry_after == 1
        with pytest.raises(Unavailable):
            town.directory.tell(3, Count())
        await trio.sleep(11)
        assert await town.ask(3) == "3.1.1"


async def test_one_keys_full_mailbox_is_no_other_ones(autojump_clock: MockClock) -> None:
    async with open_town() as town:
        for _ in range(4):
            town.directory.tell(1, Count(1))
        with pytest.raises(MailboxFull):
            town.directory.tell(1, Count())
        assert await town.ask(2) == "2.1.1"


async def test_many_keys_that_come_and_go_leave_nothing_behind(autojump_clock: MockClock) -> None:
    async with open_town(cap=3) as town:
        for key in range(50):
            await town.ask(key)
            await trio.sleep(40)  # two or three are alive at any time
        assert len(town.supervisor.health()) <= 3
        assert len(town.directory._addresses) <= 3


async def test_a_directory_made_first_is_stopped_last_and_can_be_sent_to_until_then(
    autojump_clock: MockClock,
) -> None:
    answers = []

    @dataclass
    class Asks:
        directory: Directory

        async def run(self, mailbox: Mailbox) -> None:
            async for envelope in mailbox:
                await trio.sleep(1)
                answers.append(await self.directory.ask(9, envelope.message, timeout=10))

    async with open_town() as town:
        asker = town.supervisor.start("asker", lambda: Asks(town.directory), capacity=4)
        asker.tell(Count())
    assert answers == ["9.1.1"]
    with pytest.raises(Draining):
        town.directory.tell(8, Count())
