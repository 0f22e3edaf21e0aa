"""What the client library says and understands: events as bytes, answers as records, refusals as errors."""

from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from typing import Any, NotRequired, cast, get_origin, get_type_hints
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import logstitch.client as library
from logstitch import __version__, model
from logstitch.client import wire
from logstitch.client.core import Send
from logstitch.client.encoding import MAX_BATCH, batches, encode, with_key
from logstitch.client.errors import ClientError, Detail, Problem, UnusableAnswer, api_error
from logstitch.client.retries import Retries, is_transient, retry_after
from logstitch.client.schema import Filters
from logstitch.client.settings import Settings
from logstitch.client.transport import build
from logstitch.client.wire import Answer
from logstitch.http.schemas.events import Event as StoredEvent
from logstitch.http.schemas.events import EventListQuery
from tests.support.playing import NOW, REQUEST_ID, an_event, ok, refusal

# -- the words are the service's


def fields_of(kind: Any) -> dict[str, bool]:
    """The fields, and whether each may be left out."""
    total: bool = kind.__total__
    hints = get_type_hints(kind, include_extras=True)
    return {name: not total or get_origin(hint) is NotRequired for name, hint in hints.items()}


def test_the_types_have_the_fields_of_the_service() -> None:
    pairs: list[tuple[Any, Any]] = [
        (library.NewEvent, model.EventIn),
        (library.Actor, model.ActorIn),
        (library.Target, model.TargetIn),
        (library.Context, model.ContextIn),
        (library.Change, model.ChangeIn),
        (library.Event, StoredEvent),
    ]
    for ours, theirs in pairs:
        assert fields_of(ours) == fields_of(theirs), ours.__name__
    paging = {"limit", "cursor", "project_id"}
    assert set(Filters.__annotations__) == set(EventListQuery.model_fields) - paging


def test_it_is_light() -> None:
    heavy = "{'pydantic', 'quart', 'psycopg', 'hypercorn', 'orjson', 're2', 'trio'} & set(sys.modules)"
    program = f"import sys, logstitch.client; print({heavy} or 'light')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "light"


# -- events as bytes


def test_an_event_without_a_key_gets_one_and_the_callers_stays_as_it_was() -> None:
    event = an_event()
    sent = json.loads(encode(event, key=lambda: "k1"))
    assert sent == {**event, "idempotency_key": "k1"}
    assert "idempotency_key" not in event
    assert UUID(with_key(event)["idempotency_key"]).version == 4


def test_a_key_of_the_callers_own_is_kept() -> None:
    assert json.loads(encode(an_event(idempotency_key="mine")))["idempotency_key"] == "mine"
    assert with_key(an_event(idempotency_key="mine"))["idempotency_key"] == "mine"


def test_times_and_uuids_become_text() -> None:
    moment = datetime(2026, 11, 23, 9, 0, 0, 123999, timezone(timedelta(hours=1)))
    event = an_event(occurred_at=moment, metadata={"order": UUID(int=7), "due": moment})
    sent = json.loads(encode(event))
    assert sent["occurred_at"] == "2026-11-23T08:00:00.123Z"
    assert sent["metadata"] == {"order": str(UUID(int=7)), "due": "2026-11-23T08:00:00.123Z"}


def test_a_queued_event_is_dated_unless_it_has_a_time_or_a_key() -> None:
    # With a key of its own it may be queued again tomorrow, by another process, and has to be the same event then.
    assert json.loads(encode(an_event(), occurred_at=NOW))["occurred_at"] == "2026-11-23T08:00:00.000Z"
    assert "occurred_at" not in json.loads(encode(an_event(idempotency_key="mine"), occurred_at=NOW))
    dated = an_event(occurred_at="2020-01-01T00:00:00Z")
    assert json.loads(encode(dated, occurred_at=NOW))["occurred_at"] == "2020-01-01T00:00:00Z"


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, "\ud800", nested(100_000), datetime(2026, 1, 1), b"bytes", object(), {1, 2}, 1j]
)
def test_what_is_not_json_is_refused_before_anything_is_sent(bad: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode(an_event(metadata={"bad": bad}))


def test_what_is_no_event_is_refused() -> None:
    with pytest.raises(TypeError, match="an event is a dictionary, not list"):
        encode(cast(Any, [an_event()]))


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=400), st.integers(1, 100), st.integers(10, 500))
def test_batches_keep_the_order_and_their_bounds(bodies: list[bytes], most: int, most_bytes: int) -> None:
    cut = list(batches(bodies, most=most, most_bytes=most_bytes))
    assert [body for _, batch in cut for body in batch] == bodies
    assert [first for first, _ in cut] == [sum(len(b) for _, b in cut[:n]) for n in range(len(cut))]
    for _, batch in cut:
        assert 1 <= len(batch) <= most
        assert len(batch) == 1 or len(b"[" + b",".join(batch) + b"]") <= most_bytes
    for (_, batch), (_, after) in pairwise(cut):  # none is smaller than it had to be
        assert len(batch) == most or len(b"[" + b",".join([*batch, after[0]]) + b"]") > most_bytes


def test_a_hundred_events_are_one_batch() -> None:
    assert [len(batch) for _, batch in batches([b"{}"] * 250)] == [MAX_BATCH, MAX_BATCH, 50]


# -- requests


def headers_of(request: wire.Request) -> dict[str, str]:
    settings = Settings("https://audit.example/base/", "pk_secret", "p1", 15.0)
    built = build(settings, Send(request, 5.0))
    assert built.extensions["timeout"] == {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}
    return {**built.headers, "url": str(built.url), "method": built.method}


def test_a_request_says_who_asks_for_which_project() -> None:
    headers = headers_of(wire.send_events([b"{}"], alone=True))
    assert headers["url"] == "https://audit.example/base/api/v1/events"
    assert headers["authorization"] == "Bearer pk_secret"
    assert headers["x-project-id"] == "p1"
    assert headers["content-type"] == "application/json"
    assert headers["user-agent"] == f"logstitch-python/{__version__}"


@pytest.mark.parametrize("request_", [wire.send_events([b"{}"], stream="t"), wire.get_stream_info("t")])
def test_what_is_anonymous_carries_no_key(request_: wire.Request) -> None:
    assert not {"authorization", "x-project-id"} & headers_of(request_).keys()


def test_filters_are_sent_as_they_are_and_times_in_utc() -> None:
    filters: Filters = {
        "action": "user.*",
        "search": "a&b=c",
        "start_date": date(2026, 11, 1),
        "end_date": datetime(2026, 11, 23, 9, tzinfo=timezone(timedelta(hours=1))),
    }
    url = headers_of(wire.list_events(filters, limit=20, cursor="abc"))["url"]
    assert url.endswith(
        "/api/v1/events?action=user.%2A&search=a%26b%3Dc&start_date=2026-11-01&end_date=2026-11-23T08%3A00%3A00.000Z"
        "&limit=20&cursor=abc"
    )


@pytest.mark.parametrize("filters", [{"tennant_id": "acme"}, {"tenant_id": None}, {"limit": 5}])
def test_a_filter_that_got_lost_would_show_too_much_and_is_refused(filters: Any) -> None:
    with pytest.raises(TypeError, match=next(iter(filters))):
        wire.list_events(filters, limit=100, cursor=None)


@pytest.mark.parametrize("id", ["", ".", ".."])
def test_an_id_that_leads_elsewhere_is_refused(id: str) -> None:
    with pytest.raises(ValueError, match="id"):
        wire.get_event(id)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text not in (".", "..")))
def test_an_id_stays_one_part_of_the_path(id: str) -> None:
    path = headers_of(wire.get_event(id))["url"].removeprefix("https://audit.example/base/api/v1/events/")
    assert not {"/", "?", "#", "."} & set(path) or path == id or "." in id
    assert "/" not in path
    assert "?" not in path


@pytest.mark.parametrize(
    "url",
    ["", "audit.example", "ftp://x", "https://", "https://u:p@x", "https://x/?a=b", "https://x/#f", "http://[::1"],
)
def test_a_url_that_cannot_be_meant_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Settings(url, None, None, 15.0)


@pytest.mark.parametrize("key", ["", "pk_a\r\nX: y", "pk ä", "pk\t"])
def test_a_key_that_breaks_a_header_is_refused_and_not_repeated(key: str) -> None:
    with pytest.raises(ValueError, match="key must") as refused:
        Settings("http://x", key, None, 15.0)
    assert not key or key not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    token = library.ViewerToken("vt_secret", NOW, REQUEST_ID)
    shown = [Settings("http://x", "pk_secret", None, 1.0), wire.send_events([b"{}"], stream="secret"), token]
    assert "secret" not in repr(shown)


# -- answers


def test_the_answer_to_events_is_a_record() -> None:
    answer = ok(201, {"idempotent-replays": "1"}, ids=["evt_1", "evt_2"], redacted_count=3)
    logged = wire.read(answer, wire.logged(2))
    assert logged == library.Logged(("evt_1", "evt_2"), 3, 1, (REQUEST_ID,))
    assert logged.id == "evt_1"


def test_a_stream_has_real_times() -> None:
    at = "2026-11-23T08:00:00.000Z"
    body: dict[str, Any] = {"status": "active", "event_count": 2, "created_at": at, "last_event_at": at}
    info = wire.read(ok(200, **body, expires_at=at, claimed_at=None), wire.stream_info)
    assert (info.created_at, info.claimed_at) == (NOW, None)


@pytest.mark.parametrize(
    "answer",
    [
        Answer(302, {"location": "https://login.example"}, b""),
        Answer(200, {}, b"<html>Welcome to the airport</html>"),
        Answer(200, {}, b"[1]"),
        ok(201, ids=["evt_1"], redacted_count=0),  # one id for two events
        ok(201, ids=["evt_1", 2], redacted_count=0),
        ok(201, ids=["evt_1", "evt_2"], redacted_count="0"),
        ok(201, {"idempotent-replays": "-1"}, ids=["evt_1", "evt_2"], redacted_count=0),
    ],
)
def test_an_answer_of_somebody_else_is_not_taken_for_success(answer: Answer) -> None:
    with pytest.raises(UnusableAnswer):
        wire.read(answer, wire.logged(2))


def test_a_refusal_says_all_that_it_says() -> None:
    problem = wire.problem(refusal(400, "validation_error", "0.actor.id", retry_after="2"), NOW)
    assert problem == Problem(400, "validation_error", "No.", (Detail("0.actor.id", "Required"),), REQUEST_ID, 2.0)
    assert str(api_error(problem)) == f"400 validation_error: No. (0.actor.id: Required) [{REQUEST_ID}]"


def test_a_proxys_page_is_a_refusal_too() -> None:
    problem = wire.problem(Answer(502, {}, b"<html>Bad Gateway</html>"), NOW)
    assert (problem.code, problem.details, problem.request_id) == ("http_502", (), None)


PARSERS = [wire.logged(1), wire.event_page, wire.event, wire.viewer_token, wire.stream_info, wire.claimed]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
NAMES = ["ids", "redacted_count", "request_id", "events", "cursor", "has_more", "id", "token", "expires_at", "status"]
NAMES += ["event_count", "created_at", "last_event_at", "claimed_at", "project_id", "error", "code", "details", "field"]
BODIES = st.binary() | st.dictionaries(st.sampled_from(NAMES), JSON).map(lambda body: json.dumps(body).encode())


@given(
    st.integers(100, 599), BODIES, st.dictionaries(st.sampled_from(["retry-after", "idempotent-replays"]), st.text())
)
def test_no_answer_whatever_is_in_it_breaks_the_reader(status: int, body: bytes, headers: dict[str, str]) -> None:
    answer = Answer(status, headers, body)
    problem = wire.problem(answer, NOW)
    assert problem.code
    assert problem.message
    for parser in PARSERS:
        with suppress(UnusableAnswer):
            wire.read(answer, cast(Any, parser))


# -- errors


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, library.InvalidRequest),
        (401, library.Unauthorized),
        (403, library.Forbidden),
        (404, library.NotFound),
        (409, library.Conflict),
        (410, library.Gone),
        (413, library.ApiError),
        (429, library.TooManyRequests),
        (500, library.ServerError),
        (503, library.ServerError),
    ],
)
def test_a_status_is_an_error_of_its_own(status: int, kind: type[library.ApiError]) -> None:
    assert type(api_error(Problem(status, "code", "message"))) is kind


@pytest.mark.parametrize(
    "error",
    [
        api_error(Problem(409, "conflict", "No.", (Detail("1.idempotency_key", "Used"),), REQUEST_ID), 2, True),
        library.NoAnswer("events.create", 4, "ConnectError"),
        library.UnusableAnswer(200, "why"),
        library.UnsentEvents((an_event(),)),
        library.ClientClosed("closed"),
    ],
)
def test_errors_travel_between_processes(error: ClientError) -> None:
    error.stored = ("evt_1",)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(copy), str(copy), copy.stored) == (type(error), str(error), ("evt_1",))


# -- when to try again


def test_only_what_may_pass_is_repeated() -> None:
    assert [status for status in range(400, 600) if is_transient(status)] == [429, *range(500, 600)]


@given(st.integers(1, 5) | st.just(10_000), st.floats(0, 90), st.none() | st.floats(0, 90), st.floats(0, 1))
def test_a_pause_obeys_the_service_the_deadline_and_the_number(
    failures: int, elapsed: float, wanted: float | None, jitter: float
) -> None:
    policy = Retries()
    pause = policy.pause(failures, elapsed, wanted, jitter)
    if pause is None:
        assert failures > policy.tries or elapsed + (wanted or 0) + policy.longest_pause >= policy.seconds
    else:
        assert failures <= policy.tries
        assert elapsed + pause < policy.seconds
        assert (wanted or 0) <= pause <= (wanted or 0) + policy.longest_pause


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("9" * 5000, math.inf),
        ("Mon, 23 Nov 2026 08:00:30 GMT", 30.0),
        ("Monday, 23-Nov-26 08:00:30 GMT", 30.0),
        ("Mon Nov 23 08:00:30 2026", 30.0),
        ("Mon, 23 Nov 2020 08:00:00 GMT", 0.0),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("", None),
        ("Mon, 99 Nov 2026 08:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert retry_after(text, NOW) == seconds


@given(st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda at: at.replace(microsecond=0, tzinfo=UTC)))
def test_any_date_is_understood(moment: datetime) -> None:
    expected = max(0.0, (moment - NOW).total_seconds())
    assert retry_after(format_datetime(moment, usegmt=True), NOW) == expected


@given(st.text())
def test_any_text_is_seconds_or_nothing(text: str) -> None:
    seconds = retry_after(text, NOW)
    assert seconds is None or seconds >= 0
