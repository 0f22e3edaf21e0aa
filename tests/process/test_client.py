"""The client library against the real service: sync, asyncio and Trio, also while the service is killed."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import httpx
import pytest

from logstitch.client import (
    AsyncClient,
    Client,
    Conflict,
    Dropped,
    Forbidden,
    Gone,
    InvalidRequest,
    NewEvent,
    NotFound,
    QueueOptions,
    Retries,
    Unauthorized,
    new_stream_token,
    with_key,
)
from tests.support.service import CHECKOUT, Service, environment, running_service

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared(databases: Any) -> Iterator[Service]:
    """One service for the tests that break nothing; each has a tenant of its own."""
    with databases.database() as url, running_service(database_url=url) as running:
        yield running


def needs(service: Service, path: str) -> None:
    """Skip where the service has no such endpoint yet."""
    document = httpx.get(f"{service.url}/api/v1/openapi.json", trust_env=False).json()
    if path not in document["paths"]:
        pytest.skip(f"this service has no {path}")


def an_event(tenant: str, n: int = 1, **more: Any) -> NewEvent:
    """An event of this tenant, told from others by its actor."""
    event: Any = {"action": "user.login", "category": "auth", "actor": {"id": f"u{n}", "type": "user"}}
    result: NewEvent = event | {"tenant_id": tenant, **more}
    return result


def test_events_come_back_as_they_were_sent(shared: Service) -> None:
    with Client(shared.url, shared.project_key) as client:
        at = datetime(2026, 11, 1, 12, tzinfo=UTC)
        sent = an_event("sent", 1, metadata={"größe": [1, 2.5, None, "𝄞"]}, occurred_at=at)
        logged = client.log(sent)
        event = client.events.get(logged.id)
        assert event["metadata"] == {"größe": [1, 2.5, None, "𝄞"]}
        assert event["occurred_at"] == "2026-11-01T12:00:00.000Z"
        assert [found["id"] for found in client.events.list(tenant_id="sent")] == [logged.id]


def test_a_long_list_is_stored_in_order_and_read_by_pages(shared: Service) -> None:
    with Client(shared.url, shared.project_key) as client:
        logged = client.log_batch(an_event("long", n) for n in range(250))
        assert len(set(logged.ids)) == 250
        found = list(client.events.list(tenant_id="long", order="asc", page_size=60))
        assert [event["id"] for event in found] == list(logged.ids)
        pages = client.events.pages(tenant_id="long", order="asc", page_size=60)
        later = client.events.list(tenant_id="long", order="asc", page_size=60, cursor=next(pages).cursor)
        assert [event["id"] for event in later] == list(logged.ids[60:])


def test_filters_arrive(shared: Service) -> None:
    with Client(shared.url, shared.project_key) as client:
        at = datetime(2026, 11, 1, 12, tzinfo=UTC)
        client.log_batch(an_event("filtered", n, occurred_at=at + timedelta(days=n)) for n in range(4))
        by_day = client.events.list(tenant_id="filtered", start_date=at.date(), end_date=at.date() + timedelta(days=1))
        assert [event["occurred_at"][:10] for event in by_day] == ["2026-11-02", "2026-11-01"]
        since = client.events.list(tenant_id="filtered", start_date=at + timedelta(days=3))
        assert len(list(since)) == 1
        by_actor = client.events.list(tenant_id="filtered", actor_id="u2", action="user.*", search="LOG")
        assert len(list(by_actor)) == 1


def test_repeating_a_call_stores_nothing_twice(shared: Service) -> None:
    with Client(shared.url, shared.project_key) as client:
        events = [with_key(an_event("twice", n)) for n in range(150)]
        first, second = client.log_batch(events), client.log_batch(events)
        assert (first.replays, second.replays) == (0, 150)
        assert first.ids == second.ids
        changed = an_event("twice", 99, idempotency_key=events[120]["idempotency_key"])
        with pytest.raises(Conflict) as conflict:
            client.log_batch([*(an_event("other", n) for n in range(100)), changed])
        assert conflict.value.details[0].field.startswith("100.")
        assert len(conflict.value.stored) == 100


def test_refusals_say_what_is_wrong(shared: Service) -> None:
    bad: Any = {"action": "Login", "category": "auth", "actor": {"type": "user"}, "tenant_id": "bad"}
    with Client(shared.url, shared.project_key) as client:
        with pytest.raises(InvalidRequest) as refused:
            client.log_batch([an_event("bad"), bad])
        assert {detail.field for detail in refused.value.details} == {"1.action", "1.actor.id"}
        assert (refused.value.request_id or "").startswith("req_")
        with pytest.raises(NotFound):
            client.events.get("evt_01JDC8Z8YQ3V1S7T9W6X4K2M0P")
        with pytest.raises(InvalidRequest, match="cursor"):
            next(client.events.list(tenant_id="bad", cursor="tampered"))
    with Client(shared.url, "pk_" + "x" * 40) as stranger, pytest.raises(Unauthorized):
        stranger.log(an_event("bad"))
    with Client(shared.url) as nobody, pytest.raises(Unauthorized):
        nobody.log(an_event("bad"))


def test_a_master_key_names_its_project(shared: Service) -> None:
    with Client(shared.url, shared.master_key, project_id=shared.project_id) as client:
        assert client.log(an_event("master")).ids
    with (
        Client(shared.url, shared.master_key, project_id="00000000-0000-4000-8000-000000000000") as client,
        pytest.raises(NotFound),
    ):
        client.log(an_event("master"))


def test_a_bad_event_in_the_queue_takes_no_other_with_it(shared: Service) -> None:
    drops: list[Dropped] = []
    with Client(shared.url, shared.project_key, on_drop=drops.append) as client:
        for n in range(230):
            bad: Any = {"action": "No!"} if n in (5, 150) else {}
            client.enqueue({**an_event("queued", n), **bad})
        assert client.flush(timeout=30)
        assert len(list(client.events.list(tenant_id="queued"))) == 228
    assert [event["actor"]["id"] for drop in drops for event in drop.events] == ["u5", "u150"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_asynchronous_client_on_both_loops(shared: Service, backend: str) -> None:
    async def scenario() -> None:
        tenant = f"async-{backend}"
        async with AsyncClient(shared.url, shared.project_key) as client:
            async with anyio.create_task_group() as tasks:
                for n in range(10):
                    tasks.start_soon(client.log, an_event(tenant, n))
            logged = await client.log_batch(an_event(tenant, n) for n in range(10, 130))
            for n in range(130, 160):
                client.enqueue(an_event(tenant, n))
            assert await client.flush(timeout=30)
            assert len([event async for event in client.events.list(tenant_id=tenant, page_size=50)]) == 160
            assert (await client.events.get(logged.id))["actor"] == {"id": "u10", "type": "user"}
            client.enqueue(an_event(tenant, 160))
        async with AsyncClient(shared.url, shared.project_key) as client:
            assert len([event async for event in client.events.list(tenant_id=tenant)]) == 161

    anyio.run(scenario, backend=backend)


def test_a_viewer_token_reads_its_tenant(shared: Service) -> None:
    needs(shared, "/api/v1/viewer-tokens")
    with Client(shared.url, shared.project_key) as client:
        client.log_batch([an_event("viewed"), an_event("hidden")])
        token = client.viewer_tokens.create("viewed", expires_in=120)
        assert timedelta(0) < token.expires_at - datetime.now(UTC) <= timedelta(seconds=120)
        with pytest.raises(InvalidRequest, match="tier"):
            client.viewer_tokens.create("viewed", tier="no such tier")
    with Client(shared.url, token.token) as viewer:
        assert {event["tenant_id"] for event in viewer.events.list(tenant_id="hidden")} == {"viewed"}
        with pytest.raises(Forbidden):
            viewer.log(an_event("viewed"))


def test_a_stream_is_begun_without_a_key_and_claimed_with_one(shared: Service) -> None:
    needs(shared, "/api/v1/streams/{token}/events")
    token = new_stream_token()
    with Client(shared.url) as anonymous:
        with pytest.raises(NotFound) as unknown:
            anonymous.streams.info(token)
        assert unknown.value.code == "stream_not_found"
        events = [with_key(an_event("streamed", n)) for n in range(3)]
        assert anonymous.streams.log_batch(token, events).ids == anonymous.streams.log_batch(token, events).ids
        anonymous.streams.log(token, an_event("streamed", 3))
        info = anonymous.streams.info(token)
        assert (info.status, info.event_count, info.claimed_at) == ("active", 4, None)
        assert info.expires_at - info.created_at == timedelta(days=7)
    with Client(shared.url, shared.master_key, project_id=shared.project_id) as client:
        claimed = client.streams.claim(token)
        assert (claimed.project_id, claimed.events_migrated, claimed.duplicates) == (shared.project_id, 4, 0)
        assert len(list(client.events.list(tenant_id="streamed"))) == 4
        with pytest.raises(Gone) as gone:
            client.streams.claim(token)
        assert (gone.value.code, gone.value.uncertain) == ("stream_already_claimed", False)
        assert client.streams.info(token).status == "claimed"


def test_a_service_that_is_killed_and_comes_back_gets_every_event_once(database_url: str) -> None:
    drops: list[Dropped] = []
    with running_service(database_url=database_url) as service:
        bind = service.url.removeprefix("http://")
        client = Client(
            service.url,
            service.project_key,
            retries=Retries(first_pause=0.05),
            queue=QueueOptions(flush_at=10, flush_interval=0.01),
            on_drop=drops.append,
        )
        for n in range(100):
            client.enqueue(an_event("killed", n))
        assert client.flush(timeout=30)
        for n in range(100, 300):
            client.enqueue(an_event("killed", n))
        service.kill()
        for n in range(300, 600):
            client.enqueue(an_event("killed", n))
    with running_service(database_url=database_url, keys=service.keys, bind=bind):
        client.close()  # sends the rest
        with Client(service.url, service.project_key) as reader:
            found = [event["actor"] for event in reader.events.list(tenant_id="killed", order="asc")]
    assert sorted(int(actor["id"][1:]) for actor in found if isinstance(actor, dict)) == list(range(600))
    assert drops == []
    assert client.queue_statistics().sent == 600


def run_sample(name: str, service: Service) -> str:
    """What the sample prints."""
    keys = {
        "LOGSTITCH_URL": service.url,
        "PROJECT_KEY": service.project_key,
        "MASTER_KEY": service.master_key,
        "PROJECT_ID": service.project_id,
    }
    done = subprocess.run(
        [sys.executable, "-W", "error", CHECKOUT / "ops/samples" / name],
        env=environment(keys),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_sample_of_a_blocking_program_runs(shared: Service) -> None:
    printed = run_sample("client_sync.py", shared)
    stored = re.search(r"^stored (evt_\w{26})$", printed, re.MULTILINE)
    assert stored is not None
    assert "documents viewed: 250\n" in printed
    assert f"user.role.updated {stored[1]}\n" in printed


def test_the_sample_of_an_asyncio_program_runs(shared: Service) -> None:
    needs(shared, "/api/v1/viewer-tokens")
    assert run_sample("client_asyncio.py", shared).splitlines() == ["stored 120", "seen with the token: 150"]


def test_the_sample_of_a_trio_program_runs(shared: Service) -> None:
    needs(shared, "/api/v1/streams/{token}/events")
    begun, claimed, *events = run_sample("client_trio.py", shared).splitlines()
    assert re.fullmatch(rf"active {re.escape(shared.url)}/claim\?token=[0-9a-f-]{{36}}", begun)
    assert claimed == "claimed 1"
    assert [line.split()[0] for line in events] == ["app.installed", "app.claimed"]
