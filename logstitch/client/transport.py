"""What the two shells share of httpx: how a request is put, how much of an answer is read, what an exception means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx

from logstitch.client.core import Send
from logstitch.client.settings import USER_AGENT, Settings
from logstitch.client.wire import MAX_ANSWER_BYTES, Answer, Lost

_NOT_PASSING: Final = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)
"""Our own mistakes: the next attempt would make them, too."""


class TooMuch(Exception):
    """The answer is larger, or takes longer, than it may."""


def build(settings: Settings, send: Send) -> httpx.Request:
    """The request as httpx sends it. No single read or write waits for longer than the attempt's time; there may be
    several."""
    request = send.request
    headers = {"user-agent": USER_AGENT, "accept": "application/json"}
    if request.credential and settings.key is not None:
        headers["authorization"] = f"Bearer {settings.key}"
    if request.names_project and settings.project_id is not None:
        headers["x-project-id"] = settings.project_id
    if request.body is not None:
        headers["content-type"] = "application/json"
    return httpx.Request(
        request.method,
        httpx.URL(settings.base_url + request.path, params=request.query or None),
        headers=headers,
        content=request.body,
        extensions={"timeout": httpx.Timeout(min(settings.timeout, send.seconds)).as_dict()},
    )


class Body:
    """The bytes of an answer as they come, up to a size and a moment: httpx's timeouts bound each read, and no sum. Its
    headers come before, and are not counted."""

    def __init__(self, clock: Callable[[], float], seconds: float) -> None:
        self._clock = clock
        self._deadline = clock() + seconds
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, part: bytes) -> None:
        """Raises ``TooMuch``."""
        self._size += len(part)
        if self._size > MAX_ANSWER_BYTES:
            raise TooMuch("answer too large")
        if self._clock() > self._deadline:
            raise TooMuch("answer too slow")
        self._parts.append(part)

    def answer(self, response: httpx.Response) -> Answer:
        """The whole."""
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(response.status_code, headers, b"".join(self._parts))


def lost(error: Exception) -> Lost:
    """An attempt that ended in this. The text stays in the cause: it may hold the URL."""
    if isinstance(error, TooMuch):
        return Lost(str(error), error)
    return Lost(type(error).__name__, error, passing=not isinstance(error, _NOT_PASSING))
