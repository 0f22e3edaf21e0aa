"""A cursor is a sealed bookmark: a place in a list, and a seal that fits one list only.

The seal is an HMAC-SHA-256 (RFC 2104) over the place and over what was asked: the resource, whose it is, the filters
and the order. A cursor that was changed, or is used with other filters or in another project, does not fit, and so can
neither skip rows in silence nor probe for what is not the caller's. Nothing is stored for it, and it never expires.

The place is also covered, since a page may end at an event that its reader is not shown: what it is added to is made of
the seal under a second key, so that the seal is made first and serves as the nonce (as in RFC 5297, with HMAC for AES).

24 bytes of place and 18 of seal (144 bits) are 56 characters of base64url without a remainder, so that a cursor has one
spelling and every bit of it counts.
"""

from __future__ import annotations

import hmac
import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from uuid import UUID

import orjson

from logstitch.actors.messages.alerts import AlertFilter
from logstitch.actors.messages.events import EventFilter
from logstitch.actors.messages.pages import Order, Page, Position
from logstitch.actors.messages.projects import Project
from logstitch.actors.messages.redaction import RuleDraft
from logstitch.errors import InvalidRequest
from logstitch.times import EPOCH
from logstitch.viewing.tiers import View

_SEAL_BYTES = 18
_FORM = re.compile(r"[0-9A-Za-z_-]{56}")
_PLACE = struct.Struct(">q16s")
_PURPOSE = b"logstitch cursor 2\0"
_COVER = b"logstitch cursor cover\0"
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Listing:
    """What a cursor belongs to: everything of a request that decides which rows it finds, and in which order."""

    fingerprint: bytes

    @classmethod
    def of_events(cls, project: Project, filter: EventFilter, order: Order, view: View | None = None) -> Listing:
        """A project's events, or what one tenant is shown of its own: whichever token of the same tier asks."""
        wanted = {name: getattr(filter, name) for name in EventFilter.__slots__ if name != "words"}
        words = [word.decode() for word in filter.words]
        if view is None:
            return cls._of("events", [project.id], wanted, words, order)
        tier_id = None if view.tier is None else view.tier.id
        return cls._of("shown events", [project.id, view.tenant_id, tier_id], wanted, words, order)

    @classmethod
    def of_trial(cls, project: Project, rule: RuleDraft, start_ms: int | None, end_ms: int | None) -> Listing:
        """The events that a rule is tried on. Its name and whether it is enabled make no difference to them."""
        what = [rule.type, rule.pattern, rule.fields, rule.behavior]
        return cls._of("redaction trial", [project.id], what, start_ms, end_ms)

    @classmethod
    def of_alerts(cls, project: Project, filter: AlertFilter) -> Listing:
        """A project's alerts."""
        return cls._of("alerts", [project.id], asdict(filter))

    @classmethod
    def of_rows(cls, resource: str, owner: Sequence[UUID | None]) -> Listing:
        """A list in the order of creation, either way: ``keys`` of an organization and perhaps a project."""
        return cls._of(resource, list(owner))

    @classmethod
    def _of(cls, *parts: object) -> Listing:
        return cls(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS))


class Cursors:
    """Seals and opens cursors with the deployment's key."""

    __slots__ = ("_cover_key", "_key")

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("a cursor key has at least 32 bytes")
        self._key = key
        self._cover_key = hmac.digest(key, _COVER, "sha256")

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
        return self._seal(listing, (row.created_at - EPOCH) // _MICROSECOND, row.id)

    def row(self, listing: Listing, cursor: str | None) -> Page | None:
        """The row to go on after. Raises ``InvalidRequest`` on ``cursor``."""
        if cursor is None:
            return None
        microseconds, id = self._open(listing, cursor)
        return Page(EPOCH + timedelta(microseconds=microseconds), id)

    def _seal(self, listing: Listing, number: int, id: UUID) -> str:
        place = _PLACE.pack(number, id.bytes)
        stamp = self._stamp(listing, place)
        return urlsafe_b64encode(self._covered(place, stamp) + stamp).decode()

    def _open(self, listing: Listing, cursor: str) -> tuple[int, UUID]:
        if _FORM.fullmatch(cursor) is None:
            raise _refused()
        sealed = urlsafe_b64decode(cursor)
        covered, stamp = sealed[:-_SEAL_BYTES], sealed[-_SEAL_BYTES:]
        place = self._covered(covered, stamp)
        if not hmac.compare_digest(stamp, self._stamp(listing, place)):
            raise _refused()
        number, id = _PLACE.unpack(place)
        return number, UUID(bytes=id)

    def _covered(self, place: bytes, stamp: bytes) -> bytes:
        """The place under its cover, and back again."""
        cover = hmac.digest(self._cover_key, stamp, "sha256")
        return bytes(a ^ b for a, b in zip(place, cover, strict=False))

    def _stamp(self, listing: Listing, place: bytes) -> bytes:
        return hmac.digest(self._key, _PURPOSE + place + listing.fingerprint, "sha256")[:_SEAL_BYTES]


def _refused() -> InvalidRequest:
    return InvalidRequest.on("cursor", "Not a cursor of this list; send it back as it came, with the same filters")
