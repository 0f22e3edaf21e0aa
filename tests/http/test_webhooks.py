"""Webhooks over HTTP: making, changing, listing, testing, and the log of what was sent."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.webhooks import Attempt, CheckUrl, CreateWebhook, UpdateWebhook
from logstitch.detection.rules import Severity
from logstitch.ids import IdKind, id_text, parse_id
from logstitch.model import Plan
from logstitch.webhooks.payloads import WebhookEvent
from logstitch.webhooks.schedule import DeliveryStatus
from tests.support.client import Answer, Client
from tests.support.world import NOW, World

URL = "https://hooks.acme.example/logstitch"
PATH = "/api/v1/webhooks"
UNKNOWN = id_text(IdKind.WEBHOOK, bytes(16))
UNKNOWN_DELIVERY = id_text(IdKind.DELIVERY, bytes(16))


@pytest.fixture(autouse=True)
def _project(project: Project) -> None:
    """The organization has one project, which need not be named."""


async def patch(client: Client, target: str, json: object) -> Answer:
    return await client.request("PATCH", target, body=orjson.dumps(json))


async def make(client: Client, **fields: Any) -> dict[str, Any]:
    """A webhook as it was answered."""
    answer = await client.post(PATH, {"url": URL, **fields})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.json()
    return made


def uuid_of(webhook: dict[str, Any]) -> UUID:
    return UUID(bytes=parse_id(IdKind.WEBHOOK, webhook["id"]))


# -- making, reading, changing, removing ---------------------------------------------------------------------------


async def test_a_webhook_is_made_and_its_secret_shown_this_once(master: Client) -> None:
    made = await make(master)

    secret = made.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert made.pop("request_id")
    assert made == {
        "id": made["id"],
        "url": URL,
        "min_severity": "low",
        "events": ["alert.triggered", "alert.acknowledged", "alert.resolved"],
        "enabled": True,
        "disabled_reason": None,
        "failing_since": None,
        "created_at": made["created_at"],
    }
    shown = (await master.get(f"{PATH}/{made['id']}")).json()
    (listed,) = (await master.get(PATH)).json()["webhooks"]
    assert {k: v for k, v in shown.items() if k != "request_id"} == listed == made


async def test_what_was_sent_is_what_is_asked_for(master: Client, world: World, project: Project) -> None:
    await make(master, description="pager 🦊", min_severity="critical", events=["alert.resolved"], enabled=False)

    message = world.asked[-1]
    assert isinstance(message, CreateWebhook)
    assert message == CreateWebhook(
        project.no, message.by, URL, "pager 🦊", Severity.CRITICAL, (WebhookEvent.RESOLVED,), False
    )
    assert message.by == world.keys[0].key.id


@pytest.mark.parametrize(
    ("fields", "bad"),
    [
        ({"url": None}, {"url": "Expected a string"}),
        ({"url": ""}, {"url": "Must have at least 1 character(s)"}),
        ({"url": "https://a.example/" + "a" * 2048}, {"url": "Must have at most 2048 characters"}),
        ({"url": "http://hooks.acme.example/"}, {"url": "Must begin with https://"}),
        ({"url": "https://10.0.0.1/"}, {"url": "Must not name an address that is reserved or of a private network"}),
        ({"url": "https://localhost/"}, {"url": "Must have a host name that is known publicly"}),
        ({"url": "https://u:p@a.example/"}, {"url": "Must have no user name or password"}),
        ({"description": ""}, {"description": "Must have at least 1 character(s)"}),
        ({"description": None}, {"description": "Expected a string"}),
        ({"description": "d" * 257}, {"description": "Must have at most 256 characters"}),
        ({"min_severity": "urgent"}, {"min_severity": "Must be 'low', 'medium', 'high' or 'critical'"}),
        ({"events": []}, {"events": "Must have at least 1 item(s)"}),
        ({"events": ["alert.resolved"] * 2}, {"events": "Must not repeat an item"}),
        (
            {"events": ["alert.closed"]},
            {"events.0": "Must be 'alert.triggered', 'alert.acknowledged' or 'alert.resolved'"},
        ),
        ({"events": "alert.triggered"}, {"events": "Expected an array"}),
        ({"enabled": 1}, {"enabled": "Expected true or false"}),
        ({"secret": "whsec_mine"}, {"secret": "Unknown field"}),
        ({"enabled": "yes", "colour": "red"}, {"enabled": "Expected true or false", "colour": "Unknown field"}),
    ],
)
async def test_bad_fields_are_named(master: Client, fields: dict[str, Any], bad: dict[str, str]) -> None:
    made = await make(master)
    world_before = (await master.get(f"{PATH}/{made['id']}")).json()

    created = await master.post(PATH, {"url": URL, **fields})
    assert (created.status, created.code, created.details) == (400, "validation_error", bad)

    if fields.get("description", "") is not None:  # null is how a PATCH removes it
        changed = await patch(master, f"{PATH}/{made['id']}", fields)
        assert (changed.status, changed.code, changed.details) == (400, "validation_error", bad)
    assert len((await master.get(PATH)).json()["webhooks"]) == 1
    after = (await master.get(f"{PATH}/{made['id']}")).json()
    assert {**after, "request_id": None} == {**world_before, "request_id": None}


@pytest.mark.parametrize("url", ["http://hooks.acme.example/", "https://10.0.0.1/", "https://u:p@a.example/"])
async def test_a_bad_url_is_named_beside_whatever_else_is_wrong(master: Client, world: World, url: str) -> None:
    made = await make(master)
    sent = {"url": url, "min_severity": "urgent", "colour": "red"}

    for answer in (await master.post(PATH, sent), await patch(master, f"{PATH}/{made['id']}", sent)):
        assert (answer.status, answer.code) == (400, "validation_error")
        assert set(answer.details) == {"url", "min_severity", "colour"}

    assert sum(isinstance(message, CheckUrl) for message in world.asked) == 2
    assert len(world.webhooks.stored) == 1


async def test_a_good_url_is_not_named_beside_what_is_wrong(master: Client) -> None:
    assert set((await master.post(PATH, {"url": URL, "enabled": 1})).details) == {"enabled"}


async def test_the_url_is_required(master: Client) -> None:
    assert (await master.post(PATH, {})).details == {"url": "Required"}


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "https://other.example/x"},
        {"description": "another"},
        {"min_severity": "medium"},
        {"events": ["alert.resolved", "alert.triggered"]},
        {"enabled": False},
        {"url": "https://other.example/x", "enabled": False, "min_severity": "high"},
    ],
)
async def test_any_of_its_fields_is_changed(master: Client, world: World, changes: dict[str, Any]) -> None:
    made = await make(master, description="pager")
    del made["secret"]

    answer = await patch(master, f"{PATH}/{made['id']}", changes)

    message = world.asked[-1]
    assert isinstance(message, UpdateWebhook)
    assert set(message.changed) == set(changes)
    assert answer.status == 200
    assert answer.json() | {"request_id": ""} == made | changes | {"request_id": ""}


async def test_a_description_is_removed_with_null(master: Client) -> None:
    made = await make(master, description="pager")

    answer = await patch(master, f"{PATH}/{made['id']}", {"description": None})

    assert "description" not in answer.json()


async def test_a_change_of_nothing_is_refused(master: Client) -> None:
    made = await make(master)

    assert (await patch(master, f"{PATH}/{made['id']}", {})).code == "validation_error"


async def test_a_webhook_is_deleted(master: Client) -> None:
    made = await make(master)

    answer = await master.delete(f"{PATH}/{made['id']}")

    assert (answer.status, answer.json()["id"], answer.json()["deleted"]) == (200, made["id"], True)
    assert (await master.delete(f"{PATH}/{made['id']}")).code == "not_found"
    assert (await master.get(f"{PATH}/{made['id']}")).code == "not_found"


async def test_one_more_than_twenty_is_a_conflict(master: Client) -> None:
    for _ in range(20):
        await make(master)

    answer = await master.post(PATH, {"url": URL})

    assert (answer.status, answer.code) == (409, "conflict")


async def test_they_are_listed_newest_first_in_pages(master: Client) -> None:
    made = [(await make(master))["id"] for _ in range(5)]
    seen, cursor = [], ""
    while True:
        body = (await master.get(f"{PATH}?limit=2{cursor}")).json()
        seen += [webhook["id"] for webhook in body["webhooks"]]
        if not body["has_more"]:
            break
        cursor = f"&cursor={body['cursor']}"
    assert seen == made[::-1]


async def test_a_secret_is_rotated(master: Client) -> None:
    made = await make(master)

    answer = await master.request("POST", f"{PATH}/{made['id']}/rotate-secret")

    assert answer.status == 200
    assert answer.json()["secret"] != made["secret"]
    assert "secret" not in (await master.get(f"{PATH}/{made['id']}")).json()


# -- deliveries ----------------------------------------------------------------------------------------------------


async def test_a_test_is_a_delivery(master: Client) -> None:
    made = await make(master)

    answer = await master.request("POST", f"{PATH}/{made['id']}/test")

    assert answer.status == 201
    delivery = answer.json()
    assert (delivery["webhook_id"], delivery["alert_id"], delivery["type"], delivery["status"]) == (
        made["id"],
        None,
        "webhook.test",
        "pending",
    )
    (listed,) = (await master.get(f"{PATH}/{made['id']}/deliveries")).json()["deliveries"]
    assert listed == {name: value for name, value in delivery.items() if name != "request_id"}


async def test_a_delivery_shows_its_attempts(master: Client, world: World) -> None:
    made = await make(master)
    attempts = (
        Attempt(1, NOW, None, None, "connection_failed"),
        Attempt(2, NOW + timedelta(seconds=5), 15_000, None, "timeout"),
        Attempt(3, NOW + timedelta(seconds=305), 12, 503, "http_error"),
        Attempt(4, NOW + timedelta(seconds=2105), None, None, None),
    )
    world.webhooks.delivery(
        uuid_of(made), alert_id=UUID(int=9), type="alert.triggered", next_attempt_at=None, attempts=attempts
    )

    (shown,) = (await master.get(f"{PATH}/{made['id']}/deliveries")).json()["deliveries"]

    assert shown["alert_id"] == "alr_00000000000000000000000009"
    assert shown["next_attempt_at"] is None
    assert [tuple(attempt.values()) for attempt in shown["attempts"]] == [
        (1, "2026-11-23T08:00:00.123Z", None, None, "connection_failed"),
        (2, "2026-11-23T08:00:05.123Z", 15_000, None, "timeout"),
        (3, "2026-11-23T08:05:05.123Z", 12, 503, "http_error"),
        (4, "2026-11-23T08:35:05.123Z", None, None, None),
    ]


async def test_deliveries_are_filtered_and_paged(master: Client, world: World) -> None:
    made, other = await make(master), await make(master)
    for number in range(6):
        status = DeliveryStatus.FAILED if number % 2 else DeliveryStatus.DELIVERED
        world.webhooks.delivery(uuid_of(made), status=status)
    target = f"{PATH}/{made['id']}/deliveries"

    first = (await master.get(f"{target}?status=failed&limit=2")).json()
    second = (await master.get(f"{target}?status=failed&limit=2&cursor={first['cursor']}")).json()

    statuses = [one["status"] for body in (first, second) for one in body["deliveries"]]
    assert statuses == ["failed"] * 3
    assert (first["has_more"], second["has_more"]) == (True, False)
    for elsewhere in (
        f"{target}?status=delivered&cursor={first['cursor']}",
        f"{target}?cursor={first['cursor']}",
        f"{PATH}/{other['id']}/deliveries?status=failed&cursor={first['cursor']}",
    ):
        assert list((await master.get(elsewhere)).details) == ["cursor"]
    for query, field in (("status=lost", "status"), ("state=failed", "state"), ("limit=0", "limit")):
        assert list((await master.get(f"{target}?{query}")).details) == [field]


async def test_a_delivery_is_retried(master: Client, world: World) -> None:
    made = await make(master)
    delivery = world.webhooks.delivery(uuid_of(made), status=DeliveryStatus.FAILED, next_attempt_at=None, ended_at=NOW)
    name = id_text(IdKind.DELIVERY, delivery.id.bytes)

    answer = await master.request("POST", f"{PATH}/{made['id']}/deliveries/{name}/retry")

    assert (answer.status, answer.json()["id"], answer.json()["status"]) == (200, name, "pending")
    assert answer.json()["ended_at"] is None


async def test_a_delivery_that_was_cancelled_is_not_retried(master: Client, world: World) -> None:
    made = await make(master)
    delivery = world.webhooks.delivery(uuid_of(made), status=DeliveryStatus.CANCELLED)
    name = id_text(IdKind.DELIVERY, delivery.id.bytes)

    answer = await master.request("POST", f"{PATH}/{made['id']}/deliveries/{name}/retry")

    assert (answer.status, answer.code) == (409, "conflict")


# -- who may not ---------------------------------------------------------------------------------------------------

BY_ID: list[tuple[str, str, object]] = [
    ("GET", "", None),
    ("PATCH", "", {"enabled": False}),
    ("DELETE", "", None),
    ("POST", "/rotate-secret", None),
    ("GET", "/deliveries", None),
    ("POST", "/test", None),
    ("POST", f"/deliveries/{UNKNOWN_DELIVERY}/retry", None),
]


def body_of(json: object) -> bytes | None:
    return None if json is None else orjson.dumps(json)


@pytest.mark.parametrize(("method", "rest", "json"), BY_ID)
@pytest.mark.parametrize("id", [UNKNOWN, UNKNOWN.lower(), "whk_", "dlv_" + UNKNOWN[4:], "a%2Fb"])
async def test_an_unknown_id_is_not_found(master: Client, method: str, rest: str, json: object, id: str) -> None:
    answer = await master.request(method, f"{PATH}/{id}{rest}", body=body_of(json), judge="%" not in id)

    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(("method", "rest", "json"), BY_ID)
async def test_another_organizations_webhook_is_not_found(
    master: Client, world: World, anyone: Client, method: str, rest: str, json: object
) -> None:
    theirs = world.organization()
    world.project(theirs)
    made = await make(anyone.with_key(world.key(theirs)))

    answer = await master.request(method, f"{PATH}/{made['id']}{rest}", body=body_of(json))

    assert (answer.status, answer.code) == (404, "not_found")


async def test_a_project_key_may_do_nothing_of_it(producer: Client, master: Client) -> None:
    made = await make(master)
    of_all: list[tuple[str, str, object]] = [("POST", PATH, {"url": URL}), ("GET", PATH, None)]
    for method, target, json in of_all:
        assert (await producer.request(method, target, body=body_of(json))).code == "forbidden"
    for method, rest, json in BY_ID:
        answer = await producer.request(method, f"{PATH}/{made['id']}{rest}", body=body_of(json))
        assert (answer.status, answer.code) == (403, "forbidden")


async def test_on_the_free_plan_nothing_is_made_or_sent_and_what_is_there_can_be_seen_disabled_and_deleted(
    world: World, anyone: Client
) -> None:
    organization = world.organization(Plan.PRO)
    world.project(organization)
    client = anyone.with_key(world.key(organization))
    made = await make(client)
    target = f"{PATH}/{made['id']}"
    organization.plan = Plan.FREE

    refused: list[tuple[str, str, object]] = [
        ("POST", PATH, {"url": URL}),
        ("PATCH", target, {"enabled": True}),
        ("PATCH", target, {"enabled": False, "min_severity": "low"}),
        ("PATCH", target, {"description": "pager"}),
        *((method, f"{target}{rest}", json) for method, rest, json in BY_ID if method == "POST"),
    ]
    for method, to, json in refused:
        answer = await client.request(method, to, body=body_of(json))
        assert (answer.status, answer.code) == (403, "webhooks_not_available"), (method, to)
    for to in (PATH, target, f"{target}/deliveries"):
        assert (await client.get(to)).status == 200
    disabled = await patch(client, target, {"enabled": False})
    assert (disabled.status, disabled.json()["enabled"]) == (200, False)
    assert (await patch(client, target, {"enabled": True})).code == "webhooks_not_available"
    assert (await client.delete(target)).status == 200


async def test_a_project_of_several_must_be_named(master: Client, world: World, organization: Any) -> None:
    second = world.project(organization, "second")

    assert list((await master.get(PATH)).details) == ["project_id"]
    answer = await master.post(f"{PATH}?project_id={second.id}", {"url": URL})
    assert answer.status == 201
    assert world.webhooks.stored[-1].project_no == second.no
