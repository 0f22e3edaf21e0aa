"""Bodies under their bounds: type, size, time, and the memory of all of them together."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import orjson
import pytest
import trio
from trio.testing import MockClock

from logstitch import metrics
from logstitch.actors.messages.events import SubmitEvents
from logstitch.actors.messages.keys import Authenticate, KeyType
from logstitch.actors.messages.projects import Project
from logstitch.errors import ActorDown, DatabaseUnavailable, Draining, MailboxFull, Unavailable
from logstitch.http import examples, intake
from logstitch.http.api import App, create_app
from logstitch.http.bodies import Budget
from logstitch.http.pipeline import BELIEVED_SECONDS
from logstitch.http.services import Limits
from logstitch.model import MAX_BODY_BYTES
from tests.support.client import Client, Documented, NoAnswer
from tests.support.errors import ErrorLogs
from tests.support.world import Organization, Stage, World

EVENT = orjson.dumps(examples.SMALL_EVENT_IN)


def padded(size: int) -> bytes:
    """One good event in exactly ``size`` bytes."""
    return EVENT[:-1] + b" " * (size - len(EVENT)) + b"}"


@pytest.fixture
def tight(producer: Client, stage: Stage, documented: Documented) -> Client:
    """A client of an app with a small budget."""
    app = create_app(stage.services(Limits(bytes_in_flight=1000, bytes_in_flight_of_key=1000)))
    return Client(app, producer.key, documented=documented)


# -- type ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json ;  charset=Utf-8 ",
    ],
)
async def test_json_in_utf8_is_taken(content_type: str, producer: Client) -> None:
    answer = await producer.request("POST", "/api/v1/events", body=EVENT, headers={"content-type": content_type})

    assert answer.status == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": None},
        {"content-type": ""},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json; charset=utf-16"},
        {"content-type": "application/jsonp"},
        {"content-type": "application/json, application/json"},
        {"content-encoding": "gzip"},
        {"content-encoding": "identity, gzip"},
        {"content-encoding": "br"},
    ],
)
async def test_anything_else_is_not(headers: dict[str, str | None], producer: Client, world: World) -> None:
    answer = await producer.request("POST", "/api/v1/events", body=EVENT, headers=headers)

    assert (answer.status, answer.code) == (415, "unsupported_media_type")
    assert world.events == []


# -- size ----------------------------------------------------------------------------------------------------------


async def test_the_largest_body_is_taken_and_one_byte_more_is_not(producer: Client) -> None:
    assert (await producer.request("POST", "/api/v1/events", body=padded(MAX_BODY_BYTES))).status == 201

    answer = await producer.request("POST", "/api/v1/events", body=padded(MAX_BODY_BYTES + 1))

    assert (answer.status, answer.code) == (413, "payload_too_large")


async def test_a_length_that_is_too_large_is_refused_before_anything_is_read(producer: Client) -> None:
    read = False

    async def body() -> AsyncGenerator[bytes, None]:
        nonlocal read
        read = True
        yield EVENT

    answer = await producer.request(
        "POST",
        "/api/v1/events",
        body=body(),
        headers={"content-length": str(MAX_BODY_BYTES + 1), "transfer-encoding": None},
    )

    assert answer.status == 413
    assert not read


@pytest.mark.parametrize("length", ["x", "-1", "+5", "1_0", "5, 5", "٥".encode().decode("latin-1"), "9" * 40])
async def test_a_length_that_is_no_number(length: str, producer: Client) -> None:
    answer = await producer.request("POST", "/api/v1/events", body=EVENT, headers={"content-length": length})

    assert (answer.status, answer.code) == (400, "validation_error")


async def test_an_endless_chunked_body_is_cut_off_when_it_is_too_large(producer: Client, app: App) -> None:
    sent = 0

    async def endless() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        while True:
            sent += 65536
            yield b" " * 65536

    answer = await producer.request("POST", "/api/v1/events", body=endless())

    assert answer.status == 413
    assert sent <= MAX_BODY_BYTES + 65536
    assert app.pipeline.body_bytes_held == 0


async def test_a_body_in_many_chunks_is_one_body(producer: Client) -> None:
    assert (
        await producer.request("POST", "/api/v1/events", body=[EVENT[n : n + 1] for n in range(len(EVENT))])
    ).status == 201


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/api/v1/events"), ("DELETE", "/api/v1/keys/x"), ("GET", "/docs")]
)
async def test_a_body_where_none_is_taken_is_refused(method: str, target: str, producer: Client) -> None:
    for body in (b"{}", [b"{}"]):
        answer = await producer.request(method, target, body=body)
        assert (answer.status, answer.code) == (400, "validation_error")


async def test_an_announced_empty_body_is_none(producer: Client) -> None:
    assert (await producer.request("GET", "/api/v1/events", body=b"")).status == 200


async def test_post_without_a_body(producer: Client) -> None:
    answer = await producer.request("POST", "/api/v1/events", body=b"")

    assert (answer.status, answer.code) == (400, "validation_error")
    assert "empty" in answer.json()["error"]["message"]


# -- memory --------------------------------------------------------------------------------------------------------


async def test_bodies_share_a_budget_of_memory(tight: Client, world: World) -> None:
    arrived, go_on = trio.Event(), trio.Event()

    async def hold(message: object) -> None:
        if isinstance(message, SubmitEvents) and not arrived.is_set():
            arrived.set()
            await go_on.wait()

    world.interrupt(hold)
    held: list[int] = []

    async def first() -> None:
        held.append((await tight.request("POST", "/api/v1/events", body=padded(800))).status)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await arrived.wait()
        refused = await tight.request("POST", "/api/v1/events", body=padded(300))
        small = await tight.request("POST", "/api/v1/events", body=padded(200))
        go_on.set()

    assert (refused.status, refused.code) == (503, "unavailable")
    assert int(refused.headers["retry-after"]) >= 1
    assert (small.status, held) == (201, [201])
    assert (await tight.request("POST", "/api/v1/events", body=padded(1000))).status == 201
    assert metrics.BODY_BYTES_IN_FLIGHT._value.get() == 0


def test_one_keys_bodies_leave_room_for_those_of_others() -> None:
    budget = Budget(1000, 250)
    budget.take(200, "greedy")
    with pytest.raises(Unavailable):
        budget.take(100, "greedy")
    budget.take(250, "other")
    budget.give_back(200, "greedy")
    budget.take(250, "greedy")
    assert budget.held == 500


def test_the_bodies_of_a_part_leave_room_in_the_whole() -> None:
    whole = Budget(1000, 1000)
    part = Budget(500, 400, whole)
    part.take(400, "here")
    with pytest.raises(Unavailable):
        part.take(200, "there")
    whole.take(600, "a key")
    with pytest.raises(Unavailable):
        part.take(50, "there")
    assert (part.held, whole.held) == (400, 1000)

    part.give_back(400, "here")

    assert (part.held, whole.held) == (0, 600)


async def test_what_is_announced_takes_nothing_until_it_arrives(tight: Client) -> None:
    async def nothing_yet() -> AsyncGenerator[bytes, None]:
        assert (await tight.request("POST", "/api/v1/events", body=padded(900))).status == 201
        yield EVENT

    answer = await tight.request(
        "POST", "/api/v1/events", body=nothing_yet(), headers={"content-length": "900", "transfer-encoding": None}
    )

    assert answer.status == 201


@pytest.mark.parametrize("ending", ["refused", "left", "good"])
async def test_every_ending_gives_the_memory_back(ending: str, producer: Client, app: App) -> None:
    async def leaving() -> AsyncGenerator[bytes, None]:
        yield EVENT[:20]
        assert app.pipeline.body_bytes_held == 20
        raise ConnectionError

    if ending == "left":
        with pytest.raises(NoAnswer):
            await producer.request("POST", "/api/v1/events", body=leaving())
    else:
        await producer.request("POST", "/api/v1/events", body=EVENT if ending == "good" else b"{")

    assert app.pipeline.body_bytes_held == 0


async def test_a_client_that_leaves_is_not_answered_and_nothing_is_stored(
    master: Client, project: Project, world: World
) -> None:
    async def leaving() -> AsyncGenerator[bytes, None]:
        yield EVENT
        raise ConnectionError

    with pytest.raises(NoAnswer):
        await master.request("POST", "/api/v1/events", body=leaving())
    with pytest.raises(NoAnswer):
        await master.request("POST", "/api/v1/keys", body=leaving())

    assert world.events == []


# -- turns of the loop -----------------------------------------------------------------------------------------------


async def test_while_a_big_body_is_checked_others_are_answered(
    producer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, answered = threading.Event(), threading.Event()
    others_were_answered: list[bool] = []
    read = intake._read

    def slow(body: bytes, now_ms: int) -> Any:
        began.set()
        others_were_answered.append(answered.wait(5))
        return read(body, now_ms)

    monkeypatch.setattr(intake, "_read", slow)

    async def send() -> None:
        big = padded(Limits().thread_bytes)
        assert (await producer.request("POST", "/api/v1/events", body=big)).status == 201

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while not began.is_set():
            await trio.lowlevel.checkpoint()
        assert (await producer.get("/api/v1/events")).status == 200
        answered.set()

    assert others_were_answered == [True]


async def test_small_bodies_do_not_pay_for_a_thread(producer: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []
    read = intake._read

    def note(body: bytes, now_ms: int) -> Any:
        threads.append(threading.get_ident())
        return read(body, now_ms)

    monkeypatch.setattr(intake, "_read", note)

    assert (await producer.request("POST", "/api/v1/events", body=padded(Limits().thread_bytes - 1))).status == 201
    assert threads == [threading.get_ident()]


# -- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/api/v1/events", "/api/v1/projects"])
async def test_a_body_that_does_not_arrive(
    target: str, master: Client, project: Project, autojump_clock: MockClock
) -> None:
    async def drip() -> AsyncGenerator[bytes, None]:
        while True:
            yield b" "
            await trio.sleep(1)

    began = trio.current_time()
    answer = await master.request("POST", target, body=drip())

    assert (answer.status, answer.code) == (408, "request_timeout")
    assert trio.current_time() - began == pytest.approx(10)


async def test_the_time_of_the_body_is_not_the_handlers(
    producer: Client, world: World, autojump_clock: MockClock
) -> None:
    async def slow() -> AsyncGenerator[bytes, None]:
        await trio.sleep(9)
        yield EVENT

    async def eight_seconds(message: object) -> None:
        if isinstance(message, SubmitEvents):
            await trio.sleep(8)

    world.interrupt(eight_seconds)

    assert (await producer.request("POST", "/api/v1/events", body=slow())).status == 201


async def test_a_key_that_is_revoked_while_its_body_arrives_is_refused(
    producer: Client, master: Client, world: World, autojump_clock: MockClock
) -> None:
    (mine,) = [stored.key for stored in world.keys if stored.key.type is KeyType.PROJECT]

    async def slow() -> AsyncGenerator[bytes, None]:
        yield EVENT[:-1]
        assert (await master.delete(f"/api/v1/keys/{mine.id}")).status == 200
        await trio.sleep(BELIEVED_SECONDS * 2)
        yield EVENT[-1:]

    answer = await producer.request("POST", "/api/v1/events", body=slow())

    assert (answer.status, answer.code) == (401, "key_revoked")
    assert world.events == []


async def test_a_body_that_comes_at_once_costs_one_look_at_its_key(producer: Client, world: World) -> None:
    await producer.request("POST", "/api/v1/events", body=EVENT)

    assert [type(message) for message in world.asked] == [Authenticate, SubmitEvents]


@pytest.mark.parametrize("target", ["/api/v1/events", "/api/v1/keys"])
async def test_an_answer_comes_within_ten_seconds_whatever_hangs(
    target: str, producer: Client, world: World, autojump_clock: MockClock
) -> None:
    async def hang(message: object) -> None:
        await trio.sleep_forever()

    world.interrupt(hang)
    began = trio.current_time()

    answer = await producer.get(target)

    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "1")
    assert trio.current_time() - began == pytest.approx(10)


async def test_the_ten_seconds_are_for_all_steps_together(
    producer: Client, world: World, autojump_clock: MockClock
) -> None:
    async def six_seconds(message: object) -> None:
        await trio.sleep(6)

    world.interrupt(six_seconds)
    began = trio.current_time()

    answer = await producer.post("/api/v1/events", examples.SMALL_EVENT_IN)

    assert answer.status == 503
    assert trio.current_time() - began == pytest.approx(10)


async def test_a_handler_that_waits_for_something_else_is_ended_too(
    producer: Client, app: App, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stuck(call: object, body: bytes) -> Any:
        await trio.sleep_forever()

    (create,) = (endpoint for endpoint in app.endpoints if endpoint.name == "events.create")
    monkeypatch.setattr(app, "_direct", {("POST", "/api/v1/events"): replace(create, handler=stuck)})

    answer = await producer.post("/api/v1/events", examples.SMALL_EVENT_IN)

    assert (answer.status, answer.code) == (503, "unavailable")


# -- what actors refuse --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        MailboxFull("As much is waiting as may wait."),
        ActorDown("ingest/1 failed."),
        Draining("Shutting down.", retry_after=2),
        DatabaseUnavailable("The database is away.", retry_after=3),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_pressure_is_always_503_with_retry_after(error: Exception, producer: Client, world: World) -> None:
    async def refuse(message: object) -> None:
        if not isinstance(message, Authenticate):
            raise error

    world.interrupt(refuse)

    for answer in (
        await producer.post("/api/v1/events", examples.SMALL_EVENT_IN),
        await producer.get("/api/v1/events"),
        await producer.get("/api/v1/keys"),
    ):
        assert (answer.status, answer.code) == (503, "unavailable")
        assert answer.headers["retry-after"] == str(getattr(error, "retry_after", None))


async def test_what_nobody_thought_of_is_500_without_its_text(
    producer: Client, world: World, error_logs: ErrorLogs, organization: Organization
) -> None:
    error_logs.expect("request_failed")

    async def break_down(message: object) -> None:
        if not isinstance(message, Authenticate):
            raise RuntimeError("SELECT secret FROM keys -- 4111 1111 1111 1111")

    world.interrupt(break_down)

    for answer in (
        await producer.post("/api/v1/events", examples.SMALL_EVENT_IN),
        await producer.get("/api/v1/events"),
    ):
        assert (answer.status, answer.code) == (500, "internal_error")
        assert b"SELECT" not in answer.body
