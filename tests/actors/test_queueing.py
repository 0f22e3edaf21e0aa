"""Actors that answer several questions at a time answer all of them before they end, and none waits without need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import trio
from trio.testing import MockClock

from logstitch.actors.mailbox import Address, Ask, Envelope, Mailbox, open_mailbox
from logstitch.actors.queueing import MOST_AHEAD, Limits, Places, answer_in_turn, answer_together
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.errors import AskTimeout, Conflict, MailboxFull, Unavailable

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


# -- together ------------------------------------------------------------------------------------------------------

AT_ONCE = 2
CAPACITY = 4


@dataclass(frozen=True, slots=True)
class Name(Ask[str]):
    """Answered with the colour of a wall."""

    wall: int


@dataclass
class Archive:
    """Knows the colour of the first wall, and looks the others up when it may; nobody looked at the wall below zero."""

    looked_up: trio.Event = field(default_factory=trio.Event)
    most_at_once: int = 0
    at_once: int = 0

    async def run(self, mailbox: Mailbox) -> None:
        await answer_together(mailbox, self._look_up, at_once=AT_ONCE, at_hand=self._known)

    def _known(self, envelope: Envelope[Name]) -> bool:
        if envelope.message.wall == 1:
            envelope.reply("red")
        return envelope.message.wall == 1

    async def _look_up(self, envelope: Envelope[Name]) -> None:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.looked_up.wait()
        self.at_once -= 1
        if envelope.message.wall < 0:
            raise Conflict("There is no such wall.")
        envelope.reply("green")


@dataclass
class Library:
    """An archive, and the answers that it has given."""

    archive: Archive
    address: Address
    supervisor: Supervisor
    answers: list[str] = field(default_factory=list)

    async def ask(self, wall: int) -> None:
        try:
            self.answers.append(await self.address.ask(Name(wall), timeout=30))
        except (Conflict, Unavailable) as error:
            self.answers.append(type(error).__name__)

    async def ask_often(self, nursery: trio.Nursery, walls: list[int]) -> None:
        """Ask about them, one after the other, and come back while they wait."""
        for wall in walls:
            nursery.start_soon(self.ask, wall)
            await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_library() -> AsyncIterator[Library]:
    archive = Archive()
    async with open_supervisor() as supervisor:
        yield Library(archive, supervisor.start("archive", lambda: archive, capacity=CAPACITY), supervisor)


async def test_what_is_at_hand_is_answered_while_others_wait_for_a_place(autojump_clock: MockClock) -> None:
    async with open_library() as library, trio.open_nursery() as nursery:
        await library.ask_often(nursery, [2] * (AT_ONCE + MOST_AHEAD))

        await library.ask(1)

        assert library.answers == ["red"]
        library.archive.looked_up.set()
    assert library.answers == ["red"] + ["green"] * (AT_ONCE + MOST_AHEAD)
    assert library.archive.most_at_once == AT_ONCE


async def test_beyond_those_that_may_wait_the_mailbox_fills_and_refuses(autojump_clock: MockClock) -> None:
    in_hand = 1  # was read before it could be seen that it has no place to wait
    async with open_library() as library, trio.open_nursery() as nursery:
        await library.ask_often(nursery, [2] * (AT_ONCE + MOST_AHEAD + in_hand + CAPACITY))
        assert library.answers == []

        with pytest.raises(MailboxFull):
            await library.address.ask(Name(2), timeout=30)

        library.archive.looked_up.set()
    assert library.answers == ["green"] * (AT_ONCE + MOST_AHEAD + in_hand + CAPACITY)


async def test_all_that_wait_for_a_place_are_answered_before_it_ends(autojump_clock: MockClock) -> None:
    walls = [2, -1, *range(3, 3 + MOST_AHEAD)]
    async with open_library() as library, trio.open_nursery() as nursery:
        await library.ask_often(nursery, walls)
        library.supervisor.retire("archive")
        await trio.testing.wait_all_tasks_blocked()

        library.archive.looked_up.set()
        await library.supervisor.stop("archive", deadline_seconds=10)

    assert sorted(library.answers) == ["Conflict", *["green"] * (len(walls) - 1)]


# -- places --------------------------------------------------------------------------------------------------------


@dataclass
class Window:
    """Gives so many places, and answers when it may."""

    places: int
    go_on: trio.Event = field(default_factory=trio.Event)
    begun: list[int] = field(default_factory=list)

    async def run(self, mailbox: Mailbox) -> None:
        async with trio.open_nursery() as nursery:
            places = Places(nursery, self.places, doing="walls are being looked at")
            async for envelope in mailbox:
                places.give(self._answer, envelope)

    async def _answer(self, envelope: Envelope[Name]) -> None:
        self.begun.append(envelope.message.wall)
        await self.go_on.wait()
        if envelope.message.wall < 0:
            raise Conflict("There is no such wall.")
        envelope.reply("green")


async def test_who_finds_no_place_is_refused_and_whoever_is_answered_makes_room(
    autojump_clock: MockClock,
) -> None:
    window, answers = Window(places=2), []

    async def ask(wall: int) -> None:
        try:
            answers.append(await address.ask(Name(wall), timeout=30))
        except (Conflict, Unavailable) as error:
            answers.append(str(error))

    async with open_supervisor() as supervisor:
        address = supervisor.start("window", lambda: window, capacity=8)
        async with trio.open_nursery() as nursery:
            for wall in (1, -2, 3):
                nursery.start_soon(ask, wall)
                await trio.testing.wait_all_tasks_blocked()
            assert answers == ["As many walls are being looked at as may be. Try again in a moment."]
            window.go_on.set()
        assert sorted(answers[1:]) == ["There is no such wall.", "green"]
        await ask(4)
        await ask(5)
    assert answers[3:] == ["green"] * 2


async def test_who_has_gone_takes_no_place(autojump_clock: MockClock) -> None:
    window = Window(places=1)
    window.go_on.set()
    address, mailbox = open_mailbox("window", 8)
    with pytest.raises(AskTimeout):
        await address.ask(Name(1), timeout=1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(window.run, mailbox)
        assert await address.ask(Name(2), timeout=1) == "green"
        mailbox.close()
    assert window.begun == [2]
