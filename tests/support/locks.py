"""Whether a transaction waits for another, as PostgreSQL sees it: what a test waits for before it lets go of a lock."""

from __future__ import annotations

import psycopg
import trio


async def wait_for_a_lock(url: str) -> None:
    """Until some transaction on the database waits for a row or a table."""
    with psycopg.connect(url, autocommit=True) as watcher, trio.fail_after(10):
        while not watcher.execute(  # noqa: ASYNC110  (PostgreSQL tells nobody)
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        ).fetchall():
            await trio.sleep(0.01)
