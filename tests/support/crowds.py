"""Many who ask an actor at the same time, while its database is away."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logstitch.actors.mailbox import Address, Ask
from logstitch.errors import LogStitchError
from logstitch.store.database import Database


@dataclass
class Outage:
    """While it lasts, transactions of a database wait; ``requests`` counts them."""

    over: trio.Event = field(default_factory=trio.Event)
    requests: int = 0


def begin_outage(database: Database, monkeypatch: pytest.MonkeyPatch) -> Outage:
    """From here on, whoever asks the database waits for the end of the outage."""
    outage, transact = Outage(), database.transact

    async def held(*args: Any, **options: Any) -> Any:
        outage.requests += 1
        await outage.over.wait()
        return await transact(*args, **options)

    monkeypatch.setattr(database, "transact", held)
    return outage


class Crowd:
    """Asks one actor; ``ends`` counts how that ended: ``answered``, or the type of the error."""

    def __init__(self, address: Address, nursery: trio.Nursery) -> None:
        self._address = address
        self._nursery = nursery
        self.ends: Counter[str] = Counter()

    async def ask(self, messages: Iterable[Ask[Any]], *, timeout: float = 60) -> None:
        """Ask all at the same time, and come back when whoever need not wait has an answer."""
        for message in messages:
            self._nursery.start_soon(self._ask, message, timeout)
        await wait_all_tasks_blocked()

    async def _ask(self, message: Ask[Any], timeout: float) -> None:
        try:
            await self._address.ask(message, timeout=timeout)
            self.ends["answered"] += 1
        except LogStitchError as error:
            self.ends[type(error).__name__] += 1


@asynccontextmanager
async def open_crowd(address: Address) -> AsyncIterator[Crowd]:
    """A crowd before an actor; ends when everybody in it has an answer."""
    async with trio.open_nursery() as nursery:
        yield Crowd(address, nursery)
