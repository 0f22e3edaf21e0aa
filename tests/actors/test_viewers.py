"""Viewers against a real PostgreSQL: tokens end with what they rest on, in every process, from the answer on."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
import trio

from logstitch import credentials
from logstitch.actors import leases, viewers
from logstitch.actors.keyring import KeyRing
from logstitch.actors.leases import LEASE_MARGIN_SECONDS, LEASE_SECONDS
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.keys import Authenticate, RevokeKey
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.viewers import (
    AuthenticateViewer,
    CreateTier,
    DeleteTier,
    ListTiers,
    MintViewerToken,
    UpdateTier,
    Viewer,
)
from logstitch.actors.supervisor import open_supervisor
from logstitch.actors.viewers import Viewers
from logstitch.errors import (
    Conflict,
    DatabaseUnavailable,
    InvalidRequest,
    KeyRevoked,
    LogStitchError,
    NotFound,
    Unauthorized,
)
from logstitch.ids import UlidMint
from logstitch.model import RESERVED_TENANT
from logstitch.store import projects, viewer_secrets
from logstitch.store.bootstrap import Bootstrap, bootstrap
from logstitch.store.database import Database, open_database
from logstitch.viewing import tokens
from logstitch.viewing.tiers import Tier
from logstitch.viewing.tokens import Claims, Secret, Secrets
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.crowds import begin_outage, open_crowd

DAY = timedelta(days=1)


@dataclass
class Office:
    """One process's key ring and viewers, and a clock."""

    database: Database
    keyring: Address
    viewers: Address
    first: Bootstrap
    project: Project
    key_id: uuid.UUID
    ahead: timedelta = field(default_factory=timedelta)

    async def mint(self, tenant_id: str = "acme", tier: str | None = None, seconds: int = 3600) -> str:
        message = MintViewerToken(self.project, self.key_id, tenant_id, tier, seconds)
        return (await self.viewers.ask(message, timeout=5)).token

    async def who(self, token: str) -> Viewer:
        return await self.viewers.ask(AuthenticateViewer(token), timeout=5)

    async def make(self, name: str = "support", **changes: Any) -> Tier:
        settings = {"categories": None, "actions": None, "hidden_fields": ()} | changes
        return await self.viewers.ask(CreateTier(self.project.no, self.key_id, name, **settings), timeout=5)

    async def change(self, tier: Tier, **changed: Any) -> Tier:
        return await self.viewers.ask(UpdateTier(self.project.no, self.key_id, tier.id, changed), timeout=5)

    async def delete(self, tier: Tier) -> None:
        await self.viewers.ask(DeleteTier(self.project.no, self.key_id, tier.id), timeout=5)

    async def rotate(self, *, revoke_former: bool = False) -> datetime | None:
        now = datetime.now(UTC) + self.ahead
        return await self.database.transact(
            lambda conn: viewer_secrets.rotate_secret(conn, now, overlap=DAY, revoke_former=revoke_former)
        )

    async def looks(self, work: Callable[[], Awaitable[Any]]) -> int:
        """How many transactions something takes."""
        before = self.database.statistics().requests
        await work()
        return self.database.statistics().requests - before


@asynccontextmanager
async def open_office(url: str, first: Bootstrap | None = None) -> AsyncIterator[Office]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        made = first or await database.transact(lambda conn: bootstrap(conn, now=datetime.now(UTC)))
        assert made is not None
        keyring = supervisor.start("keyring", lambda: KeyRing(database), capacity=64)
        digest = credentials.digest(made.project_key)
        holder = await keyring.ask(Authenticate(digest), timeout=5)
        assert holder.project is not None
        office: Office
        address = supervisor.start(
            "viewers",
            lambda: Viewers(database, UlidMint(), now=lambda: datetime.now(UTC) + office.ahead),
            capacity=64,
        )
        office = Office(database, keyring, address, made, holder.project, holder.key_id)
        yield office


async def refused(office: Office, token: str) -> type[Exception]:
    """How a token is refused."""
    with pytest.raises(LogStitchError) as error:
        await office.who(token)
    return error.type


# -- what a token rests on -----------------------------------------------------------------------------------------


async def test_a_token_is_its_holder_in_every_process(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url, one.first) as other:
        tier = await one.make(hidden_fields=("actor.email",), categories=("auth",), actions=("auth.*",))
        token = await one.mint("acme", "support")
        for office in (one, other):
            viewer = await office.who(token)
            assert viewer.project == one.project
            assert viewer.key_id == one.key_id
            assert (viewer.view.tenant_id, viewer.view.tier) == ("acme", tier)


async def test_processes_that_begin_at_the_same_time_sign_with_the_same_secret(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url, one.first) as other:
        minted: list[str] = []

        async def mint(office: Office) -> None:
            minted.append(await office.mint())

        async with trio.open_nursery() as nursery:
            for office in (one, other) * 5:
                nursery.start_soon(mint, office)
        for token in minted:
            await one.who(token)
            await other.who(token)


@dataclass(frozen=True, slots=True)
class Ending:
    """Something that ends a token, and how it is refused then."""

    act: Callable[[Office, Tier], Awaitable[object]]
    error: type[Exception]


async def _revoke(office: Office, _: Tier) -> None:
    await office.keyring.ask(RevokeKey(office.first.organization_id, None, office.key_id), timeout=5)


async def _delete_tier(office: Office, tier: Tier) -> None:
    await office.delete(tier)


async def _end_secret(office: Office, _: Tier) -> None:
    await office.rotate(revoke_former=True)
    await trio.sleep(LEASE_SECONDS + LEASE_MARGIN_SECONDS)  # as the command line does


ENDINGS = {
    "its key is revoked": Ending(_revoke, KeyRevoked),
    "its tier is deleted": Ending(_delete_tier, Unauthorized),
    "its secret is ended": Ending(_end_secret, tokens.UnknownSecret),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
async def test_from_the_answer_on_every_process_refuses_it(database_url: str, ending: Ending) -> None:
    async with open_office(database_url) as one, open_office(database_url, one.first) as other:
        tier = await one.make()
        token = await one.mint("acme", "support")
        over = False

        async def use_all_the_time() -> None:
            """The other process keeps the token in use, so that its leases are always fresh."""
            while not over:
                try:
                    await other.who(token)
                except ending.error:
                    return
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            await other.who(token)
            nursery.start_soon(use_all_the_time)
            await ending.act(one, tier)
            for office in (one, other):
                assert await refused(office, token) is ending.error
            over = True


async def test_from_the_answer_on_every_process_shows_what_a_changed_tier_shows(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url, one.first) as other:
        tier = await one.make()
        token = await one.mint("acme", "support")
        over = False

        async def use_all_the_time() -> None:
            while not over:
                await other.who(token)
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            await other.who(token)
            nursery.start_soon(use_all_the_time)
            changed = await one.change(tier, hidden_fields=("metadata.**",), name="renamed")
            for office in (one, other):
                assert (await office.who(token)).view.tier == changed
            over = True


async def test_a_key_that_is_revoked_ends_its_own_tokens_only(database_url: str) -> None:
    async with open_office(database_url) as office:
        token = await office.mint()
        stranger = replace(office, key_id=uuid.uuid4())

        assert await refused(office, await stranger.mint()) is Unauthorized
        assert (await office.who(token)).key_id == office.key_id


async def test_a_token_of_another_project_than_its_keys_is_refused(database_url: str) -> None:
    async with open_office(database_url) as office:
        other = replace(office, project=replace(office.project, id=uuid.uuid4()))

        assert await refused(office, await other.mint()) is Unauthorized


async def test_a_master_key_mints_nothing_that_is_taken(database_url: str) -> None:
    async with open_office(database_url) as office:
        master = await office.keyring.ask(Authenticate(credentials.digest(office.first.master_key)), timeout=5)

        assert await refused(office, await replace(office, key_id=master.key_id).mint()) is Unauthorized


async def test_a_tier_of_another_project_is_not_taken(database_url: str) -> None:
    async with open_office(database_url) as office:
        await office.mint()
        rows = await office.database.transact(lambda conn: viewer_secrets.list_secrets(conn, datetime.now(UTC)))
        secrets = Secrets(rows.deployment_id, [Secret(rows.secrets[0].id, rows.secrets[0].secret)])
        other = await office.database.transact(
            lambda conn: projects.create_project(
                conn, organization_id=office.first.organization_id, name="other", now=datetime.now(UTC)
            )
        )
        mine = await office.make()
        theirs = await office.viewers.ask(CreateTier(other.no, office.key_id, "theirs", None, None, ()), timeout=5)
        now = int(datetime.now(UTC).timestamp())
        claims = Claims(office.project.id, "acme", mine.id, office.key_id, now, now + 60)

        assert (await office.who(tokens.mint(secrets, claims, b"j"))).view.tier == mine
        for tier_id in (theirs.id, uuid.uuid4()):
            forged = tokens.mint(secrets, replace(claims, tier_id=tier_id), b"j")
            assert await refused(office, forged) is Unauthorized


# -- secrets -------------------------------------------------------------------------------------------------------


async def test_old_tokens_hold_through_the_overlap_and_no_longer(database_url: str) -> None:
    async with open_office(database_url) as office:
        old = await office.mint(seconds=86_400)
        assert await office.rotate() is None
        new = await office.mint(seconds=86_400)
        assert (await office.who(old)).view == (await office.who(new)).view

        office.ahead = DAY - timedelta(minutes=1)
        await trio.sleep(LEASE_SECONDS)
        await office.who(old)

        office.ahead = DAY + timedelta(seconds=1)
        for token in (old, new):
            assert issubclass(await refused(office, token), Unauthorized)


async def test_another_process_learns_of_a_new_secret_from_the_first_token_that_it_signed(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url, one.first) as other:
        await other.who(await one.mint())  # so that it has just looked
        await one.rotate()

        await other.who(await one.mint())


async def test_a_second_rotation_within_the_overlap_says_until_when_the_former_holds(database_url: str) -> None:
    async with open_office(database_url) as office:
        old = await office.mint()
        await office.rotate()

        until = await office.rotate()

        assert until is not None
        assert DAY - timedelta(minutes=1) < until - datetime.now(UTC) <= DAY
        await office.who(old)
        assert await office.rotate(revoke_former=True) is None
        await trio.sleep(LEASE_SECONDS)
        assert await refused(office, old) is tokens.UnknownSecret


# -- look-ups ------------------------------------------------------------------------------------------------------


async def test_many_uses_within_a_lease_are_two_look_ups(database_url: str) -> None:
    async with open_office(database_url) as office:
        token = await office.mint()

        async def use() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(office.who, token)

        assert await office.looks(use) == 2


async def test_forgeries_are_told_without_a_look_up_of_their_own(database_url: str) -> None:
    """Given tokens that are signed wrongly, then the secrets are looked up once a lease, and nothing else is."""
    async with open_office(database_url) as office:
        token = await office.mint()
        await office.who(token)
        head, claims, _ = token.split(".")

        async def forge() -> None:
            for number in range(100):
                assert await refused(office, f"{head}.{claims}.{number:042}A") is Unauthorized

        assert await office.looks(forge) <= 2


async def test_an_outage_is_no_refusal(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_office(database_url) as office:
        token = await office.mint()
        await trio.sleep(LEASE_SECONDS)

        async def away(*_: object, **__: object) -> None:
            raise DatabaseUnavailable("away")

        with monkeypatch.context() as patch:
            patch.setattr(office.database, "transact", away)
            assert await refused(office, token) is DatabaseUnavailable
        await office.who(token)


# -- while the database is away ------------------------------------------------------------------------------------


async def token_of_an_unknown_secret(office: Office) -> str:
    """As another process could have signed it: nobody can tell without a look."""
    rows = await office.database.transact(lambda conn: viewer_secrets.list_secrets(conn, datetime.now(UTC)))
    now = int(datetime.now(UTC).timestamp())
    claims = Claims(office.project.id, "acme", None, office.key_id, now, now + 3600)
    return tokens.mint(Secrets(rows.deployment_id, [Secret(uuid.uuid4(), b"s" * 32)]), claims, b"j")


async def test_made_up_tokens_do_not_pile_up_and_a_known_one_is_answered_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewers, "MOST_LOOK_UPS", 20)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 60.0)
    async with open_office(database_url) as office:
        known, made_up = await office.mint(), await token_of_an_unknown_secret(office)
        await office.who(known)
        outage = begin_outage(office.database, monkeypatch)
        async with open_crowd(office.viewers) as crowd:
            await crowd.ask([AuthenticateViewer(made_up)] * 30)
            assert crowd.ends == {"Unavailable": 10}

            await crowd.ask([AuthenticateViewer(known)])
            assert crowd.ends == {"Unavailable": 10, "answered": 1}
            outage.over.set()
    assert crowd.ends == {"Unavailable": 10, "answered": 1, "UnknownSecret": 20}


async def test_tokens_to_be_minted_do_not_pile_up_either(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "MOST_MANAGED", 20)
    async with open_office(database_url) as office:
        outage = begin_outage(office.database, monkeypatch)
        async with open_crowd(office.viewers) as crowd:
            await crowd.ask([MintViewerToken(office.project, office.key_id, "acme", None, 60)] * 30)
            assert crowd.ends == {"Unavailable": 10}
            outage.over.set()
    assert crowd.ends == {"Unavailable": 10, "answered": 20}


# -- tiers ---------------------------------------------------------------------------------------------------------


async def test_tiers_are_kept_as_they_were_made(database_url: str) -> None:
    async with open_office(database_url) as office:
        one = await office.make(
            "one", categories=("auth", "admin"), actions=("a.*", "b'\\%_"), hidden_fields=("actor",)
        )
        two = await office.make("ｔwo")

        page = await office.viewers.ask(ListTiers(office.project.no, 10, None), timeout=5)

        assert page.tiers == (two, one)
        assert page.next is None
        elsewhere = await office.viewers.ask(ListTiers(office.project.no + 1, 10, None), timeout=5)
        assert elsewhere.tiers == ()


async def test_what_cannot_be_done(database_url: str) -> None:
    async with open_office(database_url) as office:
        tier = await office.make()
        with pytest.raises(Conflict):
            await office.make()
        with pytest.raises(InvalidRequest):
            await office.make("other", hidden_fields=("nonsense",))
        with pytest.raises(InvalidRequest):
            await office.mint("acme", "Support")
        await office.delete(tier)
        with pytest.raises(NotFound):
            await office.delete(tier)
        with pytest.raises(NotFound):
            await office.change(tier, name="n")


async def test_every_change_is_on_record(database_url: str) -> None:
    async with open_office(database_url) as office:
        tier = await office.make(hidden_fields=("actor.email",))
        await office.change(tier, hidden_fields=("actor.email", "context"))
        await office.change(tier, hidden_fields=("actor.email", "context"))  # nothing new
        await office.delete(tier)

        bodies = await office.database.transact(
            lambda conn: conn.execute("SELECT body FROM events ORDER BY seq").fetchall()
        )

    events = [orjson.loads(body) for (body,) in bodies]
    assert [event["action"] for event in events] == [
        f"logstitch.tier.{verb}" for verb in ("created", "updated", "deleted")
    ]
    assert {event["tenant_id"] for event in events} == {RESERVED_TENANT}
    assert {event["actor"]["id"] for event in events} == {str(office.key_id)}
    assert events[0]["target"] == {"id": str(tier.id), "type": "tier", "name": "support"}
    assert events[1]["changes"] == [
        {"field": "hidden_fields", "before": ["actor.email"], "after": ["actor.email", "context"]}
    ]


async def test_of_two_of_a_name_that_are_made_at_the_same_time_one_is(database_url: str) -> None:
    async with open_office(database_url) as one, open_office(database_url, one.first) as other:
        outcomes: list[str] = []

        async def make(office: Office) -> None:
            try:
                await office.make()
                outcomes.append("made")
            except Conflict:
                outcomes.append("conflict")

        async with trio.open_nursery() as nursery:
            for office in (one, other):
                nursery.start_soon(make, office)
        assert sorted(outcomes) == ["conflict", "made"]


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_office(database_url) as office:
        await check(
            Subject(
                factory=lambda: Viewers(office.database, UlidMint()),
                question=lambda: ListTiers(office.project.no, 10, None),
            )
        )
