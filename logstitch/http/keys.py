"""API keys: making, listing and revoking those of projects. A key itself is in one answer only, that to its making."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from logstitch.actors.messages.keys import CreateKey, Key, ListKeys, RevokeKey
from logstitch.errors import NotFound
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, page, resource, time_text
from logstitch.http.schemas.common import ProjectPageQuery, ProjectQuery, parse_uuid, read_object
from logstitch.http.schemas.keys import CreateKeyBody, KeyCreated, KeyList, KeyRevoked
from logstitch.http.services import Services


class Keys:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._keyring = services.keyring
        self._cursors = Cursors(services.cursor_key)

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/keys``."""
        wanted = read_object(CreateKeyBody, body)
        created = await self._keyring.ask(
            CreateKey(call.caller.organization_id, wanted.project_id, wanted.name), timeout=call.seconds_left()
        )
        key = created.key
        fields = {
            "id": key.id,
            "key": created.secret,
            "prefix": key.prefix,
            "type": key.type,
            "name": key.name,
            "project_id": key.project_id,
            "created_at": time_text(key.created_at),
        }
        return resource(call.request_id, fields, 201)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/keys``."""
        query, organization = call.query(ProjectPageQuery), call.caller.organization_id
        project_id = None if call.project is None else call.project.id
        listing = Listing.of_rows("keys", [organization, project_id])
        found = await self._keyring.ask(
            ListKeys(organization, project_id, query.limit, self._cursors.row(listing, query.cursor)),
            timeout=call.seconds_left(),
        )
        return page(call.request_id, "keys", map(_shown, found.keys), self._cursors.after_row(listing, found.next))

    async def revoke(self, call: Call, body: bytes) -> Reply:
        """``DELETE /api/v1/keys/{id}``."""
        key_id = parse_uuid(call.path["id"])
        if key_id is None:
            raise NotFound("There is no such key.")
        project_id = None if call.project is None else call.project.id
        key = await self._keyring.ask(
            RevokeKey(call.caller.organization_id, project_id, key_id), timeout=call.seconds_left()
        )
        fields = {"id": key.id, "deleted": True, "revoked_at": time_text(key.revoked_at)}
        return resource(call.request_id, fields)


def _shown(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "prefix": key.prefix,
        "type": key.type,
        "name": key.name,
        "project_id": key.project_id,
        "lastUsedAt": time_text(key.last_used_at),
        "createdAt": time_text(key.created_at),
        "revokedAt": time_text(key.revoked_at),
    }


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = Keys(services)
    return (
        Endpoint(
            name="keys.create",
            method="POST",
            path="/api/v1/keys",
            handler=handlers.create,
            summary="Make a project key",
            description="The key is in this answer and nowhere else: only its SHA-256 is kept.",
            body=RequestBody(
                TypeAdapter(CreateKeyBody),
                {"a key": {"project_id": examples.PROJECT_ID, "type": "project", "name": examples.KEY["name"]}},
            ),
            success=Success(
                201,
                "The key, shown this once.",
                TypeAdapter(KeyCreated),
                {
                    **examples.KEY,
                    "key": "pk_q7Vt1bXo3Jm9KcR5wZ8yNf2LhS6dPa4GeU0iTnBr",
                    "created_at": examples.TIME,
                    "request_id": examples.REQUEST_ID,
                },
            ),
            errors=("not_found",),
        ),
        Endpoint(
            name="keys.list",
            method="GET",
            path="/api/v1/keys",
            handler=handlers.list,
            summary="List keys",
            description="A master key sees every key of the organization, master keys included, or those of the "
            "project that it names; a project key those of its project. Newest first.",
            about=About.PROJECT_IF_NAMED,
            query=ProjectPageQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(KeyList),
                {
                    "keys": [
                        {**examples.KEY, "lastUsedAt": examples.TIME, "createdAt": examples.TIME, "revokedAt": None}
                    ],
                    **examples.LAST,
                    "request_id": examples.REQUEST_ID,
                },
            ),
        ),
        Endpoint(
            name="keys.revoke",
            method="DELETE",
            path="/api/v1/keys/{id}",
            handler=handlers.revoke,
            summary="Revoke a project key",
            description="For ever. From the moment of this answer every process refuses the key. Repeating it answers "
            "the same. A project key may revoke keys of its own project, itself included; master keys are unknown "
            "here and are revoked on the command line.",
            about=About.PROJECT_IF_NAMED,
            query=ProjectQuery,
            success=Success(
                200,
                "The key is revoked.",
                TypeAdapter(KeyRevoked),
                {
                    "id": examples.KEY_ID,
                    "deleted": True,
                    "revoked_at": examples.TIME,
                    "request_id": examples.REQUEST_ID,
                },
            ),
        ),
    )
