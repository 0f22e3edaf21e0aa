"""Exports of the real service: any number of events in the same memory, and none lost or repeated when one breaks.

``--export-events N`` exports more than the 200,000 events that the suite gives it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import orjson
import psutil
import psycopg
import pytest

from logstitch.http.export import MOST_OF_READER
from logstitch.ids import event_id_text
from tests.support.postgres import Databases
from tests.support.service import Keys, Service, initialize, running_service, wait_until
from tests.support.stored import AT, an_event, store

EXPORT = "/api/v1/events/export"
BATCH = 10_000
MEBIBYTE = 1024 * 1024
GROWTH = 30 * MEBIBYTE
"""What an export may add to the memory of the service, however many events it has."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(frozen=True)
class Deployment:
    """A database with one project's events in it, ``count`` of them and those that tell of the project's settings."""

    url: str
    keys: Keys
    count: int

    @contextmanager
    def served(self) -> Iterator[Service]:
        with running_service(database_url=self.url, keys=self.keys) as service:
            yield service

    def ids(self, order: str = "DESC") -> list[str]:
        """The ids of all events, in the order of the list."""
        with psycopg.connect(self.url) as conn:
            rows = conn.execute(f"SELECT id FROM events ORDER BY occurred_at {order}, id {order}")
            return [event_id_text(id.bytes) for (id,) in rows]


@pytest.fixture(scope="module")
def deployment(databases: Databases, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    count = int(request.config.getoption("--export-events"))
    with databases.database() as url:
        keys = initialize(url)
        for first in range(0, count, BATCH):
            given = [(AT + n * 7, an_event_like_others(n)) for n in range(first, min(first + BATCH, count))]
            with psycopg.connect(url) as conn:
                store(conn, 1, given, spelled=spell)
        yield Deployment(url, keys, count)


def an_event_like_others(n: int) -> dict[str, Any]:
    """Of some 700 bytes."""
    return an_event(
        tenant_id=("acme", "umbrella")[n % 4 == 0],
        actor={"id": f"usr_{n % 1000}", "type": "user", "name": "Ada Lovelace", "email": "ada@example.com"},
        context={"ip_address": "203.0.113.42", "user_agent": "Mozilla/5.0 (X11; Linux x86_64) " + "x" * 60},
        metadata={"n": n, "note": "=1+1 and some more words, as they are in such notes " * 3},
        received_at="2026-11-23T08:00:00.123Z",
        content_hash=f"{n:064x}",
    )


def spell(id: UUID) -> str:
    return event_id_text(id.bytes)


@dataclass
class Download:
    """The lines of an export that were received whole, and whether it came to its end."""

    ids: list[str] = field(default_factory=list)
    whole: bool = False
    size: int = 0
    _rest: bytes = b""

    def run(
        self, client: httpx.Client, query: str = "", *, at: int = 0, then: Callable[[], object] = lambda: None
    ) -> Download:
        """Receive it; when ``at`` events are here, do something ``then``."""
        done = False
        try:
            with client.stream("GET", f"{EXPORT}?{query}") as answer:
                assert answer.status_code == 200, answer.read()
                for piece in answer.iter_raw():
                    self._take(piece)
                    if at and len(self.ids) >= at and not done:
                        done = True
                        then()
            self.whole = True
        except (httpx.RemoteProtocolError, httpx.ReadError):
            pass
        return self

    def _take(self, piece: bytes) -> None:
        self.size += len(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        self.ids += [orjson.loads(line)["id"] for line in lines]


@contextmanager
def peak_memory(service: Service) -> Iterator[list[int]]:
    """Afterwards, by how many bytes the service's memory has grown at most."""
    process, grown, over = psutil.Process(service.process.pid), [0], threading.Event()
    before = process.memory_info().rss

    def look() -> None:
        while not over.wait(0.02):
            grown[0] = max(grown[0], process.memory_info().rss - before)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield grown
    finally:
        over.set()
        thread.join()


def metric(service: Service, line: str) -> float:
    with service.ops() as ops:
        found = [row for row in ops.get("/metrics").text.splitlines() if row.startswith(line)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


def test_any_number_of_events_is_exported_in_the_same_memory(deployment: Deployment) -> None:
    with deployment.served() as service, service.client() as client:
        for form in ("ndjson", "csv"):  # what is imported or compiled for the first time is no growth
            client.get(f"{EXPORT}?format={form}&limit=2000")

        with peak_memory(service) as grown:
            began = time.perf_counter()
            download = Download().run(client)
            seconds = time.perf_counter() - began
        with peak_memory(service) as grown_by_table:
            began = time.perf_counter()
            lines = 0
            with client.stream("GET", f"{EXPORT}?format=csv&order=asc") as answer:
                for piece in answer.iter_raw():
                    lines += piece.count(b"\n")
            seconds_of_table = time.perf_counter() - began

    print(
        f"ndjson: {deployment.count / seconds:,.0f} events/s, {download.size / seconds / MEBIBYTE:.0f} MiB/s, "
        f"+{grown[0] / MEBIBYTE:.1f} MiB; csv: {deployment.count / seconds_of_table:,.0f} events/s, "
        f"+{grown_by_table[0] / MEBIBYTE:.1f} MiB"
    )
    assert download.whole
    assert download.ids == deployment.ids()
    assert lines == len(download.ids) + 1
    assert max(grown[0], grown_by_table[0]) < GROWTH


def test_readers_that_are_slow_hold_nobody_up(deployment: Deployment) -> None:
    with deployment.served() as service, service.client() as slow, service.client(service.master_key) as quick:
        quick.get(f"{EXPORT}?limit=2000")
        with peak_memory(service) as grown:
            streams = [slow.stream("GET", EXPORT) for _ in range(MOST_OF_READER)]
            pieces = [stream.__enter__().iter_raw() for stream in streams]
            for piece in pieces:
                next(piece)  # and no more of it

            took = []
            for _ in range(20):
                began = time.perf_counter()
                assert quick.get("/api/v1/events?limit=100").is_success
                took.append(time.perf_counter() - began)
            download = Download().run(quick, "limit=20000")
            assert slow.get(EXPORT).status_code == 429
        for stream in streams:
            stream.__exit__(None, None, None)
        wait_until(lambda: metric(service, 'logstitch_http_answers_cut_total{reason="client_left"}') == MOST_OF_READER)
        assert slow.get(f"{EXPORT}?limit=1").is_success

    print(
        f"lists beside {MOST_OF_READER} slow exports: {max(took) * 1000:.0f} ms at most; +{grown[0] / MEBIBYTE:.1f} MiB"
    )
    assert (download.whole, len(download.ids)) == (True, 20_000)
    assert max(took) < 1
    assert grown[0] < GROWTH


@pytest.mark.parametrize("order", ["desc", "asc"])
def test_what_a_kill_breaks_is_gone_on_with_and_all_of_it_is_the_list(deployment: Deployment, order: str) -> None:
    ids: list[str] = []
    kills, more = 0, True
    while more:
        query = f"order={order}" + (f"&cursor={ids[-1]}" if ids else "")
        with deployment.served() as service, service.client() as client:
            at = deployment.count // 4 if kills < 3 else 0
            download = Download().run(client, query, at=at, then=service.kill)
        kills += not download.whole
        more = not download.whole
        ids += download.ids

    assert kills == 3
    assert ids == deployment.ids(order)


def test_a_shutdown_ends_it_visibly_and_in_time(deployment: Deployment) -> None:
    with deployment.served() as service, service.client() as client:
        download = Download().run(client, at=2000, then=service.process.terminate)
        assert service.process.wait(30) == 0
        log = service.log_text()
    with deployment.served() as service, service.client() as client:
        rest = Download().run(client, f"cursor={download.ids[-1]}")

    assert not download.whole
    assert '"cut":"unavailable"' in log
    assert "request_failed" not in log
    assert download.ids + rest.ids == deployment.ids()


def test_a_viewer_exports_its_tenants_events_and_no_others(deployment: Deployment) -> None:
    with deployment.served() as service, service.client() as client, service.client(service.master_key) as master:
        master.post("/api/v1/tiers", json={"name": "t", "hidden_fields": ["metadata.note", "context"]})
        minted = client.post("/api/v1/viewer-tokens", json={"tenant_id": "umbrella", "tier": "t"}).json()
        with service.client(minted["token"]) as viewer:
            events = [orjson.loads(line) for line in viewer.get(f"{EXPORT}?limit=3000").content.splitlines()]
            listed = viewer.get("/api/v1/events?limit=100").json()["events"]

    assert events[:100] == listed
    assert len(events) == 3000
    assert {event["tenant_id"] for event in events} == {"umbrella"}
    assert not [event for event in events if "context" in event or "note" in event["metadata"]]
