"""Times are read to the letter of RFC 3339 and written back the same."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.times import (
    DAY_MS,
    EPOCH,
    MAX_MS,
    MIN_MS,
    format_time,
    from_ms,
    parse_date,
    parse_end,
    parse_start,
    parse_time,
    to_ms,
)

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "times.json").read_bytes())


@pytest.mark.parametrize(("text", "ms"), VECTORS["parsed"].items())
def test_reads(text: str, ms: int) -> None:
    assert parse_time(text) == ms


@pytest.mark.parametrize("text", VECTORS["refused"])
def test_refuses(text: str) -> None:
    with pytest.raises(ValueError, match=r"ISO 8601|years 0001 to 9999"):
        parse_time(text)


@given(st.integers(MIN_MS, MAX_MS))
def test_what_is_written_reads_back(ms: int) -> None:
    text = format_time(ms)
    assert len(text) == 24
    assert parse_time(text) == ms
    assert text[:23] == (EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")[:23]


@given(
    st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)),
    st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_any_offset_names_the_same_instant(moment: datetime, offset: int) -> None:
    there = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    assert parse_time(there.isoformat(timespec="microseconds")) == (there - EPOCH) // timedelta(milliseconds=1)


@pytest.mark.parametrize("ms", [MIN_MS - 1, MAX_MS + 1])
def test_years_beyond_the_calendar_are_not_written(ms: int) -> None:
    with pytest.raises(OverflowError):
        format_time(ms)


def test_a_bare_date_means_the_whole_utc_day() -> None:
    assert format_time(parse_start("2026-11-23")) == "2026-11-23T00:00:00.000Z"
    assert format_time(parse_end("2026-11-23")) == "2026-11-23T23:59:59.999Z"
    assert parse_start("2026-11-23T08:00:00.5Z") == parse_end("2026-11-23T08:00:00.5Z")


@pytest.mark.parametrize(
    "text", ["", "2026-11-2", "2026-11-31", "2026-W48-1", "20261123", "٢٠٢٦-11-23", "2026-11-23\n", "0000-01-01"]
)
def test_other_dates_are_refused(text: str) -> None:
    for reads in (parse_date, parse_start, parse_end):
        with pytest.raises(ValueError, match="Expected a date"):
            reads(text)


def test_a_plus_sign_lost_in_a_url_is_explained() -> None:
    with pytest.raises(ValueError, match="%2B"):
        parse_start("2026-11-23T08:00:00 01:00")
    assert parse_date("2026-11-23") % DAY_MS == 0


@given(st.integers(MIN_MS, MAX_MS))
def test_milliseconds_become_a_datetime_and_the_same_again(ms: int) -> None:
    moment = from_ms(ms)
    assert moment.tzinfo is UTC
    assert moment == EPOCH + timedelta(milliseconds=ms)
    assert to_ms(moment) == ms


@given(st.integers(MIN_MS, MAX_MS), st.integers(0, 999), st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_microseconds_are_cut_from_a_datetime_in_any_zone(ms: int, microseconds: int, offset: int) -> None:
    moment = from_ms(ms) + timedelta(microseconds=microseconds)
    if MIN_MS + DAY_MS <= ms <= MAX_MS - DAY_MS:  # elsewhere, a clock of another zone may show no year that is left
        moment = moment.astimezone(timezone(timedelta(minutes=offset)))
    assert to_ms(moment) == ms


@pytest.mark.parametrize("ms", [MIN_MS - 1, MAX_MS + 1])
def test_a_datetime_beyond_the_calendar_is_refused(ms: int) -> None:
    with pytest.raises(OverflowError):
        from_ms(ms)
