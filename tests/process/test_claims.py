"""Claims when something dies: whatever is killed, at whatever statement, a stream is claimed once and whole.

The last test prints how long requests took beside claims (``-s`` shows it). ``--claim-events N`` has streams of so many
events; one that keeps to its quota has 800 at most.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import orjson
import psycopg
import pytest
import trio

from logstitch.actors.messages.streams import StreamClaimed
from logstitch.errors import StreamAlreadyClaimed
from logstitch.recording.claiming import StreamClaim
from logstitch.recording.streams import StreamCommit
from logstitch.store.database import open_database
from logstitch.store.migrations import migrate
from logstitch.store.streams import Totals
from logstitch.streams import StreamStatus
from logstitch.verify import verify
from tests.support.ingest import event
from tests.support.own_server import Server, own_server
from tests.support.service import CHECKOUT, Service, environment, wait_until
from tests.support.statements import Hurt, at_statement, kill_backend
from tests.support.streams import StreamBench, fill, new_token, open_stream_bench

EVENTS = 5


async def a_stream(bench: StreamBench) -> str:
    """A stream of five events, one of which the project has already."""
    token = new_token()
    await bench.submit(token, *[event(idempotency_key=f"{token} {n}") for n in range(EVENTS)])
    await bench.bench.submit(event(idempotency_key=f"{token} 0"))
    return token


async def check_claimed(bench: StreamBench, token: str, streams: int) -> None:
    """The stream is claimed, once, and nothing of it is left; it is the ``streams``-th of the project."""
    assert (await bench.info(token)).status is StreamStatus.CLAIMED
    assert await bench.count("SELECT count(*) FROM stream_events") == 0
    assert await bench.totals() == Totals(0, 0)
    bodies = await bench.bodies(told=True)
    assert sum(body["action"] == "logstitch.stream.claimed" for body in bodies) == streams
    assert sum(body.get("idempotency_key", "").startswith(token) for body in bodies) == EVENTS
    assert await bench.count("SELECT count(*) FROM claims") == streams
    assert await bench.count("SELECT sum(last_seq - first_seq + 1) FROM claims") == streams * (EVENTS - 1)
    with pytest.raises(StreamAlreadyClaimed):
        await bench.claim(token)


async def statements_of_a_claim(bench: StreamBench) -> list[str]:
    """What a claim asks the database to do when nothing happens."""
    token = await a_stream(bench)
    with at_statement(StreamClaim, None, lambda _: None) as seen:
        await bench.claim(token)
    assert seen.texts[-1] == "COMMIT"
    assert seen.texts.count("COPY") == 1  # the event that tells of it goes with the others: the project waits for this
    return seen.texts


async def claim_under_fire(url: str, hurt: Hurt) -> None:
    """Claims that succeed, each once, although every statement of one or another is preceded by what ``hurt`` does; and
    one more, of whose commit nobody hears."""
    async with open_stream_bench(url) as bench:
        texts = await statements_of_a_claim(bench)
        for number in range(len(texts) + 1):
            token = await a_stream(bench)

            with at_statement(StreamClaim, number, hurt) as seen:
                claimed = await bench.claim(token)

            assert (seen.hurt, seen.runs) == (True, 2), f"statement {number}"
            assert claimed == StreamClaimed(EVENTS - 1, 1), f"statement {number}"
            await check_claimed(bench, token, number + 2)
        (finding,) = await verify(bench.database, lambda _: None)
        assert finding.problems == ()


async def test_the_server_ends_the_connection_at_every_statement(database_url: str) -> None:
    await claim_under_fire(database_url, kill_backend)


@pytest.fixture(scope="module")
def hurt_server() -> Iterator[Server]:
    """A server to be killed."""
    with own_server() as server:
        server.start()
        migrate(server.url)
        yield server


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_postgres_is_killed_at_every_statement(hurt_server: Server) -> None:
    def kill_postgres(_: psycopg.Connection[Any]) -> None:
        hurt_server.kill()
        hurt_server.start()

    await claim_under_fire(hurt_server.url, kill_postgres)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_service_is_killed_at_every_statement(database_url: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.claim_killing", database_url],
        env=environment({}),
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    verdict = orjson.loads(done.stdout.splitlines()[-1])
    # Nothing before the commit moves anything; behind it, all is moved.
    assert verdict["whole_before"] == verdict["statements"]
    assert verdict["claimed_before"] == 1
    assert verdict["broken"] == []


async def test_ingest_into_a_stream_is_stored_once_wherever_the_connection_ends(database_url: str) -> None:
    async with open_stream_bench(database_url) as bench:
        with at_statement(StreamCommit, None, lambda _: None) as seen:
            await bench.submit(new_token(), event(), event(idempotency_key="k"))
        texts = seen.texts
        for number in range(len(texts) + 1):
            token = new_token()

            with at_statement(StreamCommit, number, kill_backend) as again:
                accepted = await bench.submit(token, event(), event(idempotency_key="k"))

            assert (again.hurt, again.runs) == (True, 2), f"statement {number}"
            assert (len(accepted.ids), accepted.replays) == (2, 0)
            assert len(await bench.stored(token)) == 2
            assert (await bench.info(token)).event_count == 2
        assert (await bench.totals()).streams == len(texts) + 2


async def test_events_whose_commit_was_not_heard_of_are_found_where_a_claim_has_put_them(database_url: str) -> None:
    async with (
        open_stream_bench(database_url) as bench,
        open_stream_bench(database_url, project_no=bench.project.no) as other,
    ):
        token = new_token()
        with at_statement(StreamCommit, None, lambda _: None) as seen:
            await bench.submit(token, event())

        # The commit is done and not heard of; before the service looks again, somebody claims the stream.
        def claim_it(_: psycopg.Connection[Any]) -> None:
            trio.from_thread.run(other.claim, token)

        with at_statement(StreamCommit, len(seen.texts), claim_it) as again:
            accepted = await bench.submit(token, event())

        assert again.hurt
        bodies = await bench.bodies()
        assert [body["id"] for body in bodies][-1] == accepted.ids[0]
        assert len(bodies) == 2


# -- beside ingest --------------------------------------------------------------------------------------------------

EVERY_SECONDS = 0.02
"""Between two requests of one client."""
QUIET_SECONDS = 4.0


def realistic(n: int) -> dict[str, Any]:
    """An event as they are."""
    return event(
        tenant_id=f"t{n % 20}",
        target={"id": f"doc_{n % 1000}", "type": "document"},
        context={"ip_address": "203.0.113.7", "user_agent": "Mozilla/5.0 (X11; Linux)"},
        metadata={"n": n, "note": "the quick brown fox jumps over the lazy dog", "list": [1, 2, 3]},
    )


@dataclass
class Load:
    """A client of one project that sends single events at a steady pace; what each took, and what was not stored."""

    name: str
    key: str
    took: list[tuple[float, float]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    def run(self, service: Service, stop: threading.Event) -> None:
        due = time.monotonic()
        with service.client(self.key) as client:
            while not stop.is_set():
                began = time.monotonic()
                status = client.post("/api/v1/events", json=realistic(1)).status_code
                self.took.append((began, time.monotonic() - began))
                if status != 201:
                    self.refused.append(status)
                due = max(due + EVERY_SECONDS, time.monotonic())
                stop.wait(due - time.monotonic())

    def between(self, start: float, end: float) -> str:
        """The median and the 99th percentile of requests that began then, in milliseconds."""
        took = sorted(seconds * 1000 for began, seconds in self.took if start <= began < end)
        if not took:
            return "no request"
        return f"{len(took)} requests, p50 {took[len(took) // 2]:.1f} ms, p99 {took[len(took) * 99 // 100]:.1f} ms"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_claims_beside_ingest_lose_nothing_and_leave_it_its_time(
    service: Service, request: pytest.FixtureRequest
) -> None:
    count = int(request.config.getoption("--claim-events"))
    claims = max(1, min(10, 8_000 // count))
    tokens = [new_token() for _ in range(claims)]

    async def make_streams() -> None:
        async with open_database(service.database_url) as database:
            for token in tokens:
                now_ms = int(time.time() * 1000) - count
                await fill(database, token, [realistic(n) for n in range(count)], at_ms=now_ms)

    trio.run(make_streams)
    with service.client(service.master_key) as master:
        other = master.post("/api/v1/projects", json={"name": "another"}).json()["id"]
        made = master.post("/api/v1/keys", json={"project_id": other, "type": "project", "name": "k"}).json()
        loads = [Load("the same project", service.project_key), Load("another project", made["key"])]
        stop = threading.Event()
        threads = [threading.Thread(target=load.run, args=[service, stop]) for load in loads]
        for thread in threads:
            thread.start()
        try:
            time.sleep(QUIET_SECONDS / 2)  # whatever is made at the first requests is made
            quiet = time.monotonic()
            time.sleep(QUIET_SECONDS)
            began = time.monotonic()
            took = []
            for token in tokens:
                since = time.monotonic()
                claim(master, service, token)
                took.append(time.monotonic() - since)
                time.sleep(0.2)
            ended = time.monotonic()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    print(f"\n{claims} claims of {count:,} events: median {sorted(took)[claims // 2]:.2f} s")
    for load in loads:
        print(f"{load.name}: without {load.between(quiet, began)}; beside {load.between(began, ended)}")
        print(f"  refused: {load.refused}")
    with psycopg.connect(service.database_url) as conn:
        rows = conn.execute("SELECT count(*) FROM events GROUP BY project_no ORDER BY project_no").fetchall()
    (claimed_into,), (apart,) = rows
    for load, stored in zip(loads, (claimed_into - claims * (count + 1), apart), strict=True):
        # A 503 does not say whether the event was stored.
        assert len(load.took) - len(load.refused) <= stored <= len(load.took), load.name
        if count <= 800:
            assert set(load.refused) <= {503}, load.name
            assert len(load.refused) <= len(load.took) // 100, load.name


def claim(master: httpx.Client, service: Service, token: str) -> None:
    """Claim the stream; of a huge one the answer may come too late, and then its status tells."""
    answer = master.post("/api/v1/streams/claim", json={"token": token, "project_id": service.project_id})
    if answer.status_code == 503:
        info = f"/api/v1/streams/{token}/info"
        wait_until(lambda: master.get(info).json()["status"] == "claimed", seconds=300)
    else:
        assert answer.status_code == 200, answer.text
