"""Whether a transaction waits for another, as PostgreSQL sees it: what a test waits for before it lets go of a lock."""

from __future__ import annotations

import psycopg
import trio

from tests.support.service import wait_until


async def wait_for_a_lock(url: str) -> None:
    """Until some transaction on the database waits for a row or a table."""
    with psycopg.connect(url, autocommit=True) as watcher, trio.fail_after(10):
        while not _waits(watcher):  # noqa: ASYNC110  (PostgreSQL tells nobody)
            await trio.sleep(0.01)


def block_for_a_lock(url: str) -> None:
    """The same for tests whose transactions are in threads."""
    with psycopg.connect(url, autocommit=True) as watcher:
        wait_until(lambda: _waits(watcher))


def _waits(watcher: psycopg.Connection) -> bool:
    return bool(
        watcher.execute(
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchall()
    )
