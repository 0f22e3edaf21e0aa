"""What this stack gets wrong by itself: every known trap of Quart, of JSON and of HTTP, each answered as documented."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logstitch.http import examples
from logstitch.http.api import App, starting_app
from tests.support.client import Client, Documented, exchange
from tests.support.errors import ErrorLogs
from tests.support.world import World

EVENT = orjson.dumps(examples.SMALL_EVENT_IN)


def with_metadata(text: bytes) -> bytes:
    """A good event but for its metadata."""
    return EVENT[:-1] + b',"metadata":' + text + b"}"


BAD_JSON = {
    "nothing": b"",
    "a space": b" ",
    "half": EVENT[:-1],
    "junk behind": EVENT + b"x",
    "two values": EVENT + EVENT,
    "single quotes": EVENT.replace(b'"', b"'"),
    "a comment": b"/* */" + EVENT,
    "a comma behind": EVENT[:-1] + b",}",
    "UTF-16": EVENT.decode().encode("utf-16"),
    "UTF-32": EVENT.decode().encode("utf-32-be"),
    "a byte order mark": b"\xef\xbb\xbf" + EVENT,
    "bad UTF-8": with_metadata(b'{"a":"\xff"}'),
    "overlong UTF-8": with_metadata(b'{"a":"\xc0\xaf"}'),
    "a surrogate in UTF-8": with_metadata(b'{"a":"\xed\xa0\x80"}'),
    "a lone surrogate": with_metadata(rb'{"a":"\ud800"}'),
    "NUL": with_metadata(rb'{"a":"\u0000"}'),
    "NUL in a key": with_metadata(rb'{"\u0000":1}'),
    "NaN": with_metadata(b'{"a":NaN}'),
    "Infinity": with_metadata(b'{"a":-Infinity}'),
    "a number over the double's": with_metadata(b'{"a":1e400}'),
    "an integer over 2^63": with_metadata(b'{"a":9223372036854775809}'),
    "an integer of 5,000 digits": with_metadata(b'{"a":' + b"1" * 5000 + b"}"),
    "a key twice": EVENT[:-1] + b',"tenant_id":"other"}',
    "a key twice, spelled otherwise": with_metadata(rb'{"a":1,"\u0061":2}'),
    "33 levels": with_metadata(b'{"a":' + b"[" * 32 + b"]" * 32 + b"}"),
    "100,000 levels": b"[" * 100_000,
    "100,000 levels, closed": b"[" * 100_000 + b"]" * 100_000,
    "a string": b'"x"',
    "a number": b"7",
    "null": b"null",
    "an array of nulls": b"[null]",
    "an array in an array": b"[[]]",
}


@pytest.mark.parametrize("body", BAD_JSON.values(), ids=BAD_JSON.keys())
async def test_bad_json_is_400_and_nothing_is_stored(body: bytes, producer: Client, world: World) -> None:
    answer = await producer.request("POST", "/api/v1/events", body=body)

    assert (answer.status, answer.code) == (400, "validation_error")
    assert world.events == []


BAD_EVENTS: dict[str, tuple[dict[str, object], str]] = {
    "a newline behind the action": ({"action": "auth.login\n"}, "action"),
    "capitals": ({"action": "Auth.login"}, "action"),
    "no dot": ({"action": "login"}, "action"),
    "other letters": ({"action": "auth.lögin"}, "action"),
    "9 KB of id": ({"actor": {"id": "x" * 9000, "type": "user"}}, "actor.id"),
    "an empty tenant": ({"tenant_id": ""}, "tenant_id"),
    "null": ({"target": None}, "target"),
    "a number for a string": ({"tenant_id": 7}, "tenant_id"),
    "an unknown field": ({"tenant": "x"}, "tenant"),
    "an unknown inner field": ({"actor": {"id": "u", "type": "user", "roles": []}}, "actor.roles"),
    "a time without a zone": ({"occurred_at": "2026-11-23T08:00:00"}, "occurred_at"),
    "a week date": ({"occurred_at": "2026-W47-1T08:00:00Z"}, "occurred_at"),
    "infinity": ({"occurred_at": "infinity"}, "occurred_at"),
    "the year 10000": ({"occurred_at": "10000-01-01T00:00:00Z"}, "occurred_at"),
    "too far ahead": ({"occurred_at": "2026-11-24T08:00:01Z"}, "occurred_at"),
    "other digits": ({"occurred_at": "２０２６-11-23T08:00:00Z"}, "occurred_at"),
    "too much metadata": ({"metadata": {"a": "x" * 33_000}}, "metadata"),
    "metadata too deep": ({"metadata": {"a": [[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]}}, "metadata"),
    "101 changes": ({"changes": [{"field": "f"}] * 101}, "changes"),
}


@pytest.mark.parametrize(("change", "field"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
async def test_bad_events_are_named(change: dict[str, object], field: str, producer: Client, world: World) -> None:
    answer = await producer.post("/api/v1/events", {**examples.SMALL_EVENT_IN, **change})

    assert (answer.status, list(answer.details)) == (400, [field])
    assert world.events == []


async def test_ten_thousand_unknown_fields_are_answered_with_a_hundred_details(producer: Client) -> None:
    answer = await producer.post("/api/v1/events", {**examples.SMALL_EVENT_IN, **{f"x{n}": n for n in range(10_000)}})

    assert answer.status == 400
    assert len(answer.details) == 100


async def test_an_error_never_repeats_a_value(producer: Client) -> None:
    canary = "4111111111111111"
    bodies = [
        orjson.dumps({**examples.SMALL_EVENT_IN, "category": canary}),
        orjson.dumps({**examples.SMALL_EVENT_IN, "occurred_at": canary}),
        orjson.dumps({**examples.SMALL_EVENT_IN, "actor": {"id": canary, "type": canary}}),
        orjson.dumps(canary) + b"}",
    ]
    for body in bodies:
        answer = await producer.request("POST", "/api/v1/events", body=body)
        assert answer.status == 400
        assert canary.encode() not in answer.body
    for query in (f"category={canary}", f"limit={canary}", f"start_date={canary}", f"cursor={canary}"):
        assert canary.encode() not in (await producer.get(f"/api/v1/events?{query}")).body


NO_ROUTES = [
    "",
    "?",
    "/",
    "//",
    "*",
    "/api",
    "/api/v1",
    "/api/v1/",
    "/api/v1/nothing",
    "/api/v1/events/",
    "/api/v1/events//",
    "/api/v1//events",
    "//api/v1/events",
    "/API/v1/events",
    "/api/v2/events",
    "/api/v1/events/a/b",
    "/api/v1/events%2Fevt_1",
    "/api/v1/events%2fevt_1",
    "/api/v1/events%0a",
    "/api/v1/%00",
    "/api/v1/%ff",
    "/api/v1/%c0%af",
    "/api/v1/events%20",
    "/api/v1/./events",
    "/api/v1/x/../events",
    "/api/v1/x/%2e%2e/events",
    "/api/v1/events;x=1",
    "/\u00e9",
    "/docs/",
    "/docs/../docs",
    "/static/docs.css",
    "/health/live",
    "/metrics",
    "http://logstitch.test/api/v1/events",
]


@pytest.mark.parametrize("target", NO_ROUTES)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_what_is_no_route_is_404(method: str, target: str, master: Client) -> None:
    answer = await master.request(method, target, judge=False)

    assert (answer.status, answer.code) == (404, "not_found")
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("id", ["%00", "%ff", "%c0%af", "%0A", "evt_1%2F", "%2e%2e%2fkeys", "%252F"])
async def test_an_id_in_which_something_hides_is_one_that_nothing_has(producer: Client, id: str) -> None:
    answer = await producer.request("GET", f"/api/v1/events/{id}", judge=False)

    assert (answer.status, answer.code) == (404, "not_found")


async def test_what_need_not_be_encoded_may_be(producer: Client) -> None:
    """RFC 3986, 6.2.2.2: such spellings are the same path."""
    assert (await producer.get("/api/v1/%65vents")).status == 200


WRONG_METHODS = {
    ("PUT", "/api/v1/events"): "GET, HEAD, OPTIONS, POST",
    ("DELETE", "/api/v1/events"): "GET, HEAD, OPTIONS, POST",
    ("POST", "/api/v1/events/evt_1"): "GET, HEAD, OPTIONS",
    ("OPTIONS", "/api/v1/keys"): "GET, HEAD, POST",
    ("PATCH", "/api/v1/keys/x"): "DELETE",
    ("GET", "/api/v1/keys/x"): "DELETE",
    ("HEAD", "/api/v1/keys/x"): "DELETE",
    ("TRACE", "/docs"): "GET, HEAD",
    ("BREW-COFFEE", "/api/v1/projects"): "GET, HEAD, POST",
}


@pytest.mark.parametrize(("request_line", "allow"), WRONG_METHODS.items(), ids=" ".join)
async def test_a_wrong_method_is_405_with_allow(request_line: tuple[str, str], allow: str, master: Client) -> None:
    answer = await master.request(*request_line, judge=False)

    assert (answer.status, answer.headers["allow"]) == (405, allow)
    if request_line[0] != "HEAD":
        assert answer.code == "method_not_allowed"


async def test_head_answers_as_get_without_a_body(producer: Client) -> None:
    for target in ("/api/v1/events", "/docs", "/api/v1/openapi.json"):
        get, head = await producer.get(target), await producer.request("HEAD", target)
        assert head.status == get.status == 200
        assert head.headers["content-length"] == str(len(get.body))
        assert head.body == b""
    assert (await producer.with_key(None).request("HEAD", "/api/v1/events")).status == 401


async def test_odd_headers_do_no_harm(producer: Client) -> None:
    odd = {
        "host": "]:[",
        "cookie": "session=\xff; =; ;",
        "accept": "text/html;q=x",
        "if-none-match": "*",
        "range": "bytes=0-0",
        "expect": "100-continue",
        "x-forwarded-for": "junk",
        "x-http-method-override": "DELETE",
        "forwarded": "for=\xff",
    }
    answer = await producer.request("GET", "/api/v1/events", headers=odd)

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"


async def test_a_request_id_is_ours_and_new(producer: Client) -> None:
    first = await producer.get("/api/v1/events", X_Request_Id="req_00000000000000000000000000")
    second = await producer.get("/api/v1/events", X_Request_Id="req_00000000000000000000000000")

    assert len({first.headers["x-request-id"], second.headers["x-request-id"], "req_" + "0" * 26}) == 3


async def test_a_websocket_is_closed(app: App) -> None:
    sent: list[dict[str, object]] = []

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/api/v1/events", "headers": []}, None, send)  # type: ignore[arg-type]

    assert [message["type"] for message in sent] == ["websocket.close"]


async def test_lifespan(app: App) -> None:
    messages = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> dict[str, str]:
        return {"type": next(messages)}

    async def send(message: dict[str, str]) -> None:
        sent.append(message["type"])

    await app({"type": "lifespan"}, receive, send)

    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_while_it_starts_everything_is_unavailable() -> None:
    client = Client(starting_app())

    for target in ("/api/v1/events", "/docs", "/nothing"):
        answer = await client.request("GET", target, judge=False)
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "1")


async def test_a_defect_outside_of_handlers_is_500_too(
    producer: Client, app: App, error_logs: ErrorLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    error_logs.expect("request_failed")

    async def broken(*_: object) -> None:
        raise RuntimeError("4111111111111111")

    monkeypatch.setattr(app, "_router", type("Broken", (), {"forward": broken})())

    answer = await producer.get("/api/v1/events")

    assert (answer.status, answer.code) == (500, "internal_error")
    assert b"4111" not in answer.body


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
    path=st.sampled_from(["/api/v1/events", "/api/v1/events/", "/api/v1/keys/", "/docs", "/"]) | st.just(""),
    tail=st.binary(max_size=12),
    query=st.binary(max_size=20),
    body=st.binary(max_size=40),
)
async def test_whatever_comes_is_answered_and_never_with_500(
    method: str, path: str, tail: bytes, query: bytes, body: bytes, master: Client, documented: Documented
) -> None:
    target = path.encode() + tail.replace(b"?", b"")

    answer = await master.request(method, target + b"?" + query, body=body, judge=False)

    assert answer.status in (200, 400, 404, 405, 415)


async def test_a_server_that_gives_no_raw_path(producer: Client, app: App) -> None:
    """``raw_path`` is optional in ASGI."""
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/events",
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {producer.key}".encode())],
    }

    assert (await exchange(app, scope, None)).status == 200
