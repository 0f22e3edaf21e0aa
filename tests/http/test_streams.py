"""Anonymous streams over HTTP: the token is the credential, checked to the letter and never shown."""

from __future__ import annotations

from typing import Any, cast
from uuid import uuid4

import orjson
import pytest
import trio
from prometheus_client import generate_latest

from logstitch import metrics
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.streams import ClaimStream, SubmitStreamEvents
from logstitch.errors import RateLimited
from logstitch.http import examples
from logstitch.http.api import App, create_app
from logstitch.http.services import Limits
from logstitch.streams import token_digest
from tests.support.client import Client
from tests.support.world import Organization, Stage, World

TOKEN = "3f0e6b1c-8d2a-4c57-9b64-0a1f7e5d2c38"
EVENTS = f"/api/v1/streams/{TOKEN}/events"
INFO = f"/api/v1/streams/{TOKEN}/info"
CLAIM = "/api/v1/streams/claim"


def an_event(**fields: Any) -> dict[str, Any]:
    return {**examples.SMALL_EVENT_IN, **fields}


async def test_anybody_sends_one_event_or_several(anyone: Client, world: World) -> None:
    one = await anyone.post(EVENTS, an_event())
    several = await anyone.post(EVENTS, [an_event(), an_event()])

    assert (one.status, several.status) == (201, 201)
    assert len(one.json()["ids"]) == 1
    assert len(several.json()["ids"]) == 2
    message = world.asked[0]
    assert isinstance(message, SubmitStreamEvents)
    assert (message.digest, message.address) == (token_digest(TOKEN), "192.0.2.1")


async def test_how_it_stands_is_told_and_nothing_of_what_is_in_it(anyone: Client) -> None:
    assert (await anyone.get(INFO)).code == "stream_not_found"
    await anyone.post(EVENTS, an_event(metadata={"secret": "content"}))

    answer = await anyone.get(INFO)

    assert answer.status == 200
    assert answer.json() == {
        "status": "active",
        "event_count": 1,
        "created_at": "2026-11-23T08:00:00.123Z",
        "last_event_at": "2026-11-23T08:00:00.123Z",
        "expires_at": "2026-11-30T08:00:00.123Z",
        "claimed_at": None,
        "request_id": answer.headers["x-request-id"],
    }


async def test_the_token_is_one_in_any_letter_case(anyone: Client) -> None:
    await anyone.post(EVENTS, an_event())
    await anyone.post(EVENTS.replace(TOKEN, TOKEN.upper()), an_event())

    assert (await anyone.get(INFO)).json()["event_count"] == 2


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "claim",
        TOKEN[:-1],
        TOKEN.replace("-", ""),
        f"%7B{TOKEN}%7D",
        f"urn:uuid:{TOKEN}",
        TOKEN.replace("-4", "-1"),
        TOKEN.replace("-9", "-f"),
        "%D9%A3f0e6b1c-8d2a-4c57-9b64-0a1f7e5d2c38",
        "a" * 5000,
    ],
)
@pytest.mark.parametrize("what", ["events", "info", "claim"])
async def test_anything_else_is_refused_before_anybody_is_asked(
    what: str, token: str, anyone: Client, master: Client, project: Project, world: World
) -> None:
    if what == "claim":
        answer = await master.post(CLAIM, {"token": token, "project_id": str(project.id)})
    elif what == "events":
        answer = await anyone.post(f"/api/v1/streams/{token}/events", an_event())
    else:
        answer = await anyone.get(f"/api/v1/streams/{token}/info")

    assert (answer.status, answer.code) == (400, "validation_error")
    assert answer.details == {"token": "Expected a UUID of version 4, such as 123e4567-e89b-42d3-a456-426614174000"}
    assert not any("Stream" in type(message).__name__ for message in world.asked)


@pytest.mark.parametrize(
    "hidden", ["%0A", "%0a", "%2F", "%2f..%2f", "%00", "%20", "%ff", "%C0%AF", "%E2%80%8B", "%252F"]
)
@pytest.mark.parametrize(("method", "what", "body"), [("GET", "info", None), ("POST", "events", b"{}")])
async def test_a_token_in_which_something_hides_is_none_either(
    hidden: str, method: str, what: str, body: bytes | None, anyone: Client, world: World
) -> None:
    for token in (TOKEN + hidden, hidden + TOKEN, hidden):
        answer = await anyone.request(method, f"/api/v1/streams/{token}/{what}", body=body, judge=False)

        assert (answer.status, answer.code, list(answer.details)) == (400, "validation_error", ["token"])
    assert world.asked == []


async def test_a_credential_is_not_looked_at(anyone: Client, world: World) -> None:
    answer = await anyone.with_key(None, authorization="Bearer nonsense").post(EVENTS, an_event())

    assert answer.status == 201
    assert len(world.asked) == 1


BAD_BODIES: list[Any] = [
    {},
    [],
    [an_event()] * 101,
    "text",
    an_event(tenant_id=""),
    an_event(unknown=1),
    an_event(tenant_id="$logstitch"),
    [an_event(), an_event(actor={"id": "u"})],
    an_event(metadata={"deep": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}),
    an_event(occurred_at="2026-11-25"),
    an_event(idempotency_key=""),
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=range(len(BAD_BODIES)))
async def test_what_a_project_refuses_a_stream_refuses_in_the_same_words(
    body: Any, anyone: Client, producer: Client
) -> None:
    theirs = await producer.post("/api/v1/events", body)
    ours = await anyone.post(EVENTS, body)

    assert ours.status == theirs.status == 400
    assert ours.json()["error"] == theirs.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":1,"a":2}', b"\xff", b"NaN", b"[" * 40 + b"]" * 40])
async def test_what_is_no_json_is_refused_in_the_same_words(body: bytes, anyone: Client, producer: Client) -> None:
    theirs = await producer.request("POST", "/api/v1/events", body=body)
    ours = await anyone.request("POST", EVENTS, body=body)

    assert ours.status == theirs.status == 400
    assert ours.json()["error"] == theirs.json()["error"]


async def test_the_body_is_measured_and_typed_as_everywhere(anyone: Client) -> None:
    assert (await anyone.request("POST", EVENTS, body=b"{}", headers={"content-type": "text/plain"})).status == 415
    assert (await anyone.request("POST", EVENTS, body=b"x" * (5 * 1024 * 1024 + 1))).status == 413
    assert (await anyone.request("POST", EVENTS + "?project_id=1", body=b"{}")).details.keys() == {"project_id"}


@pytest.mark.parametrize(
    ("limits", "others"),
    [(Limits(bytes_in_flight_of_key=1000), 201), (Limits(bytes_in_flight_of_anyone=1000), 503)],
    ids=["one network", "all networks"],
)
async def test_bodies_of_those_without_a_key_leave_room_for_others(
    limits: Limits, others: int, anyone: Client, producer: Client, stage: Stage, world: World
) -> None:
    app = create_app(stage.services(limits))

    def client(address: str, key: str | None = None) -> Client:
        async def behind(scope: Any, receive: Any, send: Any) -> None:
            await app({**scope, "client": (address, 50000)}, receive, send)

        return Client(cast(App, behind), key, documented=anyone.documented)

    arrived, go_on = trio.Event(), trio.Event()

    async def hold(message: object) -> None:
        if isinstance(message, SubmitStreamEvents) and not arrived.is_set():
            arrived.set()
            await go_on.wait()

    world.interrupt(hold)
    large = an_event(metadata={"note": "x" * 600})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client("2001:db8:0:1::1").post, EVENTS, large)
        await arrived.wait()
        same = await client("2001:db8:0:1::2").post(EVENTS, large)
        other = await client("2001:db8:0:2::1").post(EVENTS, large)
        known = await client("2001:db8:0:1::1", producer.key).post("/api/v1/events", large)
        go_on.set()

    assert (same.status, same.code) == (503, "unavailable")
    assert (other.status, known.status) == (others, 201)


async def test_replays_are_counted_in_a_header(anyone: Client) -> None:
    keyed = an_event(idempotency_key="k")
    first = await anyone.post(EVENTS, keyed)
    again = await anyone.post(EVENTS, [keyed, an_event()])
    without = await anyone.post(EVENTS, an_event())

    assert first.headers["idempotent-replays"] == "0"
    assert again.headers["idempotent-replays"] == "1"
    assert again.json()["ids"][0] == first.json()["ids"][0]
    assert "idempotent-replays" not in without.headers
    assert (await anyone.post(EVENTS, [{**keyed, "category": "system"}])).code == "conflict"


async def test_a_day_that_is_used_up_says_when_the_next_one_begins(anyone: Client) -> None:
    await anyone.post(EVENTS, [an_event()] * 99)

    answer = await anyone.post(EVENTS, [an_event()] * 2)

    assert (answer.status, answer.code) == (429, "stream_daily_limit_reached")
    assert int(answer.headers["retry-after"]) > 0


async def test_an_address_that_begins_too_many_is_told_how_long_to_wait(anyone: Client, world: World) -> None:
    world.streams.refusal = RateLimited("Too many new streams from this address.", 180)

    answer = await anyone.post(EVENTS, an_event())

    assert (answer.status, answer.code) == (429, "rate_limited")
    assert answer.headers["retry-after"] == "180"


async def test_a_service_that_takes_no_new_streams_says_so(anyone: Client, world: World) -> None:
    world.streams.open = False

    answer = await anyone.post(EVENTS, an_event())

    assert (answer.status, answer.code) == (403, "forbidden")


# -- claiming -------------------------------------------------------------------------------------------------------


async def test_a_claim_says_what_became_of_the_events(
    anyone: Client, master: Client, project: Project, world: World
) -> None:
    await anyone.post(EVENTS, [an_event()] * 3)

    answer = await master.post(CLAIM, {"token": TOKEN.upper(), "project_id": str(project.id)})

    assert answer.status == 200
    assert answer.json() == {
        "project_id": str(project.id),
        "events_migrated": 3,
        "duplicates": 0,
        "request_id": answer.headers["x-request-id"],
    }
    message = world.asked[-1]
    assert isinstance(message, ClaimStream)
    assert (message.digest, message.project) == (token_digest(TOKEN), project)
    assert message.by == next(stored.key.id for stored in world.keys if stored.key.type == "master")
    assert (await anyone.get(INFO)).json()["status"] == "claimed"


async def test_the_second_claim_and_later_events_are_gone(anyone: Client, master: Client, project: Project) -> None:
    await anyone.post(EVENTS, an_event())
    claim = {"token": TOKEN, "project_id": str(project.id)}
    await master.post(CLAIM, claim)

    for answer in (await master.post(CLAIM, claim), await anyone.post(EVENTS, an_event())):
        assert (answer.status, answer.code) == (410, "stream_already_claimed")


async def test_an_expired_stream_is_gone_for_both(
    anyone: Client, master: Client, project: Project, world: World
) -> None:
    await anyone.post(EVENTS, an_event())
    world.streams.end(token_digest(TOKEN))

    assert (await anyone.get(INFO)).json()["status"] == "expired"
    claim = {"token": TOKEN, "project_id": str(project.id)}
    for answer in (await master.post(CLAIM, claim), await anyone.post(EVENTS, an_event())):
        assert (answer.status, answer.code) == (410, "stream_expired")


async def test_what_is_not_there_or_not_ours_is_not_found(anyone: Client, master: Client, world: World) -> None:
    ours = world.project(world.organizations[0])
    theirs = world.project(world.organization())
    unknown = await master.post(CLAIM, {"token": TOKEN, "project_id": str(ours.id)})
    await anyone.post(EVENTS, an_event())
    foreign = await master.post(CLAIM, {"token": TOKEN, "project_id": str(theirs.id)})
    nobodys = await master.post(CLAIM, {"token": TOKEN, "project_id": str(uuid4())})

    assert (unknown.status, unknown.code) == (404, "stream_not_found")
    assert (foreign.status, foreign.code) == (404, "not_found")
    assert foreign.json()["error"] == nobodys.json()["error"]
    assert (await anyone.get(INFO)).json()["status"] == "active"


async def test_every_bad_field_of_a_claim_is_named(master: Client) -> None:
    assert (await master.post(CLAIM, {})).details == {"token": "Required", "project_id": "Required"}
    answer = await master.post(CLAIM, {"token": 7, "project_id": "x", "force": True})
    assert answer.details == {
        "token": "Expected a string",
        "project_id": "Expected a UUID",
        "force": "Unknown field",
    }


async def test_a_header_that_names_another_project_than_the_body_is_refused(
    anyone: Client, master: Client, project: Project
) -> None:
    await anyone.post(EVENTS, an_event())
    claim = {"token": TOKEN, "project_id": str(project.id)}

    for header in (str(uuid4()), "nonsense", ""):
        answer = await master.post(CLAIM, claim, x_project_id=header)
        assert (answer.status, answer.code) == (400, "validation_error")
        assert answer.details == {"project_id": "The header X-Project-Id names another project"}
    assert (await anyone.get(INFO)).json()["status"] == "active"

    assert (await master.post(CLAIM, claim, x_project_id=str(project.id).upper())).status == 200


async def test_a_project_key_claims_nothing(producer: Client, project: Project) -> None:
    answer = await producer.post(CLAIM, {"token": TOKEN, "project_id": str(project.id)})

    assert (answer.status, answer.code) == (403, "forbidden")


# -- the secret -----------------------------------------------------------------------------------------------------


async def test_the_token_is_in_no_answer_and_no_line_of_the_log(
    anyone: Client, master: Client, organization: Organization, project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = {"token": TOKEN, "project_id": str(project.id)}
    answers = [
        await anyone.post(EVENTS, an_event()),
        await anyone.post(EVENTS, {"bad": 1}),
        await anyone.get(INFO),
        await anyone.get(f"/api/v1/streams/{TOKEN}x/info"),
        await anyone.request("PUT", EVENTS, body=orjson.dumps(an_event())),
        await anyone.get(f"/api/v1/streams/{TOKEN}"),
        await master.post(CLAIM, claim),
        await master.post(CLAIM, claim),
        await anyone.post(EVENTS, an_event()),
    ]

    said = "".join(answer.body.decode() + str(answer.headers) for answer in answers)
    said += "".join(capsys.readouterr()) + generate_latest(metrics.REGISTRY).decode()
    assert "/api/v1/streams/{token}/events" in said
    assert TOKEN[:13] not in said
    assert token_digest(TOKEN).hex() not in said


async def test_no_message_shows_the_digest(anyone: Client, world: World) -> None:
    await anyone.post(EVENTS, an_event())

    assert token_digest(TOKEN).hex() not in repr(world.asked[0])
    assert repr(token_digest(TOKEN)) not in repr(world.asked[0])
