"""The key ring against a real PostgreSQL: leases, revocation that every process obeys, marks of use."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import psycopg
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from logstitch import credentials
from logstitch.actors import keyring, leases
from logstitch.actors.bounds import CONCURRENCY
from logstitch.actors.keyring import KeyRing
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.keys import Authenticate, CreateKey, KeyType, ListKeys, RevokeKey
from logstitch.actors.supervisor import Supervisor, open_supervisor
from logstitch.errors import InvalidApiKey, KeyRevoked, NotFound
from logstitch.model import Plan
from logstitch.store import keys, projects
from logstitch.store.bootstrap import Bootstrap, bootstrap
from logstitch.store.database import Connection, Database, open_database
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.crowds import begin_outage, open_crowd
from tests.support.locks import wait_for_a_lock


@dataclass(frozen=True, slots=True)
class Desk:
    """A process's key ring, and what the database began with."""

    database: Database
    supervisor: Supervisor
    keyring: Address
    first: Bootstrap

    async def create(self, name: str = "ci") -> tuple[UUID, str]:
        message = CreateKey(self.first.organization_id, self.first.project_id, name)
        created = await self.keyring.ask(message, timeout=5)
        return created.key.id, created.secret

    def revocation(self, key_id: UUID, project_id: UUID | None = None) -> RevokeKey:
        return RevokeKey(self.first.organization_id, project_id, key_id)


@asynccontextmanager
async def open_desk(url: str, first: Bootstrap | None = None) -> AsyncIterator[Desk]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        made = first or await database.transact(lambda conn: bootstrap(conn, now=datetime.now(UTC)))
        assert made is not None
        address = supervisor.start("keyring", lambda: KeyRing(database), capacity=256)
        yield Desk(database, supervisor, address, made)


def authenticate(secret: str) -> Authenticate:
    return Authenticate(credentials.digest(secret))


async def test_a_key_is_its_holder(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        project = await desk.keyring.ask(authenticate(desk.first.project_key), timeout=5)
        assert (project.type, project.plan) == (KeyType.PROJECT, Plan.ENTERPRISE)
        assert project.project is not None
        assert project.project.id == desk.first.project_id
        master = await desk.keyring.ask(authenticate(desk.first.master_key), timeout=5)
        assert (master.type, master.project) == (KeyType.MASTER, None)


async def test_an_unknown_key_is_nobody_and_the_stored_digest_is_no_key(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        with pytest.raises(InvalidApiKey):
            await desk.keyring.ask(authenticate("pk_" + "0" * 40), timeout=5)
        stored = credentials.digest(desk.first.project_key)
        with pytest.raises(InvalidApiKey):
            await desk.keyring.ask(Authenticate(credentials.digest(stored.hex())), timeout=5)


async def test_only_a_digest_is_stored(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        rows = await desk.database.transact(lambda conn: conn.execute("SELECT keys::text FROM keys").fetchall())
        text = str(rows)
        assert desk.first.project_key[7:] not in text
        assert desk.first.master_key[7:] not in text


async def test_from_the_answer_on_every_process_refuses_a_revoked_key(database_url: str) -> None:
    async with open_desk(database_url) as one, open_desk(database_url, one.first) as other:
        key_id, secret = await one.create()
        revoked = trio.Event()

        async def use_all_the_time() -> None:
            """The other process keeps the key in use, so that its lease is always fresh."""
            while not revoked.is_set():
                try:
                    await other.keyring.ask(authenticate(secret), timeout=5)
                except KeyRevoked:
                    return
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(use_all_the_time)
            await one.keyring.ask(one.revocation(key_id), timeout=5)
            for desk in (one, other):
                with pytest.raises(KeyRevoked):
                    await desk.keyring.ask(authenticate(secret), timeout=5)
            revoked.set()


async def test_whoever_asks_after_a_revocation_is_refused_however_long_an_older_look_up_takes(
    database_url: str,
) -> None:
    async with open_desk(database_url) as one, open_desk(database_url, one.first) as other:
        key_id, secret = await one.create()
        answers: list[str] = []

        async def use(name: str) -> None:
            try:
                await other.keyring.ask(authenticate(secret), timeout=10)
                answers.append(f"{name} let in")
            except KeyRevoked:
                answers.append(f"{name} refused")

        with psycopg.connect(database_url) as blocker:
            # The look-up has its snapshot, from before the revocation, and then waits.
            blocker.execute("LOCK TABLE organizations IN ACCESS EXCLUSIVE MODE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(use, "before")
                await wait_for_a_lock(database_url)
                await one.keyring.ask(one.revocation(key_id), timeout=5)
                nursery.start_soon(use, "after")
                await wait_all_tasks_blocked()  # it was asked, and waits for the table or for the older look-up
                blocker.rollback()
        assert "after refused" in answers


async def test_revoking_again_answers_the_first_time(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        key_id, _ = await desk.create()
        first = await desk.keyring.ask(desk.revocation(key_id), timeout=5)
        assert await desk.keyring.ask(desk.revocation(key_id), timeout=5) == first


async def test_master_keys_and_keys_of_others_are_not_found(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        listed = await desk.keyring.ask(ListKeys(desk.first.organization_id, None, 10, None), timeout=5)
        (master,) = [key for key in listed.keys if key.type is KeyType.MASTER]
        key_id, secret = await desk.create()
        for message in (
            desk.revocation(master.id),
            desk.revocation(uuid.uuid4()),
            desk.revocation(key_id, project_id=uuid.uuid4()),
            RevokeKey(uuid.uuid4(), None, key_id),
        ):
            with pytest.raises(NotFound):
                await desk.keyring.ask(message, timeout=5)
        assert (await desk.keyring.ask(authenticate(secret), timeout=5)).key_id == key_id


async def test_a_key_is_made_only_for_a_project_of_the_organization(database_url: str) -> None:
    async with open_desk(database_url) as desk:

        def make_stranger(conn: Connection) -> UUID:
            now = datetime.now(UTC)
            stranger = projects.create_organization(conn, name="other", plan=Plan.FREE, now=now)
            return projects.create_project(conn, organization_id=stranger.id, name="theirs", now=now).id

        theirs = await desk.database.transact(make_stranger)
        with pytest.raises(NotFound):
            await desk.keyring.ask(CreateKey(desk.first.organization_id, theirs, "mine"), timeout=5)


async def test_keys_are_listed_newest_first_in_pages_that_repeat_and_skip_none(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        for number in range(5):
            await desk.create(f"key {number}")
        names, after = [], None
        while True:
            page = await desk.keyring.ask(ListKeys(desk.first.organization_id, None, 3, after), timeout=5)
            names += [key.name for key in page.keys]
            if (after := page.next) is None:
                break
        assert names[:5] == [f"key {number}" for number in (4, 3, 2, 1, 0)]
        assert sorted(names[5:]) == ["first master key", "first project key"]
        mine = ListKeys(desk.first.organization_id, desk.first.project_id, 100, None)
        assert {key.type for key in (await desk.keyring.ask(mine, timeout=5)).keys} == {KeyType.PROJECT}


async def test_many_uses_within_a_lease_are_one_look_up(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        before = desk.database.statistics().requests
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(lambda: desk.keyring.ask(authenticate(desk.first.project_key), timeout=5))
        assert desk.database.statistics().requests - before == 1


async def test_use_is_marked_when_the_ring_ends_and_never_moves_back(database_url: str) -> None:
    async with open_desk(database_url) as desk:
        holder = await desk.keyring.ask(authenticate(desk.first.project_key), timeout=5)
        await desk.supervisor.stop("keyring", deadline_seconds=5)

        def last_used(conn: Connection) -> datetime | None:
            listed = keys.list_keys(
                conn, desk.first.organization_id, project_id=desk.first.project_id, limit=9, after=None
            )
            return listed[0].last_used_at

        marked = await desk.database.transact(last_used)
        assert marked is not None
        assert (datetime.now(UTC) - marked).total_seconds() < 60
        earlier = {holder.key_id: datetime(2020, 1, 1, tzinfo=UTC)}
        await desk.database.transact(lambda conn: keys.mark_used(conn, earlier))
        assert await desk.database.transact(last_used) == marked


# -- while the database is away ------------------------------------------------------------------------------------


def made_up(count: int) -> list[Authenticate]:
    return [authenticate(f"pk_{number:040}") for number in range(count)]


async def test_made_up_keys_do_not_pile_up_and_a_known_one_is_answered_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "MOST_LOOK_UPS", 20)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 60.0)
    async with open_desk(database_url) as desk:
        known = authenticate(desk.first.project_key)
        await desk.keyring.ask(known, timeout=5)
        outage = begin_outage(desk.database, monkeypatch)
        async with open_crowd(desk.keyring) as crowd:
            await crowd.ask(made_up(30))
            assert crowd.ends == {"Unavailable": 10}

            await crowd.ask([known])
            assert crowd.ends == {"Unavailable": 10, "answered": 1}
            outage.over.set()
        assert crowd.ends == {"Unavailable": 10, "answered": 1, "InvalidApiKey": 20}

        async with open_crowd(desk.keyring) as crowd:  # and there is room again
            await crowd.ask(made_up(20))
        assert crowd.ends == {"InvalidApiKey": 20}


async def test_keys_that_nobody_asks_about_any_more_are_not_looked_up(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_desk(database_url) as desk:
        outage = begin_outage(desk.database, monkeypatch)
        async with open_crowd(desk.keyring) as crowd:
            await crowd.ask(made_up(30), timeout=0.2)
        assert crowd.ends == {"AskTimeout": 30}

        outage.over.set()
        await desk.supervisor.stop("keyring", deadline_seconds=5)
        assert outage.requests == CONCURRENCY


async def test_requests_about_keys_do_not_pile_up_either(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keyring, "MOST_MANAGED", 20)
    async with open_desk(database_url) as desk:
        outage = begin_outage(desk.database, monkeypatch)
        async with open_crowd(desk.keyring) as crowd:
            await crowd.ask([ListKeys(desk.first.organization_id, None, 10, None)] * 30)
            assert crowd.ends == {"Unavailable": 10}
            outage.over.set()
        assert crowd.ends == {"Unavailable": 10, "answered": 20}


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_desk(database_url) as desk:
        await check(
            Subject(factory=lambda: KeyRing(desk.database), question=lambda: authenticate(desk.first.project_key))
        )
