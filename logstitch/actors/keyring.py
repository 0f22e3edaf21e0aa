"""The key ring: one actor a process that knows who holds a key, and makes, lists and revokes keys.

A key that was looked up is believed for a short lease, and a revocation is answered only when every lease that could
have been taken before its commit has run out (see ``actors.leases``): from the moment of the answer every process
refuses the key, and the viewer tokens that it minted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
import trio

from logstitch import credentials
from logstitch.actors.bounds import CONCURRENCY, HOLD_SECONDS
from logstitch.actors.leases import Leases, leases_over
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.keys import (
    Authenticate,
    CreatedKey,
    CreateKey,
    Key,
    KeyPage,
    KeyType,
    ListKeys,
    Principal,
    RevokeKey,
)
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import Project
from logstitch.actors.queueing import MOST_LOOK_UPS, MOST_MANAGED, Places
from logstitch.errors import InvalidApiKey, KeyRevoked, LogStitchError, NotFound
from logstitch.store import keys, projects
from logstitch.store.database import Connection, Database
from logstitch.store.keys import Holder, KeyRow

log = structlog.get_logger(__name__)

FLUSH_SECONDS = 20.0
"""How often last-used marks are written: ``lastUsedAt`` is exact to a minute and no request pays for it."""


class KeyRing:
    """Owns the keys that were looked up and the marks of their use."""

    def __init__(self, database: Database, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now
        self._limiter = trio.CapacityLimiter(CONCURRENCY)
        self._holders: Leases[bytes, Principal | LogStitchError] = Leases(
            self._look_up, self._limiter, lasting=lambda found: isinstance(found, Principal)
        )
        self._used: dict[UUID, datetime] = {}

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty; then write the last marks."""
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as requests:
                nursery.start_soon(self._flush_marks)
                look_ups = Places(requests, MOST_LOOK_UPS, doing="keys are being looked up")
                managed = Places(requests, MOST_MANAGED, doing="keys are being made, listed and revoked")
                async for envelope in mailbox:
                    if not isinstance(envelope.message, Authenticate):
                        managed.give(self._manage, envelope)
                    elif not self._answer_from_memory(envelope):
                        look_ups.give(self._authenticate, envelope)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(2.0, shield=True):
            await self._write_marks()

    # -- authentication --------------------------------------------------------------------------------------------

    def _answer_from_memory(self, envelope: Envelope[Authenticate]) -> bool:
        """Answer for a key that is known, and say whether it is."""
        found = self._holders.get(envelope.message.digest)
        if found is None:
            return False
        self._answer(envelope, found)
        return True

    async def _authenticate(self, envelope: Envelope[Authenticate]) -> None:
        self._answer(envelope, await self._holders.find(envelope.message.digest, envelope))

    def _answer(self, envelope: Envelope[Authenticate], found: Principal | LogStitchError) -> None:
        if isinstance(found, Principal):
            self._used[found.key_id] = self._now()
            envelope.reply(found)
        else:
            envelope.refuse(found)

    async def _look_up(self, digest: bytes) -> Principal | LogStitchError:
        holder = await self._database.transact(
            lambda conn: keys.authenticate(conn, digest), hold=HOLD_SECONDS, read_only=True
        )
        return self._judge(holder)

    def _judge(self, holder: Holder | None) -> Principal | LogStitchError:
        if holder is None:
            return InvalidApiKey("This API key is not known.")
        if holder.revoked_at is not None:
            return KeyRevoked("This API key was revoked.")
        row = holder.project
        project = Project(row.no, row.id, row.organization_id, row.name, row.created_at) if row else None
        return Principal(holder.key_id, KeyType(holder.type), holder.organization_id, holder.plan, project)

    # -- management ------------------------------------------------------------------------------------------------

    async def _manage(self, envelope: Envelope[Any]) -> None:
        match envelope.message:
            case CreateKey() as request:
                envelope.reply(await self._create(request))
            case ListKeys() as request:
                envelope.reply(await self._list(request))
            case RevokeKey() as request:
                envelope.reply(await self._revoke(request))

    async def _create(self, request: CreateKey) -> CreatedKey:
        minted = credentials.mint("project")
        now = self._now()

        def create(conn: Connection) -> KeyRow:
            if projects.find_project(conn, request.organization_id, request.project_id) is None:
                raise NotFound("There is no such project.")
            return keys.create_key(
                conn,
                organization_id=request.organization_id,
                project_id=request.project_id,
                name=request.name,
                prefix=minted.prefix,
                digest=minted.digest,
                now=now,
            )

        async with self._limiter:
            return CreatedKey(_key(await self._database.transact(create)), minted.secret)

    async def _list(self, request: ListKeys) -> KeyPage:
        after = (request.after.created_at, request.after.id) if request.after else None

        def list_keys(conn: Connection) -> list[KeyRow]:
            return keys.list_keys(
                conn, request.organization_id, project_id=request.project_id, limit=request.limit + 1, after=after
            )

        async with self._limiter:
            rows = await self._database.transact(list_keys, hold=HOLD_SECONDS, read_only=True)
        page = tuple(_key(row) for row in rows[: request.limit])
        return KeyPage(page, Page(page[-1].created_at, page[-1].id) if len(rows) > request.limit else None)

    async def _revoke(self, request: RevokeKey) -> Key:
        now = self._now()

        def revoke(conn: Connection) -> KeyRow | None:
            return keys.revoke_key(
                conn,
                request.organization_id,
                request.key_id,
                project_id=request.project_id,
                types=["project"],
                now=now,
            )

        async with self._limiter:
            row = await self._database.transact(revoke, hold=HOLD_SECONDS)
        if row is None:
            raise NotFound("There is no such key.")
        # A lease that began before the commit has run out by then, in every process.
        await leases_over()
        return _key(row)

    # -- marks of use ----------------------------------------------------------------------------------------------

    async def _flush_marks(self) -> None:
        while True:
            await trio.sleep(FLUSH_SECONDS)
            await self._write_marks()

    async def _write_marks(self) -> None:
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._database.transact(lambda conn: keys.mark_used(conn, used))
        except LogStitchError as error:
            log.warning("keyring.marks_not_written", error=type(error).__name__, keys=len(used))
            self._used = used | self._used


def _key(row: KeyRow) -> Key:
    return Key(
        row.id,
        KeyType(row.type),
        row.name,
        row.prefix,
        row.project_id,
        row.created_at,
        row.last_used_at,
        row.revoked_at,
    )
