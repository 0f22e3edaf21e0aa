"""Notifications wake, and whoever hears nothing looks for itself."""

from __future__ import annotations

import errno
import time
from typing import Any

import psycopg
import pytest
import trio

from logstitch.store import listening as module
from logstitch.store.database import Database, open_database
from logstitch.store.watchdog import Call
from tests.support.own_server import SOON, Server, eventually


def notify(url: str, channel: str, payload: str) -> None:
    with psycopg.connect(url) as conn:
        conn.execute("SELECT pg_notify(%s, %s)", (channel, payload))


async def listening(database: Database) -> None:
    await eventually(lambda: database.statistics().listening)


async def test_a_notification_wakes_its_listeners_only(blank_database_url: str) -> None:
    async with open_database(blank_database_url) as database:
        with database.listen("rules", poll_every=SOON) as rules, database.listen("keys", poll_every=SOON) as keys:
            assert await rules.__anext__() is None  # from here on, nothing is missed
            assert await keys.__anext__() is None
            notify(blank_database_url, "rules", "7")
            notify(blank_database_url, "keys", "8")

            with trio.fail_after(SOON / 2):
                assert await rules.__anext__() == "7"
                assert await keys.__anext__() == "8"


async def test_silence_is_a_reason_to_look(blank_database_url: str) -> None:
    async with open_database(blank_database_url) as database:
        with database.listen("rules", poll_every=0.01) as wakeups:
            with trio.fail_after(SOON):
                assert [await wakeups.__anext__() for _ in range(3)] == [None] * 3


async def test_polling_goes_on_without_a_server() -> None:
    async with open_database("postgresql://nobody@127.0.0.1:1/nothing") as database:
        with database.listen("rules", poll_every=0.01) as wakeups, trio.fail_after(SOON):
            assert [await wakeups.__anext__() for _ in range(3)] == [None] * 3


async def test_a_slow_listener_is_told_to_look_for_itself(
    blank_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAKEUP_BUFFER", 2)
    async with open_database(blank_database_url) as database:
        with database.listen("rules", poll_every=SOON) as wakeups, trio.fail_after(SOON):
            assert await wakeups.__anext__() is None
            for n in range(5):
                notify(blank_database_url, "rules", str(n))
            await eventually(lambda: database.statistics().notifications_lost == 3)

            assert [await wakeups.__anext__() for _ in range(3)] == [None, "0", "1"]


async def test_listening_ends_when_the_database_closes(blank_database_url: str) -> None:
    seen: list[str | None] = []

    async def follow() -> None:
        with database.listen("rules", poll_every=SOON) as wakeups:
            async for payload in wakeups:
                seen.append(payload)

    with trio.fail_after(SOON):
        async with trio.open_nursery() as nursery:
            async with open_database(blank_database_url) as database:
                nursery.start_soon(follow)
                await eventually(lambda: seen == [None])
                began = time.monotonic()
            assert time.monotonic() - began < 1

    with database.listen("rules") as late:
        assert [payload async for payload in late] == []


async def test_a_closed_listener_ends_its_iteration(blank_database_url: str) -> None:
    async with open_database(blank_database_url) as database:
        wakeups = database.listen("rules", poll_every=SOON)
        await listening(database)
        wakeups.close()
        wakeups.close()

        assert [payload async for payload in wakeups] == []


async def test_listening_survives_a_crash(server: Server) -> None:
    async with open_database(server.url) as database:
        with database.listen("rules", poll_every=30) as wakeups, trio.fail_after(30):
            assert await wakeups.__anext__() is None
            await trio.to_thread.run_sync(server.kill)
            await eventually(lambda: not database.statistics().listening)
            await trio.to_thread.run_sync(server.start)

            assert await wakeups.__anext__() is None  # reconnected: whatever was missed must be looked for
            notify(server.url, "rules", "after")
            assert await wakeups.__anext__() == "after"


async def test_listening_survives_a_shortage_of_descriptors(
    blank_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach, refused = Call.attach, list[OSError]()

    def scarce(call: Call, conn: psycopg.Connection[Any], deadline: float) -> None:
        if not refused:
            refused.append(OSError(errno.EMFILE, "Too many open files"))
            raise refused[0]
        attach(call, conn, deadline)

    monkeypatch.setattr(Call, "attach", scarce)
    async with open_database(blank_database_url) as database:
        with database.listen("rules", poll_every=30) as wakeups, trio.fail_after(SOON):
            assert await wakeups.__anext__() is None
            assert refused
            notify(blank_database_url, "rules", "after")
            assert await wakeups.__anext__() == "after"


@pytest.mark.parametrize("name", ["", "Rules", 'a"b', "a b", "x" * 64])
async def test_a_channel_is_a_plain_name(blank_database_url: str, name: str) -> None:
    async with open_database(blank_database_url) as database:
        with pytest.raises(ValueError, match="not a channel name"):
            database.listen(name)
