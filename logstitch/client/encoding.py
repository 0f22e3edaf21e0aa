"""Events become bytes once, before they are sent for the first time, and every repetition sends the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, Final, cast
from uuid import UUID, uuid4

from logstitch.client.schema import NewEvent

MAX_BATCH: Final = 100
"""Events of one request; the service refuses more."""
MAX_BATCH_BYTES: Final = 4 * 1024 * 1024
"""Of one request, where it has more than one event; the service refuses bodies over 5 MiB."""


def new_key() -> str:
    """A fresh idempotency key."""
    return str(uuid4())


def with_key(event: NewEvent, key: Callable[[], str] = new_key) -> NewEvent:
    """A copy of the event that has an idempotency key.

    For who wants to repeat a call by himself: without keys, each call of ``log`` gives the event another one.
    """
    if not isinstance(event, Mapping):
        raise TypeError(f"an event is a dictionary, not {type(event).__name__}")
    if event.get("idempotency_key") is not None:
        return event.copy() if isinstance(event, dict) else cast(NewEvent, dict(event))
    return cast(NewEvent, {**event, "idempotency_key": key()})


def encode(event: NewEvent, *, key: Callable[[], str] = new_key, occurred_at: datetime | None = None) -> bytes:
    """The event as JSON, with an idempotency key.

    ``occurred_at`` is given to an event that has neither a time nor a key of its own. (With a key of its own, the same
    event may be sent again by another process at another time, and has to stay the same.) Raises ``TypeError`` and
    ``ValueError`` for what cannot be JSON.
    """
    keyed = with_key(event, key)
    if occurred_at is not None and "occurred_at" not in event and event.get("idempotency_key") is None:
        keyed["occurred_at"] = moment_text(occurred_at)
    return json_bytes(keyed)


def json_bytes(value: object) -> bytes:
    """Plain JSON in UTF-8. Raises ``TypeError`` and ``ValueError`` for what it cannot say."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_as_text)
    except RecursionError:
        raise ValueError("nested too deep") from None
    return text.encode()


def decode(body: bytes) -> Mapping[str, Any]:
    """The event of such bytes."""
    event: Mapping[str, Any] = json.loads(body)
    return event


def _as_text(value: object) -> str:
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no place in JSON; write it as a string or a number")


def moment_text(moment: datetime) -> str:
    """RFC 3339, in UTC, to the millisecond. Raises ``ValueError`` where there is no zone: any would be a guess."""
    if moment.tzinfo is None or moment.utcoffset() is None:
        raise ValueError("a datetime needs a zone, such as datetime.now(timezone.utc)")
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def date_text(value: str | date | datetime) -> str:
    """What a filter by time sends."""
    if isinstance(value, datetime):
        return moment_text(value)
    return value.isoformat() if isinstance(value, date) else value


def batches(
    bodies: Sequence[bytes], *, most: int = MAX_BATCH, most_bytes: int = MAX_BATCH_BYTES
) -> Iterator[tuple[int, Sequence[bytes]]]:
    """The events in requests, in order, each with the number of its first event. An event that is too large for a
    request stands alone in its own: whether it is, is the service's to say."""
    first = 0
    while first < len(bodies):
        end = first + fitting(bodies[first : first + most], most_bytes)
        yield first, bodies[first:end]
        first = end


def fitting(bodies: Sequence[bytes], most_bytes: int = MAX_BATCH_BYTES) -> int:
    """How many of these, from the first on, fit into one request; at least one where there is one."""
    size = 1
    for count, body in enumerate(bodies):
        size += len(body) + 1  # with a comma or the closing bracket
        if size > most_bytes and count:
            return count
    return len(bodies)
