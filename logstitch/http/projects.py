"""Projects of the caller's organization: making and listing them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from logstitch.actors.messages.projects import CreateProject, ListProjects, Project
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, page, resource, time_text
from logstitch.http.schemas.common import PageQuery, read_object
from logstitch.http.schemas.projects import CreateProjectBody, ProjectAnswer, ProjectList
from logstitch.http.services import Services


class Projects:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._organizations = services.organizations
        self._cursors = Cursors(services.cursor_key)

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/projects``."""
        wanted = read_object(CreateProjectBody, body)
        project = await self._organizations.ask(
            CreateProject(call.caller.organization_id, wanted.name), timeout=call.seconds_left()
        )
        return resource(call.request_id, _shown(project), 201)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/projects``."""
        query, organization = call.query(PageQuery), call.caller.organization_id
        listing = Listing.of_rows("projects", [organization])
        found = await self._organizations.ask(
            ListProjects(organization, query.limit, self._cursors.row(listing, query.cursor)),
            timeout=call.seconds_left(),
        )
        return page(
            call.request_id, "projects", map(_shown, found.projects), self._cursors.after_row(listing, found.next)
        )


def _shown(project: Project) -> dict[str, Any]:
    return {"id": project.id, "name": project.name, "created_at": time_text(project.created_at)}


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = Projects(services)
    return (
        Endpoint(
            name="projects.create",
            method="POST",
            path="/api/v1/projects",
            handler=handlers.create,
            summary="Make a project",
            description="A project is one product of yours: events, keys and rules belong to exactly one.",
            body=RequestBody(TypeAdapter(CreateProjectBody), {"a project": {"name": "Billing"}}),
            success=Success(
                201,
                "The project.",
                TypeAdapter(ProjectAnswer),
                {**examples.PROJECT, "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="projects.list",
            method="GET",
            path="/api/v1/projects",
            handler=handlers.list,
            summary="List projects",
            description="The organization's projects, newest first.",
            query=PageQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(ProjectList),
                {"projects": [examples.PROJECT], **examples.LAST, "request_id": examples.REQUEST_ID},
            ),
        ),
    )
