"""The README's pictures: the real pages of the real service, with a day of made-up events, in a real browser.

Only the claim page's stream is a stand-in's, since a picture of a real one would have a real token in it.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from logstitch.store.cluster.installation import installed_wheel
from tests.support.browser import PHONE, Tab, missing, running_browser
from tests.support.pages_api import Answer, running_pages_api
from tests.support.postgres import running_server
from tests.support.service import Service, running_service

HERE = Path(__file__).parent
WIDE = (1280, 800)
SECONDS_OF_LOAD = 70
PEOPLE = (
    ("usr_ada", "Ada Lovelace", "ada@northwind.example"),
    ("usr_grace", "Grace Hopper", "grace@northwind.example"),
    ("usr_lin", "Lin Chen", "lin.chen@northwind.example"),
    ("usr_omar", "Omar Haddad", "omar@northwind.example"),
    ("svc_billing", "Billing service", None),
)
LIMITS = {"invoices": "read", "teams": ["support", "finance"], "export": False}
KINDS: tuple[tuple[str, str, tuple[str, str, str] | None, list[dict[str, Any]] | None], ...] = (
    ("auth.login", "auth", None, None),
    ("auth.failed_password", "auth", None, None),
    (
        "user.role.updated",
        "admin",
        ("usr_77", "user", "Katherine Johnson"),
        [
            {"field": "role", "before": "team member", "after": "team admin"},
            {"field": "permissions", "before": LIMITS, "after": {**LIMITS, "invoices": "write", "export": True}},
        ],
    ),
    (
        "invoice.updated",
        "mutation",
        ("inv_2026_1187", "invoice", "Invoice 2026-1187"),
        [{"field": "due_date", "before": "2026-11-30", "after": "2026-12-15"}],
    ),
    ("report.exported", "access", ("rep_31", "report", "Revenue by region"), None),
    ("project.api_key.created", "security", ("key_19", "api_key", "Deploy key"), None),
    ("backup.completed", "system", ("db_main", "database", "Main database"), None),
    ("document.viewed", "access", ("doc_44", "document", "Security policy.pdf"), None),
)


def day(chance: random.Random, count: int = 160) -> Iterator[dict[str, Any]]:
    """Events of a working day, the newest first."""
    moment = datetime.now(UTC)
    for number in range(count):
        moment -= timedelta(seconds=chance.uniform(20, 600))
        id_, name, email = chance.choice(PEOPLE)
        action, category, target, changes = chance.choice(KINDS) if number != 3 else KINDS[2]
        yield {
            "action": action,
            "category": category,
            "actor": {"id": id_, "type": "user" if email else "service", "name": name}
            | ({"email": email} if email else {}),
            "tenant_id": "northwind",
            "occurred_at": moment.isoformat(),
            "context": {"ip_address": f"203.0.113.{chance.randrange(2, 250)}", "user_agent": "Firefox/143.0"},
            "metadata": {"request": {"path": "/settings/members", "ms": chance.randrange(9, 90)}, "ticket": 4711},
            **({"target": dict(zip(("id", "type", "name"), target, strict=True))} if target else {}),
            **({"changes": changes} if changes else {}),
        }


@contextmanager
def busy(service: Service) -> Iterator[None]:
    """Somebody uses the service until the end."""
    stop, chance = threading.Event(), random.Random(7)

    def load() -> None:
        with service.client() as client:
            while not stop.wait(0.05):
                events = [{**event, "tenant_id": "other"} for event in day(chance, chance.randrange(1, 12))]
                client.post("/api/v1/events", json=events)
                client.get("/api/v1/events", params={"tenant_id": "northwind", "limit": 20})

    thread = threading.Thread(target=load)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def take(tab: Tab, name: str) -> None:
    """The page as it is now."""
    tab.run("document.activeElement?.blur()")
    tab.picture(HERE / f"{name}.png")
    print(HERE / f"{name}.png")


def look(tab: Tab, theme: str, size: tuple[int, int] = WIDE) -> None:
    tab.look(theme=theme, size=size)
    tab.cdp("Emulation.setTimezoneOverride", timezoneId="Europe/Berlin")
    tab.cdp("Emulation.setLocaleOverride", locale="en-GB")


def viewer(tab: Tab, service: Service) -> None:
    def show() -> None:
        tab.open(f"{service.url}/viewer")
        tab.type("#token", service.project_key)
        tab.click("button[type=submit]")
        tab.until(lambda: len(tab.all(".row")) >= 20)

    look(tab, "light")
    show()
    take(tab, "viewer-light")
    look(tab, "dark")
    show()
    tab.click(".row:nth-child(4)")
    tab.until_text("dialog h2", "user.role.updated")
    take(tab, "viewer-dark")
    look(tab, "light", PHONE)
    show()
    tab.run("document.querySelector('logstitch-viewer').scrollIntoView()")
    take(tab, "viewer-phone")


def operator(tab: Tab, service: Service, seconds: float) -> None:
    look(tab, "light")
    with busy(service):
        tab.open(f"{service.ops_url}/")
        time.sleep(seconds)
        take(tab, "operator-light")
        look(tab, "dark")
        take(tab, "operator-dark")


def claim(tab: Tab) -> None:
    token, now = "3f0c7e52-9a1b-4c6d-8e2f-7a5b4c3d2e1f", datetime.now(UTC)
    dates = {"created_at": -2.1, "last_event_at": -0.1, "expires_at": 4.9}
    with running_pages_api() as api:
        told = {k: (now + timedelta(days=v)).isoformat(timespec="milliseconds") for k, v in dates.items()}
        told = {k: v.replace("+00:00", "Z") for k, v in told.items()}
        stream = {"status": "active", "event_count": 132, **told, "claimed_at": None, "request_id": "r"}
        api.on(f"GET /api/v1/streams/{token}/info", Answer(200, stream))
        look(tab, "light", (1000, 900))
        tab.open(f"{api.url}/claim?token={token}")
        tab.until_text("#badge", "Active")
        take(tab, "claim-light")
        look(tab, "dark", PHONE)
        take(tab, "claim-phone")


def main(seconds: float = SECONDS_OF_LOAD) -> None:
    if (reason := missing()) is not None:
        sys.exit(reason)
    with (
        running_server(installed_wheel()) as databases,
        databases.database() as url,
        running_service(database_url=url) as service,
        running_browser() as tab,
    ):
        events = list(day(random.Random(4)))
        with service.client() as client:
            for at in range(0, len(events), 100):
                client.post("/api/v1/events", json=events[at : at + 100]).raise_for_status()
        viewer(tab, service)
        claim(tab)
        operator(tab, service, seconds)


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
