"""Lookout: one actor a process that finds events which nobody looks at, and tells their projects' evaluators.

Such are those of a process that was killed, of one that has no room for another evaluator, and those that were
committed while their evaluator was at rest. It asks the database, every few seconds. Nobody sends it anything; its
mailbox tells when to end.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

import trio

from logstitch.actors.mailbox import KeyedTells, Mailbox
from logstitch.actors.messages.alerts import CatchUp
from logstitch.errors import DatabaseUnavailable, Unavailable
from logstitch.store.alerts import find_waiting
from logstitch.store.database import Database

POLL_SECONDS: Final = 2.0
"""Between two looks."""
PROJECTS: Final = 100
"""Told of at a time, chosen by chance, so that each has its turn: a start costs some milliseconds."""


class Lookout:
    """Wakes the evaluators of projects that wait for one."""

    def __init__(
        self,
        database: Database,
        evaluators: KeyedTells,
        *,
        poll_seconds: float = POLL_SECONDS,
        projects: int = PROJECTS,
    ) -> None:
        self._database = database
        self._evaluators = evaluators
        self._poll_seconds = poll_seconds
        self._projects = projects

    async def run(self, mailbox: Mailbox) -> None:
        """Look, and look again, until the mailbox is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            async for _ in mailbox:
                pass
            nursery.cancel_scope.cancel()

    async def _look(self) -> None:
        find = partial(find_waiting, limit=self._projects)
        while True:
            with suppress(DatabaseUnavailable):  # the next look is soon
                for project_no in await self._database.transact(find, read_only=True):
                    with suppress(Unavailable):  # too many are at work, or it has much to do: it will be found again
                        self._evaluators.tell(project_no, CatchUp())
            await trio.sleep(self._poll_seconds)
