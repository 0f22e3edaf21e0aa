"""What the service is compared with: the same duties on FastAPI, uvicorn and asyncpg, the work of an afternoon.

Bearer key looked up by its SHA-256 and cached in memory; the event schema in pydantic, straight from the bytes; the
five redaction rules that are on by default, as `re` patterns over every string; canonical JSON and its SHA-256; an
INSERT with a unique idempotency key, in one transaction; 201 with the ids after the commit. Replays get their first
ids, another event under a known key is a 409, a bad item refuses its batch.

What it does not do: hold rule sets a project, order events by commit, keep tenants' logs and salted commitments, build
a search index, survive floods, limit rates. ``BASELINE_TABLE`` chooses the table: ``plain``, one of its own with the
indexes that lists need, or ``events``, the service's, with its columns and indexes filled in.

    BASELINE_TABLE=plain BASELINE_DATABASE_URL=… uvicorn ops.bench.baseline:app --loop uvloop --http httptools

Written for speed where that costs no clarity: pydantic parses the bytes, orjson writes them, a batch is one pipelined
statement (asyncpg's executemany, in the form that returns rows), and a single event goes without BEGIN and COMMIT.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
import orjson
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from logstitch.search.segments import lexeme_prefix, segment_of
from logstitch.search.terms import facets

POOL = 10
"""Connections to the database: asyncpg's default."""
MAX_BODY_BYTES = 5 * 1024 * 1024
MAX_METADATA_BYTES = 32 * 1024
REDACTS = os.environ.get("BASELINE_REDACTS", "yes") == "yes"

# -- the schema ----------------------------------------------------------------------------------------------------


def _not_ahead(at: datetime) -> datetime:
    if at > datetime.now(UTC) + timedelta(hours=24):
        raise ValueError("Must not be more than 24 hours in the future")
    return at


def _not_big(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(orjson.dumps(metadata)) > MAX_METADATA_BYTES:
        raise ValueError(f"Must be at most {MAX_METADATA_BYTES} bytes")
    return metadata


class Strict(BaseModel):
    """Nothing sent is dropped in silence, nothing is converted."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Actor(Strict):
    """Who did it."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["user", "api_key", "service", "system"]
    name: Annotated[str, Field(max_length=256)] = ""
    email: Annotated[str, Field(max_length=320)] = ""


class Target(Strict):
    """What it was done to."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Annotated[str, Field(min_length=1, max_length=128)]
    name: Annotated[str, Field(max_length=256)] = ""


class Context(Strict):
    """Where it came from."""

    ip_address: Annotated[str, Field(max_length=64)] = ""
    user_agent: Annotated[str, Field(max_length=1024)] = ""
    location: Annotated[str, Field(max_length=256)] = ""
    session_id: Annotated[str, Field(max_length=256)] = ""


class Change(Strict):
    """One field that changed."""

    field: Annotated[str, Field(min_length=1, max_length=256)]
    before: Any = None
    after: Any = None


class Event(Strict):
    """An event as it is sent."""

    action: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+$", max_length=128)]
    category: Literal["auth", "access", "mutation", "admin", "security", "system"]
    actor: Actor
    tenant_id: Annotated[str, Field(min_length=1, max_length=256)]
    target: Target | None = None
    context: Context | None = None
    metadata: Annotated[dict[str, Any], AfterValidator(_not_big)] | None = None
    changes: Annotated[list[Change], Field(max_length=100)] | None = None
    idempotency_key: Annotated[str, Field(min_length=1, max_length=255)] | None = None
    occurred_at: Annotated[AwareDatetime, AfterValidator(_not_ahead)] | None = None


ONE = TypeAdapter(Event)
MANY = TypeAdapter(Annotated[list[Event], Field(min_length=1, max_length=100)])


def read(body: bytes) -> list[Event]:
    """The events of a request body. Raises ``HTTPException``."""
    try:
        return MANY.validate_json(body) if body.lstrip()[:1] == b"[" else [ONE.validate_json(body)]
    except ValidationError as error:
        details = [{"field": ".".join(map(str, e["loc"])), "message": e["msg"]} for e in error.errors()[:100]]
        raise HTTPException(400, {"code": "validation_error", "details": details}) from None


# -- redaction -----------------------------------------------------------------------------------------------------


def _card(match: re.Match[str]) -> str:
    digits = [int(c) for c in match[0] if c.isdigit()]
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return "[REDACTED]" if sum(doubled) % 10 == 0 else match[0]


PATTERNS = (
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), "[REDACTED]"),
    (re.compile(r"\bBearer\s+[\w.~+/=-]+", re.IGNORECASE), "[REDACTED]"),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"), "[REDACTED]"),
    (re.compile(r"\b[2-6]\d{3}(?:[ -]?\d){9,15}\b"), _card),
    (re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}\b"), "[REDACTED]"),
)
SCANNED = ("actor", "target", "context", "metadata", "changes")


def redact(value: Any) -> tuple[Any, int]:
    """The value with everything replaced that a pattern matches, and how many strings that changed."""
    if isinstance(value, str):
        text = value
        for pattern, replacement in PATTERNS:
            text = pattern.sub(replacement, text)
        return text, text != value
    changed = 0
    if isinstance(value, dict):
        result: Any = {}
        for name, item in value.items():
            result[name], n = redact(item)
            changed += n
        return result, changed
    if isinstance(value, list):
        result = []
        for item in value:
            clean, n = redact(item)
            result.append(clean)
            changed += n
        return result, changed
    return value, 0


# -- preparing -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """An event that is ready to be stored."""

    id: UUID
    event: dict[str, Any]
    key: str | None
    sent_hash: bytes
    content_hash: bytes
    occurred_at: datetime
    received_at: datetime
    body: str


def prepare(event: Event, now: datetime) -> tuple[Row, int]:
    """A row of an event, and how many of its values were redacted."""
    sent = event.model_dump(exclude_unset=True)
    sent_hash = sha256(orjson.dumps(sent, option=orjson.OPT_SORT_KEYS)).digest()
    changed = 0
    if REDACTS:
        for section in SCANNED:
            if section in sent:
                sent[section], n = redact(sent[section])
                changed += n
    # by time, like a UUIDv7: random ids would touch another page of the index each
    id = UUID(bytes=int(now.timestamp() * 1000).to_bytes(6, "big") + os.urandom(10))
    occurred_at = event.occurred_at or now
    sent |= {"id": f"evt_{id.hex}", "occurred_at": occurred_at, "received_at": now}
    body = orjson.dumps(sent, option=orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z)
    row = Row(id, sent, event.idempotency_key, sent_hash, sha256(body).digest(), occurred_at, now, body.decode())
    return row, changed


# -- storing -------------------------------------------------------------------------------------------------------


class Table(Protocol):
    """Where events go."""

    async def open(self, pool: asyncpg.Pool, project: int) -> None:
        """Called once, before the first event."""
        ...

    async def insert(self, connection: asyncpg.Connection, project: int, rows: Sequence[Row]) -> list[asyncpg.Record]:
        """Store those rows whose key is new, in one transaction, and return their ids."""
        ...

    async def known(self, connection: asyncpg.Connection, project: int, keys: Sequence[str]) -> dict[str, Any]:
        """What is stored under the keys: (id, hash of the event as sent)."""
        ...


class PlainTable:
    """A table as one would make it first: a primary key, the unique key, and an index each for time and tenant."""

    SCHEMA = """
        CREATE TABLE IF NOT EXISTS plain_events (
            id uuid PRIMARY KEY,
            project_no integer NOT NULL,
            tenant_id text NOT NULL,
            action text NOT NULL,
            category text NOT NULL,
            actor_id text NOT NULL,
            target_id text,
            idempotency_key text,
            sent_hash bytea NOT NULL,
            content_hash bytea NOT NULL,
            occurred_at timestamptz NOT NULL,
            received_at timestamptz NOT NULL,
            body json NOT NULL,
            UNIQUE (project_no, idempotency_key)
        );
        CREATE INDEX IF NOT EXISTS plain_events_time ON plain_events (project_no, occurred_at, id);
        CREATE INDEX IF NOT EXISTS plain_events_tenant ON plain_events (project_no, tenant_id, occurred_at, id);
    """
    INSERT = """
        INSERT INTO plain_events (id, project_no, tenant_id, action, category, actor_id, target_id, idempotency_key,
                                  sent_hash, content_hash, occurred_at, received_at, body)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
        ON CONFLICT (project_no, idempotency_key) DO NOTHING RETURNING id
    """
    KNOWN = """
        SELECT idempotency_key, id, sent_hash FROM plain_events
        WHERE project_no = $1 AND idempotency_key = ANY ($2::text[])
    """

    async def open(self, pool: asyncpg.Pool, project: int) -> None:
        await pool.execute(self.SCHEMA)

    async def insert(self, connection: asyncpg.Connection, project: int, rows: Sequence[Row]) -> list[asyncpg.Record]:
        stored: list[asyncpg.Record] = await connection.fetchmany(self.INSERT, [self._values(project, r) for r in rows])
        return stored

    @staticmethod
    def _values(project: int, row: Row) -> tuple[Any, ...]:
        event = row.event
        return (
            row.id,
            project,
            event["tenant_id"],
            event["action"],
            event["category"],
            event["actor"]["id"],
            event["target"]["id"] if "target" in event else None,
            row.key,
            row.sent_hash,
            row.content_hash,
            row.occurred_at,
            row.received_at,
            row.body,
        )

    async def known(self, connection: asyncpg.Connection, project: int, keys: Sequence[str]) -> dict[str, Any]:
        rows = await connection.fetch(self.KNOWN, project, keys)
        return {key: (id, sent_hash) for key, id, sent_hash in rows}


class ServiceTable:
    """The service's own table: what lists and search need there is filled in, so that PostgreSQL does the same work.

    Numbers come from counters in memory, the cheapest way, and possible only for a single process.
    """

    INSERT = """
        INSERT INTO events (project_no, seq, id, tenant_no, tenant_seq, occurred_at, received_at, action, category,
                            actor_id, actor_type, target_id, target_type, key_hash, key_digest, content_hash, salts,
                            facets, body)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)
        ON CONFLICT (project_no, key_hash) WHERE key_hash IS NOT NULL DO NOTHING RETURNING id
    """
    KNOWN = "SELECT key_hash, id, key_digest FROM events WHERE project_no = $1 AND key_hash = ANY ($2::uuid[])"

    def __init__(self) -> None:
        self._seq = count(1)
        self._tenants: dict[str, tuple[int, count[int]]] = {}

    async def open(self, pool: asyncpg.Pool, project: int) -> None:
        self._seq = count(1 + (await pool.fetchval("SELECT max(seq) FROM events WHERE project_no = $1", project) or 0))

    async def insert(self, connection: asyncpg.Connection, project: int, rows: Sequence[Row]) -> list[asyncpg.Record]:
        stored: list[asyncpg.Record] = await connection.fetchmany(self.INSERT, [self._values(project, r) for r in rows])
        return stored

    def _values(self, project: int, row: Row) -> tuple[Any, ...]:
        event, seq = row.event, next(self._seq)
        actor, target = event["actor"], event.get("target") or {}
        tenant_no, tenant_seq = self._tenants.setdefault(event["tenant_id"], (len(self._tenants) + 1, count()))
        prefix = lexeme_prefix(project, segment_of(seq)).decode()
        lexemes = [(prefix + lexeme.decode()).replace("\\", "\\\\").replace("'", "''") for lexeme in facets(event)]
        return (
            project,
            seq,
            row.id,
            tenant_no,
            next(tenant_seq),
            row.occurred_at,
            row.received_at,
            event["action"],
            event["category"],
            actor["id"],
            actor["type"],
            target.get("id"),
            target.get("type"),
            None if row.key is None else _key_hash(row.key),
            None if row.key is None else row.sent_hash,
            row.content_hash,
            os.urandom(16 * sum(section in event for section in SCANNED)),
            "'" + "' '".join(lexemes) + "'",
            row.body,
        )

    async def known(self, connection: asyncpg.Connection, project: int, keys: Sequence[str]) -> dict[str, Any]:
        by_hash = {_key_hash(key): key for key in keys}
        rows = await connection.fetch(self.KNOWN, project, list(by_hash))
        return {by_hash[UUID(bytes=key_hash.bytes)]: (id, digest) for key_hash, id, digest in rows}


def _key_hash(key: str) -> UUID:
    return UUID(bytes=sha256(key.encode()).digest()[:16])


class Replayed(Exception):
    """A key of the batch is known: what was inserted must not stay unless the events are the same."""


async def store(pool: asyncpg.Pool, table: Table, project: int, rows: Sequence[Row]) -> list[UUID]:
    """Store the rows, all or none, and return an id each: a new one, or the one its key already stands for.

    Raises ``HTTPException`` 409 where a key stands for another event.
    """
    async with pool.acquire() as connection:
        if len({row.key for row in rows if row.key}) == sum(row.key is not None for row in rows):
            try:
                if len(rows) == 1:  # one statement is a transaction
                    if await table.insert(connection, project, rows):
                        return [rows[0].id]
                else:
                    async with connection.transaction():
                        if len(await table.insert(connection, project, rows)) == len(rows):
                            return [row.id for row in rows]
                        raise Replayed
            except Replayed:
                pass
        return await _store_replays(connection, table, project, rows)


async def _store_replays(connection: asyncpg.Connection, table: Table, project: int, rows: Sequence[Row]) -> list[UUID]:
    async with connection.transaction():
        fresh: dict[str, Row] = {}
        for row in rows:
            if row.key is not None:
                fresh.setdefault(row.key, row)
        await table.insert(connection, project, [row for row in rows if row.key is None or fresh[row.key] is row])
        known = await table.known(connection, project, list(fresh))
        if any(row.key is not None and known[row.key][1] != row.sent_hash for row in rows):
            raise HTTPException(409, {"code": "conflict"})
        return [row.id if row.key is None else UUID(bytes=known[row.key][0].bytes) for row in rows]


# -- the app -------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The pool and the table live as long as the app."""
    table: Table = ServiceTable() if os.environ["BASELINE_TABLE"] == "events" else PlainTable()
    async with asyncpg.create_pool(os.environ["BASELINE_DATABASE_URL"], min_size=POOL, max_size=POOL) as pool:
        app.state.pool, app.state.table, app.state.keys = pool, table, {}
        await table.open(pool, 1)
        yield


app = FastAPI(lifespan=lifespan)

KEY_SECONDS = 60.0
"""How long a key is believed without another look."""


async def authenticated(request: Request) -> int:
    """The number of the project that the caller's key is for."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise HTTPException(401, {"code": "unauthorized"})
    digest = sha256(key.encode()).digest()
    known: dict[bytes, tuple[int, float]] = request.app.state.keys
    project, until = known.get(digest, (0, 0.0))
    if until < time.monotonic():
        found = await request.app.state.pool.fetchval(
            "SELECT p.project_no FROM keys k JOIN projects p USING (project_id) "
            "WHERE k.digest = $1 AND k.revoked_at IS NULL",
            digest,
        )
        if found is None:
            known.pop(digest, None)
            raise HTTPException(401, {"code": "invalid_api_key"})
        project = int(found)
        known[digest] = (project, time.monotonic() + KEY_SECONDS)
    return project


@app.post("/api/v1/events", status_code=201)
async def create_events(request: Request, project: Annotated[int, Depends(authenticated)]) -> Response:
    """Store an event, or an array of 1 to 100."""
    body = await request.body()
    if len(body) > MAX_BODY_BYTES:
        raise HTTPException(413, {"code": "payload_too_large"})
    now = datetime.now(UTC)
    prepared = [prepare(event, now) for event in read(body)]
    rows = [row for row, _ in prepared]
    ids = await store(request.app.state.pool, request.app.state.table, project, rows)
    answer = {"ids": [f"evt_{id.hex}" for id in ids], "redacted_count": sum(changed for _, changed in prepared)}
    return Response(orjson.dumps(answer), 201, media_type="application/json")
