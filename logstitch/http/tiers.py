"""Tiers: which of a tenant's events, and what of them, the holders of viewer tokens are shown."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from logstitch.actors.messages.viewers import CreateTier, DeleteTier, ListTiers, UpdateTier
from logstitch.errors import InvalidRequest, NotFound
from logstitch.http import examples
from logstitch.http.cursors import Cursors, Listing
from logstitch.http.endpoints import About, Call, Endpoint, RequestBody, Success
from logstitch.http.responses import Reply, page, resource, time_text
from logstitch.http.schemas.common import ProjectPageQuery, ProjectQuery, parse_uuid, read_as
from logstitch.http.schemas.viewers import CreateTierBody, TierAnswer, TierDeleted, TierList, UpdateTierBody
from logstitch.http.services import Services
from logstitch.viewing.tiers import MAX_TIERS, Tier

_CREATE: TypeAdapter[CreateTierBody] = TypeAdapter(CreateTierBody)
_UPDATE: TypeAdapter[UpdateTierBody] = TypeAdapter(UpdateTierBody)


class Tiers:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._viewers = services.viewers
        self._cursors = Cursors(services.cursor_key)

    async def list(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/tiers``."""
        query, project = call.query(ProjectPageQuery), call.in_project
        listing = Listing.of_rows("tiers", [project.id])
        found = await self._viewers.ask(
            ListTiers(project.no, query.limit, self._cursors.row(listing, query.cursor)), timeout=call.seconds_left()
        )
        return page(call.request_id, "tiers", map(_shown, found.tiers), self._cursors.after_row(listing, found.next))

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/tiers``."""
        wanted = read_as(_CREATE, body)
        message = CreateTier(
            call.in_project.no,
            call.caller.key_id,
            wanted["name"],
            _tuple(wanted.get("categories")),
            _tuple(wanted.get("actions")),
            tuple(wanted.get("hidden_fields", ())),
        )
        tier = await self._viewers.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, _shown(tier), 201)

    async def update(self, call: Call, body: bytes) -> Reply:
        """``PUT /api/v1/tiers/{id}``."""
        wanted = read_as(_UPDATE, body)
        if not wanted:
            raise InvalidRequest("The body names nothing that is to be changed.")
        changed = {name: tuple(value) if isinstance(value, list) else value for name, value in wanted.items()}
        message = UpdateTier(call.in_project.no, call.caller.key_id, _tier_id(call), changed)
        tier = await self._viewers.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, _shown(tier))

    async def delete(self, call: Call, body: bytes) -> Reply:
        """``DELETE /api/v1/tiers/{id}``."""
        tier_id = _tier_id(call)
        message = DeleteTier(call.in_project.no, call.caller.key_id, tier_id)
        await self._viewers.ask(message, timeout=call.seconds_left())
        return resource(call.request_id, {"id": tier_id, "deleted": True})


def _tier_id(call: Call) -> UUID:
    tier_id = parse_uuid(call.path["id"])
    if tier_id is None:
        raise NotFound("There is no such tier.")
    return tier_id


def _tuple(values: Any) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _shown(tier: Tier) -> dict[str, Any]:
    return {
        "id": tier.id,
        "name": tier.name,
        "categories": tier.categories,
        "actions": tier.actions,
        "hidden_fields": tier.hidden_fields,
        "created_at": time_text(tier.created_at),
    }


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = Tiers(services)
    return (
        Endpoint(
            name="tiers.list",
            method="GET",
            path="/api/v1/tiers",
            handler=handlers.list,
            summary="List tiers",
            description="The project's tiers, newest first.",
            about=About.PROJECT,
            query=ProjectPageQuery,
            success=Success(
                200,
                "One page.",
                TypeAdapter(TierList),
                {"tiers": [examples.TIER], **examples.LAST, "request_id": examples.REQUEST_ID},
            ),
        ),
        Endpoint(
            name="tiers.create",
            method="POST",
            path="/api/v1/tiers",
            handler=handlers.create,
            summary="Make a tier",
            description="A viewer token that names it shows what it shows. A name that the project has already is a "
            f"`conflict`, and so is a tier beyond {MAX_TIERS}. A section that is hidden is left out as a whole, but "
            "for `actor`, which stays as `{}`. An event with so many keys that it cannot be looked through in good "
            "time is shown without the sections concerned. A page ends early where what is stored of it, hidden fields "
            "included, comes to more than 32 MiB. Every change of tiers is recorded as an event of the tenant "
            "`$logstitch`.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(_CREATE, {"for a customer's support staff": examples.TIER_IN}),
            success=Success(
                201,
                "The tier.",
                TypeAdapter(TierAnswer),
                {**examples.TIER, "request_id": examples.REQUEST_ID},
            ),
            errors=("conflict",),
        ),
        Endpoint(
            name="tiers.update",
            method="PUT",
            path="/api/v1/tiers/{id}",
            handler=handlers.update,
            summary="Change a tier",
            description="What is not sent stays as it is, and something has to be sent. From the moment of this answer "
            "every token of the tier shows what the tier now shows.",
            about=About.PROJECT,
            query=ProjectQuery,
            body=RequestBody(
                _UPDATE, {"hide more": {"hidden_fields": ["actor.email", "context"]}, "all": {"categories": None}}
            ),
            success=Success(
                200,
                "The tier as it is now.",
                TypeAdapter(TierAnswer),
                {**examples.TIER, "hidden_fields": ["actor.email", "context"], "request_id": examples.REQUEST_ID},
            ),
            errors=("conflict",),
        ),
        Endpoint(
            name="tiers.delete",
            method="DELETE",
            path="/api/v1/tiers/{id}",
            handler=handlers.delete,
            summary="Delete a tier",
            description="For good, and with it every viewer token that names it: from the moment of this answer they "
            "are `unauthorized`, also when another tier of the name is made.",
            about=About.PROJECT,
            query=ProjectQuery,
            success=Success(
                200,
                "The tier is gone.",
                TypeAdapter(TierDeleted),
                {"id": examples.TIER_ID, "deleted": True, "request_id": examples.REQUEST_ID},
            ),
        ),
    )
