"""Times are integers: milliseconds since 1970-01-01T00:00:00Z. Text is met only here, at the edge.

What is read is RFC 3339 to the letter, because the lenient parsers are traps: ``datetime.fromisoformat`` takes week
dates and times without a zone, ``int`` takes other scripts' digits, ``$`` matches before a newline.

Decisions: the offset is required (``-00:00`` counts as UTC); ``t`` and ``z`` may be lower case, as the RFC allows, a
space in place of ``T`` may not; digits beyond the millisecond are cut, not rounded; a leap second (``:60``) is refused,
since nothing here could give it back; and the instant itself must lie in the years 0001 to 9999 in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache

_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?"
    r"(?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_MILLISECOND = timedelta(milliseconds=1)
_ENDINGS = tuple(f"{n:03d}Z" for n in range(1000))

DAY_MS = 86_400_000
MIN_MS = (date.min.toordinal() - _EPOCH_DAY) * DAY_MS
"""0001-01-01T00:00:00.000Z"""
MAX_MS = (date.max.toordinal() - _EPOCH_DAY + 1) * DAY_MS - 1
"""9999-12-31T23:59:59.999Z"""

NOT_A_TIME = "Expected an ISO 8601 time with an offset, such as 2026-11-23T08:00:00Z"
NOT_A_DATE = "Expected a date such as 2026-11-23, or an ISO 8601 time with an offset such as 2026-11-23T08:00:00Z"


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch of a datetime with a zone; digits beyond the millisecond are cut.

    Exact, as a thousand times ``timestamp()`` is not: that is a float, and ``int`` cuts towards 1970.
    """
    return (moment - EPOCH) // _MILLISECOND  # Rounds down, which is what cutting digits means before 1970 as well.


def from_ms(ms: int) -> datetime:
    """The datetime, in UTC, of milliseconds since the epoch. Raises ``OverflowError`` beyond the years 0001 to 9999."""
    return EPOCH + ms * _MILLISECOND


def parse_time(text: str) -> int:
    """Milliseconds since the epoch. Raises ``ValueError`` with a message fit for the caller (it never has the text)."""
    if _TIME.fullmatch(text) is None:
        raise ValueError(NOT_A_TIME)
    try:
        # The shape is proven, so fromisoformat's leniency has nothing left to be lenient about; it checks the ranges.
        # (Of the fraction it keeps six digits.)
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(NOT_A_TIME) from None
    ms = to_ms(moment)
    if not MIN_MS <= ms <= MAX_MS:
        raise ValueError("Must lie in the years 0001 to 9999 (UTC)")
    return ms


def format_time(ms: int) -> str:
    """``2026-11-23T08:00:00.123Z``. Raises ``OverflowError`` outside the years 0001 to 9999."""
    seconds, rest = divmod(ms, 1000)
    return _to_the_second(seconds) + _ENDINGS[rest]


def format_moment(moment: datetime) -> str:
    """The same of a datetime with a zone; digits beyond the millisecond are cut."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


@lru_cache(maxsize=4096)
def _to_the_second(seconds: int) -> str:
    # isoformat pads years below 1000; strftime does not on every platform.
    return (EPOCH + timedelta(seconds=seconds)).isoformat()[:19] + "."


def parse_date(text: str) -> int:
    """The first millisecond of a bare UTC date. Raises ``ValueError``."""
    if _DATE.fullmatch(text) is None:
        raise ValueError(NOT_A_DATE)
    try:
        return (date.fromisoformat(text).toordinal() - _EPOCH_DAY) * DAY_MS
    except ValueError:
        raise ValueError(NOT_A_DATE) from None


def parse_start(text: str) -> int:
    """The first millisecond that a ``start_date`` includes: of the whole UTC day for a bare date."""
    return parse_date(text) if len(text) == 10 else _parse_bound(text)


def parse_end(text: str) -> int:
    """The last millisecond that an ``end_date`` includes: of the whole UTC day for a bare date."""
    return parse_date(text) + DAY_MS - 1 if len(text) == 10 else _parse_bound(text)


def _parse_bound(text: str) -> int:
    try:
        return parse_time(text)
    except ValueError:
        # The commonest mistake in a query string is a raw plus sign, which arrives as a space.
        hint = " (in a URL, write the + of an offset as %2B)" if " " in text else ""
        raise ValueError(NOT_A_DATE + hint) from None
