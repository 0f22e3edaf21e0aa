"""An actor that takes seconds for each question answers them in turn, and all of them before it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock

from logstitch.actors.mailbox import Address, Ask, Envelope, Mailbox
from logstitch.actors.queueing import Limits, answer_in_turn
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.errors import Conflict, Unavailable

SECONDS = 2.0
"""That a question takes."""


@dataclass(frozen=True, slots=True)
class Paint(Ask[str]):
    """Answered with the colour."""

    wall: int
    colour: str


@dataclass
class Painter:
    """Paints one coat of a wall at a time; black is refused."""

    began: list[str] = field(default_factory=list)
    most_at_once: int = 0
    at_once: int = 0

    async def run(self, mailbox: Mailbox) -> None:
        await answer_in_turn(
            mailbox, self._paint, lambda asked: asked.wall, Limits(wait_seconds=3.0), doing="walls are being painted"
        )

    async def _paint(self, envelope: Envelope[Paint], mailbox: Mailbox) -> None:
        self.began.append(envelope.message.colour)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await trio.sleep(SECONDS)
        mailbox.progress()
        self.at_once -= 1
        if envelope.message.colour == "black":
            raise Conflict("That is too dark.")
        envelope.reply(envelope.message.colour)


@dataclass
class Shop:
    """A painter, and how questions to it ended, in that order."""

    painter: Painter
    supervisor: Supervisor
    address: Address
    ends: list[tuple[str, str]] = field(default_factory=list)

    async def ask(self, wall: int, colour: str) -> None:
        try:
            self.ends.append((colour, await self.address.ask(Paint(wall, colour), timeout=30)))
        except (Conflict, Unavailable) as error:
            self.ends.append((colour, type(error).__name__))

    async def ask_all(self, *asked: tuple[int, str]) -> None:
        async with trio.open_nursery() as nursery:
            for wall, colour in asked:
                nursery.start_soon(self.ask, wall, colour)
                await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    painter = Painter()
    async with open_supervisor() as supervisor:
        yield Shop(painter, supervisor, supervisor.start("painter", lambda: painter, capacity=16))


async def test_one_of_a_key_at_a_time_and_few_in_all(autojump_clock: MockClock) -> None:
    async with open_shop() as shop:
        await shop.ask_all((1, "red"), (1, "green"), (2, "blue"), (3, "white"))

    assert shop.painter.began[:2] == ["red", "blue"]
    assert shop.painter.most_at_once == 2
    assert sorted(shop.ends) == [(colour, colour) for colour in ("blue", "green", "red", "white")]


async def test_what_goes_wrong_with_one_is_told_to_its_asker_and_the_next_has_its_turn(
    autojump_clock: MockClock,
) -> None:
    async with open_shop() as shop:
        await shop.ask_all((1, "black"), (1, "red"))

    assert shop.ends == [("black", "Conflict"), ("red", "red")]


async def test_who_would_have_to_wait_for_too_long_is_refused(autojump_clock: MockClock) -> None:
    async with open_shop() as shop:
        await shop.ask_all((1, "red"), (1, "green"), (1, "blue"), (1, "white"))

    assert shop.ends[:2] == [("white", "Unavailable"), ("red", "red")]  # as many wait as may
    assert sorted(shop.ends[2:]) == [("blue", "Unavailable"), ("green", "green")]


async def test_nothing_is_done_for_who_has_gone(autojump_clock: MockClock) -> None:
    async with open_shop() as shop, trio.open_nursery() as nursery:
        nursery.start_soon(shop.ask, 1, "red")
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(1.0):
            await shop.ask(1, "green")
        await trio.sleep(2 * SECONDS)

    assert shop.painter.began == ["red"]


async def test_those_that_wait_are_answered_before_it_ends(autojump_clock: MockClock) -> None:
    async with open_shop() as shop, trio.open_nursery() as nursery:
        for colour in ("red", "green"):
            nursery.start_soon(shop.ask, 1, colour)
            await trio.testing.wait_all_tasks_blocked()
        await shop.supervisor.stop("painter", deadline_seconds=10)

    assert shop.ends == [("red", "red"), ("green", "green")]
