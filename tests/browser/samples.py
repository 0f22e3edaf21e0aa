"""What the browser tests look at: a project with a key, and events as they are sent and as they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.support.browser import Tab
from tests.support.service import Service


@dataclass(frozen=True, slots=True)
class Product:
    """A project of a test's own, with a key of it."""

    service: Service
    id: str
    key: str

    def send(self, *events: dict[str, Any]) -> list[str]:
        """Stores events, and answers with their ids."""
        ids: list[str] = []
        with self.service.client(self.key) as client:
            for at in range(0, len(events), 100):
                answer = client.post("/api/v1/events", json=events[at : at + 100])
                assert answer.status_code == 201, answer.text
                ids += answer.json()["ids"]
        return ids

    def another_key(self) -> tuple[str, str]:
        """The id of a new key, and the key."""
        with self.service.client(self.service.master_key) as client:
            made = client.post("/api/v1/keys", json={"project_id": self.id, "type": "project", "name": "k"}).json()
        return made["id"], made["key"]

    def revoke(self, key_id: str) -> None:
        with self.service.client(self.service.master_key) as client:
            assert client.delete(f"/api/v1/keys/{key_id}").status_code == 200


def event(minutes_ago: float = 0, **fields: Any) -> dict[str, Any]:
    """An event as a producer sends it."""
    return {
        "action": "user.role.updated",
        "category": "admin",
        "actor": {"id": "usr_42", "type": "user", "name": "Ada Lovelace", "email": "ada@example.com"},
        "tenant_id": "acme",
        "target": {"id": "usr_77", "type": "user", "name": "Grace Hopper"},
        "occurred_at": (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat(),
        **fields,
    }


def stored(number: int, **fields: Any) -> dict[str, Any]:
    """An event as the API lists it; a larger number is a newer event."""
    moment = (datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=number)).isoformat(timespec="milliseconds")
    moment = moment.replace("+00:00", "Z")
    return {
        "id": f"evt_01KARHK7T0C8Q2M4V6X9Z{number:05}",
        **event(),
        "occurred_at": moment,
        "received_at": moment,
        "content_hash": "9f" * 32,
        **fields,
    }


def lines(tab: Tab, selector: str) -> Sequence[str]:
    """Texts of what a selector finds, with their white space made plain."""
    return [" ".join(text.split()) for text in tab.texts(selector)]
