"""The actor of webhooks, on a real database: what is asked of it is there afterwards, and nothing of it leaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from logstitch.actors.mailbox import Address
from logstitch.actors.messages.pages import Page
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.webhooks import (
    CheckUrl,
    CreateWebhook,
    DeleteWebhook,
    GetWebhook,
    ListDeliveries,
    ListWebhooks,
    RetryDelivery,
    RotateSecret,
    SendTest,
    UpdateWebhook,
)
from logstitch.actors.supervisor import open_supervisor
from logstitch.actors.webhooks import Webhooks
from logstitch.detection.rules import Severity
from logstitch.egress.addresses import Allow
from logstitch.errors import Conflict, InvalidRequest, NotFound
from logstitch.ids import UlidMint
from logstitch.recording.webhooks import Ending, settle
from logstitch.store import webhooks as store
from logstitch.store.database import Connection, Database, open_database
from logstitch.webhooks.payloads import WebhookEvent
from logstitch.webhooks.schedule import DeliveryStatus
from tests.actors.lifecycle import LIFECYCLE, Check, Subject
from tests.support.webhooks import NOW, make_project

ADA = UUID(int=7)
URL = "https://hooks.acme.example/logstitch"


@dataclass
class Bench:
    """The actor, and a project."""

    database: Database
    address: Address
    project: Project

    async def ask(self, message: Any) -> Any:
        return await self.address.ask(message, timeout=10)

    def creation(self, **changes: Any) -> CreateWebhook:
        fields: dict[str, Any] = {
            "project_no": self.project.no,
            "by": ADA,
            "url": URL,
            "description": None,
            "min_severity": Severity.LOW,
            "events": tuple(WebhookEvent),
            "enabled": True,
        }
        return CreateWebhook(**(fields | changes))

    def update(self, id: UUID, **changed: Any) -> UpdateWebhook:
        return UpdateWebhook(self.project.no, ADA, id, changed)

    async def claim(self) -> store.Claim:
        def work(conn: Connection) -> list[store.Claim]:
            return store.claim_deliveries(
                conn, limit=9, each=9, each_project=9, busy={}, lease=timedelta(minutes=1), after=0
            )

        (claim,) = await self.database.transact(work)
        return claim


@asynccontextmanager
async def open_bench(url: str, allow: str = "") -> AsyncIterator[Bench]:
    async with open_database(url) as database, open_supervisor() as supervisor:
        no, id = await database.transact(make_project)
        address = supervisor.start("webhooks", lambda: Webhooks(database, UlidMint(), Allow.parse(allow)), capacity=16)
        yield Bench(database, address, Project(no, id, uuid4(), "p", NOW))


async def test_a_webhook_is_made_changed_and_removed(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        no = bench.project.no
        made = await bench.ask(bench.creation(description="pager"))
        webhook = made.webhook
        assert await bench.ask(GetWebhook(no, webhook.id)) == webhook
        assert (webhook.url, webhook.description, webhook.events) == (URL, "pager", tuple(WebhookEvent))

        changed = await bench.ask(
            bench.update(
                webhook.id,
                url=URL + "2",
                description=None,
                min_severity=Severity.CRITICAL,
                events=(WebhookEvent.RESOLVED,),
                enabled=False,
            )
        )

        assert await bench.ask(GetWebhook(no, webhook.id)) == changed
        assert (changed.url, changed.description, changed.min_severity) == (URL + "2", None, Severity.CRITICAL)
        assert (changed.events, changed.enabled, changed.created_at) == (
            (WebhookEvent.RESOLVED,),
            False,
            webhook.created_at,
        )
        await bench.ask(DeleteWebhook(no, ADA, webhook.id))
        with pytest.raises(NotFound):
            await bench.ask(GetWebhook(no, webhook.id))


async def test_they_are_listed_newest_first_in_pages(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        made = [(await bench.ask(bench.creation())).webhook for _ in range(5)]
        seen: list[Any] = []
        after: Page | None = None
        while True:
            page = await bench.ask(ListWebhooks(bench.project.no, 2, after))
            seen += page.webhooks
            if (after := page.next) is None:
                break
    assert seen == made[::-1]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "https://10.1.2.3/", "https://printer.local/", "ftp://a.example/"]
)
async def test_a_url_that_may_not_be_reached_is_refused_and_nothing_is_stored(database_url: str, url: str) -> None:
    async with open_bench(database_url) as bench:
        made = (await bench.ask(bench.creation())).webhook
        for message in (bench.creation(url=url), bench.update(made.id, url=url)):
            with pytest.raises(InvalidRequest) as refused:
                await bench.ask(message)
            assert [detail.field for detail in refused.value.details] == ["url"]
            assert await bench.ask(CheckUrl(url)) == refused.value.details
        assert (await bench.ask(ListWebhooks(bench.project.no, 10, None))).webhooks == (made,)


async def test_what_the_operator_allows_may_be_reached(database_url: str) -> None:
    async with open_bench(database_url, allow="127.0.0.1, 10.1.0.0/16") as bench:
        for url in ("http://127.0.0.1:8080/x", "https://10.1.2.3/", "https://printer.local/"):
            assert await bench.ask(CheckUrl(url)) == ()
            assert (await bench.ask(bench.creation(url=url))).webhook.url == url


async def test_the_secret_is_in_the_answers_that_show_it_and_nowhere_else(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        made = await bench.ask(bench.creation())
        rotated = await bench.ask(RotateSecret(bench.project.no, ADA, made.webhook.id))
        assert rotated.secret != made.secret
        assert rotated.webhook == made.webhook
        rows = await bench.database.transact(lambda conn: conn.execute("SELECT body FROM events").fetchall())
    told = " ".join(body for (body,) in rows) + repr(made) + repr(rotated)
    for secret in (made.secret, rotated.secret):
        assert secret.removeprefix("whsec_")[:12] not in told
    assert [orjson.loads(body)["action"] for (body,) in rows] == [
        "logstitch.webhook.created",
        "logstitch.webhook.updated",
    ]


async def test_what_is_not_there_is_not_found(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        made = (await bench.ask(bench.creation())).webhook
        stranger = bench.project.no + 1
        unknown = uuid4()
        for message in (
            GetWebhook(stranger, made.id),
            GetWebhook(bench.project.no, unknown),
            bench.update(unknown, enabled=False),
            DeleteWebhook(bench.project.no, ADA, unknown),
            RotateSecret(bench.project.no, ADA, unknown),
            ListDeliveries(bench.project.no, unknown, None, 10, None),
            SendTest(bench.project, unknown),
            RetryDelivery(bench.project.no, made.id, unknown),
            RetryDelivery(bench.project.no, unknown, unknown),
        ):
            with pytest.raises(NotFound):
                await bench.ask(message)


async def test_a_test_from_its_making_to_its_repetition(database_url: str) -> None:
    async with open_bench(database_url) as bench:
        no = bench.project.no
        webhook = (await bench.ask(bench.creation(enabled=False))).webhook

        made = await bench.ask(SendTest(bench.project, webhook.id))
        assert (made.type, made.alert_id, made.attempts) == ("webhook.test", None, ())
        assert made.status is DeliveryStatus.PENDING
        assert made.next_attempt_at is not None

        claim = await bench.claim()
        (under_way,) = (await bench.ask(ListDeliveries(no, webhook.id, None, 10, None))).deliveries
        assert under_way.next_attempt_at is None
        assert [(a.number, a.duration_ms, a.response_status, a.error) for a in under_way.attempts] == [
            (1, None, None, None)
        ]
        with pytest.raises(Conflict):
            await bench.ask(RetryDelivery(no, webhook.id, made.id))

        await bench.database.transact(lambda conn: settle(conn, claim, Ending(500, "http_error", 7), 0.5))
        (failed,) = (await bench.ask(ListDeliveries(no, webhook.id, DeliveryStatus.FAILED, 10, None))).deliveries
        assert failed.ended_at is not None
        assert [(a.number, a.duration_ms, a.response_status, a.error) for a in failed.attempts] == [
            (1, 7, 500, "http_error")
        ]
        again = await bench.ask(RetryDelivery(no, webhook.id, made.id))
        assert (again.id, again.status, again.ended_at) == (made.id, DeliveryStatus.PENDING, None)
        assert (await bench.ask(ListDeliveries(no, webhook.id, DeliveryStatus.FAILED, 10, None))).deliveries == ()


@pytest.mark.parametrize("check", LIFECYCLE)
async def test_lifecycle(check: Check, database_url: str) -> None:
    async with open_bench(database_url) as bench:
        await check(
            Subject(
                factory=lambda: Webhooks(bench.database, UlidMint(), Allow()),
                question=lambda: ListWebhooks(bench.project.no, 1, None),
            )
        )
