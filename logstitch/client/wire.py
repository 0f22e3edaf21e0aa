"""Requests as values and answers as records: what is asked of the service, and what its bytes mean. No I/O."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, TypeVar, cast, get_args
from urllib.parse import quote

from logstitch.client.encoding import date_text, json_bytes
from logstitch.client.errors import Detail, Problem, UnusableAnswer
from logstitch.client.retries import retry_after
from logstitch.client.schema import Claimed, Event, EventPage, Filters, Logged, StreamInfo, ViewerToken

T = TypeVar("T")

API: Final = "/api/v1"
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Of a decoded body. A page of events is far below; more is not the service's."""
_FILTERS: Final = frozenset(Filters.__annotations__)
_MAX_TEXT: Final = 500
"""Characters of a message that an answer may put into an error."""


class MalformedAnswer(Exception):
    """The JSON does not have the form that was expected; becomes ``UnusableAnswer`` with its status."""


# -- requests ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``name`` stands for it in errors: the path may hold a secret."""

    name: str
    method: Literal["GET", "POST"]
    path: str = field(repr=False)
    query: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    body: bytes | None = field(default=None, repr=False)
    credential: bool = True
    """Whether it carries the key."""
    names_project: bool = True
    """Whether it carries the project's id."""


def send_events(bodies: Sequence[bytes], *, stream: str | None = None, alone: bool = False) -> Request:
    """Events, encoded, to the project or to an anonymous stream. ``alone``: the one event is not put in an array."""
    body = bodies[0] if alone else b"[" + b",".join(bodies) + b"]"
    if stream is None:
        return Request("events.create", "POST", f"{API}/events", body=body)
    # The key stays at home: a stream knows no credential but its token.
    path = f"{API}/streams/{segment('token', stream)}/events"
    return Request("streams.create", "POST", path, body=body, credential=False, names_project=False)


def list_events(filters: Filters, *, limit: int, cursor: str | None) -> Request:
    """One page. Raises ``TypeError`` for a filter that is not known or None, ``ValueError`` for a bad one: a filter
    that got lost would show other customers' events."""
    query = []
    for name, value in filters.items():
        if name not in _FILTERS:
            raise TypeError(f"there is no filter {name}")
        if value is None:
            raise TypeError(f"the filter {name} is None; leave it out to list without it")
        query.append((name, date_text(cast(str, value))))
    if not 1 <= limit <= 100:
        raise ValueError("a page has 1 to 100 events")
    query.append(("limit", str(limit)))
    if cursor is not None:
        query.append(("cursor", cursor))
    return Request("events.list", "GET", f"{API}/events", tuple(query))


def get_event(id: str) -> Request:
    """One event."""
    return Request("events.get", "GET", f"{API}/events/{segment('id', id)}")


def create_viewer_token(tenant_id: str, tier: str | None, expires_in: int | None) -> Request:
    """A viewer token."""
    wanted: dict[str, object] = {"tenant_id": tenant_id}
    if tier is not None:
        wanted["tier"] = tier
    if expires_in is not None:
        wanted["expires_in"] = expires_in
    return Request("viewer_tokens.create", "POST", f"{API}/viewer-tokens", body=json_bytes(wanted))


def get_stream_info(token: str) -> Request:
    """How a stream stands."""
    path = f"{API}/streams/{segment('token', token)}/info"
    return Request("streams.info", "GET", path, credential=False, names_project=False)


def claim_stream(token: str, project_id: str) -> Request:
    """A claim; the project stands in the body."""
    body = json_bytes({"token": token, "project_id": project_id})
    return Request("streams.claim", "POST", f"{API}/streams/claim", body=body, names_project=False)


def segment(name: str, value: str) -> str:
    """A value as one part of a path. Raises ``ValueError`` for those that would lead to another path."""
    if value in ("", ".", ".."):
        raise ValueError(f"{name} must not be empty")
    return quote(value, safe="")


# -- answers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """An attempt without an answer, and why; ``passing`` when another attempt may have one."""

    reason: str
    cause: Exception | None = None
    passing: bool = True


def read(answer: Answer, parse: Callable[[Answer, Mapping[str, Any]], T]) -> T:
    """The record of a 2xx. Raises ``UnusableAnswer`` where it is not the service's."""
    request_id = answer.headers.get("x-request-id")
    if not 200 <= answer.status < 300:
        reason = "a redirect; base_url must be the service's own" if 300 <= answer.status < 400 else "an interim answer"
        raise UnusableAnswer(answer.status, reason, request_id)
    body = _object(answer.body)
    if body is None:
        raise UnusableAnswer(answer.status, "the body is not a JSON object", request_id)
    try:
        return parse(answer, body)
    except MalformedAnswer as error:
        raise UnusableAnswer(answer.status, f"the body has no usable {error}", request_id) from None


def problem(answer: Answer, now: datetime) -> Problem:
    """What a 4xx or 5xx says, whoever wrote it. Never raises."""
    body = _object(answer.body) or {}
    said = body.get("error")
    error: Mapping[str, Any] = said if isinstance(said, dict) else {}
    code, message, request_id = error.get("code"), error.get("message"), body.get("request_id")
    listed = error.get("details")
    details = tuple(
        Detail(item["field"][:_MAX_TEXT], item["message"][:_MAX_TEXT])
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, dict) and isinstance(item.get("field"), str) and isinstance(item.get("message"), str)
    )
    return Problem(
        answer.status,
        code[:_MAX_TEXT] if isinstance(code, str) and code else f"http_{answer.status}",
        message[:_MAX_TEXT] if isinstance(message, str) and message else "The answer says no more than its status.",
        details,
        request_id if isinstance(request_id, str) else answer.headers.get("x-request-id"),
        retry_after(answer.headers.get("retry-after"), now),
    )


def logged(count: int) -> Callable[[Answer, Mapping[str, Any]], Logged]:
    """The answer to so many events."""

    def parse(answer: Answer, body: Mapping[str, Any]) -> Logged:
        ids = body.get("ids")
        if not isinstance(ids, list) or len(ids) != count or not all(isinstance(id, str) for id in ids):
            raise MalformedAnswer("ids")
        replays = answer.headers.get("idempotent-replays", "0")
        if not (replays.isascii() and replays.isdecimal() and len(replays) <= 3):
            raise MalformedAnswer("Idempotent-Replays")
        return Logged(tuple(ids), _number(body, "redacted_count"), int(replays), (_text(body, "request_id"),))

    return parse


def event_page(answer: Answer, body: Mapping[str, Any]) -> EventPage:
    """A page of events."""
    events, cursor, has_more = body.get("events"), body.get("cursor"), body.get("has_more")
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise MalformedAnswer("events")
    if not isinstance(has_more, bool):
        raise MalformedAnswer("has_more")
    if not (isinstance(cursor, str) or (cursor is None and not has_more)):
        raise MalformedAnswer("cursor")
    return EventPage(tuple(events), cursor, has_more, _text(body, "request_id"))


def event(answer: Answer, body: Mapping[str, Any]) -> Event:
    """One event, without the request's id, as it stands in a list."""
    _text(body, "id")
    return cast(Event, {name: value for name, value in body.items() if name != "request_id"})


def viewer_token(answer: Answer, body: Mapping[str, Any]) -> ViewerToken:
    """A viewer token."""
    return ViewerToken(_text(body, "token"), _moment(body, "expires_at"), _text(body, "request_id"))


def stream_info(answer: Answer, body: Mapping[str, Any]) -> StreamInfo:
    """How a stream stands."""
    status = body.get("status")
    if status not in get_args(_Status):
        raise MalformedAnswer("status")
    return StreamInfo(
        cast(_Status, status),
        _number(body, "event_count"),
        _moment(body, "created_at"),
        _perhaps_moment(body, "last_event_at"),
        _moment(body, "expires_at"),
        _perhaps_moment(body, "claimed_at"),
        _text(body, "request_id"),
    )


def claimed(answer: Answer, body: Mapping[str, Any]) -> Claimed:
    """What a claim brought."""
    return Claimed(
        _text(body, "project_id"),
        _number(body, "events_migrated"),
        _number(body, "duplicates"),
        _text(body, "request_id"),
    )


_Status = Literal["active", "claimed", "expired"]


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedAnswer(name)
    return value


def _number(body: Mapping[str, Any], name: str) -> int:
    value = body.get(name)
    if type(value) is not int:
        raise MalformedAnswer(name)
    return value


def _moment(body: Mapping[str, Any], name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(_text(body, name))
    except ValueError:
        raise MalformedAnswer(name) from None
    if moment.tzinfo is None:
        raise MalformedAnswer(name)
    return moment


def _perhaps_moment(body: Mapping[str, Any], name: str) -> datetime | None:
    return None if body.get(name) is None else _moment(body, name)
