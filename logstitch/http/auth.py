"""Who is calling, may they, and which project is it about: told from the head alone, before the body is read."""

from __future__ import annotations

from uuid import UUID

from logstitch import credentials
from logstitch.actors.messages.keys import Authenticate, KeyType, Principal
from logstitch.actors.messages.projects import Project, ResolveProject
from logstitch.actors.messages.viewers import AuthenticateViewer, Viewer
from logstitch.errors import Forbidden, InvalidRequest, Unauthorized
from logstitch.http.endpoints import About, Endpoint
from logstitch.http.requests import RequestHead
from logstitch.http.roles import Kind
from logstitch.http.schemas.common import parse_uuid
from logstitch.http.services import Services
from logstitch.viewing import tokens

_KINDS = {KeyType.MASTER: Kind.MASTER, KeyType.PROJECT: Kind.PROJECT}


async def authenticate(services: Services, endpoint: Endpoint, head: RequestHead, timeout: float) -> Principal | Viewer:
    """Whoever holds the credential of the request.

    Raises:
      Unauthorized, InvalidApiKey, KeyRevoked: it is none, or none that is good.
      Forbidden: it is good, and of a kind that may not do this.
    """
    authorization = head.headers.get(b"authorization")
    token = credentials.viewer_token(authorization)
    if token is not None:
        return await _viewer(services, endpoint, token, timeout)
    digest = credentials.key_digest(authorization)
    principal = await services.keyring.ask(Authenticate(digest), timeout=timeout)
    if _KINDS[principal.type] not in endpoint.roles:
        raise Forbidden(f"A {principal.type.value} key may not do this.")
    return principal


async def _viewer(services: Services, endpoint: Endpoint, token: str, timeout: float) -> Viewer:
    if not tokens.has_form(token):  # nobody is asked about it, however long it is
        raise Unauthorized("The viewer token is not valid.")
    viewer = await services.viewers.ask(AuthenticateViewer(token), timeout=timeout)
    if Kind.VIEWER not in endpoint.roles:
        raise Forbidden("A viewer token may read events, and nothing else.")
    return viewer


async def project_of(
    services: Services,
    about: About,
    caller: Principal | Viewer,
    head: RequestHead,
    named: UUID | None,
    timeout: float,
) -> Project | None:
    """The project that the request is about; None where it is about none.

    ``named`` is the query parameter ``project_id``; the header ``X-Project-Id`` says the same.

    Raises:
      InvalidRequest: on ``project_id``: malformed, two that differ, or missing where there are several.
      Forbidden: a project key or a viewer token names another project.
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
    if isinstance(caller, Viewer) or caller.project is not None:
        own = caller.project
        if own is not None and named is not None and named != own.id:
            what = "viewer token" if isinstance(caller, Viewer) else "project key"
            raise Forbidden(f"A {what} may not act in another project.")
        return own
    if named is None and about is About.PROJECT_IF_NAMED:
        return None
    return await services.organizations.ask(ResolveProject(caller.organization_id, named), timeout=timeout)
