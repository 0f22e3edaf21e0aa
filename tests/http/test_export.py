"""Export: what the list has, in one answer; who may not have it, does not; and what breaks can be told and gone on."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from logstitch import metrics
from logstitch.actors.mailbox import Ask
from logstitch.actors.messages.events import EventPage, GetEvent, ListEvents
from logstitch.actors.messages.pages import Position
from logstitch.actors.messages.projects import Project
from logstitch.errors import DatabaseUnavailable, RateLimited, Unavailable
from logstitch.http import examples, export, pipeline
from logstitch.http.api import App, create_app
from logstitch.http.csvlines import COLUMNS, csv_line
from logstitch.http.export import MOST_OF_READER, Places, Turns
from tests.support.client import Answer, Client
from tests.support.errors import ErrorLogs
from tests.support.world import NOW_MS, Organization, Stage, World

EVENTS = "/api/v1/events"
EXPORT = "/api/v1/events/export"
DAY = "2026-11-0{}T08:00:00Z"


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of three events, so that ten of them are some pages."""
    monkeypatch.setattr(export, "PAGE_EVENTS", 3)


async def send(producer: Client, **changes: Any) -> str:
    """The id of a new event of acme's."""
    answer = await producer.post(EVENTS, {**examples.SMALL_EVENT_IN, **changes})
    assert answer.status == 201, answer.body
    id: str = answer.json()["ids"][0]
    return id


async def send_ten(producer: Client) -> list[str]:
    """The ids of ten events, two of them of each moment, newest first."""
    ids = [await send(producer, occurred_at=DAY.format(1 + n // 2), metadata={"n": n}) for n in range(10)]
    return ids[::-1]


async def exported(client: Client, query: str = "") -> list[str]:
    """The ids of an export that came to its end."""
    answer = await client.get(f"{EXPORT}?{query}")
    assert answer.status == 200, answer.body
    assert answer.whole
    return ids_of(answer)


def ids_of(answer: Answer) -> list[str]:
    """Of the events that were received whole."""
    return [orjson.loads(line)["id"] for line in answer.body.splitlines()]


async def listed(client: Client, query: str = "") -> list[dict[str, Any]]:
    """All events of the list, page by page."""
    events: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = (await client.get(f"{EVENTS}?limit=2&{query}{cursor}")).json()
        events += page["events"]
        if not page["has_more"]:
            return events
        cursor = f"&cursor={page['cursor']}"


def cuts(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("logstitch_http_answers_cut_total", {"reason": reason}) or 0


# -- what is in it -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "order=asc", "start_date=2026-11-02&end_date=2026-11-04", "search=login"])
async def test_it_is_the_list_on_one_line_each(query: str, producer: Client) -> None:
    await send_ten(producer)

    answer = await producer.get(f"{EXPORT}?{query}")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/x-ndjson")
    assert answer.body.endswith(b"\n")
    assert list(map(orjson.loads, answer.body.splitlines())) == await listed(producer, query)


async def test_as_a_table_it_is_the_same(producer: Client) -> None:
    await send_ten(producer)

    answer = await producer.get(f"{EXPORT}?format=csv")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8; header=present"
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline=""), strict=True))
    assert tuple(rows[0]) == COLUMNS
    body = b"".join(csv_line(orjson.dumps(event).decode()) for event in await listed(producer))
    assert answer.body == (",".join(COLUMNS) + "\r\n").encode() + body


async def test_of_nothing_it_is_empty_and_whole(producer: Client) -> None:
    assert await exported(producer) == []
    answer = await producer.get(f"{EXPORT}?format=csv")
    assert (answer.whole, answer.body.count(b"\r\n")) == (True, 1)


async def test_a_long_event_is_written_like_the_others(producer: Client) -> None:
    await send(producer, changes=[{"field": "text", "before": "=" * 300_000}])

    answer = await producer.get(f"{EXPORT}?format=csv")

    few = csv.field_size_limit(1_000_000)
    (row,) = csv.DictReader(io.StringIO(answer.body.decode(), newline=""))
    csv.field_size_limit(few)
    assert orjson.loads(row["changes"]) == [{"field": "text", "before": "=" * 300_000}]


async def test_pieces_are_about_as_long_as_they_should_be(producer: Client, app: App) -> None:
    for _ in range(3):
        await send(producer, changes=[{"field": "text", "before": "x" * 40_000}])
    sizes = []

    async def sized(message: Any) -> None:
        if message["type"] == "http.response.body":
            sizes.append(len(message["body"]))

    await app(scope_of(producer, EXPORT), forever, sized)

    assert [size // 40_000 for size in sizes] == [2, 1, 0]


@pytest.mark.parametrize("limit", [1, 3, 4, 9, 10, 11])
async def test_a_limit_is_kept_and_the_rest_may_be_had(limit: int, producer: Client) -> None:
    ids = await send_ten(producer)

    first = await exported(producer, f"limit={limit}")

    assert first == ids[:limit]
    assert await exported(producer, f"cursor={first[-1]}") == ids[limit:]


async def test_a_page_without_events_is_gone_on_after(producer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await send_ten(producer)
    answer, halts = World.answer, itertools.cycle([True, False])

    def halting(world: World, message: object) -> Any:
        """Every second page is found empty, as that of a search may be whose time is up."""
        if isinstance(message, ListEvents) and next(halts):
            return EventPage((), message.after or Position(NOW_MS, UUID(int=0)))
        return answer(world, message)

    monkeypatch.setattr(World, "answer", halting)

    assert await exported(producer) == ids
    assert await exported(producer, "limit=5") == ids[:5]


async def test_it_is_a_file_named_after_the_project_and_the_time(producer: Client, project: Project) -> None:
    for form in ("ndjson", "csv"):
        answer = await producer.get(f"{EXPORT}?format={form}")
        name = f"events-{project.id}-20261123T080000Z.{form}"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        assert answer.headers["cache-control"] == "no-store"


async def test_to_head_it_has_the_same_headers(producer: Client) -> None:
    await send_ten(producer)

    got, head = await producer.get(EXPORT), await producer.request("HEAD", EXPORT)

    assert (head.status, head.body, head.whole) == (200, b"", True)
    assert sorted(head.headers) == sorted(got.headers)


async def test_no_event_that_was_there_is_skipped_or_repeated_while_others_arrive(
    producer: Client, world: World
) -> None:
    ids = await send_ten(producer)
    asked = 0

    async def hook(message: Ask[Any]) -> None:
        nonlocal asked
        if isinstance(message, ListEvents) and (asked := asked + 1) <= 4:
            await send(producer, occurred_at=DAY.format(9))

    world.interrupt(hook)
    found = await exported(producer)

    assert [id for id in found if id in ids] == ids
    assert len(found) == len(set(found))


# -- going on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_it_goes_on_after_any_event(order: str, producer: Client) -> None:
    await send_ten(producer)
    ids = await exported(producer, f"order={order}")

    for n, id in enumerate(ids):
        assert await exported(producer, f"order={order}&cursor={id}") == ids[n + 1 :]


async def test_it_goes_on_after_a_page_of_the_list(producer: Client) -> None:
    ids = await send_ten(producer)
    page = (await producer.get(f"{EVENTS}?limit=4&category=auth")).json()

    assert await exported(producer, f"category=auth&cursor={page['cursor']}") == ids[4:]
    other = await producer.get(f"{EXPORT}?category=admin&cursor={page['cursor']}")
    assert (other.status, list(other.details)) == (400, ["cursor"])


async def test_an_event_that_is_not_of_this_export_is_no_cursor_and_all_are_refused_alike(
    producer: Client, master: Client, world: World, organization: Organization, project: Project, anyone: Client
) -> None:
    own = await send(producer, occurred_at=DAY.format(5))
    other = anyone.with_key(world.key(organization, world.project(organization, "other")))
    foreign = await send(other)
    secret = await send(producer, category="security", metadata={"word": "hush"})
    master = master.with_key(master.key, x_project_id=str(project.id))
    viewer = await viewer_of(master, producer, categories=["auth"], hidden_fields=["metadata"])
    elsewhere = await send(producer, tenant_id="umbrella")

    refused = [
        await producer.get(f"{EXPORT}?cursor={foreign}"),
        await producer.get(f"{EXPORT}?cursor=evt_01KARHK7T0C8Q2M4V6X9Z1B3D7"),
        await producer.get(f"{EXPORT}?cursor=evt_x"),
        await producer.get(f"{EXPORT}?cursor={secret}&category=auth"),
        await producer.get(f"{EXPORT}?cursor={own}&start_date=2026-11-06"),
        await producer.get(f"{EXPORT}?cursor={own}&end_date=2026-11-04"),
        await viewer.get(f"{EXPORT}?cursor={secret}"),
        await viewer.get(f"{EXPORT}?cursor={elsewhere}"),
        await viewer.get(f"{EXPORT}?cursor={foreign}"),
        await viewer.get(f"{EXPORT}?cursor={own}&search=hush"),
    ]

    assert {answer.status for answer in refused} == {400}
    assert len({str(answer.json()["error"]) for answer in refused}) == 1
    assert list(refused[0].details) == ["cursor"]
    assert (await viewer.get(f"{EXPORT}?cursor={own}")).status == 200
    looked_up = [message.view for message in world.asked if isinstance(message, GetEvent)]
    assert sum(view is not None for view in looked_up) == 5


@pytest.mark.parametrize("cursor", ["x", "%00", quote("evt_" + "é" * 26), "a" * 5000])
async def test_what_is_no_cursor(cursor: str, producer: Client) -> None:
    answer = await producer.get(f"{EXPORT}?cursor={cursor}")

    assert (answer.status, answer.code, list(answer.details)) == (400, "validation_error", ["cursor"])


# -- who gets what -------------------------------------------------------------------------------------------------


async def viewer_of(master: Client, producer: Client, **shown: Any) -> Client:
    """A client with a viewer token of acme's, through a tier that shows this."""
    assert (await master.post("/api/v1/tiers", {"name": "support", **shown})).status == 201
    minted = await producer.post("/api/v1/viewer-tokens", {"tenant_id": "acme", "tier": "support"})
    return producer.with_key(minted.json()["token"])


async def test_a_viewer_gets_what_it_is_shown(master: Client, producer: Client, project: Project) -> None:
    await send(producer, tenant_id="umbrella")
    await send(producer, category="admin")
    id = await send(
        producer,
        idempotency_key="k",
        metadata={"salary": 1, "note": "n"},
        actor={"id": "ada", "type": "user", "email": "e"},
    )
    viewer = await viewer_of(
        master, producer, categories=["auth"], actions=["auth.*"], hidden_fields=["metadata.salary", "actor.email"]
    )

    (event,) = map(orjson.loads, (await viewer.get(f"{EXPORT}?tenant_id=umbrella")).body.splitlines())
    (row,) = csv.DictReader(io.StringIO((await viewer.get(f"{EXPORT}?format=csv")).body.decode(), newline=""))

    assert [event] == await listed(viewer)
    assert event["id"] == row["id"] == id
    assert event["metadata"] == orjson.loads(row["metadata"]) == {"note": "n"}
    assert (row["actor_id"], row["actor_email"], row["idempotency_key"], row["redactions"]) == ("ada", "", "", "")
    assert "salary" not in str(row)


async def test_what_is_hidden_is_neither_searched_nor_filtered_by(master: Client, producer: Client) -> None:
    await send(producer, metadata={"word": "hush"}, actor={"id": "ada", "type": "user"})
    viewer = await viewer_of(master, producer, hidden_fields=["metadata", "actor.id"])

    assert await exported(viewer, "search=hush") == []
    assert len(await exported(producer, "search=hush")) == 1
    for actor in ("ada", "bob"):
        answer = await viewer.get(f"{EXPORT}?actor_id={actor}")
        assert (answer.status, list(answer.details)) == (400, ["actor_id"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("format=xml", "format"),
        ("format=", "format"),
        ("limit=0", "limit"),
        ("limit=1000001", "limit"),
        ("limit=1_0", "limit"),
        ("start_date=soon", "start_date"),
        ("tenant=acme", "tenant"),
        ("order=up", "order"),
        ("search=!", "search"),
    ],
)
async def test_a_bad_parameter_is_named_and_nothing_is_read(
    query: str, field: str, producer: Client, world: World
) -> None:
    answer = await producer.get(f"{EXPORT}?{query}")

    assert (answer.status, answer.code, list(answer.details)) == (400, "validation_error", [field])
    assert not [message for message in world.asked if isinstance(message, ListEvents)]


async def test_any_origin_may_read_it_and_its_errors(producer: Client) -> None:
    for target in (EXPORT, f"{EXPORT}?format=csv", f"{EXPORT}?x=1"):
        answer = await producer.get(target, Origin="https://app.example")
        assert answer.headers["access-control-allow-origin"] == "*"
    preflight = await producer.with_key(None).request("OPTIONS", EXPORT, headers={"Origin": "https://app.example"})
    assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"


async def test_the_word_is_no_id_and_takes_no_other_method(producer: Client) -> None:
    answer = await producer.post(EXPORT, {})

    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


# -- what goes wrong -----------------------------------------------------------------------------------------------


def fail_at(world: World, number: int, error: Exception) -> None:
    """Have the look-up of a page fail."""
    asked = 0

    async def hook(message: Ask[Any]) -> None:
        nonlocal asked
        if isinstance(message, ListEvents) and (asked := asked + 1) == number:
            raise error

    world.interrupt(hook)


async def test_what_fails_before_anything_was_sent_is_answered_as_ever(producer: Client, world: World) -> None:
    await send_ten(producer)
    fail_at(world, 1, DatabaseUnavailable("away"))

    answer = await producer.get(EXPORT)

    assert (answer.status, answer.code, answer.whole) == (503, "unavailable", True)
    assert answer.headers["retry-after"] == "1"


async def test_what_fails_later_cuts_the_answer_behind_whole_events_and_the_rest_may_be_had(
    producer: Client, world: World
) -> None:
    ids = await send_ten(producer)
    fail_at(world, 3, DatabaseUnavailable("away"))
    before = cuts("unavailable")

    with capture_logs() as logs:
        answer = await producer.get(EXPORT)

    assert (answer.status, answer.whole) == (200, False)
    assert ids_of(answer) == ids[:6]
    assert cuts("unavailable") == before + 1
    assert [(log["event"], log["status"], log["cut"]) for log in logs] == [("request", 200, "unavailable")]
    assert await exported(producer, f"cursor={ids_of(answer)[-1]}") == ids[6:]


async def test_a_defect_is_written_down(producer: Client, world: World, error_logs: ErrorLogs) -> None:
    await send_ten(producer)
    fail_at(world, 2, ZeroDivisionError("of somebody's secret"))
    error_logs.expect("request_failed")

    answer = await producer.get(EXPORT)

    assert (answer.status, answer.whole, len(ids_of(answer))) == (200, False, 3)


async def test_a_shutdown_ends_it_behind_a_page(stage: Stage, world: World, producer: Client) -> None:
    ids = await send_ten(producer)
    draining = False
    client = Client(create_app(replace(stage.services(), draining=lambda: draining)), producer.key)

    async def hook(message: Ask[Any]) -> None:
        nonlocal draining
        draining = draining or (isinstance(message, ListEvents) and message.after is not None)

    world.interrupt(hook)
    answer = await client.get(EXPORT)

    assert (answer.whole, ids_of(answer)) == (False, ids[:6])
    assert await exported(client, f"limit=3&cursor={ids[5]}") == ids[6:9]


@pytest.mark.usefixtures("_ever_in_doubt")
async def test_a_key_that_is_revoked_ends_it(
    producer: Client, world: World, organization: Organization, project: Project
) -> None:
    await send_ten(producer)
    minted = world.make_key(organization, project, "short-lived")

    async def hook(message: Ask[Any]) -> None:
        if isinstance(message, ListEvents) and message.after is not None:
            await producer.delete(f"/api/v1/keys/{minted.key.id}")

    world.interrupt(hook)
    answer = await producer.with_key(minted.secret).get(EXPORT)

    assert (answer.whole, len(ids_of(answer))) == (False, 3)
    assert (await producer.with_key(minted.secret).get(EXPORT)).code == "key_revoked"


@pytest.mark.usefixtures("_ever_in_doubt")
async def test_a_change_of_what_is_shown_ends_it(master: Client, producer: Client, world: World) -> None:
    await send_ten(producer)
    viewer = await viewer_of(master, producer)
    (tier,) = (await master.get("/api/v1/tiers")).json()["tiers"]

    async def hook(message: Ask[Any]) -> None:
        if isinstance(message, ListEvents) and message.after is not None:
            body = orjson.dumps({"hidden_fields": ["metadata"]})
            await master.request("PUT", f"/api/v1/tiers/{tier['id']}", body=body)

    world.interrupt(hook)
    answer = await viewer.get(EXPORT)

    assert (answer.whole, len(ids_of(answer))) == (False, 3)
    assert b"metadata" not in (await viewer.get(f"{EXPORT}?limit=3")).body


@pytest.fixture
def _ever_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every piece's reader looked at again, not only after some time."""
    monkeypatch.setattr(pipeline, "BELIEVED_SECONDS", -1.0)


async def test_a_client_that_leaves_ends_it(producer: Client, world: World, app: App) -> None:
    await send_ten(producer)
    arrived, before = trio.Event(), cuts("client_left")

    async def hook(message: Ask[Any]) -> None:
        if isinstance(message, ListEvents) and message.after is not None:
            arrived.set()
            await trio.sleep_forever()

    async def leaving() -> AsyncGenerator[bytes, None]:
        await arrived.wait()
        if arrived.is_set():
            raise ConnectionError
        yield b""

    world.interrupt(hook)
    answer = await producer.request("GET", EXPORT, body=leaving(), headers={"transfer-encoding": None})

    assert (answer.whole, len(ids_of(answer))) == (False, 3)
    assert cuts("client_left") == before + 1


# -- how many ------------------------------------------------------------------------------------------------------


async def test_one_key_has_a_few_at_a_time_and_keeps_nobody_else_from_it(
    producer: Client, viewer: Client, world: World, organization: Organization, project: Project, monkeypatch: Any
) -> None:
    monkeypatch.setattr(export, "LOOK_UPS", MOST_OF_READER)
    await send_ten(producer)
    app = create_app(world.services())
    client, tenant = Client(app, producer.key), Client(app, viewer.key)
    other = Client(app, world.key(organization, project))
    held, go = trio.Semaphore(0), trio.Event()

    async def hook(message: Ask[Any]) -> None:
        if isinstance(message, ListEvents) and message.after is not None:
            held.release()
            await go.wait()

    world.interrupt(hook)
    async with trio.open_nursery() as nursery:
        for _ in range(MOST_OF_READER):
            nursery.start_soon(client.get, EXPORT)
        for _ in range(MOST_OF_READER):
            await held.acquire()

        refused = await client.get(EXPORT)
        assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "rate_limited", "5")
        assert (await client.get(f"{EVENTS}?limit=1")).status == 200
        go.set()
        assert len(await exported(other)) == len(await exported(tenant)) == 10
    assert len(await exported(client)) == 10


def test_places_are_given_back_whatever_happens() -> None:
    places = Places(most=3, most_of_reader=2)
    with places.taken("a"), places.taken("a"):
        with pytest.raises(RateLimited), places.taken("a"):
            pass
        with pytest.raises(ZeroDivisionError), places.taken("b"):
            raise ZeroDivisionError
        with places.taken("b"), pytest.raises(Unavailable), places.taken("c"):
            pass
    with places.taken("c"), places.taken("c"):
        pass


async def test_an_export_to_head_gives_its_place_back(producer: Client) -> None:
    await send_ten(producer)
    for _ in range(MOST_OF_READER + 1):
        assert (await producer.request("HEAD", EXPORT)).status == 200


async def test_exports_leave_look_ups_to_others(producer: Client, world: World) -> None:
    await send_ten(producer)
    running = most = 0

    async def hook(message: Ask[Any]) -> None:
        nonlocal running, most
        if isinstance(message, ListEvents):
            running += 1
            most = max(most, running)
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            running -= 1

    world.interrupt(hook)
    async with trio.open_nursery() as nursery:
        for _ in range(MOST_OF_READER):
            nursery.start_soon(producer.get, EXPORT)

    assert most == export.LOOK_UPS


async def test_who_has_many_exports_delays_who_has_one_by_its_turn_alone(
    producer: Client, viewer: Client, world: World
) -> None:
    await send_ten(producer)
    looked_up: list[str] = []

    async def hook(message: Ask[Any]) -> None:
        if isinstance(message, ListEvents):
            looked_up.append("key" if message.view is None else "tenant")
            for _ in range(100):
                await trio.lowlevel.checkpoint()

    world.interrupt(hook)
    async with trio.open_nursery() as nursery:
        for _ in range(MOST_OF_READER):
            nursery.start_soon(producer.get, EXPORT)
        nursery.start_soon(viewer.get, EXPORT)

    assert (looked_up.count("key"), looked_up.count("tenant")) == (MOST_OF_READER * 4, 4)
    before = looked_up[: len(looked_up) - looked_up[::-1].index("tenant")]
    assert before.count("key") < 13, looked_up  # 16, if they were served as they come


async def order_of(slots: int, held: list[str], wanted: str) -> str:
    """Who has turns at the last that is given back of ``held``, of those who want one in this order."""
    turns, order = Turns(slots), list[str]()

    async def look_up(reader: str) -> None:
        async with turns.turn(reader):
            order.append(reader)
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery, AsyncExitStack() as holding:
        for reader in held[:-1]:
            await holding.enter_async_context(turns.turn(reader))
        async with turns.turn(held[-1]):
            for reader in wanted:
                nursery.start_soon(look_up, reader)
                await trio.testing.wait_all_tasks_blocked()
            assert order == []
        await trio.testing.wait_all_tasks_blocked()
    return "".join(order)


async def test_readers_take_turns_however_many_each_waits_for() -> None:
    assert await order_of(1, ["a"], "aaabcc") == "abcaca"


async def test_who_has_a_turn_waits_for_who_has_none() -> None:
    assert await order_of(2, ["a", "b"], "aabac") == "bcaaa"


async def test_who_is_alone_has_them_all() -> None:
    with trio.fail_after(1):
        turns = Turns(2)
        async with turns.turn("a"), turns.turn("a"):
            pass


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    turns = Turns(1)
    async with turns.turn("a"):
        with trio.CancelScope() as left:
            left.cancel()
            async with turns.turn("b"):
                raise AssertionError
    with trio.fail_after(1):
        async with turns.turn("c"):
            pass


def scope_of(client: Client, path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {client.key}".encode())],
        "client": None,
    }


async def forever() -> Any:
    await trio.sleep_forever()


async def test_its_documentation_names_every_column(anyone: Client) -> None:
    document = (await anyone.get("/api/v1/openapi.json")).json()
    operation = document["paths"][EXPORT]["get"]

    assert set(COLUMNS) <= set(re.findall(r"`(\w+)`", operation["description"]))
    assert set(operation["responses"]["200"]["content"]) == {"application/x-ndjson", "text/csv"}
