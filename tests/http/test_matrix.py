"""Every endpoint with every kind of credential: the table of roles, and nothing but the table, decides."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from uuid import uuid4

import orjson
import pytest

from logstitch import credentials
from logstitch.actors.messages.keys import Authenticate
from logstitch.actors.messages.projects import Project
from logstitch.http import examples
from logstitch.http.api import App, create_app, create_ops_app
from logstitch.http.endpoints import Endpoint
from logstitch.http.roles import ROLES, Kind
from tests.support.client import Answer, Client
from tests.support.world import Organization, WellBeing, World

PUBLIC = create_app(World().services()).endpoints
BODIES: dict[str, object] = {
    "events.create": {"action": "a.b", "category": "auth", "actor": {"id": "u", "type": "user"}, "tenant_id": "t"},
    "keys.create": {"project_id": str(uuid4()), "type": "project", "name": "k"},
    "projects.create": {"name": "p"},
    "redaction.create": {"name": "r", "type": "pattern", "pattern": "x"},
    "redaction.update": {"enabled": False},
    "redaction.test": {"event": {}},
    "redaction.measure": {"rule": {"name": "r", "type": "pattern", "pattern": "x"}},
    "alert_rules.create": examples.ALERT_RULE_IN,
    "alert_rules.update": {"enabled": False},
    "alert_rules.test": {"rule": examples.ALERT_RULE_IN},
    "alerts.update": {"status": "resolved"},
    "streams.create": examples.SMALL_EVENT_IN,
    "streams.claim": examples.CLAIM_IN,
    "viewer_tokens.create": {"tenant_id": "acme"},
    "tiers.create": {"name": "t"},
    "tiers.update": {"name": "t"},
    "webhooks.create": examples.WEBHOOK_IN,
    "webhooks.update": {"enabled": False},
}
WITH_CREDENTIAL = [endpoint for endpoint in PUBLIC if not endpoint.is_public]


async def call(client: Client, endpoint: Endpoint) -> Answer:
    """A request that fits the endpoint's schema, about things that are not there."""
    target = re.sub(r"\{\w+\}", str(uuid4()), endpoint.path)
    if endpoint.name in BODIES:
        return await client.request(endpoint.method, target, body=orjson.dumps(BODIES[endpoint.name]))
    return await client.request(endpoint.method, target)


def test_every_endpoint_has_a_row_and_every_row_an_endpoint() -> None:
    ops = create_ops_app(WellBeing()).endpoints
    assert sorted(endpoint.name for endpoint in (*PUBLIC, *ops)) == sorted(ROLES)


@pytest.mark.parametrize("kind", [Kind.MASTER, Kind.PROJECT, Kind.VIEWER])
@pytest.mark.parametrize("endpoint", WITH_CREDENTIAL, ids=lambda endpoint: endpoint.name)
async def test_good_credentials(
    kind: Kind, endpoint: Endpoint, master: Client, producer: Client, viewer: Client
) -> None:
    client = {Kind.MASTER: master, Kind.PROJECT: producer, Kind.VIEWER: viewer}[kind]

    answer = await call(client, endpoint)

    if kind in endpoint.roles:
        assert answer.status in (200, 201, 404), answer.body
    else:
        assert (answer.status, answer.code) == (403, "forbidden")


@pytest.mark.parametrize("endpoint", PUBLIC, ids=lambda endpoint: endpoint.name)
async def test_no_credential(endpoint: Endpoint, anyone: Client) -> None:
    answer = await call(anyone, endpoint)

    if Kind.NONE in endpoint.roles:
        assert answer.status in (200, 201, 404), answer.body
    else:
        assert (answer.status, answer.code) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"


GOOD_FORM = credentials.mint("project").secret
MALFORMED = {
    "empty": "",
    "no scheme": GOOD_FORM,
    "another scheme": f"Basic {GOOD_FORM}",
    "no token": "Bearer ",
    "two tokens": f"Bearer {GOOD_FORM} {GOOD_FORM}",
    "too short": f"Bearer {GOOD_FORM[:-1]}",
    "too long": f"Bearer {GOOD_FORM}a",
    "60 KB": f"Bearer pk_{'a' * 60_000}",
    "another mark": f"Bearer sk_{GOOD_FORM[3:]}",
    "not base62": f"Bearer {GOOD_FORM[:-1]}-",
    "not ASCII": f"Bearer pk_{'é' * 40}",
    "a newline behind": f"Bearer {GOOD_FORM}\n",
    "a digest in hex": f"Bearer {credentials.digest(GOOD_FORM).hex()}",
    "a viewer token": "Bearer vt_eyJhbGciOiJub25lIn0.e30.",
}


@pytest.mark.parametrize("authorization", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("endpoint", WITH_CREDENTIAL, ids=lambda endpoint: endpoint.name)
async def test_what_has_not_the_form_of_a_key_never_reaches_the_keyring(
    authorization: str, endpoint: Endpoint, world: World, anyone: Client
) -> None:
    answer = await call(anyone.with_key(None, authorization=authorization), endpoint)

    assert (answer.status, answer.code) == (401, "unauthorized")
    assert world.asked == []


@pytest.mark.parametrize("endpoint", WITH_CREDENTIAL, ids=lambda endpoint: endpoint.name)
async def test_a_well_formed_key_that_nobody_knows(endpoint: Endpoint, anyone: Client) -> None:
    answer = await call(anyone.with_key(GOOD_FORM), endpoint)

    assert (answer.status, answer.code) == (401, "invalid_api_key")


@pytest.mark.parametrize("endpoint", WITH_CREDENTIAL, ids=lambda endpoint: endpoint.name)
async def test_a_revoked_key(
    endpoint: Endpoint, producer: Client, world: World, organization: Organization, project: Project
) -> None:
    revoked = world.make_key(organization, project, "old")
    await producer.delete(f"/api/v1/keys/{revoked.key.id}")

    answer = await call(producer.with_key(revoked.secret), endpoint)

    assert (answer.status, answer.code) == (401, "key_revoked")


@pytest.mark.parametrize("endpoint", WITH_CREDENTIAL, ids=lambda endpoint: endpoint.name)
async def test_a_viewer_token_whose_key_was_revoked(
    endpoint: Endpoint, producer: Client, viewer: Client, world: World
) -> None:
    await producer.delete(f"/api/v1/keys/{world.keys[-1].key.id}")

    answer = await call(viewer, endpoint)

    assert (answer.status, answer.code) == (401, "key_revoked")


@pytest.mark.parametrize("endpoint", WITH_CREDENTIAL, ids=lambda endpoint: endpoint.name)
async def test_a_viewer_token_that_is_forged(endpoint: Endpoint, viewer: Client, anyone: Client) -> None:
    head, claims, _ = (viewer.key or "").split(".")

    answer = await call(anyone.with_key(f"{head}.{claims}.{'A' * 43}"), endpoint)

    assert (answer.status, answer.code) == (401, "unauthorized")


@pytest.mark.parametrize("swap", [("pk_", "mk_"), ("mk_", "pk_")])
async def test_a_key_with_the_mark_of_the_other_kind_is_another_key(
    swap: tuple[str, str], world: World, organization: Organization, project: Project, anyone: Client
) -> None:
    own = world.key(organization, project if swap[0] == "pk_" else None)

    answer = await anyone.with_key(own.replace(*swap)).get("/api/v1/projects")

    assert answer.code == "invalid_api_key"


async def test_the_stored_digest_is_no_key(world: World, organization: Organization, anyone: Client) -> None:
    world.key(organization)
    stored = world.keys[-1].digest

    answer = await anyone.with_key(f"mk_{stored.hex()[:40]}").get("/api/v1/projects")

    assert answer.code == "invalid_api_key"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_taken_in_any_letter_case(
    scheme: str, anyone: Client, world: World, organization: Organization
) -> None:
    client = anyone.with_key(None, authorization=f"{scheme} {world.key(organization)}")

    assert (await client.get("/api/v1/projects")).status == 200


async def test_two_authorization_headers_are_none(anyone: Client, world: World, organization: Organization) -> None:
    value = f"Bearer {world.key(organization)}"

    answer = await anyone.request(
        "GET", "/api/v1/projects", headers=[("authorization", value), ("authorization", value)]
    )

    assert answer.code == "unauthorized"


async def test_credentials_are_checked_before_the_body_is_read(anyone: Client, app: App) -> None:
    read = False

    async def body() -> AsyncGenerator[bytes, None]:
        nonlocal read
        read = True
        yield b"{}"

    answer = await anyone.request("POST", "/api/v1/events", body=body())

    assert answer.code == "unauthorized"
    assert not read


async def test_the_keyring_sees_a_digest_and_never_the_key(producer: Client, world: World) -> None:
    await producer.get("/api/v1/keys")

    message = world.asked[0]
    assert isinstance(message, Authenticate)
    assert message.digest == credentials.digest(producer.key or "")
