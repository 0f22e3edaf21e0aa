"""The blocking and the asynchronous client do the same: on threads, on asyncio and on Trio."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import pytest

from logstitch.client import (
    AsyncClient,
    Client,
    ClientClosed,
    Dropped,
    InvalidRequest,
    NoAnswer,
    QueueOptions,
    Retries,
    ServerError,
    UnsentEvents,
)
from logstitch.client.transport import Body, TooMuch
from logstitch.client.wire import MAX_ANSWER_BYTES
from tests.support.playing import REQUEST_ID, an_event

QUICK = Retries(tries=2, seconds=10, first_pause=0.001, longest_pause=0.001)


class Service:
    """Answers requests; ``script`` first, then as a service does that stores everything."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.requests: list[httpx.Request] = []
        self.asked = threading.Event()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        self.asked.set()
        scripted = self.script.pop(0) if self.script else None
        if isinstance(scripted, Exception):
            raise scripted
        if scripted is not None:
            return httpx.Response(scripted[0], json=scripted[1])
        if request.method == "GET":
            page = {"events": [{"id": "evt_2"}], "cursor": None, "has_more": False, "request_id": REQUEST_ID}
            return httpx.Response(200, json=page)
        ids = [f"evt_{event['actor']['id']}" for event in self.events_of(request)]
        return httpx.Response(201, json={"ids": ids, "redacted_count": 0, "request_id": REQUEST_ID})

    @staticmethod
    def events_of(request: httpx.Request) -> list[dict[str, Any]]:
        body = json.loads(request.content)
        return body if isinstance(body, list) else [body]

    def actors(self) -> list[list[str]]:
        return [[event["actor"]["id"] for event in self.events_of(request)] for request in self.requests]


class Awaited:
    """A blocking client, to be used like the other one."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name in ("events", "streams", "viewer_tokens"):
            return Awaited(found)
        if name in ("enqueue", "queue_statistics", "claim_url"):
            return found
        if name in ("list", "pages"):

            async def iterate(*arguments: Any, **more: Any) -> AsyncIterator[Any]:
                for item in found(*arguments, **more):
                    yield item

            return iterate

        async def call(*arguments: Any, **more: Any) -> Any:
            return found(*arguments, **more)

        return call


Open = Callable[..., Any]
SHELLS = ["threads", "asyncio", "trio"]


def play(shell: str, scenario: Callable[[Open], Awaitable[None]]) -> None:
    """Run a scenario with a function that opens clients of this kind."""

    @asynccontextmanager
    async def open_client(service: Service, key: str | None = "pk_1", **options: Any) -> AsyncIterator[Any]:
        transport = httpx.MockTransport(service)
        options = {"retries": QUICK, **options}
        if shell == "threads":
            with Client("http://audit.test", key, transport=transport, **options) as client:
                yield Awaited(client)
        else:
            async with AsyncClient("http://audit.test", key, transport=transport, **options) as other:
                yield other

    anyio.run(scenario, open_client, backend="asyncio" if shell == "asyncio" else "trio")
    gc.collect()  # what was not closed complains here


def unavailable() -> tuple[int, dict[str, Any]]:
    return 503, {"error": {"code": "unavailable", "message": "No."}, "request_id": REQUEST_ID}


def bad(*fields: str) -> tuple[int, dict[str, Any]]:
    details = [{"field": field, "message": "Required"} for field in fields]
    return 400, {"error": {"code": "validation_error", "message": "No.", "details": details}}


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_an_event_is_sent_and_repeated_under_its_key(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service(httpx.ConnectError("refused"), unavailable())
        async with open_client(service, project_id="p1") as client:
            assert (await client.log(an_event(7))).ids == ("evt_u7",)
            assert (await client.log_batch([an_event(1), an_event(2)])).ids == ("evt_u1", "evt_u2")
        assert service.actors() == [["u7"], ["u7"], ["u7"], ["u1", "u2"]]
        first, second, third, _ = service.requests
        assert first.content == second.content == third.content
        assert first.headers["authorization"] == "Bearer pk_1"
        assert first.headers["x-project-id"] == "p1"

    play(shell, scenario)


def test_errors_are_those_of_the_core(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service(bad("actor.id"), *[unavailable()] * 3, *[httpx.ReadTimeout("slow")] * 3)
        async with open_client(service) as client:
            with pytest.raises(InvalidRequest, match=r"actor\.id: Required"):
                await client.log(an_event())
            with pytest.raises(ServerError):
                await client.log(an_event())
            with pytest.raises(NoAnswer, match="3 attempts"):
                await client.log(an_event())

    play(shell, scenario)


def test_a_list_is_read_to_its_end(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        page = {"events": [{"id": "evt_1"}], "cursor": "c1", "has_more": True, "request_id": REQUEST_ID}
        service = Service((200, page), None, (200, {"id": "evt_1", "request_id": REQUEST_ID}))
        async with open_client(service) as client:
            found = [event["id"] async for event in client.events.list(tenant_id="acme", page_size=1)]
            assert await client.events.get("evt_1") == {"id": "evt_1"}
        assert found == ["evt_1", "evt_2"]
        assert [str(request.url.query, "ascii") for request in service.requests[:2]] == [
            "tenant_id=acme&limit=1",
            "tenant_id=acme&limit=1&cursor=c1",
        ]

    play(shell, scenario)


def test_streams_and_viewer_tokens(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        at = "2026-11-23T08:00:00.000Z"
        info = {"status": "active", "event_count": 1, "created_at": at, "last_event_at": at, "expires_at": at}
        claimed = {"project_id": "p1", "events_migrated": 1, "duplicates": 0, "request_id": REQUEST_ID}
        token = {"token": "vt_1", "expires_at": at, "request_id": REQUEST_ID}
        answers = (None, None, (200, {**info, "claimed_at": None, "request_id": REQUEST_ID}), (200, claimed))
        service = Service(*answers, (201, token))
        async with open_client(service) as client:
            assert (await client.streams.log("t", an_event(1))).ids == ("evt_u1",)
            assert (await client.streams.log_batch("t", [an_event(2)])).ids == ("evt_u2",)
            assert (await client.streams.info("t")).status == "active"
            assert (await client.streams.claim("t", project_id="p1")).events_migrated == 1
            assert (await client.viewer_tokens.create("acme", tier="support", expires_in=60)).token == "vt_1"
            assert client.streams.claim_url("t") == "http://audit.test/claim?token=t"
        paths = [request.url.path for request in service.requests]
        assert paths[0] == paths[1] == "/api/v1/streams/t/events"
        assert paths[2:] == ["/api/v1/streams/t/info", "/api/v1/streams/claim", "/api/v1/viewer-tokens"]
        assert ["authorization" in request.headers for request in service.requests] == [False] * 3 + [True] * 2
        assert json.loads(service.requests[4].content) == {"tenant_id": "acme", "tier": "support", "expires_in": 60}

    play(shell, scenario)


def test_the_end_of_the_block_sends_what_is_queued(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service(httpx.ConnectError("refused"), unavailable())
        async with open_client(service, queue=QueueOptions(flush_interval=3600)) as client:
            assert all([client.enqueue(an_event(n)) for n in range(3)])
        assert service.actors() == [["u0", "u1", "u2"]] * 3
        assert client.queue_statistics().sent == 3

    play(shell, scenario)


def test_a_full_batch_does_not_wait_for_the_end(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service()
        async with open_client(service, queue=QueueOptions(flush_interval=3600, flush_at=2)) as client:
            client.enqueue(an_event(0))
            client.enqueue(an_event(1))
            with anyio.fail_after(10):
                while not service.requests:
                    await anyio.lowlevel.checkpoint()

    play(shell, scenario)


def test_a_flush_returns_when_what_was_queued_is_answered_for(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service(bad("1.action"))
        drops: list[Dropped] = []
        async with open_client(service, queue=QueueOptions(flush_interval=3600), on_drop=drops.append) as client:
            for n in range(3):
                client.enqueue(an_event(n))
            with anyio.fail_after(10):
                assert await client.flush()
            assert service.actors() == [["u0", "u1", "u2"], ["u0", "u2"]]
            assert [drop.reason for drop in drops] == ["refused"]
            assert await client.flush()

    play(shell, scenario)


def test_a_flush_that_takes_too_long_says_so(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service(httpx.ConnectError("refused"))
        async with open_client(service, queue=QueueOptions(flush_interval=3600)) as client:
            client.enqueue(an_event())
            assert not await client.flush(timeout=0.01)
        assert client.queue_statistics().sent == 1

    play(shell, scenario)


def test_what_is_left_at_the_end_is_an_error(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service(*[httpx.ConnectError("refused")] * 1000)
        drops: list[Dropped] = []
        with pytest.raises(UnsentEvents) as unsent:
            async with open_client(service, queue=QueueOptions(close_timeout=0.05), on_drop=drops.append) as client:
                client.enqueue(an_event(1))
        assert [event["actor"]["id"] for event in unsent.value.events] == ["u1"]
        assert unsent.value.events[0]["idempotency_key"]
        assert [drop.reason for drop in drops] == ["left"]

    play(shell, scenario)


def test_the_blocks_own_error_comes_first_and_alone(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        async def failing(service: Service) -> None:
            async with open_client(service, queue=QueueOptions(close_timeout=0.05)) as client:
                client.enqueue(an_event(1))
                raise LookupError("mine")

        with pytest.raises(LookupError) as failed:
            await failing(Service(*[httpx.ConnectError("refused")] * 1000))
        assert failed.value.__notes__ == ["logstitch: 1 queued events were left unsent"]
        service = Service()
        with pytest.raises(LookupError):
            await failing(service)
        assert service.actors() == [["u1"]]

    play(shell, scenario)


def test_a_full_queue_says_so_to_the_caller_too(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        service = Service()
        drops: list[Dropped] = []
        options = QueueOptions(max_queue=2, flush_interval=3600)
        async with open_client(service, queue=options, on_drop=drops.append) as client:
            assert [client.enqueue(an_event(n)) for n in range(4)] == [True, True, False, False]
            assert client.queue_statistics().dropped_full == 2
        assert [drop.reason for drop in drops] == ["full", "full"]
        assert service.actors() == [["u0", "u1"]]

    play(shell, scenario)


def test_a_closed_client_says_so(shell: str) -> None:
    async def scenario(open_client: Open) -> None:
        async with open_client(Service()) as client:
            pass
        with pytest.raises(ClientClosed):
            client.enqueue(an_event())
        with pytest.raises(ClientClosed):
            await client.log(an_event())

    play(shell, scenario)


# -- asynchronous only


class Silent(httpx.AsyncBaseTransport):
    """A service that takes requests and never answers."""

    def __init__(self) -> None:
        self.asked = anyio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_cancelled_block_still_sends_what_is_queued(backend: str) -> None:
    async def scenario() -> None:
        service = Service(httpx.ConnectError("refused"))
        transport = httpx.MockTransport(service)
        with anyio.CancelScope() as scope:
            async with AsyncClient("http://audit.test", transport=transport) as client:
                client.enqueue(an_event(1))
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert service.actors() == [["u1"]] * 2

    anyio.run(scenario, backend=backend)


def test_a_task_that_asyncio_cancels_still_sends_what_is_queued() -> None:
    async def scenario() -> None:
        service = Service(httpx.ConnectError("refused"))
        queued = asyncio.Event()

        async def task() -> None:
            async with AsyncClient("http://audit.test", transport=httpx.MockTransport(service)) as client:
                client.enqueue(an_event(1))
                queued.set()
                await asyncio.Event().wait()

        running = asyncio.create_task(task())
        await queued.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert service.actors() == [["u1"]] * 2

    asyncio.run(scenario())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_service_that_never_answers_does_not_hold_up_the_end(backend: str) -> None:
    async def scenario() -> None:
        silent = Silent()

        async def block() -> None:
            options = QueueOptions(close_timeout=0.05, flush_at=1)
            async with AsyncClient("http://audit.test", transport=silent, queue=options) as client:
                client.enqueue(an_event(1))
                await silent.asked.wait()  # the request is on its way, with 15 s to take

        with anyio.fail_after(10), pytest.raises(UnsentEvents):
            await block()

    anyio.run(scenario, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_call_takes_no_longer_than_it_may(backend: str) -> None:
    async def scenario() -> None:
        retries = Retries(tries=5, seconds=0.05)
        async with AsyncClient("http://audit.test", transport=Silent(), retries=retries) as client:
            with anyio.fail_after(10), pytest.raises(NoAnswer, match="TimeoutError"):
                await client.log(an_event())

    anyio.run(scenario, backend=backend)


async def test_an_async_client_is_used_within_its_block() -> None:
    client = AsyncClient("http://audit.test", transport=httpx.MockTransport(Service()))
    with pytest.raises(ClientClosed):
        client.enqueue(an_event())
    async with client:
        pass
    with pytest.raises(ClientClosed):
        await client.__aenter__()


# -- blocking only


def test_many_threads_fill_one_queue() -> None:
    service = Service()
    with Client("http://audit.test", transport=httpx.MockTransport(service)) as client:

        def fill(first: int) -> None:
            for n in range(first, first + 200):
                client.enqueue(an_event(n))

        threads = [threading.Thread(target=fill, args=(first,)) for first in range(0, 1000, 200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    sent = [int(actor[1:]) for actors in service.actors() for actor in actors]
    assert sorted(sent) == list(range(1000))
    for first in range(0, 1000, 200):  # each thread's own are in its order
        own = [n for n in sent if first <= n < first + 200]
        assert own == sorted(own)
    assert not [thread for thread in threading.enumerate() if thread.name == "logstitch-client"]


def test_a_request_that_hangs_does_not_hold_up_the_end_and_closes_behind_itself() -> None:
    hangs, go_on, closed = threading.Event(), threading.Event(), threading.Event()

    class Hanging(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            hangs.set()
            go_on.wait(30)
            raise httpx.ReadTimeout("slow")

        def close(self) -> None:
            closed.set()

    client = Client("http://audit.test", transport=Hanging(), queue=QueueOptions(close_timeout=0.05, flush_at=1))
    client.enqueue(an_event())
    assert hangs.wait(10)
    with pytest.raises(UnsentEvents):
        client.close()
    assert not closed.is_set()
    go_on.set()
    assert closed.wait(10)
    client.close()  # again, and nothing happens


def test_a_callback_may_close_the_client() -> None:
    service = Service(bad("0.action"))
    done = threading.Event()

    def stop(dropped: Dropped) -> None:
        client.close()
        done.set()

    client = Client("http://audit.test", transport=httpx.MockTransport(service), on_drop=stop)
    client.enqueue(an_event())
    client.flush(timeout=10)
    assert done.wait(10)


PROGRAM = """
import json, os, sys, threading
import httpx
from logstitch.client import Client, QueueOptions

def answer(request):
    events = json.loads(request.content)
    print(os.getpid() == parent, [event["actor"]["id"] for event in events], flush=True)
    return httpx.Response(201, json={"ids": ["e"] * len(events), "redacted_count": 0, "request_id": "r"})

parent = os.getpid()
transport = httpx.MockTransport(answer)
client = Client("http://audit.test", transport=transport, queue=QueueOptions(flush_interval=3600))
event = {"action": "a.b", "category": "auth", "actor": {"id": "u", "type": "user"}, "tenant_id": "t"}
def named(name):
    return {**event, "actor": {"id": name, "type": "user"}}
"""


def printed(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program], capture_output=True, text=True, timeout=60, check=True
    )
    return sorted(done.stdout.splitlines())


def test_a_program_that_just_ends_sends_what_is_queued() -> None:
    assert printed("client.enqueue(named('u1'))\n") == ["True ['u1']"]
    assert printed("client.enqueue(named('u1'))\nsys.exit(0)\n") == ["True ['u1']"]


def test_a_fork_leaves_the_queue_to_the_parent_and_has_one_of_its_own() -> None:
    program = """
client.enqueue(named('before'))
with client._lock:  # as another thread might hold it just then
    child = os.fork()
client.enqueue(named('child' if child == 0 else 'parent'))
if child:
    os.waitpid(child, 0)
"""
    assert printed(program) == ["False ['child']", "True ['before', 'parent']"]


# -- what may be read


def test_an_answer_is_read_up_to_a_size_and_a_moment() -> None:
    now = 0.0
    body = Body(lambda: now, 5.0)
    body.add(b"x" * MAX_ANSWER_BYTES)
    with pytest.raises(TooMuch, match="large"):
        body.add(b"x")
    body = Body(lambda: now, 5.0)
    body.add(b"a")
    now = 5.1
    with pytest.raises(TooMuch, match="slow"):
        body.add(b"b")
