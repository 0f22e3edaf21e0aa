"""Anonymous streams without HTTP: their actors on a real database, and what is in the tables afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson

from logstitch.actors.claimer import Claimer
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.events import Accepted
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.streams import (
    ClaimStream,
    GetStreamInfo,
    StreamClaimed,
    StreamInfo,
    SubmitStreamEvents,
)
from logstitch.actors.streams import StreamIngest
from logstitch.ids import UlidMint
from logstitch.model import Plan, validate_events
from logstitch.recording.streams import CEILING
from logstitch.store import projects
from logstitch.store import streams as store
from logstitch.store.database import Connection, Database
from logstitch.store.streams import StreamRow, Totals
from logstitch.streams import token_digest
from logstitch.times import DAY_MS
from tests.support.ingest import Bench, open_bench

NOON_MS = 20_415 * DAY_MS + DAY_MS // 2
"""2025-11-23T12:00:00Z: what the clock of these tests shows, unless they say otherwise."""
BY = UUID("5d2f9f0e-7c44-4f5b-8a0e-1b6a3c9d2e70")
"""The key that claims."""
ROOMY = 10_000
"""Streams an hour that one address may begin, where that is not what a test is about."""


def moment(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


@dataclass
class Clock:
    """What time it is for the actors."""

    ms: int = NOON_MS

    def now(self) -> datetime:
        return moment(self.ms)


@dataclass(frozen=True, slots=True)
class StreamBench:
    """One process's actors of streams, and its ingest for one project, on a database that others may share."""

    bench: Bench
    clock: Clock
    project: Project
    streams: Address
    claimer: Address

    @property
    def database(self) -> Database:
        return self.bench.database

    async def submit(
        self, token: str, *events: dict[str, Any], at_ms: int | None = None, address: str = "203.0.113.9"
    ) -> Accepted:
        """Send one batch to a stream."""
        now_ms = at_ms or self.clock.ms
        incoming = validate_events(list(events), now_ms=now_ms)
        size = len(orjson.dumps(events))
        message = SubmitStreamEvents(token_digest(token), incoming, True, size, now_ms, address)
        return await self.streams.ask(message, timeout=15)

    async def info(self, token: str, *, at_ms: int | None = None) -> StreamInfo:
        return await self.streams.ask(GetStreamInfo(token_digest(token), at_ms or self.clock.ms), timeout=15)

    async def claim(self, token: str, project: Project | None = None) -> StreamClaimed:
        """Claim it for the bench's project, or another."""
        return await self.claimer.ask(ClaimStream(token_digest(token), project or self.project, BY), timeout=30)

    async def row(self, token: str) -> StreamRow | None:
        """The stream as it is in the table."""
        digest = token_digest(token)
        rows = await self.database.transact(lambda conn: store.find_streams(conn, [digest]), read_only=True)
        return rows.get(digest)

    async def totals(self) -> Totals:
        return await self.database.transact(store.read_totals, read_only=True)

    async def count(self, sql: str) -> int:
        """What a query answers that asks for one number."""
        rows = await self.bench.rows(sql)
        return int(rows[0][0])

    async def bodies(self, *, told: bool = False) -> list[dict[str, Any]]:
        """The project's events in order of ``seq``; with those that tell of claims, or without."""
        return [body for body in await self.bench.bodies() if told or body["tenant_id"] != "$logstitch"]

    async def stored(self, token: str) -> list[dict[str, Any]]:
        """The bodies of the stream's events, as they are in the table."""
        row = await self.row(token)
        assert row is not None
        events = await self.database.transact(
            lambda conn: store.read_events(conn, row.no, 0, row.event_count), read_only=True
        )
        return [orjson.loads(event.body) for event in events]


async def another_project(database: Database, organization_id: UUID | None = None) -> Project:
    """A new project, of a new organization unless one is named."""

    def make(conn: Connection) -> Project:
        now = datetime.now(UTC)
        owner = organization_id or projects.create_organization(conn, name="test", plan=Plan.ENTERPRISE, now=now).id
        row = projects.create_project(conn, organization_id=owner, name="test", now=now)
        return Project(row.no, row.id, row.organization_id, row.name, row.created_at)

    return await database.transact(make)


async def find_project(database: Database, project_no: int) -> Project:
    """The project with this number."""
    (row,) = await database.transact(
        lambda conn: conn.execute(
            "SELECT project_no, project_id, organization_id, name, created_at FROM projects WHERE project_no = %s",
            [project_no],
        ).fetchall()
    )
    return Project(*row)


@asynccontextmanager
async def open_stream_bench(
    url: str,
    *,
    project_no: int | None = None,
    per_address: int = ROOMY,
    ceiling: Totals = CEILING,
    clock: Clock | None = None,
) -> AsyncIterator[StreamBench]:
    """The actors of one process; for a new project, or for one that another bench made."""
    clock = clock or Clock()
    async with open_bench(url, project_no=project_no) as bench:
        mint, start = UlidMint(), bench.supervisor.start
        yield StreamBench(
            bench,
            clock,
            await find_project(bench.database, bench.project_no),
            start(
                "streams",
                lambda: StreamIngest(bench.database, mint, per_address=per_address, ceiling=ceiling),
                capacity=64,
            ),
            start("claimer", lambda: Claimer(bench.database, mint, now=clock.now), capacity=64),
        )


def new_token() -> str:
    """A token that nobody has used."""
    return str(uuid4())


async def fill(database: Database, token: str, bodies: Sequence[dict[str, Any]], *, at_ms: int = NOON_MS) -> None:
    """Make a stream with more events than its quota lets in, as if they had come one a millisecond."""

    def make(conn: Connection) -> None:
        digest, mint = token_digest(token), UlidMint()
        (no,) = store.insert_streams(conn, [store.NewStream(digest, bytes(32), moment(at_ms))])
        texts = [orjson.dumps(body, option=orjson.OPT_SORT_KEYS).decode() for body in bodies]
        ids = [UUID(bytes=event_id) for event_id in mint.mint(len(texts), at_ms)]
        events = [
            store.NewEvent(no, n, event_id, at_ms + n, at_ms + n, text, None, None, None, len(text))
            for n, (event_id, text) in enumerate(zip(ids, texts, strict=True), start=1)
        ]
        for first in range(0, len(events), 5_000):
            store.insert_events(conn, events[first : first + 5_000])
        row = store.lock_streams(conn, [digest])[digest]
        size = sum(event.size for event in events)
        changed = StreamRow(
            row.digest,
            row.no,
            row.secret,
            row.status,
            row.created_at,
            row.expires_at,
            moment(at_ms + len(events)),
            None,
            None,
            len(events),
            row.day,
            0,
            size,
        )
        store.save_streams(conn, [changed])
        store.add_to_totals(conn, streams=1, bytes=size)

    await database.transact(make, timeout=60)
