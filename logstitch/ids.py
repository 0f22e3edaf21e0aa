"""Ids are 128-bit ULIDs: 16 bytes inside, a prefix and 26 Crockford characters outside.

A ULID is 48 bits of milliseconds and 80 random bits (https://github.com/ulid/spec), so ids sort by the time they were
made. ``UlidMint`` hands them out strictly increasing within its process, which lets ``id`` break ties of
``occurred_at`` in the order of arrival.

Only the canonical spelling is read back: upper case, no ``I L O U``, no value over 128 bits. An id has one spelling,
so two spellings can never be taken for two events, nor one for the other in a cache or a log search.
"""

from __future__ import annotations

import re
import secrets
from enum import StrEnum
from functools import lru_cache
from uuid import UUID

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(a + b for a in _ALPHABET for b in _ALPHABET)
_CANONICAL = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
# int(text, 32) reads 0-9a-v in C: a translation away from Crockford's alphabet.
_TO_BASE32 = str.maketrans(_ALPHABET, "0123456789ABCDEFGHIJKLMNOPQRSTUV")

_RANDOM_BITS = 80
_MAX_MS = 2**48 - 1
_MAX = 2**128 - 1


class IdKind(StrEnum):
    """The prefixes of ids that are ULIDs. Keys, projects, custom rules and tiers are plain UUIDs instead."""

    EVENT = "evt"
    ALERT = "alr"
    WEBHOOK = "whk"
    DELIVERY = "dlv"
    REQUEST = "req"


class UlidMint:
    """Makes ULIDs that only ever grow. Not safe to share between threads; one per actor or per loop.

    Each call starts from fresh randomness. Within one millisecond, or when the clock steps back, it starts a random
    distance behind the last id instead: ids stay in order, and a process that was forked with a copy of this object
    still makes different ids.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = -1

    def mint(self, n: int, now_ms: int) -> list[bytes]:
        """``n`` consecutive ids of 16 bytes each, all greater than any made before; ``now_ms`` is Unix time."""
        if not 0 <= now_ms <= _MAX_MS:
            raise ValueError("a ULID holds the years 1970 to 10889")
        first = now_ms << _RANDOM_BITS | secrets.randbits(_RANDOM_BITS)
        if first <= self._last:
            first = self._last + 1 + secrets.randbits(32)
        if first + n > _MAX:
            raise OverflowError("no ULID is left after the last one")
        self._last = first + n - 1
        return [number.to_bytes(16, "big") for number in range(first, first + n)]

    def one(self, now_ms: int) -> bytes:
        """One id of 16 bytes."""
        return self.mint(1, now_ms)[0]


def ulid_text(id16: bytes) -> str:
    """The 26 characters of a ULID, without a prefix."""
    # 40 bits are 8 characters. The 88 bits before them are the same all through a batch, most of the time.
    n = int.from_bytes(id16[11:], "big")
    p = _PAIRS
    return f"{_first_18(id16[:11])}{p[n >> 30]}{p[n >> 20 & 1023]}{p[n >> 10 & 1023]}{p[n & 1023]}"


@lru_cache(maxsize=256)
def _first_18(high: bytes) -> str:
    n = int.from_bytes(high, "big")
    return "".join([_PAIRS[n >> shift & 1023] for shift in range(80, -1, -10)])


def id_text(kind: IdKind, id16: bytes) -> str:
    """The id as the API spells it: ``evt_01JDC8Z8YQ3V1S7T9W6X4K2M0P``."""
    return f"{kind.value}_{ulid_text(id16)}"


def parse_id(kind: IdKind, text: str) -> bytes:
    """The 16 bytes of an id of this kind. Raises ``ValueError`` for anything but its canonical spelling."""
    head, tail = text[:4], text[4:]
    if head != f"{kind.value}_" or _CANONICAL.fullmatch(tail) is None:
        raise ValueError(f"An id of this kind is {kind.value}_ and 26 characters 0-9 A-Z without I, L, O and U")
    return int(tail.translate(_TO_BASE32), 32).to_bytes(16, "big")


def event_id_text(id16: bytes) -> str:
    """``evt_`` and the ULID."""
    return "evt_" + ulid_text(id16)


def parse_event_id(text: str) -> bytes:
    """The 16 bytes of an event's id; raises ``ValueError``."""
    return parse_id(IdKind.EVENT, text)


def as_uuid(id16: bytes) -> UUID:
    """The same 128 bits as PostgreSQL's ``uuid`` type wants them."""
    return UUID(bytes=id16)


_request_ids = UlidMint()


def new_request_id(now_ms: int) -> str:
    """A fresh ``req_`` id for one HTTP request (to be called from the event loop's thread)."""
    return id_text(IdKind.REQUEST, _request_ids.one(now_ms))
