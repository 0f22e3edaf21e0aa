"""A body is read under four bounds: its type, its size, its time, and the memory of all bodies together.

Bytes are counted as they arrive, whatever was announced, and against the budget only when they are here: a client that
announces much and sends little takes nothing from the others.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any

from logstitch import metrics
from logstitch.errors import InvalidRequest, Overloaded
from logstitch.http.errors import BodyTooLarge, UnsupportedMediaType
from logstitch.http.services import Limits

Receive = Callable[[], Awaitable[Any]]

# RFC 9110, 8.3.1. JSON is UTF-8 (RFC 8259, 8.1); a charset parameter may say so and nothing else.
_JSON = re.compile(rb'application/json(?:[ \t]*;[ \t]*(?:charset=(?:utf-8|"utf-8"))?)*[ \t]*', re.IGNORECASE)
_LENGTH = re.compile(rb"[0-9]{1,19}")


class ClientGone(Exception):
    """The client left before its body was complete; there is nobody to answer."""


class Budget:
    """How many bytes of bodies are held, and how many may be: in all, and of one owner, so that nobody's bodies keep
    out everybody else's. ``whole`` is the budget of which this one is a part."""

    __slots__ = ("_by_owner", "_share", "_whole", "held", "limit")

    def __init__(self, limit: int, share: int, whole: Budget | None = None) -> None:
        self.limit = limit
        self._share = share
        self._whole = whole
        self.held = 0
        self._by_owner: dict[Hashable, int] = {}

    def take(self, size: int, owner: Hashable) -> None:
        """Raises ``Overloaded`` when that would be more than there may be, or more than the share of one ``owner``."""
        owned = self._by_owner.get(owner, 0) + size
        if owned > self._share or not self._has_room(size):
            raise Overloaded("Too many request bodies are on their way. Try again in a moment.")
        self._by_owner[owner] = owned
        self._add(size)

    def give_back(self, size: int, owner: Hashable) -> None:
        """What ``take`` took."""
        owned = self._by_owner.pop(owner) - size
        if owned:
            self._by_owner[owner] = owned
        self._add(-size)

    def _has_room(self, size: int) -> bool:
        return self.held + size <= self.limit and (self._whole is None or self._whole._has_room(size))

    def _add(self, size: int) -> None:
        self.held += size
        if self._whole is None:
            metrics.BODY_BYTES_IN_FLIGHT.set(self.held)
        else:
            self._whole._add(size)


class Body:
    """One request's body, not read yet. ``release`` gives its bytes back to the budget."""

    __slots__ = ("_headers", "_held", "_limits", "_receive", "budget", "owner")

    def __init__(self, headers: Mapping[bytes, bytes], receive: Receive, budget: Budget, limits: Limits) -> None:
        self._headers = headers
        self._receive = receive
        self._limits = limits
        self._held = 0
        self.budget = budget
        self.owner: Hashable = None
        """Whose share of the budget it takes; both are to be set before it is read."""

    def expect_none(self) -> None:
        """Raises ``InvalidRequest`` if one was announced: what would be dropped in silence is refused."""
        length = self._headers.get(b"content-length", b"0")
        if b"transfer-encoding" in self._headers or length.strip(b"0"):
            raise InvalidRequest("This request takes no body.")

    def check_head(self) -> None:
        """Raises what the headers alone tell: ``UnsupportedMediaType``, ``InvalidRequest``, ``BodyTooLarge``."""
        headers = self._headers
        content_type = headers.get(b"content-type")
        if content_type != b"application/json" and (content_type is None or _JSON.fullmatch(content_type) is None):
            raise UnsupportedMediaType("Send JSON in UTF-8, with the header Content-Type: application/json.")
        if headers.get(b"content-encoding", b"identity").strip().lower() not in (b"identity", b""):
            raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
        length = headers.get(b"content-length")
        if length is not None:
            if _LENGTH.fullmatch(length) is None:
                raise InvalidRequest("The Content-Length is not a number.")
            if int(length) > self._limits.body_bytes:
                raise self._too_large()

    async def read(self) -> bytes:
        """The whole body. The caller bounds the time that it takes.

        Raises:
          BodyTooLarge: see ``Limits``.
          Overloaded: the budget of all bodies is used up.
          ClientGone: it ended early.
        """
        message = await self._receive()
        body = self._take(message)
        if not message.get("more_body", False):
            return body
        chunks = [body]
        while message.get("more_body", False):
            message = await self._receive()
            if chunk := self._take(message):  # an empty one is no reason to keep a list of a million
                chunks.append(chunk)
        return b"".join(chunks)

    def release(self) -> None:
        """Give the bytes back; to be called when nobody holds the body any more."""
        if self._held:
            self.budget.give_back(self._held, self.owner)
            self._held = 0

    def _take(self, message: Mapping[str, Any]) -> bytes:
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk: bytes = message.get("body", b"")
        if self._held + len(chunk) > self._limits.body_bytes:
            raise self._too_large()
        self.budget.take(len(chunk), self.owner)
        self._held += len(chunk)
        return chunk

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"A body has at most {self._limits.body_bytes} bytes.")
