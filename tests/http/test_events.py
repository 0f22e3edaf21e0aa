"""Events through the API: what is sent comes back, what is bad is named, and lists hold what was asked for."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from logstitch.actors.messages.events import ListEvents, SubmitEvents
from logstitch.actors.messages.projects import Project
from logstitch.http import examples
from logstitch.http.api import App, create_app
from logstitch.model import Plan
from tests.support.client import Client
from tests.support.world import NOW_MS, Organization, World


def event(**changes: Any) -> dict[str, Any]:
    """A small good event."""
    return {**examples.SMALL_EVENT_IN, **changes}


# -- sending -------------------------------------------------------------------------------------------------------


async def test_one_event_is_stored_and_comes_back_equal(producer: Client) -> None:
    sent = examples.EVENT_IN

    created = await producer.post("/api/v1/events", sent)

    assert created.status == 201
    (id,) = created.json()["ids"]
    stored = (await producer.get(f"/api/v1/events/{id}")).json()
    assert {key: stored[key] for key in sent} == sent


async def test_a_batch_has_its_ids_in_order(producer: Client) -> None:
    created = await producer.post("/api/v1/events", [event(tenant_id=f"t{n}") for n in range(100)])

    ids = created.json()["ids"]
    for n in (0, 42, 99):
        assert (await producer.get(f"/api/v1/events/{ids[n]}")).json()["tenant_id"] == f"t{n}"


async def test_what_ingest_is_asked(producer: Client, world: World) -> None:
    await producer.post("/api/v1/events", event())
    await producer.post("/api/v1/events", [event()])

    one, several = (message for message in world.asked if isinstance(message, SubmitEvents))
    assert (one.batch, several.batch) == (False, True)
    assert one.received_at_ms == NOW_MS
    assert one.daily_limit is None


async def test_one_bad_item_refuses_the_batch_and_every_bad_item_is_named(producer: Client, world: World) -> None:
    batch = [event(), event(category="nonsense"), event(), event(actor={"type": "user"})]

    answer = await producer.post("/api/v1/events", batch)

    assert answer.status == 400
    assert list(answer.details) == ["1.category", "3.actor.id"]
    assert answer.details["3.actor.id"] == "Required"
    assert world.events == []


@pytest.mark.parametrize("count", [0, 101])
async def test_a_batch_has_1_to_100_events(producer: Client, count: int) -> None:
    answer = await producer.post("/api/v1/events", [event()] * count)

    assert (answer.status, answer.code) == (400, "validation_error")
    assert "100" in answer.json()["error"]["message"]


async def test_a_replay_is_counted_in_a_header(producer: Client) -> None:
    keyed = event(idempotency_key="k1")

    first = await producer.post("/api/v1/events", keyed)
    again = await producer.post("/api/v1/events", [keyed, event()])
    unkeyed = await producer.post("/api/v1/events", event())

    assert first.headers["idempotent-replays"] == "0"
    assert again.headers["idempotent-replays"] == "1"
    assert again.json()["ids"][0] == first.json()["ids"][0]
    assert "idempotent-replays" not in unkeyed.headers


async def test_a_key_with_another_event_is_a_conflict_that_names_the_item(producer: Client, world: World) -> None:
    await producer.post("/api/v1/events", event(idempotency_key="k1"))

    answer = await producer.post("/api/v1/events", [event(), event(idempotency_key="k1", tenant_id="other")])

    assert (answer.status, answer.code) == (409, "conflict")
    assert list(answer.details) == ["1.idempotency_key"]
    assert len(world.events) == 1


async def test_the_free_plan_has_a_daily_limit(anyone: Client, world: World) -> None:
    free = world.organization(Plan.FREE)
    client = anyone.with_key(world.key(free, world.project(free)))
    for _ in range(10):
        assert (await client.post("/api/v1/events", [event()] * 100)).status == 201

    answer = await client.post("/api/v1/events", event())

    assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "daily_event_limit_reached", "3600")


async def test_a_big_body_is_checked_in_a_thread_and_answered_alike(producer: Client) -> None:
    big = [event(metadata={"text": "x" * 30_000, "n": n}) for n in range(100)]

    assert (await producer.post("/api/v1/events", big)).status == 201
    big[7]["category"] = "nonsense"
    assert list((await producer.post("/api/v1/events", big)).details) == ["7.category"]


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/api/v1/events", orjson.dumps(examples.SMALL_EVENT_IN)),
        ("POST", "/api/v1/events", b"{"),
        ("POST", "/api/v1/events?limit=1", b"{}"),
        ("POST", "/api/v1/events", b"x" * (5 * 1024 * 1024 + 1)),
    ],
)
async def test_the_direct_way_and_quarts_answer_alike(
    method: str, target: str, body: bytes, producer: Client, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = await producer.request(method, target, body=body)
    monkeypatch.setattr(app, "_direct", {})

    routed = await producer.request(method, target, body=body)

    assert routed.status == direct.status
    assert sorted(routed.headers) == sorted(direct.headers)
    assert routed.json().get("error") == direct.json().get("error")


# -- listing -------------------------------------------------------------------------------------------------------


async def test_pages_go_through_everything_once_in_either_order(producer: Client) -> None:
    ids = (await producer.post("/api/v1/events", [event() for _ in range(25)])).json()["ids"]

    for order, expected in (("asc", ids), ("desc", ids[::-1])):
        seen, target = [], f"/api/v1/events?order={order}&limit=10"
        while True:
            page = (await producer.get(target)).json()
            seen += [found["id"] for found in page["events"]]
            if not page["has_more"]:
                break
            # the limit may change on the way
            target = f"/api/v1/events?order={order}&limit=4&cursor={page['cursor']}"
        assert seen == expected


async def test_events_that_arrive_meanwhile_neither_repeat_nor_hide_any(producer: Client) -> None:
    ids = (await producer.post("/api/v1/events", [event() for _ in range(6)])).json()["ids"]
    first = (await producer.get("/api/v1/events?limit=3")).json()
    await producer.post("/api/v1/events", [event() for _ in range(5)])

    second = (await producer.get(f"/api/v1/events?limit=3&cursor={first['cursor']}")).json()

    assert [found["id"] for found in first["events"] + second["events"]] == ids[::-1]


FILTERS = {
    "tenant_id=acme": [0, 1],
    "actor_id=u2": [1],
    "actor_type=system": [2],
    "action=auth.login": [0],
    "action=auth.*": [0, 1],
    "action=*.login": [0],
    "category=admin": [2],
    "target_id=d1": [1],
    "target_type=document": [1, 2],
    "search=ADA": [0],
    "search=ada%20love": [0],
    "search=ada+love": [0],
    "search=ada%20nobody": [],
    "start_date=2026-11-22": [1, 2],
    "end_date=2026-11-21": [0],
    "start_date=2026-11-22T10:00:00.000Z&end_date=2026-11-22T10:00:00.000Z": [1],
    "start_date=2026-11-22T12:00:00.000%2B02:00&end_date=2026-11-22": [1],
    "tenant_id=acme&category=auth&target_type=document": [1],
    "tenant_id=ACME": [],
}


@pytest.mark.parametrize(("query", "expected"), FILTERS.items(), ids=FILTERS.keys())
async def test_filters(query: str, expected: list[int], producer: Client) -> None:
    events = [
        event(
            tenant_id="acme",
            action="auth.login",
            actor={"id": "u1", "type": "user", "name": "Ada Lovelace"},
            occurred_at="2026-11-21T23:59:59.999Z",
        ),
        event(
            tenant_id="acme",
            action="auth.logout",
            actor={"id": "u2", "type": "user"},
            target={"id": "d1", "type": "document"},
            occurred_at="2026-11-22T10:00:00Z",
        ),
        event(
            tenant_id="other",
            action="role.updated",
            category="admin",
            actor={"id": "cron", "type": "system"},
            target={"id": "d2", "type": "document"},
            occurred_at="2026-11-23T00:00:00Z",
        ),
    ]
    ids = (await producer.post("/api/v1/events", events)).json()["ids"]

    answer = await producer.get(f"/api/v1/events?order=asc&{query}")

    assert [found["id"] for found in answer.json()["events"]] == [ids[n] for n in expected]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("tenantid=acme", "tenantid"),
        ("Tenant_id=acme", "Tenant_id"),
        ("tenant_id=acme&tenant_id=other", "tenant_id"),
        ("tenant_id=", "tenant_id"),
        ("tenant_id", "tenant_id"),
        ("tenant_id=a%00b", "tenant_id"),
        (f"tenant_id={'x' * 257}", "tenant_id"),
        ("category=Auth", "category"),
        ("actor_type=robot", "actor_type"),
        ("order=newest", "order"),
        ("order=DESC", "order"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=1_0", "limit"),
        ("limit=%2B5", "limit"),
        ("limit=5.0", "limit"),
        ("limit=%D9%A5", "limit"),
        ("limit=5%20", "limit"),
        ("limit=", "limit"),
        (f"limit={'9' * 5000}", "limit"),
        ("start_date=yesterday", "start_date"),
        ("start_date=2026-W47-1", "start_date"),
        ("start_date=2026-11-31", "start_date"),
        ("start_date=20261123", "start_date"),
        ("start_date=2026-11-23T08:00:00", "start_date"),
        ("end_date=2026-11-23T08:00:00+02:00", "end_date"),
        ("end_date=2026-11-23%0A", "end_date"),
        ("end_date=infinity", "end_date"),
        ("search=", "search"),
        ("search=%2A%21", "search"),
        ("search=" + "+".join(f"w{n}" for n in range(17)), "search"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
    ],
)
async def test_a_bad_parameter_is_named_and_nothing_is_listed(query: str, field: str, producer: Client) -> None:
    answer = await producer.get(f"/api/v1/events?{query}")

    assert (answer.status, list(answer.details)) == (400, [field])


async def test_every_bad_parameter_is_named(producer: Client) -> None:
    answer = await producer.get("/api/v1/events?limit=0&order=up&colour=red")
    dates = await producer.get("/api/v1/events?start_date=x&end_date=y&search=-")

    assert set(answer.details) == {"limit", "order", "colour"}
    assert set(dates.details) == {"start_date", "end_date", "search"}


@pytest.mark.parametrize("query", ["tenant_id=%ff", "tenant_id=%", "tenant_id=%zz", "%ff=x", "&".join("a=1" * 40)])
async def test_a_query_that_is_no_text(query: str, producer: Client) -> None:
    answer = await producer.get(f"/api/v1/events?{query}")

    assert (answer.status, answer.code) == (400, "validation_error")


async def test_an_empty_query_is_none(producer: Client) -> None:
    assert (await producer.get("/api/v1/events?")).status == 200


async def test_a_page_may_be_short_and_go_on(producer: Client, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await producer.post("/api/v1/events", [event() for _ in range(3)])
    full = world.answer

    def bounded_search(message: object) -> Any:
        found = full(message)
        if isinstance(message, ListEvents) and found.next is not None:
            return type(found)((), found.next)
        return found

    monkeypatch.setattr(world, "answer", bounded_search)

    page = (await producer.get("/api/v1/events?limit=2")).json()

    assert page["events"] == []
    assert page["has_more"] is True


# -- one event -----------------------------------------------------------------------------------------------------


async def test_another_projects_event_is_unknown(
    producer: Client, world: World, organization: Organization, project: Project
) -> None:
    sibling = producer.with_key(world.key(organization, world.project(organization)))
    (id,) = (await sibling.post("/api/v1/events", event())).json()["ids"]

    theirs = await producer.get(f"/api/v1/events/{id}")
    nobodys = await producer.get("/api/v1/events/evt_00000000000000000000000000")

    assert (theirs.status, theirs.code) == (404, "not_found")
    assert theirs.json()["error"] == nobodys.json()["error"]


@pytest.mark.parametrize(
    "id", ["x", "evt_", "evt_" + "Z" * 26, "evt_" + "0" * 25, "req_" + "0" * 26, "EVT_" + "0" * 26, "evt_" + "i" * 26]
)
async def test_what_is_no_event_id_is_unknown_and_never_asked_for(id: str, producer: Client, world: World) -> None:
    answer = await producer.get(f"/api/v1/events/{id}")

    assert (answer.status, answer.code) == (404, "not_found")
    assert len(world.asked) == 1  # who is calling


# -- other origins -------------------------------------------------------------------------------------------------


async def test_any_origin_may_read_events_and_their_errors(producer: Client) -> None:
    (id,) = (await producer.post("/api/v1/events", event())).json()["ids"]
    for target in ("/api/v1/events", f"/api/v1/events/{id}", "/api/v1/events/x", "/api/v1/events?x=1"):
        answer = await producer.get(target, Origin="https://app.example")
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in answer.headers
    refused = await producer.with_key(None).get("/api/v1/events", Origin="https://app.example")
    assert refused.headers["access-control-allow-origin"] == "*"


async def test_preflight(anyone: Client) -> None:
    headers = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "authorization",
    }
    for target in ("/api/v1/events", "/api/v1/events/evt_1"):
        answer = await anyone.request("OPTIONS", target, headers=headers)

        assert answer.status == 200
        assert answer.headers["access-control-allow-origin"] == "*"
        assert answer.headers["access-control-allow-methods"] == "GET, HEAD"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        assert list(answer.json()) == ["request_id"]


async def test_nothing_else_is_for_other_origins(master: Client, producer: Client) -> None:
    for answer in (
        await master.get("/api/v1/keys", Origin="https://app.example"),
        await producer.post("/api/v1/events", event(), Origin="https://app.example"),
    ):
        assert "access-control-allow-origin" not in answer.headers
    assert (await master.request("OPTIONS", "/api/v1/keys")).status == 405


async def test_apps_do_not_share_cursors_of_different_deployments(producer: Client, world: World, app: App) -> None:
    from dataclasses import replace

    await producer.post("/api/v1/events", [event(), event()])
    cursor = (await producer.get("/api/v1/events?limit=1")).json()["cursor"]
    elsewhere = Client(create_app(replace(world.services(), cursor_key=b"x" * 32)), producer.key)

    assert list((await elsewhere.get(f"/api/v1/events?cursor={cursor}")).details) == ["cursor"]
