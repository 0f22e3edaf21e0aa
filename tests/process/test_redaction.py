"""Rules of redaction across processes: from the answer to a change on, no process stores what the rule takes out."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.service import Service, initialize, running_service

RULES = "/api/v1/redaction/rules"
ROUNDS = 60


def event(**fields: Any) -> dict[str, Any]:
    return {
        "action": "user.login",
        "category": "auth",
        "actor": {"id": "u1", "type": "user"},
        "tenant_id": "acme",
        **fields,
    }


@pytest.fixture
def pair(database_url: str) -> Iterator[tuple[Service, Service]]:
    """Two ``serve`` processes on one database."""
    keys = initialize(database_url)
    with (
        running_service(database_url=database_url, keys=keys) as one,
        running_service(database_url=database_url, keys=keys) as other,
    ):
        yield one, other


def test_the_very_next_request_to_the_other_process_is_redacted_by_the_new_rule(pair: tuple[Service, Service]) -> None:
    """Round for round, under traffic to both: change in one process, then send to the other."""
    one, other = pair
    forms = {"replace": "[REDACTED]", "mask": "****5678", "hash": "sha256:"}
    stop = threading.Event()
    errors: list[int] = []

    def keep_busy(service: Service) -> None:
        with service.client() as client:
            while not stop.is_set():
                answer = client.post("/api/v1/events", json=[event(tenant_id="busy")] * 20)
                if answer.status_code != 201:
                    errors.append(answer.status_code)

    with one.client(one.master_key) as first, other.client(other.master_key) as second:
        rule = {"name": "accounts", "type": "pattern", "pattern": "ACCT-[0-9]{8}", "behavior": "hash"}
        made = first.post(RULES, json=rule).json()
        busy = [threading.Thread(target=keep_busy, args=[service]) for service in pair]
        for thread in busy:
            thread.start()
        try:
            expected = []
            for round_ in range(ROUNDS):
                here, there = (first, second) if round_ % 2 else (second, first)
                behavior = ("replace", "mask", "hash")[round_ % 3]
                changed = here.put(f"{RULES}/{made['id']}", json={"behavior": behavior})
                assert changed.status_code == 200, changed.text
                sent = there.post("/api/v1/events", json=event(metadata={"note": "ACCT-12345678"}))
                assert (sent.status_code, sent.json()["redacted_count"]) == (201, 1), sent.text
                expected.append((sent.json()["ids"][0], forms[behavior]))
                listed = there.get(RULES).json()["rules"]
                assert listed[-1]["behavior"] == behavior
        finally:
            stop.set()
            for thread in busy:
                thread.join(30)
        assert errors == []
        for event_id, form in expected:
            stored = first.get(f"/api/v1/events/{event_id}").json()
            assert stored["metadata"]["note"].startswith(form)
            assert stored["redactions"] == [{"field": "metadata.note", "rules": [made["id"]]}]
        told = first.get("/api/v1/events", params={"tenant_id": "$logstitch", "limit": 100}).json()["events"]
        assert len(told) == ROUNDS + 1
    with psycopg.connect(one.database_url) as conn:
        assert conn.execute("SELECT count(*) FROM events WHERE body LIKE '%ACCT-1%'").fetchone() == (0,)


def test_what_is_redacted_reaches_neither_the_tables_nor_the_log(pair: tuple[Service, Service]) -> None:
    one, _ = pair
    secret = "4111111111111111"
    with one.client() as client:
        sent = client.post(
            "/api/v1/events",
            json=event(metadata={secret: [{"deep": f"card {secret}"}]}, changes=[{"field": "n", "after": int(secret)}]),
        )
        assert (sent.status_code, sent.json()["redacted_count"]) == (201, 3)
        assert client.get("/api/v1/events", params={"search": secret}).json()["events"] == []
    with psycopg.connect(one.database_url) as conn:
        assert conn.execute("SELECT count(*) FROM events WHERE events::text LIKE %s", [f"%{secret}%"]).fetchone() == (
            0,
        )
    assert secret not in one.log_text()
    with one.ops() as ops:
        metrics = ops.get("/metrics").text
    assert 'logstitch_redactions_total{rule="builtin_credit_card"} 3.0' in metrics
    assert "logstitch_values_redacted_total 3.0" in metrics
