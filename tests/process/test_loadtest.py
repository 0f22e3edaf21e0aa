"""The load test against the real service, and against a proxy in front of it that lies, cuts and refuses.

A verdict is worth what it can detect: every way in which a service could fail its callers is played here by the proxy,
and must be told.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import httpx
import orjson
import pytest
import trio

from logstitch.errors import ConfigurationError, Unavailable
from logstitch.ids import UlidMint, event_id_text
from logstitch.loadtest.run import LoadSettings, drive
from tests.support.corpus import CORPUS

MODERATE = 60
"""Seconds within which a short run against a live service ends, with room for a busy machine."""


class Service(Protocol):
    """What these tests need of the ``service`` fixture."""

    @property
    def url(self) -> str: ...
    @property
    def project_key(self) -> str: ...
    @property
    def master_key(self) -> str: ...
    def ops(self) -> httpx.Client: ...


# -- a proxy that meddles


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes

    @property
    def ingest(self) -> bool:
        return self.method == "POST" and self.target == "/api/v1/events"

    @property
    def events(self) -> list[dict[str, object]]:
        sent = orjson.loads(self.body)
        return sent if isinstance(sent, list) else [sent]


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes
    headers: list[tuple[str, str]] = field(default_factory=list)


Forward = Callable[[Request], Awaitable[Reply]]
Meddle = Callable[[Request, Forward], Awaitable[Reply | None]]
"""Answers a request, in the service's place or by forwarding it; ``None`` cuts the connection instead."""


@asynccontextmanager
async def open_proxy(upstream: str, meddle: Meddle) -> AsyncIterator[str]:
    """The URL of a proxy before ``upstream``, through whose ``meddle`` every request goes."""
    transport = httpx.AsyncHTTPTransport(trust_env=False)

    async def forward(request: Request) -> Reply:
        headers = [(name, value) for name, value in request.headers if name not in ("host", "content-length")]
        with trio.fail_after(30):
            response = await transport.handle_async_request(
                httpx.Request(request.method, upstream + request.target, headers=headers, content=request.body)
            )
            body = await response.aread()
            await response.aclose()
        kept = [(k, v) for k, v in response.headers.items() if k not in ("content-length", "transfer-encoding")]
        return Reply(response.status_code, body, kept)

    async def serve(stream: trio.SocketStream) -> None:
        buffer = bytearray()
        while (request := await _receive(stream, buffer)) is not None:
            reply = await meddle(request, forward)
            if reply is None:
                return
            head = "".join(f"{name}: {value}\r\n" for name, value in reply.headers)
            start = f"HTTP/1.1 {reply.status} Meddled\r\n{head}content-length: {len(reply.body)}\r\n\r\n"
            with suppress(trio.BrokenResourceError):  # hung up; the next receive says so
                await stream.send_all(start.encode() + reply.body)

    async with transport, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


async def _receive(stream: trio.SocketStream, buffer: bytearray) -> Request | None:
    """The next request of a well-behaved client; ``None`` when it hung up."""

    async def more() -> bool:
        try:
            data = await stream.receive_some(65536)
        except trio.BrokenResourceError:
            return False
        buffer.extend(data)
        return bool(data)

    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if not await more():
            return None
    first, *lines = buffer[:end].decode("ascii").split("\r\n")
    method, target, _ = first.split(" ")
    headers = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
    size = int(dict(headers).get("content-length", "0"))
    while len(buffer) < end + 4 + size:
        if not await more():
            return None
    body = bytes(buffer[end + 4 : end + 4 + size])
    del buffer[: end + 4 + size]
    return Request(method, target, headers, body)


@dataclass(slots=True)
class Meddling:
    """Does ``trick`` to every third ingest request (counted by its keys' first appearance) and forwards the rest."""

    trick: Meddle
    attempts: Counter[str] = field(default_factory=Counter)
    """How often each batch came, by its first idempotency key."""
    tricked: int = 0
    """Events whose requests were meddled with, each counted once."""

    async def __call__(self, request: Request, forward: Forward) -> Reply | None:
        if not request.ingest:
            return await forward(request)
        batch = str(request.events[0]["idempotency_key"])
        self.attempts[batch] += 1
        chosen = list(self.attempts).index(batch) % 3 == 0
        if not chosen or self.attempts[batch] > 1:
            return await forward(request)
        self.tricked += len(request.events)
        return await self.trick(request, forward)


mint = UlidMint()


def acknowledgement(request: Request) -> Reply:
    """A 201 that looks right in every way."""
    ids = [event_id_text(packed) for packed in mint.mint(len(request.events), 1_700_000_000_000)]
    body = {"ids": ids, "redacted_count": 0, "request_id": "req_01JDC8Z8YQ3V1S7T9W6X4K2M0P"}
    return Reply(201, orjson.dumps(body), [("content-type", "application/json")])


def refusal(status: int, code: str) -> Reply:
    body = {"error": {"code": code, "message": "Meddled."}, "request_id": "req_01JDC8Z8YQ3V1S7T9W6X4K2M0P"}
    return Reply(status, orjson.dumps(body), [("content-type", "application/json")])


async def acknowledge_and_drop(request: Request, forward: Forward) -> Reply | None:
    return acknowledgement(request)


async def forward_and_lie_about_ids(request: Request, forward: Forward) -> Reply | None:
    await forward(request)
    return acknowledgement(request)


async def rename_actors(request: Request, forward: Forward) -> Reply | None:
    events = [{**event, "actor": {"id": "somebody-else", "type": "user"}} for event in request.events]
    return await forward(replace(request, body=orjson.dumps(events)))


async def store_a_second_copy(request: Request, forward: Forward) -> Reply | None:
    unkeyed = [{k: v for k, v in event.items() if k != "idempotency_key"} for event in request.events]
    await forward(replace(request, body=orjson.dumps(unkeyed)))
    return await forward(request)


async def answer_without_ids(request: Request, forward: Forward) -> Reply | None:
    await forward(request)
    return Reply(201, b"{}", [("content-type", "application/json")])


async def forward_and_cut(request: Request, forward: Forward) -> Reply | None:
    await forward(request)
    return None


async def cut(request: Request, forward: Forward) -> Reply | None:
    return None


async def be_busy(request: Request, forward: Forward) -> Reply | None:
    return refusal(503, "unavailable")


async def refuse(request: Request, forward: Forward) -> Reply | None:
    return refusal(429, "daily_event_limit_reached")


async def store_and_refuse(request: Request, forward: Forward) -> Reply | None:
    await forward(request)
    return refusal(400, "validation_error")


# -- runs


def replay(service: Service, **more: object) -> LoadSettings:
    """One run through the corpus of real events: 33 requests."""
    settings = LoadSettings(url=service.url, key=service.project_key, real=CORPUS, clients=4, batch=10, seed=1)
    return replace(settings, **more)  # type: ignore[arg-type]  # each test names fields of the settings


async def test_real_events_come_back_as_they_were_sent(service: Service) -> None:
    """Save the id of an AWS key in a link: see ``tests/pure/test_corpus.py`` for what redaction finds."""
    with trio.fail_after(MODERATE):
        report = await drive(replay(service))

    assert report.exit_code == 0, report.to_json()
    assert (report.tally.sent, report.tally.acked, report.tally.stored) == (329, 329, 329)
    assert (report.tally.lost, report.tally.duplicated, report.tally.unacked) == (0, 0, 0)
    assert (report.tally.compared, report.tally.altered) == (329, 0)
    assert report.errors == {}
    assert report.latency["p50"] is not None
    with service.ops() as ops:
        counted = [
            line for line in ops.get("/metrics").text.splitlines() if line.startswith("logstitch_redactions_total")
        ]
    assert {line.partition("{")[2].partition("}")[0] for line in counted} == {'rule="builtin_aws_key"'}


async def test_single_events_go_through_too(service: Service) -> None:
    with trio.fail_after(MODERATE):
        report = await drive(LoadSettings(url=service.url, key=service.project_key, batch=1, clients=2, duration=0.5))

    assert report.exit_code == 0, report.to_json()
    assert report.tally.acked > 0


async def test_a_master_key_spreads_over_projects_and_makes_each_once(service: Service) -> None:
    settings = LoadSettings(url=service.url, key=service.master_key, projects=2, clients=2, batch=5, duration=0.5)

    with trio.fail_after(MODERATE):
        for _ in range(2):
            report = await drive(settings)
            assert report.exit_code == 0, report.to_json()
            assert report.projects == ["loadtest-1", "loadtest-2"]

    headers = {"authorization": f"Bearer {service.master_key}"}
    async with httpx.AsyncClient(trust_env=False, headers=headers) as client:
        answer = await client.get(f"{service.url}/api/v1/projects", params={"limit": 100})
    names = Counter(project["name"] for project in answer.json()["projects"])
    assert (names["loadtest-1"], names["loadtest-2"]) == (1, 1)


async def test_an_open_loop_accounts_for_every_batch_of_its_schedule(service: Service) -> None:
    settings = LoadSettings(
        url=service.url, key=service.project_key, rate=200.0, batch=10, duration=1.0, clients=4, seed=1
    )

    with trio.fail_after(MODERATE):
        report = await drive(settings)

    assert report.exit_code == 0, report.to_json()
    assert report.tally.sent + report.missed_events == 200


async def test_a_stalled_service_shows_in_the_latency_of_an_open_loop(service: Service) -> None:
    async def stall(request: Request, forward: Forward) -> Reply | None:
        if request.ingest:
            await trio.sleep(0.4)
        return await forward(request)

    async with open_proxy(service.url, stall) as url:
        settings = LoadSettings(url=url, key=service.project_key, rate=100.0, batch=10, duration=2.0, clients=1, seed=1)
        with trio.fail_after(MODERATE):
            report = await drive(settings)

    # One client that waits 0.4 s for each answer sends 5 of 20 batches; the others waited for up to 2 s.
    longest, last_sent = report.latency["max"], report.service["p50"]
    assert longest is not None
    assert last_sent is not None
    assert longest > 1_000 > last_sent
    assert report.missed_events >= 100


async def test_a_single_stall_is_charged_to_every_batch_that_had_to_wait_for_it(service: Service) -> None:
    stalled: list[Request] = []

    async def stall_once(request: Request, forward: Forward) -> Reply | None:
        if request.ingest and not stalled:
            stalled.append(request)
            await trio.sleep(0.8)
        return await forward(request)

    async with open_proxy(service.url, stall_once) as url:
        settings = LoadSettings(url=url, key=service.project_key, rate=100.0, batch=10, duration=1.5, clients=1, seed=1)
        with trio.fail_after(MODERATE):
            report = await drive(settings)

    # One request of 15 was slow; but the six that were due meanwhile came late, and their callers felt it.
    late, quick = report.latency["p90"], report.service["p90"]
    assert late is not None
    assert quick is not None
    assert late > 400 > quick


async def test_through_an_honest_proxy_all_is_well(service: Service) -> None:
    async def honest(request: Request, forward: Forward) -> Reply | None:
        return await forward(request)

    async with open_proxy(service.url, honest) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url))

    assert report.exit_code == 0, report.to_json()
    assert report.tally.stored == 329


# -- a service that breaks its word


@pytest.mark.parametrize(
    ("lie", "count"),
    [
        (acknowledge_and_drop, "lost"),
        (forward_and_lie_about_ids, "lost"),
        (rename_actors, "altered"),
        (store_a_second_copy, "foreign"),
        (store_and_refuse, "refused_stored"),
    ],
)
async def test_a_lying_service_is_caught(service: Service, lie: Meddle, count: str) -> None:
    meddling = Meddling(lie)

    async with open_proxy(service.url, meddling) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url))

    assert report.exit_code == 1
    assert meddling.tricked > 0
    assert getattr(report.tally, count) == meddling.tricked
    assert report.tally.examples.get(count) or count == "refused_stored"


async def test_an_acknowledgement_that_names_no_ids_is_a_failure(service: Service) -> None:
    meddling = Meddling(answer_without_ids)

    async with open_proxy(service.url, meddling) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url))

    assert report.exit_code == 1
    assert report.bad_answers == 11  # every third of 33 batches
    assert report.tally.unacked_stored == meddling.tricked


# -- a service that fails and says so, or a network that does


async def test_a_lost_answer_is_asked_for_again_and_nothing_is_doubled(service: Service) -> None:
    meddling = Meddling(forward_and_cut)

    async with open_proxy(service.url, meddling) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url))

    assert report.exit_code == 0, report.to_json()
    assert report.tally.stored == report.tally.acked == 329
    assert report.replays == meddling.tricked
    assert set(meddling.attempts.values()) == {1, 2}


@pytest.mark.parametrize("trouble", [cut, be_busy])
async def test_trouble_is_overcome_by_another_try(service: Service, trouble: Meddle) -> None:
    async with open_proxy(service.url, Meddling(trouble)) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url))

    assert report.exit_code == 0, report.to_json()
    assert report.tally.acked == 329
    assert sum(report.errors.values()) == 11


async def test_after_three_retries_an_event_is_unacknowledged_and_not_lost(service: Service) -> None:
    attempts = Counter[bytes]()

    async def store_and_stay_silent(request: Request, forward: Forward) -> Reply | None:
        if not request.ingest:
            return await forward(request)
        attempts[request.body] += 1
        if attempts[request.body] == 1 and len(attempts) == 1:
            await forward(request)
        return refusal(503, "unavailable") if len(attempts) <= 2 else await forward(request)

    async with open_proxy(service.url, store_and_stay_silent) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url, clients=1, batch=100))

    assert report.exit_code == 0, report.to_json()
    assert list(attempts.values()) == [4, 4, 1, 1]
    assert (report.tally.acked, report.tally.unacked, report.tally.unacked_stored) == (129, 200, 100)
    assert report.errors == {"503 unavailable": 8}


async def test_a_4xx_is_not_tried_again(service: Service) -> None:
    meddling = Meddling(refuse)

    async with open_proxy(service.url, meddling) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url))

    assert report.exit_code == 0, report.to_json()
    assert set(meddling.attempts.values()) == {1}
    assert report.tally.refused == meddling.tricked
    assert report.errors == {"429 daily_event_limit_reached": 11}
    assert report.complaint == "429 daily_event_limit_reached: Meddled."


async def test_a_4xx_after_a_try_that_may_have_been_stored_is_not_a_refusal(service: Service) -> None:
    attempts = Counter[bytes]()

    async def store_and_then_refuse(request: Request, forward: Forward) -> Reply | None:
        if not request.ingest:
            return await forward(request)
        attempts[request.body] += 1
        if attempts[request.body] > 1:
            return refusal(429, "rate_limited")
        reply = await forward(request)
        return refusal(503, "unavailable") if len(attempts) == 2 else reply

    async with open_proxy(service.url, store_and_then_refuse) as url:
        with trio.fail_after(MODERATE):
            report = await drive(replay(service, url=url, clients=1, batch=100))

    assert report.exit_code == 0, report.to_json()
    assert (report.tally.refused, report.tally.unacked, report.tally.unacked_stored) == (0, 100, 100)
    assert report.errors == {"503 unavailable": 1, "429 rate_limited": 1}


# -- usage


async def test_a_key_that_nobody_knows_is_told_before_anything_is_sent(service: Service) -> None:
    unknown = "pk_" + "0" * (len(service.project_key) - 3)

    with trio.fail_after(MODERATE), pytest.raises(ConfigurationError, match="401"):
        await drive(replay(service, key=unknown))


async def test_a_service_that_is_not_there_is_told() -> None:
    with trio.socket.socket() as reserved:  # bound and not listening: nobody else can take the port
        await reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        with trio.fail_after(MODERATE), pytest.raises(Unavailable, match="ConnectError"):
            await drive(LoadSettings(url=url, key="pk_test"))


# -- the command

COMMAND = """
import json, sys
from logstitch.loadtest.run import LoadSettings, main
sys.exit(main(LoadSettings(**json.loads(sys.stdin.readline()))))
"""


async def run_command(
    settings: dict[str, object], *, stop_with: signal.Signals | None = None
) -> tuple[int, bytes, bytes]:
    """Runs ``main`` in a process of its own; sends ``stop_with`` as soon as it shows that events are acknowledged."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", COMMAND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = bytearray(), bytearray()

    async def read_stdout(stream: trio.abc.ReceiveStream) -> None:
        async for part in stream:
            out.extend(part)

    try:
        with trio.fail_after(MODERATE):
            await process.stdin.send_all(json.dumps(settings).encode() + b"\n")
            async with process.stdin, process.stdout, process.stderr, trio.open_nursery() as nursery:
                nursery.start_soon(read_stdout, process.stdout)
                async for part in process.stderr:
                    err.extend(part)
                    if stop_with is not None and b" acked " in err and b" acked 0 " not in err:
                        process.send_signal(stop_with)
                        stop_with = None
            return await process.wait(), bytes(out), bytes(err)
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_the_sending_and_then_verifies(service: Service, signum: signal.Signals) -> None:
    settings = {"url": service.url, "key": service.project_key, "duration": 600, "rate": 100, "batch": 5, "json": True}

    code, out, err = await run_command(settings, stop_with=signum)

    assert code == 0, err.decode()
    report = json.loads(out)
    assert report["interrupted"] is True
    assert report["ledger"]["acked"] > 0
    assert report["ledger"]["stored"] >= report["ledger"]["acked"]
    assert report["ledger"]["lost"] == 0


async def test_the_table_and_the_exit_code_tell_a_loss(service: Service) -> None:
    async with open_proxy(service.url, Meddling(acknowledge_and_drop)) as url:
        code, out, err = await run_command({"url": url, "key": service.project_key, "duration": 0.5, "clients": 2})

    assert code == 1, err.decode()
    assert "FAILED" in out.decode()
    assert "lost: evt_" in out.decode()


async def test_a_wrong_setting_exits_2_with_its_name() -> None:
    code, out, err = await run_command({"url": "http://127.0.0.1:1", "key": "pk_test", "projects": 3})

    assert code == 2
    assert out == b""
    assert b"--projects needs a master key" in err
