"""Viewer tokens and tiers over HTTP: made, changed, removed; and what their holders are shown, refused and not told."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import orjson
import pytest

from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.viewers import AuthenticateViewer, CreateTier, MintViewerToken
from logstitch.http import examples
from logstitch.ids import event_id_text
from logstitch.viewing import tokens
from logstitch.viewing.tiers import MAX_TIERS
from logstitch.viewing.tokens import Secret, Secrets
from tests.support.client import Answer, Client
from tests.support.world import Organization, World

TOKENS = "/api/v1/viewer-tokens"
TIERS = "/api/v1/tiers"
EVENTS = "/api/v1/events"


@pytest.fixture
def master(master: Client, project: Project) -> Client:
    """A client with a master key of an organization that has one project."""
    return master


async def put(client: Client, tier_id: str, body: object) -> Answer:
    return await client.request("PUT", f"{TIERS}/{tier_id}", body=orjson.dumps(body))


async def make(client: Client, name: str = "support", **changes: Any) -> dict[str, Any]:
    """A tier that is there from then on."""
    answer = await client.post(TIERS, {"name": name, **changes})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    del made["request_id"]
    return made


async def viewer_of(producer: Client, tenant_id: str = "acme", **changes: Any) -> Client:
    """A client with a new viewer token."""
    answer = await producer.post(TOKENS, {"tenant_id": tenant_id, **changes})
    assert answer.status == 201, answer.body
    return producer.with_key(answer.json()["token"])


async def send(producer: Client, **changes: Any) -> str:
    """The id of an event of acme's."""
    answer = await producer.post(EVENTS, {**examples.EVENT_IN, "idempotency_key": str(uuid4()), **changes})
    assert answer.status == 201, answer.body
    id_: str = answer.json()["ids"][0]
    return id_


async def listed(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"{EVENTS}?{query}")
    assert answer.status == 200, answer.body
    events: list[dict[str, Any]] = answer.json()["events"]
    return events


# -- minting -------------------------------------------------------------------------------------------------------


async def test_a_project_key_mints_a_token_for_an_hour(producer: Client, world: World, project: Project) -> None:
    answer = await producer.post(TOKENS, {"tenant_id": "acme"})

    assert answer.status == 201
    claims = tokens.verify(answer.json()["token"], world.viewers.secrets, world.now.timestamp())
    assert (claims.tenant_id, claims.tier_id, claims.project_id) == ("acme", None, project.id)
    assert claims.expires_at - claims.issued_at == 3600
    (message,) = (m for m in world.asked if isinstance(m, MintViewerToken))
    assert claims.key_id == message.by
    assert answer.json()["expires_at"] == "2026-11-23T09:00:00.000Z"


@pytest.mark.parametrize("seconds", [60, 86_400])
async def test_it_lives_as_long_as_it_was_asked_to(producer: Client, world: World, seconds: int) -> None:
    viewer = await viewer_of(producer, expires_in=seconds)
    assert (await viewer.get(EVENTS)).status == 200

    world.now += timedelta(seconds=seconds)

    answer = await viewer.get(EVENTS)
    assert (answer.status, answer.code) == (401, "unauthorized")
    assert "expired" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "tenant_id"),
        ({"tenant_id": ""}, "tenant_id"),
        ({"tenant_id": "x" * 257}, "tenant_id"),
        ({"tenant_id": 7}, "tenant_id"),
        ({"tenant_id": "$logstitch"}, "tenant_id"),
        ({"tenant_id": "\x01" * 256}, "tenant_id"),
        ({"tenant_id": "acme", "tier": "nobody's"}, "tier"),
        ({"tenant_id": "acme", "tier": None}, "tier"),
        ({"tenant_id": "acme", "tier": ""}, "tier"),
        ({"tenant_id": "acme", "expires_in": 59}, "expires_in"),
        ({"tenant_id": "acme", "expires_in": 86_401}, "expires_in"),
        ({"tenant_id": "acme", "expires_in": True}, "expires_in"),
        ({"tenant_id": "acme", "expires_in": 60.0}, "expires_in"),
        ({"tenant_id": "acme", "expires_in": "60"}, "expires_in"),
        ({"tenant_id": "acme", "project": "x"}, "project"),
    ],
)
async def test_what_cannot_be_minted(producer: Client, body: Mapping[str, object], field: str) -> None:
    answer = await producer.post(TOKENS, body)

    assert (answer.status, answer.code) == (400, "validation_error")
    assert list(answer.details) == [field]


async def test_a_tier_of_another_project_is_unknown(
    master: Client, producer: Client, world: World, organization: Organization
) -> None:
    other = world.project(organization, "Other")
    await master.with_key(master.key, x_project_id=str(other.id)).post(TIERS, {"name": "theirs"})

    assert list((await producer.post(TOKENS, {"tenant_id": "acme", "tier": "theirs"})).details) == ["tier"]


async def test_the_longest_names_fit(producer: Client) -> None:
    tenant_id = "\U0001f600" * 256
    await send(producer, tenant_id=tenant_id)

    viewer = await viewer_of(producer, tenant_id)

    assert [event["tenant_id"] for event in await listed(viewer)] == [tenant_id]


# -- what a token lets in ------------------------------------------------------------------------------------------


async def test_a_viewer_reads_its_tenants_events_and_no_others(producer: Client) -> None:
    mine, theirs = await send(producer), await send(producer, tenant_id="globex")
    viewer = await viewer_of(producer)

    assert [event["id"] for event in await listed(viewer)] == [mine]
    assert (await viewer.get(f"{EVENTS}/{mine}")).json()["id"] == mine
    unknown = await viewer.get(f"{EVENTS}/{event_id_text(bytes(16))}")
    other = await viewer.get(f"{EVENTS}/{theirs}")
    assert (other.status, other.code) == (unknown.status, unknown.code) == (404, "not_found")
    assert other.json()["error"] == unknown.json()["error"]


@pytest.mark.parametrize("named", ["globex", "acme", "Acme", "$logstitch", "*"])
async def test_whatever_tenant_is_named_only_its_own_is_searched(producer: Client, named: str) -> None:
    mine = await send(producer)
    await send(producer, tenant_id="globex")
    viewer = await viewer_of(producer)

    assert [event["id"] for event in await listed(viewer, f"tenant_id={quote(named)}")] == [mine]


@pytest.mark.parametrize("tenant_id", ["acme ", "ACME", "acme\u200b", "ａcme", "acmé", "acme\u0301"])
async def test_tenants_are_told_apart_to_the_byte(producer: Client, tenant_id: str) -> None:
    await send(producer)
    theirs = await send(producer, tenant_id=tenant_id)

    assert [event["id"] for event in await listed(await viewer_of(producer, tenant_id))] == [theirs]


async def test_another_project_is_never_read(
    producer: Client, world: World, organization: Organization, anyone: Client
) -> None:
    other = world.project(organization, "Other")
    await send(anyone.with_key(world.key(organization, other)))
    viewer = await viewer_of(producer)

    assert await listed(viewer) == []
    for answer in (
        await viewer.get(f"{EVENTS}?project_id={other.id}"),
        await viewer.get(EVENTS, x_project_id=str(other.id)),
    ):
        assert (answer.status, answer.code) == (403, "forbidden")


async def test_its_own_project_may_be_named(producer: Client, project: Project) -> None:
    viewer = await viewer_of(producer)

    assert (await viewer.get(f"{EVENTS}?project_id={project.id}", x_project_id=str(project.id))).status == 200


async def test_how_an_event_came_and_what_was_redacted_is_not_for_viewers(producer: Client, world: World) -> None:
    id_ = await send(producer, idempotency_key="k")
    world.events[-1].event["redactions"] = [{"field": "metadata.card", "rules": ["builtin_credit_card"]}]
    viewer = await viewer_of(producer)
    full = (await producer.get(f"{EVENTS}/{id_}")).json()

    seen = (await viewer.get(f"{EVENTS}/{id_}")).json()

    assert full.keys() - seen.keys() == {"idempotency_key", "redactions"}
    assert seen["content_hash"] == full["content_hash"]
    assert (await listed(viewer))[0].keys() == seen.keys() - {"request_id"}


async def test_an_expired_token_can_be_told_by_pages_of_any_origin(producer: Client, world: World) -> None:
    viewer = await viewer_of(producer, expires_in=60)
    world.now += timedelta(hours=1)

    for target in (EVENTS, f"{EVENTS}/{event_id_text(bytes(16))}"):
        answer = await viewer.get(target, origin="https://shop.example")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, "*")
        assert "access-control-allow-credentials" not in answer.headers
        preflight = await viewer.with_key(None).request("OPTIONS", target, headers={"origin": "https://shop.example"})
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()


# -- attacks -------------------------------------------------------------------------------------------------------


async def test_a_revoked_key_ends_the_tokens_that_it_minted(
    master: Client, producer: Client, world: World, organization: Organization, project: Project
) -> None:
    key = world.make_key(organization, project, "minter")
    viewer = await viewer_of(producer.with_key(key.secret))
    other = await viewer_of(producer)

    await master.delete(f"/api/v1/keys/{key.key.id}")

    answer = await viewer.get(EVENTS)
    assert (answer.status, answer.code) == (401, "key_revoked")
    assert (await other.get(EVENTS)).status == 200


async def test_an_altered_token_is_refused(producer: Client, world: World) -> None:
    viewer = await viewer_of(producer)
    head, claims, signature = (viewer.key or "").split(".")
    assert orjson.loads(urlsafe_b64decode(claims + "=="))["tid"] == "acme"
    for token in (
        f"{head}.{claims[:-4]}{'A' if claims[-4] != 'A' else 'B'}{claims[-3:]}.{signature}",
        f"{head}.{claims}.{'A' * 43}",
        f"vt_eyJhbGciOiJub25lIn0.{claims}.{signature}",
    ):
        answer = await producer.with_key(token).get(EVENTS)
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


async def test_another_deployments_token_is_refused(producer: Client, world: World) -> None:
    viewer = await viewer_of(producer)

    world.viewers.secrets = replace(world.viewers.secrets, deployment=uuid4())
    assert (await viewer.get(EVENTS)).code == "unauthorized"

    world.viewers.secrets = Secrets(UUID(int=5), [Secret(UUID(int=6), bytes(32))])
    assert (await viewer.get(EVENTS)).code == "unauthorized"


@pytest.mark.parametrize("length", [2_100, 8_000, 60_000])
async def test_a_long_token_is_refused_before_anybody_is_asked(anyone: Client, world: World, length: int) -> None:
    answer = await anyone.with_key(f"vt_eyJ{'a' * 60}.eyJ{'a' * length}.{'a' * 43}").get(EVENTS)

    assert (answer.status, answer.code) == (401, "unauthorized")
    assert world.asked == []


async def test_marks_cannot_be_swapped(producer: Client, world: World, anyone: Client) -> None:
    token = (await viewer_of(producer)).key or ""
    world.asked.clear()

    for swapped in ("pk_" + token[3:], "mk_" + token[3:], "vt_" + (producer.key or "")[3:], token[3:]):
        assert (await anyone.with_key(swapped).get(EVENTS)).code == "unauthorized"

    assert not [message for message in world.asked if isinstance(message, AuthenticateViewer)]


async def test_a_token_in_the_query_is_no_credential(producer: Client, anyone: Client) -> None:
    token = (await viewer_of(producer)).key

    assert (await anyone.get(f"{EVENTS}?token={token}")).code == "unauthorized"


# -- tiers ---------------------------------------------------------------------------------------------------------


async def test_a_tier_is_made_listed_changed_and_removed(master: Client) -> None:
    made = await make(master, **{k: v for k, v in examples.TIER_IN.items() if k != "name"})
    assert {**made, "id": examples.TIER_ID, "created_at": examples.TIME} == examples.TIER

    assert (await master.get(TIERS)).json()["tiers"] == [made]
    changed = (await put(master, made["id"], {"actions": ["user.*"], "categories": None})).json()
    assert (changed["actions"], changed["categories"], changed["name"]) == (["user.*"], None, "support")
    assert changed["hidden_fields"] == made["hidden_fields"]
    deleted = (await master.delete(f"{TIERS}/{made['id']}")).json()
    assert (deleted["id"], deleted["deleted"]) == (made["id"], True)
    assert (await master.get(TIERS)).json()["tiers"] == []


async def test_what_is_left_out_shows_all(master: Client, world: World) -> None:
    made = await make(master)

    assert (made["categories"], made["actions"], made["hidden_fields"]) == (None, None, [])
    (message,) = (m for m in world.asked if isinstance(m, CreateTier))
    assert (message.categories, message.actions, message.hidden_fields) == (None, None, ())


async def test_a_name_is_there_once_in_a_project(master: Client) -> None:
    one, other = await make(master), await make(master, "Support")

    assert (await master.post(TIERS, {"name": "support"})).code == "conflict"
    assert (await put(master, other["id"], {"name": "support"})).code == "conflict"
    assert (await put(master, one["id"], {"name": "support"})).status == 200


async def test_there_is_a_bound_on_tiers(master: Client) -> None:
    for number in range(MAX_TIERS):
        await make(master, f"t{number}")

    assert (await master.post(TIERS, {"name": "one more"})).code == "conflict"


async def test_tiers_are_paged_newest_first(master: Client) -> None:
    for number in range(5):
        await make(master, f"t{number}")

    first = (await master.get(f"{TIERS}?limit=3")).json()
    rest = (await master.get(f"{TIERS}?limit=3&cursor={first['cursor']}")).json()

    names = [tier["name"] for tier in first["tiers"] + rest["tiers"]]
    assert names == ["t4", "t3", "t2", "t1", "t0"]
    assert (first["has_more"], rest["has_more"], rest["cursor"]) == (True, False, None)


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["name"]),
        ({"name": ""}, ["name"]),
        ({"name": "n" * 101}, ["name"]),
        ({"name": "n", "categories": []}, ["categories"]),
        ({"name": "n", "categories": ["nonsense"]}, ["categories.0"]),
        ({"name": "n", "actions": []}, ["actions"]),
        ({"name": "n", "actions": ["a"] * 21}, ["actions"]),
        ({"name": "n", "actions": ["a" * 129, ""]}, ["actions.0", "actions.1"]),
        ({"name": "n", "hidden_fields": None}, ["hidden_fields"]),
        ({"name": "n", "hidden_fields": ["actor.email"] * 51}, ["hidden_fields"]),
        (
            {"name": "n", "hidden_fields": ["actor.email", "tenant_id", "actor..id"]},
            ["hidden_fields.1", "hidden_fields.2"],
        ),
        ({"name": "n", "hidden_field": ["actor"]}, ["hidden_field"]),
    ],
)
async def test_what_no_tier_may_be(master: Client, body: Mapping[str, object], fields: list[str]) -> None:
    answer = await master.post(TIERS, body)

    assert (answer.status, answer.code) == (400, "validation_error")
    assert list(answer.details) == fields


async def test_a_change_of_nothing_is_refused(master: Client) -> None:
    made = await make(master)

    assert (await put(master, made["id"], {})).status == 400
    assert list((await put(master, made["id"], {"hidden_fields": ["x"]})).details) == ["hidden_fields.0"]


@pytest.mark.parametrize("tier_id", ["6f1d3c2a-9f0e-4b7d-8a55-0c1e2d3f4a5b", "support", "1"])
async def test_a_tier_that_is_not_there(master: Client, tier_id: str) -> None:
    for answer in (await put(master, tier_id, {"name": "n"}), await master.delete(f"{TIERS}/{tier_id}")):
        assert (answer.status, answer.code) == (404, "not_found")


async def test_another_projects_tier_is_not_there(
    master: Client, world: World, organization: Organization, project: Project
) -> None:
    made = await make(master)
    other = world.project(organization, "Other")
    theirs = master.with_key(master.key, x_project_id=str(other.id))

    assert (await put(theirs, made["id"], {"name": "n"})).code == "not_found"
    assert (await theirs.delete(f"{TIERS}/{made['id']}")).code == "not_found"
    assert (await theirs.get(TIERS)).json()["tiers"] == []


# -- reading through a tier ----------------------------------------------------------------------------------------


async def test_a_tier_narrows_and_hides(master: Client, producer: Client) -> None:
    await make(
        master, categories=["admin"], actions=["user.*"], hidden_fields=["actor.email", "context", "changes.*.after"]
    )
    shown = await send(producer, actor={"id": "usr_42", "type": "user", "email": "ada@example.com"})
    await send(producer, category="auth")
    hidden = await send(producer, action="auth.login")
    viewer = await viewer_of(producer, tier="support")

    (event,) = await listed(viewer)

    assert event["id"] == shown
    assert event["actor"] == {"id": "usr_42", "type": "user"}
    assert "context" not in event
    assert event["changes"] == [{"field": "role", "before": "member"}]
    assert (await viewer.get(f"{EVENTS}/{shown}")).json()["actor"] == event["actor"]
    assert (await viewer.get(f"{EVENTS}/{hidden}")).code == "not_found"


async def test_a_change_of_a_tier_applies_to_its_tokens_at_once(master: Client, producer: Client) -> None:
    tier = await make(master, hidden_fields=["target"])
    await send(producer)
    viewer = await viewer_of(producer, tier="support")
    assert "target" not in (await listed(viewer))[0]

    await put(master, tier["id"], {"name": "renamed", "hidden_fields": ["actor.name"]})

    (event,) = await listed(viewer)
    assert "target" in event
    assert "name" not in event["actor"]


async def test_a_deleted_tier_ends_its_tokens_also_when_another_one_takes_its_name(
    master: Client, producer: Client
) -> None:
    tier = await make(master, hidden_fields=["target"])
    viewer = await viewer_of(producer, tier="support")

    await master.delete(f"{TIERS}/{tier['id']}")
    assert (await viewer.get(EVENTS)).code == "unauthorized"

    await make(master)
    assert (await viewer.get(EVENTS)).code == "unauthorized"


@pytest.mark.parametrize(
    ("hidden", "query"),
    [
        ("actor.id", "actor_id=usr_42"),
        ("actor.type", "actor_type=user"),
        ("actor", "actor_id=nobody&actor_type=user"),
        ("target.**", "target_id=usr_77"),
        ("target.*", "target_type=user"),
    ],
)
async def test_a_filter_on_what_is_hidden_is_refused_whether_it_fits_or_not(
    master: Client, producer: Client, hidden: str, query: str
) -> None:
    await make(master, hidden_fields=[hidden])
    await send(producer)
    viewer = await viewer_of(producer, tier="support")

    answer = await viewer.get(f"{EVENTS}?{query}")

    assert (answer.status, answer.code) == (400, "validation_error")
    assert list(answer.details) == [pair.partition("=")[0] for pair in query.split("&")]


async def test_what_is_hidden_is_not_found(master: Client, producer: Client) -> None:
    await make(master, hidden_fields=["metadata.reason"])
    await send(producer, metadata={"reason": "needle", "shown": "hay"})
    viewer, all_of_it = await viewer_of(producer, tier="support"), await viewer_of(producer)

    assert await listed(viewer, "search=needle") == []
    assert len(await listed(viewer, "search=hay")) == len(await listed(all_of_it, "search=needle")) == 1
    nowhere, hidden = await viewer.get(f"{EVENTS}?search=nowhere"), await viewer.get(f"{EVENTS}?search=needle")
    del (one := nowhere.json())["request_id"], (other := hidden.json())["request_id"]
    assert one == other


# -- cursors -------------------------------------------------------------------------------------------------------


async def test_a_cursor_goes_on_with_another_token_of_the_same_tenant_and_tier(
    master: Client, producer: Client
) -> None:
    await make(master)
    ids = [await send(producer) for _ in range(3)]
    first = (await (await viewer_of(producer, tier="support")).get(f"{EVENTS}?limit=2")).json()

    rest = await listed(await viewer_of(producer, tier="support"), f"limit=2&cursor={first['cursor']}")

    assert [event["id"] for event in first["events"] + rest] == ids[::-1]


async def test_a_cursor_is_no_other_tenants_tiers_or_keys(master: Client, producer: Client) -> None:
    await make(master)
    await make(master, "other")
    for _ in range(3):
        await send(producer)
    readers = {
        "acme": await viewer_of(producer),
        "through a tier": await viewer_of(producer, tier="support"),
        "through another": await viewer_of(producer, tier="other"),
        "globex": await viewer_of(producer, "globex"),
        "all": producer,
    }
    for mine, reader in readers.items():
        if mine == "globex":
            continue
        cursor = (await reader.get(f"{EVENTS}?limit=1&tenant_id=acme")).json()["cursor"]
        for other, another in readers.items():
            answer = await another.get(f"{EVENTS}?limit=1&tenant_id=acme&cursor={cursor}")
            assert answer.status == (200 if mine == other else 400), (mine, other)


async def test_a_cursor_does_not_say_where_it_stands(producer: Client, world: World) -> None:
    await send(producer)
    await send(producer)
    cursor = (await (await viewer_of(producer)).get(f"{EVENTS}?limit=1")).json()["cursor"]

    sealed = urlsafe_b64decode(cursor)

    place = world.events[-1]
    assert place.id.bytes not in sealed
    assert place.occurred_at_ms.to_bytes(8) not in sealed
