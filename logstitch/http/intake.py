"""Events on their way in: the same reading and checking, and the same answer, wherever they are sent to.

The hot path: it touches an event's JSON once, to check it; everything else is the ingest actor's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio
from pydantic import TypeAdapter

from logstitch import gate, model
from logstitch.actors.messages.events import Accepted
from logstitch.errors import Overloaded
from logstitch.http import examples
from logstitch.http.endpoints import RequestBody, ResponseHeader, Success
from logstitch.http.responses import Headers, Reply, resource
from logstitch.http.schemas.events import EventsCreated
from logstitch.http.services import Limits
from logstitch.model import IncomingEvent

EVENTS_BODY = RequestBody(
    TypeAdapter(model.EventIn | list[model.EventIn]),
    {"one event": examples.EVENT_IN, "several": [examples.EVENT_IN, examples.SMALL_EVENT_IN]},
    "One event, or an array of 1 to 100. At most 5 MiB.",
)
EVENTS_CREATED = Success(
    201,
    "Every event is stored.",
    TypeAdapter(EventsCreated),
    {"ids": [examples.EVENT["id"]], "redacted_count": 0, "request_id": examples.REQUEST_ID},
    {
        "Idempotent-Replays": ResponseHeader(
            "How many of the events an earlier request had stored. Sent when any event has an `idempotency_key`.",
            {"type": "integer", "minimum": 0, "maximum": model.MAX_BATCH},
        )
    },
)


AT_ONCE_BYTES: Final = 4096
"""Bodies below this size are read without waiting for a turn."""
TURN_SECONDS: Final = 0.5
"""How long a larger one waits for its turn: what more than that is sent would be answered too late."""


class Intake:
    """Reads bodies of events, one of the larger ones in each round of the event loop.

    A batch takes milliseconds. Were all that have arrived read in one round, hundreds would make it a second long, and
    a request is a handful of rounds, whoever sent it.
    """

    def __init__(self, limits: Limits) -> None:
        self._thread_bytes = limits.thread_bytes
        self._turn = trio.Semaphore(1)
        # Big bodies hold a core for milliseconds; two at a time leave the loop its turns.
        self._threads = trio.CapacityLimiter(2)

    async def read(self, body: bytes, now_ms: int) -> tuple[tuple[IncomingEvent, ...], bool]:
        """The events, and whether an array was sent.

        Raises ``InvalidRequest`` that names every bad field, and ``Overloaded`` where too many are to be read.
        """
        if len(body) < AT_ONCE_BYTES:
            return _read(body, now_ms)
        if len(body) >= self._thread_bytes:
            return await trio.to_thread.run_sync(_read, body, now_ms, limiter=self._threads)
        await self._wait_for_turn()
        try:
            events = _read(body, now_ms)
            await trio.lowlevel.checkpoint()  # before the next one is read, everybody else has had a turn
            return events
        finally:
            self._turn.release()

    async def _wait_for_turn(self) -> None:
        try:
            self._turn.acquire_nowait()
        except trio.WouldBlock:
            with trio.move_on_after(TURN_SECONDS) as waiting:
                await self._turn.acquire()
            if waiting.cancelled_caught:
                raise Overloaded("More is sent than can be read. Try again in a moment.") from None


def created(request_id: str, events: Sequence[IncomingEvent], accepted: Accepted) -> Reply:
    """The answer: every event is stored."""
    headers: Headers = ()
    if any("idempotency_key" in event.raw for event in events):
        headers = ((b"idempotent-replays", b"%d" % accepted.replays),)
    return resource(
        request_id, {"ids": accepted.ids, "redacted_count": accepted.redacted_count}, 201, headers
    )  # fmt: skip


def _read(body: bytes, now_ms: int) -> tuple[tuple[IncomingEvent, ...], bool]:
    parsed = gate.parse(body)
    return model.validate_events(parsed, now_ms=now_ms), type(parsed) is list
