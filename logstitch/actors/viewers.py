"""Viewers: one actor a process that mints viewer tokens, tells who holds one, and lists and changes tiers.

Tokens are not kept. What a token rests on is looked up and believed for a lease: the secrets that it may be signed
with, the key that minted it, and the tier that it names. So it ends with its key, and sees by its tier as that is now,
from the moment of the answer to whoever changed them, in every process. A token whose tier is gone is refused: without
it everything would be shown.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import trio

from logstitch.actors.bounds import CONCURRENCY, HOLD_SECONDS
from logstitch.actors.leases import Leases, leases_over
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.pages import Page, page_of
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.viewers import (
    AuthenticateViewer,
    CreateTier,
    DeleteTier,
    ListTiers,
    MintedToken,
    MintViewerToken,
    TierPage,
    UpdateTier,
    Viewer,
)
from logstitch.actors.queueing import MOST_LOOK_UPS, MOST_MANAGED, Places
from logstitch.errors import InvalidRequest, KeyRevoked, LogStitchError, Unauthorized
from logstitch.ids import UlidMint
from logstitch.recording.tiers import Decision, creation, deletion, list_tiers, tier_change, tier_of, update
from logstitch.store import tiers, viewer_secrets
from logstitch.store.database import Connection, Database
from logstitch.store.viewer_secrets import SecretRows
from logstitch.times import to_ms
from logstitch.viewing import tokens
from logstitch.viewing.tiers import Tier, View
from logstitch.viewing.tokens import Claims, Secret, Secrets


@dataclass(frozen=True, slots=True)
class _Grounds:
    """What tokens of one key and one tier rest on."""

    project: Project
    tier: Tier | None


class Viewers:
    """Owns what was looked up for tokens. Answers ``AuthenticateViewer``, ``MintViewerToken``, ``ListTiers``,
    ``CreateTier``, ``UpdateTier`` and ``DeleteTier``."""

    def __init__(
        self, database: Database, mint: UlidMint, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._database = database
        self._mint = mint
        self._now = now
        self._limiter = trio.CapacityLimiter(CONCURRENCY)
        self._secrets: Leases[None, Secrets] = Leases(self._read_secrets, self._limiter)
        # By minting key and tier.
        self._grounds: Leases[tuple[UUID, UUID | None], _Grounds | LogStitchError] = Leases(
            self._read_grounds, self._limiter, lasting=lambda found: isinstance(found, _Grounds)
        )

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        async with trio.open_nursery() as requests:
            look_ups = Places(requests, MOST_LOOK_UPS, doing="viewer tokens are being looked up")
            managed = Places(requests, MOST_MANAGED, doing="viewer tokens are being made or tiers changed")
            async for envelope in mailbox:
                if not isinstance(envelope.message, AuthenticateViewer):
                    managed.give(self._manage, envelope)
                elif not self._answer_from_memory(envelope):
                    look_ups.give(self._authenticate, envelope)

    # -- who holds a token -----------------------------------------------------------------------------------------

    def _answer_from_memory(self, envelope: Envelope[AuthenticateViewer]) -> bool:
        """Answer a token, or refuse it, if that can be told from what is known; False where it takes a look: at the
        secrets, if they are not known or the one that signed it is not among them, or at what the token rests on."""
        secrets = self._secrets.get(None)
        if secrets is None:
            return False
        try:
            claims = self._verify(envelope, secrets)
            found = self._grounds.get((claims.key_id, claims.tier_id))
            if found is None:
                return False
            envelope.reply(_viewer(claims, found))
        except tokens.UnknownSecret:
            return False
        except LogStitchError as error:
            envelope.refuse(error)
        return True

    async def _authenticate(self, envelope: Envelope[AuthenticateViewer]) -> None:
        try:
            claims = self._verify(envelope, await self._secrets.find(None, envelope))
        except tokens.UnknownSecret:
            # Another process may have signed with one that is newer than the look-up.
            claims = self._verify(envelope, await self._secrets.find(None, envelope, fresh=True))
        found = await self._grounds.find((claims.key_id, claims.tier_id), envelope)
        envelope.reply(_viewer(claims, found))

    def _verify(self, envelope: Envelope[AuthenticateViewer], secrets: Secrets) -> Claims:
        return tokens.verify(envelope.message.token, secrets, self._now().timestamp())

    async def _read_secrets(self, _: None) -> Secrets:
        now = self._now()
        found = await self._database.transact(
            lambda conn: viewer_secrets.list_secrets(conn, now), hold=HOLD_SECONDS, read_only=True
        )
        return _secrets(found)

    async def _read_grounds(self, key: tuple[UUID, UUID | None]) -> _Grounds | LogStitchError:
        key_id, tier_id = key

        def read(conn: Connection) -> _Grounds | LogStitchError:
            minter = viewer_secrets.find_minter(conn, key_id)
            if minter is None:
                return Unauthorized("The viewer token is not valid.")
            if minter.revoked_at is not None:
                return KeyRevoked("The API key that made this viewer token was revoked.")
            row = minter.project
            project = Project(row.no, row.id, row.organization_id, row.name, row.created_at)
            if tier_id is None:
                return _Grounds(project, None)
            tier = tiers.find_tier(conn, row.no, tier_id)
            if tier is None:
                return Unauthorized("The tier of this viewer token was deleted.")
            return _Grounds(project, tier_of(tier))

        return await self._database.transact(read, hold=HOLD_SECONDS, read_only=True)

    # -- minting, and tiers ----------------------------------------------------------------------------------------

    async def _manage(self, envelope: Envelope[Any]) -> None:
        match envelope.message:
            case MintViewerToken() as request:
                envelope.reply(await self._mint_token(request))
            case ListTiers() as request:
                envelope.reply(await self._list(request))
            case CreateTier() as request:
                made = Tier(
                    uuid4(),
                    request.name,
                    request.categories,
                    request.actions,
                    request.hidden_fields,
                    self._now(),
                )
                envelope.reply(await self._change(request.project_no, creation(made), request.by))
            case UpdateTier(project_no, by, tier_id, changed):
                tier = await self._change(project_no, update(tier_id, changed), by)
                await leases_over()
                envelope.reply(tier)
            case DeleteTier(project_no, by, tier_id):
                await self._change(project_no, deletion(tier_id), by)
                await leases_over()
                envelope.reply(None)
            case other:
                envelope.refuse(TypeError(f"viewers were asked {type(other).__name__}"))

    async def _mint_token(self, request: MintViewerToken) -> MintedToken:
        now = self._now()

        def read(conn: Connection) -> tuple[SecretRows, UUID | None]:
            secrets = viewer_secrets.ensure_secret(conn, now)
            if request.tier is None:
                return secrets, None
            tier = tiers.find_tier_by_name(conn, request.project.no, request.tier)
            if tier is None:
                raise InvalidRequest.on("tier", "There is no tier of this name")
            return secrets, tier.id

        async with self._limiter:
            rows, tier_id = await self._database.transact(read, hold=HOLD_SECONDS)
        return minted(request, _secrets(rows), tier_id, now)

    async def _list(self, request: ListTiers) -> TierPage:
        async with self._limiter:
            found = await self._database.transact(
                lambda conn: list_tiers(conn, request.project_no), hold=HOLD_SECONDS, read_only=True
            )
        return page_of_tiers(found, request)

    async def _change(self, project_no: int, decide: Decision, by: UUID) -> Tier | None:
        event_id = self._mint.one(to_ms(self._now()))
        change = tier_change(project_no, decide, by=by, event_id=event_id, now=self._now)
        async with self._limiter:
            return await self._database.transact(change.run, hold=HOLD_SECONDS)


def minted(request: MintViewerToken, secrets: Secrets, tier_id: UUID | None, now: datetime) -> MintedToken:
    """The token that was asked for. Raises ``InvalidRequest`` on ``tenant_id`` for one that would be too long."""
    issued_at = int(now.timestamp())
    expires_at = issued_at + request.life_seconds
    claims = Claims(request.project.id, request.tenant_id, tier_id, request.by, issued_at, expires_at)
    try:
        token = tokens.mint(secrets, claims, os.urandom(16))
    except tokens.TooLong:
        raise InvalidRequest.on("tenant_id", "Has too many control characters for a token") from None
    return MintedToken(token, datetime.fromtimestamp(expires_at, UTC))


def page_of_tiers(newest_first: list[Tier], request: ListTiers) -> TierPage:
    """The page that was asked for."""
    tiers_of_page, more = page_of(newest_first, _place, request.after, request.limit, newest_first=True)
    return TierPage(tiers_of_page, more)


def _place(tier: Tier) -> Page:
    return Page(tier.created_at, tier.id)


def _viewer(claims: Claims, found: _Grounds | LogStitchError) -> Viewer:
    if isinstance(found, LogStitchError):
        raise found
    if found.project.id != claims.project_id:
        raise Unauthorized("The viewer token is not valid.")
    return Viewer(claims.key_id, found.project, View(claims.tenant_id, found.tier))


def _secrets(rows: SecretRows) -> Secrets:
    held = [
        Secret(row.id, row.secret, None if row.ends_at is None else row.ends_at.timestamp()) for row in rows.secrets
    ]
    return Secrets(rows.deployment_id, held)
