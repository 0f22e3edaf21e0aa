"""Organizations: one actor a process that finds, makes and lists projects.

A project never changes once it is made, so one that was found is kept.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from logstitch.actors.bounds import CONCURRENCY, HOLD_SECONDS
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import CreateProject, ListProjects, Project, ProjectPage, ResolveProject
from logstitch.actors.queueing import answer_together
from logstitch.errors import InvalidRequest, NotFound
from logstitch.store import projects
from logstitch.store.database import Database
from logstitch.store.projects import ProjectRow

MAX_KNOWN = 10_000
"""Projects kept after they were found. Beyond it all are forgotten and found again."""


class Organizations:
    """Owns the projects that were found."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[UUID, UUID], Project] = {}

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        await answer_together(mailbox, self._answer, at_once=CONCURRENCY, at_hand=self._answer_from_memory)

    def _answer_from_memory(self, envelope: Envelope[Any]) -> bool:
        match envelope.message:
            case ResolveProject(organization_id, UUID() as project_id):
                if project := self._known.get((organization_id, project_id)):
                    envelope.reply(project)
                    return True
        return False

    async def _answer(self, envelope: Envelope[Any]) -> None:
        match envelope.message:
            case ResolveProject() as request:
                envelope.reply(await self._resolve(request))
            case CreateProject() as request:
                envelope.reply(await self._create(request))
            case ListProjects() as request:
                envelope.reply(await self._list(request))

    async def _resolve(self, request: ResolveProject) -> Project:
        organization_id, project_id = request.organization_id, request.project_id
        if project_id is not None:
            found = await self._database.transact(
                lambda conn: projects.find_project(conn, organization_id, project_id),
                hold=HOLD_SECONDS,
                read_only=True,
            )
            if found is None:
                raise NotFound("There is no such project.")
            return self._keep(found)
        several = await self._database.transact(
            lambda conn: projects.find_any_two_projects(conn, organization_id), hold=HOLD_SECONDS, read_only=True
        )
        if len(several) != 1:
            raise InvalidRequest.on("project_id", "Required" if several else "The organization has no project")
        return self._keep(several[0])

    async def _create(self, request: CreateProject) -> Project:
        now = datetime.now(UTC)
        row = await self._database.transact(
            lambda conn: projects.create_project(
                conn, organization_id=request.organization_id, name=request.name, now=now
            )
        )
        return self._keep(row)

    async def _list(self, request: ListProjects) -> ProjectPage:
        after = (request.after.created_at, request.after.id) if request.after else None
        rows = await self._database.transact(
            lambda conn: projects.list_projects(conn, request.organization_id, limit=request.limit + 1, after=after),
            hold=HOLD_SECONDS,
            read_only=True,
        )
        page = tuple(_project(row) for row in rows[: request.limit])
        return ProjectPage(page, Page(page[-1].created_at, page[-1].id) if len(rows) > request.limit else None)

    def _keep(self, row: ProjectRow) -> Project:
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        project = _project(row)
        self._known[project.organization_id, project.id] = project
        return project


def _project(row: ProjectRow) -> Project:
    return Project(row.no, row.id, row.organization_id, row.name, row.created_at)
