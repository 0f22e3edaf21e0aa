"""More than can be done: what is accepted does not suffer for it, and what is refused costs little."""

from __future__ import annotations

import orjson
import pytest
import trio
from trio.testing import MockClock

from logstitch.errors import MailboxFull, Overloaded
from logstitch.http import examples, intake
from logstitch.http.api import App
from logstitch.http.intake import AT_ONCE_BYTES, TURN_SECONDS, Intake
from logstitch.http.pipeline import OVERLOAD_SECONDS
from logstitch.http.services import Limits
from logstitch.model import IncomingEvent
from tests.support.client import Client
from tests.support.world import World

NOW_MS = 1_900_000_000_000
BATCH = orjson.dumps([examples.EVENT_IN] * 100)


async def test_one_batch_is_read_in_each_round_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given 20 batches that arrive together, when they are read, then others have a turn between any two of them."""
    reader, rounds, read_in = Intake(Limits()), 0, []

    def read(body: bytes, now_ms: int) -> tuple[tuple[IncomingEvent, ...], bool]:
        read_in.append(rounds)
        return (), True

    monkeypatch.setattr(intake, "_read", read)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(reader.read, BATCH, NOW_MS)
        while len(read_in) < 20:
            await trio.lowlevel.checkpoint()
            rounds += 1

    assert len(set(read_in)) == 20


async def test_what_is_small_waits_for_no_turn() -> None:
    reader = Intake(Limits())
    await reader._turn.acquire()

    events, batch = await reader.read(orjson.dumps(examples.EVENT_IN), NOW_MS)

    assert (len(events), batch) == (1, False)
    assert len(BATCH) >= AT_ONCE_BYTES


async def test_a_batch_whose_turn_does_not_come_in_time_is_refused(autojump_clock: MockClock) -> None:
    reader = Intake(Limits())
    await reader._turn.acquire()

    with pytest.raises(Overloaded):
        await reader.read(BATCH, NOW_MS)
    assert trio.current_time() >= TURN_SECONDS

    reader._turn.release()
    events, _ = await reader.read(BATCH, NOW_MS)
    assert len(events) == 100


async def test_a_refusal_is_kept_back_but_nothing_that_was_sent(producer: Client, app: App, world: World) -> None:
    async def refuse(message: object) -> None:
        raise MailboxFull("As much is waiting as may wait.")

    world.interrupt(refuse)
    statuses = []

    async def send() -> None:
        statuses.append((await producer.request("POST", "/api/v1/events", body=BATCH)).status)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await trio.sleep(OVERLOAD_SECONDS / 2)
        assert (statuses, app.pipeline.body_bytes_held) == ([], 0)

    assert statuses == [503]
    assert trio.current_time() - began >= OVERLOAD_SECONDS
