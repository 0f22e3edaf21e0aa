"""Who is calling, may they, and which project is it about: told from the head alone, before the body is read."""

from __future__ import annotations

from uuid import UUID

from logstitch import credentials
from logstitch.actors.messages import Authenticate, KeyType, Principal, Project, ResolveProject
from logstitch.errors import Forbidden, InvalidRequest
from logstitch.http.endpoints import About, Endpoint
from logstitch.http.requests import RequestHead
from logstitch.http.roles import Kind
from logstitch.http.schemas import parse_uuid
from logstitch.http.services import Services

_KINDS = {KeyType.MASTER: Kind.MASTER, KeyType.PROJECT: Kind.PROJECT}


async def authenticate(services: Services, endpoint: Endpoint, head: RequestHead, timeout: float) -> Principal:
    """Whoever holds the credential of the request.

    Raises:
      Unauthorized, InvalidApiKey, KeyRevoked: it is none, or none that is good.
      Forbidden: it is good, and of a kind that may not do this.
    """
    digest = credentials.key_digest(head.headers.get(b"authorization"))
    principal = await services.keyring.ask(Authenticate(digest), timeout=timeout)
    if _KINDS[principal.type] not in endpoint.roles:
        raise Forbidden(f"A {principal.type.value} key may not do this.")
    return principal


async def project_of(
    services: Services, about: About, principal: Principal, head: RequestHead, named: UUID | None, timeout: float
) -> Project | None:
    """The project that the request is about; None where it is about none.

    ``named`` is the query parameter ``project_id``; the header ``X-Project-Id`` says the same.

    Raises:
      InvalidRequest: on ``project_id``: malformed, two that differ, or missing where there are several.
      Forbidden: a project key names another project.
      NotFound: no project of the organization.
    """
    if about is About.NO_PROJECT:
        return None
    header = head.headers.get(b"x-project-id")
    if header is not None:
        in_header = parse_uuid(header.decode("latin-1").strip())
        if in_header is None:
            raise InvalidRequest.on("project_id", "The header X-Project-Id must be one UUID")
        if named is not None and named != in_header:
            raise InvalidRequest.on("project_id", "The header X-Project-Id names another project")
        named = in_header
    if (own := principal.project) is not None:
        if named is not None and named != own.id:
            raise Forbidden("A project key may not act in another project.")
        return own
    if named is None and about is About.PROJECT_IF_NAMED:
        return None
    return await services.organizations.ask(ResolveProject(principal.organization_id, named), timeout=timeout)
