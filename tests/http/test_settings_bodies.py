"""Bodies of what is set up, not of events: what no schema takes is refused before it is looked at, so that megabytes of
mistakes hold up nobody."""

from __future__ import annotations

import re
import threading
from uuid import uuid4

import orjson
import pytest

from logstitch import gate
from logstitch.actors.messages.projects import Project
from logstitch.http import endpoints, examples, samples
from logstitch.http.api import create_app
from logstitch.http.schemas.common import MAX_SETTINGS_BYTES
from logstitch.http.services import Limits
from tests.support.client import Client
from tests.support.world import World

OF_EVENTS = {"events.create", "redaction.test", "streams.create"}
OF_SETTINGS = [
    endpoint
    for endpoint in create_app(World().services()).endpoints
    if endpoint.body is not None and endpoint.name not in OF_EVENTS
]


async def send(client: Client, endpoint: endpoints.Endpoint, body: bytes) -> tuple[int, str, int]:
    """What a request about something that is not there is answered: status, code, and how many bad fields."""
    target = re.sub(r"\{\w+\}", str(uuid4()), endpoint.path)
    answer = await client.request(endpoint.method, target, body=body)
    return answer.status, answer.code, len(answer.json()["error"].get("details", ()))


def mistakes(size: int) -> bytes:
    """A JSON object of that many bytes, all of them unknown fields."""
    body = orjson.dumps({f"k{n:07}": 0 for n in range((size - 1) // 13)})
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("endpoint", OF_SETTINGS, ids=lambda endpoint: endpoint.name)
async def test_a_body_that_is_larger_than_any_that_fits_is_not_even_parsed(
    endpoint: endpoints.Endpoint,
    master: Client,
    producer: Client,
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = producer if endpoint.name == "viewer_tokens.create" else master
    assert await send(client, endpoint, mistakes(MAX_SETTINGS_BYTES)) == (400, "validation_error", 100)

    monkeypatch.setattr(gate, "parse", None)

    for size in (MAX_SETTINGS_BYTES + 1, 5 * 1024 * 1024):
        assert await send(client, endpoint, mistakes(size)) == (400, "validation_error", 0)


async def test_what_fits_is_taken_however_it_is_spelled(master: Client, project: Project) -> None:
    paths = [f"metadata.{n:02}" + "\U0001f98a" * 500 for n in range(50)]
    rule = {"name": "\U0001f98a" * 100, "type": "field_redact", "fields": paths}
    body = re.sub(rb"\xf0\x9f\xa6\x8a", rb"\\ud83e\\udd8a", orjson.dumps(rule))
    assert 300_000 < len(body) < MAX_SETTINGS_BYTES

    answer = await master.request("POST", "/api/v1/redaction/rules", body=body)

    assert answer.status == 201, answer.body


K = 1024
LARGE_MISTAKES = {
    "fields of the event": ({"event": {f"k{n}": 0 for n in range(60 * K)}}, 100),
    "fields of a change": ({"event": {"changes": [{f"k{n}": 0 for n in range(60 * K)}]}}, 100),
    "other fields": ({"event": {}, **{f"k{n}": 0 for n in range(60 * K)}}, 0),
    "fields of a rule": ({"event": {}, "rules": [{f"k{n}": 0 for n in range(60 * K)}]}, 0),
}


@pytest.mark.parametrize("mistake", LARGE_MISTAKES)
async def test_what_is_wrong_with_a_large_sample_is_told_by_no_schema(
    mistake: str, master: Client, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample, named = LARGE_MISTAKES[mistake]
    monkeypatch.setattr(samples, "_SCHEMA", None)

    answer = await master.post("/api/v1/redaction/test", sample)

    assert (answer.status, answer.code) == (400, "validation_error")
    assert len(answer.json()["error"].get("details", ())) == named


async def test_a_large_sample_is_read_in_a_thread(
    master: Client, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, loop, threads = samples.read_sample, threading.get_ident(), list[int]()

    def read_and_tell(body: bytes) -> object:
        threads.append(threading.get_ident())
        return read(body)

    monkeypatch.setattr(samples, "read_sample", read_and_tell)
    for size in (1, Limits().thread_bytes):
        answer = await master.post("/api/v1/redaction/test", {"event": {"metadata": {"a": ["x" * size]}}})
        assert answer.status == (200 if size == 1 else 400)  # metadata has 32 KiB at most

    assert threads[0] == loop != threads[1]


async def test_an_event_to_be_tried_may_be_larger(master: Client, project: Project) -> None:
    event = {**examples.SMALL_EVENT_IN, "changes": [{"field": "f", "after": "x" * MAX_SETTINGS_BYTES}]}

    assert (await master.post("/api/v1/redaction/test", {"event": event})).status == 200
