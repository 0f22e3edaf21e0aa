"""Anonymous streams: sending to one without a credential, how it stands, and making it a project's.

The token in the path is the only credential there is. It is made a digest here and goes no further; what is logged and
counted of a request is its route's template.
"""

from __future__ import annotations

from pydantic import TypeAdapter

from logstitch.actors.messages.projects import ResolveProject
from logstitch.actors.messages.streams import ClaimStream, GetStreamInfo, SubmitStreamEvents
from logstitch.errors import InvalidRequest
from logstitch.http import examples
from logstitch.http.endpoints import Call, Endpoint, RequestBody, Success
from logstitch.http.intake import EVENTS_BODY, EVENTS_CREATED, Intake, created
from logstitch.http.responses import Reply, resource, time_text
from logstitch.http.schemas.common import parse_uuid, read_object
from logstitch.http.schemas.streams import ClaimStreamBody, StreamClaimedAnswer, StreamInfoAnswer
from logstitch.http.services import Services
from logstitch.streams import DAILY_EVENTS, LIFE_DAYS, STREAM_BYTES, token_digest


class Streams:
    """The handlers."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._intake = Intake(services.limits)

    async def create(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/streams/{token}/events``: answered when the events are stored for good."""
        digest, now_ms = _digest(call.path["token"]), call.head.received_at_ms
        events, batch = await self._intake.read(body, now_ms)
        accepted = await self._services.streams.ask(
            SubmitStreamEvents(digest, events, batch, len(body), now_ms, call.head.address),
            timeout=call.seconds_left(),
        )
        return created(call.request_id, events, accepted)

    async def info(self, call: Call, body: bytes) -> Reply:
        """``GET /api/v1/streams/{token}/info``."""
        digest = _digest(call.path["token"])
        info = await self._services.streams.ask(
            GetStreamInfo(digest, call.head.received_at_ms), timeout=call.seconds_left()
        )
        fields = {
            "status": info.status,
            "event_count": info.event_count,
            "created_at": time_text(info.created_at),
            "last_event_at": time_text(info.last_event_at),
            "expires_at": time_text(info.expires_at),
            "claimed_at": time_text(info.claimed_at),
        }
        return resource(call.request_id, fields)

    async def claim(self, call: Call, body: bytes) -> Reply:
        """``POST /api/v1/streams/claim``: answered when the events are the project's."""
        wanted, caller = read_object(ClaimStreamBody, body), call.caller
        named = call.head.headers.get(b"x-project-id")
        if named is not None and parse_uuid(named.decode("latin-1").strip()) != wanted.project_id:
            raise InvalidRequest.on("project_id", "The header X-Project-Id names another project")
        project = await self._services.organizations.ask(
            ResolveProject(caller.organization_id, wanted.project_id), timeout=call.seconds_left()
        )
        claimed = await self._services.claimer.ask(
            ClaimStream(token_digest(wanted.token), project, caller.key_id), timeout=call.seconds_left()
        )
        fields = {
            "project_id": project.id,
            "events_migrated": claimed.events_migrated,
            "duplicates": claimed.duplicates,
        }
        return resource(call.request_id, fields)


def _digest(token: str) -> bytes:
    try:
        return token_digest(token)
    except ValueError as error:
        raise InvalidRequest.on("token", str(error)) from None


def endpoints(services: Services) -> tuple[Endpoint, ...]:
    """The endpoints of this resource."""
    handlers = Streams(services)
    return (
        Endpoint(
            name="streams.create",
            method="POST",
            path="/api/v1/streams/{token}/events",
            handler=handlers.create,
            summary="Send events to an anonymous stream",
            description="For whoever has no key yet. The token is a UUID of version 4 that the client made up, and a "
            "secret: whoever has it may send to the stream and, with a master key, claim it. The first request begins "
            "the stream. Events are those of `POST /api/v1/events`, and so are batches and idempotency keys, which "
            "count within the stream. The built-in redaction rules apply as every project begins with them, and those "
            f"for e-mail addresses and phone numbers as well. A stream takes {DAILY_EVENTS} events a UTC day "
            "(`stream_daily_limit_reached`; a batch that would cross the limit is refused as a whole) and "
            f"{STREAM_BYTES >> 20} MiB altogether, and expires {LIFE_DAYS} days after it began. How many streams one "
            "address may begin and how much it may send, and how much all streams may hold, is limited "
            "(`rate_limited`); a service that takes no new streams answers `forbidden`.",
            body=EVENTS_BODY,
            success=EVENTS_CREATED,
            errors=(
                "forbidden",
                "conflict",
                "stream_expired",
                "stream_already_claimed",
                "stream_daily_limit_reached",
                "rate_limited",
            ),
        ),
        Endpoint(
            name="streams.info",
            method="GET",
            path="/api/v1/streams/{token}/info",
            handler=handlers.info,
            summary="See how a stream stands",
            description="For whoever has the token. It never shows events. A stream that was claimed or has expired "
            "says so.",
            success=Success(
                200,
                "The stream.",
                TypeAdapter(StreamInfoAnswer),
                {**examples.STREAM, "request_id": examples.REQUEST_ID},
            ),
            errors=("stream_not_found",),
        ),
        Endpoint(
            name="streams.claim",
            method="POST",
            path="/api/v1/streams/claim",
            handler=handlers.claim,
            summary="Claim a stream",
            description="Its events become the project's, all of them or none, under the ids and with the "
            "`received_at` that they have; they do not count in alerts, nor among the plan's events of a day. The "
            "project's redaction rules are applied on the way, to what the stream's have left, and `redactions` tell "
            "of both. An event whose idempotency key the project has already is left out and counted as a duplicate, "
            "whatever is in it; an event that is sent later with the key of a claimed one is a replay where the same "
            "was sent to the stream, and else a `conflict`. Exactly one claim of a stream succeeds. Where a claim was "
            "answered `unavailable`, `GET /api/v1/streams/{token}/info` tells whether it was made.",
            body=RequestBody(TypeAdapter(ClaimStreamBody), {"a claim": examples.CLAIM_IN}),
            success=Success(
                200,
                "The events are the project's.",
                TypeAdapter(StreamClaimedAnswer),
                {
                    "project_id": examples.PROJECT_ID,
                    "events_migrated": 42,
                    "duplicates": 1,
                    "request_id": examples.REQUEST_ID,
                },
            ),
            errors=("not_found", "stream_not_found", "stream_expired", "stream_already_claimed"),
        ),
    )
