"""The reaper: one actor a process that removes what has had its time, in small steps: events of streams that have
expired, and deliveries of webhooks that ended long ago.

A stream that has expired is refused by its time alone, whether or not the reaper has come; what this does is to give
the room back. The stream's row stays, so that its token is refused for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import trio

from logstitch import metrics
from logstitch.actors.mailbox import Mailbox
from logstitch.errors import DatabaseUnavailable
from logstitch.store import streams as store
from logstitch.store import webhooks
from logstitch.store.database import Connection, Database
from logstitch.store.streams import Reaped, Totals
from logstitch.webhooks.schedule import KEPT_FOR

POLL_SECONDS: Final = 60.0
"""Between two rounds."""
STEP_ROWS: Final = 500
"""Streams that one transaction ends, and events, deliveries or attempts that it removes, at most: some 10 ms."""
PAUSE_SECONDS: Final = 0.01
"""Between two steps, for others to have the database to themselves."""


class Reaper:
    """Owns nothing: what there is to do is in the tables. Nobody sends it anything; its mailbox tells when to end."""

    def __init__(
        self,
        database: Database,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        poll_seconds: float = POLL_SECONDS,
        step_rows: int = STEP_ROWS,
    ) -> None:
        self._database = database
        self._now = now
        self._poll_seconds = poll_seconds
        self._step_rows = step_rows

    async def run(self, mailbox: Mailbox) -> None:
        """Look, and look again, until the mailbox is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reap, mailbox)
            async for _ in mailbox:
                pass
            nursery.cancel_scope.cancel()  # a step is done or it is not; the next process goes on

    async def _reap(self, mailbox: Mailbox) -> None:
        while True:
            with suppress(DatabaseUnavailable):  # not this actor's to mend, and the next round is soon
                await self._end_streams(mailbox)
                await self._forget_deliveries(mailbox)
            await trio.sleep(self._poll_seconds)

    async def _end_streams(self, mailbox: Mailbox) -> None:
        while True:
            now = self._now()

            def step(conn: Connection, now: datetime = now) -> Reaped:
                return store.reap(conn, now, self._step_rows)

            done = await self._database.transact(step)
            mailbox.progress()
            if not done:
                break
            metrics.STREAMS_EXPIRED.inc(done.streams)
            await trio.sleep(PAUSE_SECONDS)
        totals: Totals = await self._database.transact(store.read_totals, read_only=True)
        metrics.STREAMS_ACTIVE.set(totals.streams)
        metrics.STREAM_BYTES.set(totals.bytes)

    async def _forget_deliveries(self, mailbox: Mailbox) -> None:
        def step(conn: Connection) -> int:
            return webhooks.remove_old(conn, KEPT_FOR, self._step_rows)

        while await self._database.transact(step):
            mailbox.progress()
            await trio.sleep(PAUSE_SECONDS)
