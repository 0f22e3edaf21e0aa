"""Runs the client's core as a shell would, with answers from a list and a clock that only moves when it is waited."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from logstitch.client.buffer import Dropped
from logstitch.client.core import Core, Pause, Reply, Send, Steps
from logstitch.client.retries import Retries
from logstitch.client.schema import NewEvent
from logstitch.client.wire import Answer, Lost, Request

T = TypeVar("T")

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
REQUEST_ID = "req_01JDC8Z8YQ3V1S7T9W6X4K2M0P"


def an_event(n: int = 1, **more: Any) -> NewEvent:
    """An event that is told from others by its actor."""
    event: Any = {"action": "user.login", "category": "auth", "actor": {"id": f"u{n}", "type": "user"}}
    event |= {"tenant_id": "acme", **more}
    result: NewEvent = event
    return result


def ok(status: int = 200, /, headers: dict[str, str] | None = None, **body: Any) -> Answer:
    """A success."""
    return Answer(status, headers or {}, json.dumps({**body, "request_id": REQUEST_ID}).encode())


def refusal(status: int, code: str = "", *fields: str, **headers: str) -> Answer:
    """A refusal; ``retry_after="2"`` becomes a header."""
    error: dict[str, Any] = {"code": code, "message": "No."}
    if fields:
        error["details"] = [{"field": field, "message": "Required"} for field in fields]
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, json.dumps({"error": error, "request_id": REQUEST_ID}).encode())


def stored(request: Request) -> Answer:
    """What the service says when all goes well: the id of an event tells whose it is."""
    return ok(201, ids=[f"evt_{event['actor']['id']}" for event in events_of(request)], redacted_count=0)


def events_of(request: Request) -> list[dict[str, Any]]:
    """The events that a request carries."""
    body = json.loads(request.body or b"[]")
    return body if isinstance(body, list) else [body]


LOST = Lost("ConnectError", OSError("refused"))


@dataclass
class Play:
    """``replies`` are given one after the other, each a value or a function of the request; ``stored`` after the last.
    ``on_idle`` is called at each wait of the queue, and may touch it."""

    replies: Iterable[Reply | Callable[[Request], Answer | Lost]] = ()
    on_idle: Callable[[float], None] | None = None
    time: float = 1000.0
    sent: list[Request] = field(default_factory=list)
    allowed: list[float] = field(default_factory=list)
    """The seconds that each attempt may take."""
    waits: list[float] = field(default_factory=list)
    drops: list[Dropped] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._replies = iter(self.replies)
        self._keys = (f"key-{n}" for n in range(10_000_000))

    def core(self, retries: Retries | None = None, **more: Any) -> Core:
        """A core that plays by this clock, with keys that count up and no jitter."""
        return Core(
            retries or Retries(),
            15.0,
            on_drop=self.drops.append,
            clock=lambda: self.time,
            now=lambda: NOW + timedelta(seconds=self.time - 1000),
            jitter=lambda: 1.0,
            key=lambda: next(self._keys),
            **more,
        )

    def run(self, steps: Steps[T]) -> T:
        """To the end."""
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: T = done.value
                return result
            reply = None
            if isinstance(step, Send):
                self.sent.append(step.request)
                self.allowed.append(step.seconds)
                scripted = next(self._replies, stored)
                reply = scripted(step.request) if callable(scripted) else scripted
            elif isinstance(step, Pause):
                self.waits.append(step.seconds)
                self.time += step.seconds
            else:
                self.waits.append(step.seconds)
                if self.on_idle is None:
                    assert step.seconds != math.inf, "nothing would ever happen"
                    self.time += step.seconds
                else:
                    self.on_idle(step.seconds)
