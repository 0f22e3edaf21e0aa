"""A cursor is a sealed bookmark: a place in a list, and a seal that fits one list only.

The seal is an HMAC-SHA-256 (RFC 2104) over the place and over what was asked: the resource, whose it is, the filters
and the order. A cursor that was changed, or is used with other filters or in another project, does not fit, and so can
neither skip rows in silence nor probe for what is not the caller's. Nothing is stored for it, and it never expires.

24 bytes of place and 18 of seal (144 bits) are 56 characters of base64url without a remainder, so that a cursor has one
spelling and every bit of it counts.
"""

from __future__ import annotations

import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson

from logstitch.actors.messages import EventFilter, Order, Page, Position, Project, RuleDraft
from logstitch.errors import InvalidRequest

_SEAL_BYTES = 18
_FORM = re.compile(r"[0-9A-Za-z_-]{56}")
_PLACE = struct.Struct(">q16s")
_PURPOSE = b"logstitch cursor 1\0"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a cursor belongs to: everything of a request that decides which rows it finds, and in which order."""

    fingerprint: bytes

    @classmethod
    def of_events(cls, project: Project, filter: EventFilter, order: Order) -> Listing:
        """A project's events."""
        wanted = {name: getattr(filter, name) for name in EventFilter.__slots__ if name != "words"}
        return cls._of("events", [project.id], wanted, [word.decode() for word in filter.words], order)

    @classmethod
    def of_trial(cls, project: Project, rule: RuleDraft, start_ms: int | None, end_ms: int | None) -> Listing:
        """The events that a rule is tried on. Its name and whether it is enabled make no difference to them."""
        what = [rule.type, rule.pattern, rule.fields, rule.behavior]
        return cls._of("redaction trial", [project.id], what, start_ms, end_ms)

    @classmethod
    def of_rows(cls, resource: str, owner: Sequence[UUID | None]) -> Listing:
        """A list that is ordered newest first: ``keys`` of an organization and perhaps a project."""
        return cls._of(resource, list(owner))

    @classmethod
    def _of(cls, *parts: object) -> Listing:
        return cls(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))


class Cursors:
    """Seals and opens cursors with the deployment's key."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("a cursor key has at least 32 bytes")
        self._key = key

    def after_event(self, listing: Listing, position: Position | None) -> str | None:
        """The cursor that goes on after an event; None after the last page."""
        return None if position is None else self._seal(listing, position.occurred_at_ms, position.id)

    def event(self, listing: Listing, cursor: str | None) -> Position | None:
        """The event to go on after. Raises ``InvalidRequest`` on ``cursor``."""
        return None if cursor is None else Position(*self._open(listing, cursor))

    def after_row(self, listing: Listing, row: Page | None) -> str | None:
        """The cursor that goes on after a row; None after the last page."""
        if row is None:
            return None
        return self._seal(listing, (row.created_at - _EPOCH) // _MICROSECOND, row.id)

    def row(self, listing: Listing, cursor: str | None) -> Page | None:
        """The row to go on after. Raises ``InvalidRequest`` on ``cursor``."""
        if cursor is None:
            return None
        microseconds, id = self._open(listing, cursor)
        return Page(_EPOCH + timedelta(microseconds=microseconds), id)

    def _seal(self, listing: Listing, number: int, id: UUID) -> str:
        place = _PLACE.pack(number, id.bytes)
        return urlsafe_b64encode(place + self._stamp(listing, place)).decode()

    def _open(self, listing: Listing, cursor: str) -> tuple[int, UUID]:
        if _FORM.fullmatch(cursor) is None:
            raise _refused()
        sealed = urlsafe_b64decode(cursor)
        place, stamp = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
        if not hmac.compare_digest(stamp, self._stamp(listing, place)):
            raise _refused()
        number, id = _PLACE.unpack(place)
        return number, UUID(bytes=id)

    def _stamp(self, listing: Listing, place: bytes) -> bytes:
        return hmac.digest(self._key, _PURPOSE + place + listing.fingerprint, "sha256")[:_SEAL_BYTES]


def _refused() -> InvalidRequest:
    return InvalidRequest.on("cursor", "Not a cursor of this list; send it back as it came, with the same filters")
