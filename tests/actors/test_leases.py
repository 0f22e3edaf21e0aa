"""Leases: believed for so long, looked up once for all who wait, and never older than who asks has heard of."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from logstitch.actors.leases import LEASE_MARGIN_SECONDS, LEASE_SECONDS, Leases, leases_over
from logstitch.errors import Unavailable


@dataclass
class Asked:
    """Who wants a value."""

    posted_at: float
    abandoned: bool = False


class Table:
    """What is looked up: how it is now, and how long it takes to tell."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.seconds = 0.0
        self.error: Exception | None = None
        self.looks = 0
        self.leases: Leases[str, str | None] = Leases(
            self.look, trio.CapacityLimiter(2), lasting=lambda value: value is not None, most=4
        )

    async def look(self, key: str) -> str | None:
        self.looks += 1
        found = self.values.get(key)  # as it is when the look begins
        await trio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return found

    async def find(self, key: str, *, fresh: bool = False) -> str | None:
        return await self.leases.find(key, Asked(trio.current_time()), fresh=fresh)


async def test_what_was_looked_up_is_believed_for_a_lease(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    assert table.leases.get("a") is None
    assert await table.find("a") == "one"
    table.values["a"] = "two"

    await trio.sleep(LEASE_SECONDS - 0.01)
    assert table.leases.get("a") == await table.find("a") == "one"
    await trio.sleep(0.02)
    assert table.leases.get("a") is None
    assert await table.find("a") == "two"
    assert table.looks == 2


async def test_whoever_withdraws_and_waits_is_believed_by_all(autojump_clock: MockClock) -> None:
    """Given look-ups of any length all the time, then after the wait nobody who asks hears of what is gone."""
    table = Table(a="one")
    table.seconds = 0.35
    gone_for_all = False
    wrong = []

    async def use() -> None:
        while True:
            asked_after = gone_for_all
            found = await table.find("a")
            if asked_after and found is not None:
                wrong.append(found)
            await trio.sleep(0.07)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(use)
            await trio.sleep(0.05)
        await trio.sleep(1)
        del table.values["a"]
        await leases_over()
        gone_for_all = True
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert wrong == []


async def test_the_lease_counts_from_before_the_look_up(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    table.seconds = LEASE_SECONDS - 0.1

    assert await table.find("a") == "one"

    await trio.sleep(0.11)
    assert table.leases.get("a") is None


async def test_one_look_up_answers_all_who_wait(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    table.seconds = 0.1
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(table.find, "a")
    assert table.looks == 1


async def test_a_look_up_that_takes_too_long_is_good_for_who_had_asked_before_only(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    table.seconds = 2.0
    answers: dict[str, str | None] = {}

    async def ask(name: str) -> None:
        answers[name] = await table.find("a")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "before")
        await trio.sleep(0.5)
        table.values["a"] = "two"
        nursery.start_soon(ask, "after")
        await trio.sleep(1.6)
        assert answers == {"before": "one"}
    assert answers == {"before": "one", "after": "two"}


async def test_fresh_is_looked_up_after_the_question(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    await table.find("a")
    table.values["a"] = "two"
    await trio.sleep(0.01)

    assert await table.find("a") == "one"
    assert await table.find("a", fresh=True) == "two"
    assert await table.find("a") == "two"


async def test_fresh_does_not_take_what_was_begun_before(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    table.seconds = 0.2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(table.find, "a")
        await trio.sleep(0.1)
        table.values["a"] = "two"
        assert await table.find("a", fresh=True) == "two"


async def test_what_is_not_lasting_is_looked_up_again(autojump_clock: MockClock) -> None:
    table = Table()
    assert await table.find("a") is None
    table.values["a"] = "one"
    await trio.sleep(0.001)

    assert await table.find("a") == "one"


async def test_an_error_is_raised_to_all_who_wait_and_not_remembered(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    table.seconds, table.error = 0.1, ZeroDivisionError("away")

    async def fail() -> None:
        with pytest.raises(ZeroDivisionError):
            await table.find("a")

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(fail)
    assert table.looks == 1
    table.error = None
    assert await table.find("a") == "one"


async def test_who_waits_is_not_left_alone_when_the_one_who_looks_leaves(autojump_clock: MockClock) -> None:
    table = Table(a="one")
    table.seconds = 0.1
    async with trio.open_nursery() as waiting, trio.open_nursery() as leaving:
        leaving.start_soon(table.find, "a")
        await wait_all_tasks_blocked()
        waiting.start_soon(table.find, "a")
        await wait_all_tasks_blocked()
        leaving.cancel_scope.cancel()
    assert table.looks == 2


async def test_what_nobody_waits_for_any_more_is_not_looked_up(autojump_clock: MockClock) -> None:
    table = Table(a="one", b="two", c="three")
    table.seconds = 0.1
    gone, left = Asked(trio.current_time()), Asked(trio.current_time())
    found: list[str | None] = []

    async def find(asker: Asked) -> None:
        try:
            found.append(await table.leases.find("c", asker))
        except Unavailable:
            found.append("not looked up")

    async with trio.open_nursery() as nursery:
        for key in ("a", "b"):
            nursery.start_soon(table.find, key)  # they take both places
        await wait_all_tasks_blocked()
        for asker in (gone, left):
            nursery.start_soon(find, asker)
            await wait_all_tasks_blocked()
        gone.abandoned = left.abandoned = True
    assert found == ["not looked up"] * 2
    assert table.looks == 2
    assert await table.find("c") == "three"


async def test_it_is_for_one_who_still_waits_although_the_first_has_gone(autojump_clock: MockClock) -> None:
    table = Table(a="one", b="two", c="three")
    table.seconds = 0.1
    gone, here = Asked(trio.current_time()), Asked(trio.current_time())
    async with trio.open_nursery() as nursery:
        for key in ("a", "b"):
            nursery.start_soon(table.find, key)
        await wait_all_tasks_blocked()
        nursery.start_soon(table.leases.find, "c", gone)
        await wait_all_tasks_blocked()
        gone.abandoned = True
        assert await table.leases.find("c", here) == "three"
    assert table.looks == 3


async def test_what_is_remembered_has_a_bound(autojump_clock: MockClock) -> None:
    table = Table(**{f"k{n}": "v" for n in range(20)})
    for n in range(20):
        await table.find(f"k{n}")
        await trio.sleep(0.2)

    assert len(table.leases._known) <= 5


async def test_the_margin_is_beyond_the_lease(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    await leases_over()
    assert trio.current_time() - began == pytest.approx(LEASE_SECONDS + LEASE_MARGIN_SECONDS)
