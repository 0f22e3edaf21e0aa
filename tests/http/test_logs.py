"""What is logged: one line a request, and never what a request holds."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import structlog

from logstitch import logs
from logstitch.errors import Conflict
from logstitch.http import examples
from tests.support.client import Client, NoAnswer
from tests.support.errors import ErrorLogs
from tests.support.world import World

CANARY = "4111111111111111"


class Lines(io.BytesIO):
    """What was written."""

    def parsed(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def written(error_logs: ErrorLogs) -> Iterator[Lines]:
    """Everything that is logged during a test, as the service writes it."""
    before = structlog.get_config()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    stream = Lines()
    processors = before["processors"]
    logs.configure(stream=stream)
    # The recorder of errors keeps its place, and loggers that others hold keep their list.
    ours = structlog.get_config()["processors"]
    structlog.configure(processors=[*processors[:1], *ours], cache_logger_on_first_use=False)
    yield stream
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.fixture
def access(written: Lines, monkeypatch: pytest.MonkeyPatch) -> Lines:
    """The same, with the access log in it."""
    monkeypatch.setattr("logstitch.http.api.log", structlog.get_logger())
    monkeypatch.setattr("logstitch.http.errors.log", structlog.get_logger())
    return written


async def test_one_line_a_request(access: Lines, producer: Client, world: World) -> None:
    answer = await producer.get(f"/api/v1/events/x?project_id={world.organizations[0].projects[0].id}")

    (line,) = access.parsed()
    assert line.pop("ms") >= 0
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": answer.headers["x-request-id"],
        "method": "GET",
        "route": "/api/v1/events/{id}",
        "status": 404,
        "project": str(world.organizations[0].projects[0].id),
    }


async def test_a_client_that_left_is_499(access: Lines, producer: Client) -> None:
    async def leaving() -> Any:
        yield b"{"
        raise ConnectionError

    with pytest.raises(NoAnswer):
        await producer.request("POST", "/api/v1/events", body=leaving())

    assert [line["status"] for line in access.parsed()] == [499]


async def test_nothing_of_a_request_is_in_the_log(
    access: Lines, producer: Client, world: World, error_logs: ErrorLogs
) -> None:
    error_logs.expect("request_failed")
    key = producer.key or ""
    await producer.get(f"/api/v1/events/{CANARY}?search={CANARY}")
    await producer.get(f"/{CANARY}")
    await producer.request(CANARY, "/docs", judge=False)
    await producer.post("/api/v1/events", {**examples.SMALL_EVENT_IN, "tenant_id": CANARY})
    await producer.post("/api/v1/events", {**examples.SMALL_EVENT_IN, "category": CANARY})

    async def fail(message: object) -> None:
        raise ValueError(CANARY)

    world.interrupt(fail)
    await producer.get(f"/api/v1/events?actor_id={CANARY}", X_Canary=CANARY)

    text = access.getvalue().decode()
    assert text.count('"event":"request"') == 6
    assert key[7:] not in text
    assert text.count(CANARY) == 0


def test_an_error_is_its_type_and_where_it_came_from(written: Lines) -> None:
    def inner() -> None:
        raise ValueError(CANARY)

    def outer() -> None:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError(CANARY) from error

    try:
        outer()
    except RuntimeError:
        structlog.get_logger().warning("failed", exc_info=True)

    (line,) = written.parsed()
    assert line["error"]["type"] == "RuntimeError"
    assert line["error"]["cause"]["type"] == "ValueError"
    assert line["error"]["frames"][-1].endswith(" outer")
    assert CANARY not in written.getvalue().decode()


def test_our_own_messages_are_written_for_people(written: Lines) -> None:
    structlog.get_logger().warning("failed", exc_info=Conflict("This contradicts what is stored."))

    assert written.parsed()[0]["error"]["message"] == "This contradicts what is stored."


def test_a_group_is_described_by_its_members() -> None:
    described = logs.describe(ExceptionGroup(CANARY, [ValueError(CANARY), KeyError(CANARY)]))

    assert [error["type"] for error in described["errors"]] == ["ValueError", "KeyError"]
    assert CANARY not in str(described)


def test_other_libraries_logs_take_the_same_way_without_their_arguments(written: Lines) -> None:
    logging.getLogger("library.module").warning("could not read %s", CANARY)
    logging.getLogger("library.module").info("not worth a line")

    (line,) = written.parsed()
    assert (line["logger"], line["level"], line["text"]) == ("library.module", "warning", "could not read %s")


def test_what_is_no_json_is_named_by_its_type(written: Lines) -> None:
    structlog.get_logger().warning("odd", value={CANARY}, text=b"x")

    assert written.parsed()[0]["value"] == "set"
    assert CANARY not in written.getvalue().decode()
