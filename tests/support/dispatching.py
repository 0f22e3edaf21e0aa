"""Dispatchers on a real database: what they send to, and what to wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import h11
import pytest
import trio
import trio.testing

from logstitch.actors.dispatcher import (
    Dispatcher,
)
from logstitch.actors.mailbox import Address
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.egress.addresses import Allow
from logstitch.egress.client import open_egress
from logstitch.store import webhooks as store
from logstitch.store.database import Connection, Database, open_database
from logstitch.store.webhooks import WebhookRow
from tests.support.webhooks import (
    StubEgress,
    make_project,
    make_webhook,
)

ADA = UUID(int=7)
LOOPBACK = Allow.parse("127.0.0.1")
SECONDS = 20
"""Bound of every wait."""


class Bench:
    """One process's dispatcher, on a database that others may share."""

    def __init__(self, database: Database, supervisor: Supervisor, address: Address) -> None:
        self.database = database
        self.supervisor = supervisor
        self.address = address

    async def do(self, work: Callable[[Connection], Any]) -> Any:
        """What ``work`` returns, in a transaction."""
        return await self.database.transact(work)

    async def statuses(self, row: WebhookRow | None = None) -> Counter[str]:
        """How many deliveries, of one endpoint or all, stand how."""
        wanted = None if row is None else row.id
        query = "SELECT status FROM deliveries WHERE %s::uuid IS NULL OR webhook_id = %s"
        rows = await self.do(lambda conn: conn.execute(query, (wanted, wanted)).fetchall())
        return Counter(status for (status,) in rows)

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something is so in the database."""
        with trio.fail_after(SECONDS):
            while not await condition():  # noqa: ASYNC110  # the database has no events to wait for
                await trio.sleep(0.01)

    async def until_statuses(self, row: WebhookRow | None = None, **expected: int) -> None:
        """Wait until deliveries stand so."""

        async def so() -> bool:
            return await self.statuses(row) == expected

        await self.until(so)

    async def pass_time(self, seconds: float = 40_000) -> None:
        """As if every delivery had been due that much earlier."""
        query = "UPDATE deliveries SET due_at = due_at - make_interval(secs => %s)"
        await self.do(lambda conn: conn.execute(query, (seconds,)) and None)
        await self.do(lambda conn: conn.execute("SELECT pg_notify(%s, '')", (store.CHANNEL,)) and None)

    async def stop(self) -> None:
        await self.supervisor.stop("dispatcher", deadline_seconds=SECONDS)


@asynccontextmanager
async def open_bench(url: str, egress: StubEgress | None = None, **options: Any) -> AsyncIterator[Bench]:
    """A dispatcher that sends through a stub, or, without one, through real sockets."""
    through = open_egress if egress is None else egress.open
    settings: dict[str, Any] = {"egress": through, "poll_seconds": 0.05, "chance": lambda: 0.5} | {
        "connection_failed_seconds": 0.05,
        **options,
    }
    async with open_database(url) as database, open_supervisor(drain_seconds=SECONDS) as supervisor:
        address = supervisor.start("dispatcher", lambda: Dispatcher(database, LOOPBACK, **settings), capacity=1)
        yield Bench(database, supervisor, address)


async def project_in(bench: Bench) -> tuple[int, UUID]:
    made: tuple[int, UUID] = await bench.do(make_project)
    return made


async def endpoint_in(bench: Bench, project: tuple[int, UUID], **fields: Any) -> WebhookRow:
    made: WebhookRow = await bench.do(lambda conn: make_webhook(conn, project[0], **fields))
    return made


class Looks:
    """How often dispatchers have looked for what is due."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._count = 0
        self._changed = trio.Event()
        look = Dispatcher._claim

        async def counted(dispatcher: Dispatcher) -> None:
            await look(dispatcher)
            self._count += 1
            self._changed.set()
            self._changed = trio.Event()

        monkeypatch.setattr(Dispatcher, "_claim", counted)

    async def more(self, count: int = 3) -> None:
        """Wait until there have been that many more."""
        until = self._count + count
        with trio.fail_after(SECONDS):
            while self._count < until:
                await self._changed.wait()


class Receiver:
    """A webhook receiver on loopback that answers with one status after the other, the last one again and again."""

    def __init__(self, *statuses: int) -> None:
        self._statuses = list(statuses)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/hook"
        task_status.started()
        await trio.serve_listeners(self._handle, [listener])

    async def _handle(self, stream: trio.SocketStream) -> None:
        async with stream:
            http, headers, body = h11.Connection(h11.SERVER), {}, b""
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    http.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    break
            self.requests.append((headers, body))
            status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
            said = b"what a receiver says stays with it"
            response = h11.Response(status_code=status, headers=[("content-length", str(len(said)))])
            for part in (response, h11.Data(data=said), h11.EndOfMessage()):
                await stream.send_all(http.send(part) or b"")


@asynccontextmanager
async def receiver(*statuses: int) -> AsyncIterator[Receiver]:
    async with trio.open_nursery() as nursery:
        made = Receiver(*statuses)
        await nursery.start(made.serve)
        yield made
        nursery.cancel_scope.cancel()


def ended_attempts(bench: Bench, count: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        query = "SELECT count(*) FROM delivery_attempts WHERE error IS NOT NULL"
        return bool(await bench.do(lambda conn: conn.execute(query).fetchone()) == (count,))

    return so


def has_sent(egress: StubEgress, count: int) -> Callable[[], Awaitable[bool]]:
    async def so() -> bool:
        await trio.lowlevel.checkpoint()
        return len(egress.sent) == count

    return so
