"""Projects: found within their organization only, made, and listed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest

from logstitch.actors.bounds import CONCURRENCY
from logstitch.actors.mailbox import Address
from logstitch.actors.messages.projects import CreateProject, ListProjects, ResolveProject
from logstitch.actors.organizations import Organizations
from logstitch.actors.supervisor import open_supervisor
from logstitch.errors import InvalidRequest, NotFound
from logstitch.model import Plan
from logstitch.store import projects
from logstitch.store.database import Connection, Database, open_database
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.crowds import begin_outage, open_crowd


@asynccontextmanager
async def open_organizations(url: str) -> AsyncIterator[tuple[Database, Address]]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        yield database, supervisor.start("organizations", lambda: Organizations(database), capacity=64)


async def make_organization(database: Database) -> UUID:
    def make(conn: Connection) -> UUID:
        return projects.create_organization(conn, name="o", plan=Plan.PRO, now=datetime.now(UTC)).id

    return await database.transact(make)


async def test_the_only_project_need_not_be_named(database_url: str) -> None:
    async with open_organizations(database_url) as (database, organizations):
        mine = await make_organization(database)
        with pytest.raises(InvalidRequest):
            await organizations.ask(ResolveProject(mine, None), timeout=5)
        made = await organizations.ask(CreateProject(mine, "first"), timeout=5)
        assert await organizations.ask(ResolveProject(mine, None), timeout=5) == made
        await organizations.ask(CreateProject(mine, "second"), timeout=5)
        with pytest.raises(InvalidRequest) as ambiguous:
            await organizations.ask(ResolveProject(mine, None), timeout=5)
        assert [detail.field for detail in ambiguous.value.details] == ["project_id"]


async def test_a_project_of_somebody_else_is_not_found_even_when_it_is_known(database_url: str) -> None:
    async with open_organizations(database_url) as (database, organizations):
        mine, theirs = await make_organization(database), await make_organization(database)
        made = await organizations.ask(CreateProject(theirs, "secret"), timeout=5)
        assert await organizations.ask(ResolveProject(theirs, made.id), timeout=5) == made
        for project_id in (made.id, uuid.uuid4()):
            with pytest.raises(NotFound, match="no such project"):
                await organizations.ask(ResolveProject(mine, project_id), timeout=5)


async def test_projects_are_listed_newest_first_in_pages(database_url: str) -> None:
    async with open_organizations(database_url) as (database, organizations):
        mine = await make_organization(database)
        for number in range(5):
            await organizations.ask(CreateProject(mine, str(number)), timeout=5)
        names, after = [], None
        while True:
            page = await organizations.ask(ListProjects(mine, 2, after), timeout=5)
            names += [project.name for project in page.projects]
            if (after := page.next) is None:
                break
        assert names == ["4", "3", "2", "1", "0"]


async def test_a_project_that_is_known_is_found_at_once_while_others_wait_for_the_database(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_organizations(database_url) as (database, organizations):
        mine = await make_organization(database)
        made = await organizations.ask(CreateProject(mine, "first"), timeout=5)
        outage = begin_outage(database, monkeypatch)
        async with open_crowd(organizations) as crowd:
            await crowd.ask([ListProjects(mine, 1, None)] * (2 * CONCURRENCY))
            await crowd.ask([ResolveProject(mine, made.id)])
            assert crowd.ends == {"answered": 1}
            assert outage.requests == CONCURRENCY
            outage.over.set()
        assert crowd.ends == {"answered": 1 + 2 * CONCURRENCY}


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_organizations(database_url) as (database, _):
        mine = await make_organization(database)
        await check(Subject(factory=lambda: Organizations(database), question=lambda: ListProjects(mine, 1, None)))
