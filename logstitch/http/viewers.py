"""Viewer tokens: a project key makes them for its tenants, to be handed to their browsers."""

from __future__ import annotations

from pydantic import TypeAdapter

from logstitch.actors.messages.viewers import MintViewerToken
from logstitch.http import examples
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, resource, time_text
from logstitch.http.schemas.common import ProjectQuery, read_as
from logstitch.http.schemas.viewers import MintTokenBody, TokenMinted
from logstitch.http.services import Services
from logstitch.viewing.tokens import DEFAULT_LIFE_SECONDS

_MINT: TypeAdapter[MintTokenBody] = TypeAdapter(MintTokenBody)


class ViewerTokens:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._viewers = services.viewers

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/viewer-tokens``."""
        wanted = read_as(_MINT, body)
        message = MintViewerToken(
            call.in_project,
            call.caller.key_id,
            wanted["tenant_id"],
            wanted.get("tier"),
            wanted.get("expires_in", DEFAULT_LIFE_SECONDS),
        )
        minted = await self._viewers.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, {"token": minted.token, "expires_at": time_text(minted.expires_at)}, 201)


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = ViewerTokens(services)
    return (
        Endpoint(
            name="viewer_tokens.create",
            method="POST",
            path="/api/v1/viewer-tokens",
            handler=handlers.create,
            summary="Make a viewer token",
            description="With it the tenant's own browser reads the tenant's events (`GET /api/v1/events` and what "
            "stands below it), as far as the tier shows them, and can do nothing else. It is kept nowhere and cannot "
            "be revoked one by one: it ends when its time is over, or at once when the key that made it is revoked "
            "(`key_revoked`), its tier is deleted, or the operator ends the secret that it was signed with. A change "
            "of its tier applies to it at once.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_MINT, {"a token": examples.VIEWER_TOKEN_IN}),
            success=Success(
                201,
                "The token. It is in this answer only.",
                TypeAdapter(TokenMinted),
                {**examples.VIEWER_TOKEN, "request_id": examples.REQUEST_ID},
            ),
        ),
    )
