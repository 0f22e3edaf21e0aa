"""Cursors: they come back as they went, and only to the list that they are from."""

from __future__ import annotations

from base64 import urlsafe_b64decode
from dataclasses import fields, replace
from datetime import UTC, datetime
from string import ascii_letters, digits
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch import times
from logstitch.actors.messages.events import EventFilter
from logstitch.actors.messages.pages import Order, Page, Position
from logstitch.actors.messages.projects import Project
from logstitch.errors import InvalidRequest
from logstitch.http.cursors import Cursors, Listing
from logstitch.viewing.tiers import Tier, View

KEY = bytes(range(32))
CURSORS = Cursors(KEY)
PROJECT = Project(1, UUID(int=1), UUID(int=2), "p", datetime(2026, 1, 1, tzinfo=UTC))

TIER = Tier(UUID(int=3), "n", None, None, (), datetime(2026, 1, 1, tzinfo=UTC))
VIEWS = [View("t"), View("other"), View("t", TIER), View("t", replace(TIER, id=UUID(int=4)))]

positions = st.builds(Position, st.integers(times.MIN_MS, times.MAX_MS), st.uuids())
rows = st.builds(Page, st.datetimes(timezones=st.just(UTC)), st.uuids())
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
filters = st.builds(
    EventFilter,
    tenant_id=st.none() | text,
    actor_id=st.none() | text,
    action=st.none() | st.sampled_from(["a.b", "a.*"]),
    start_ms=st.none() | st.integers(times.MIN_MS, times.MAX_MS),
    words=st.lists(st.sampled_from([b"a", b"b", b"ab"])).map(tuple),
)
listings = st.builds(Listing.of_events, st.just(PROJECT), filters, st.sampled_from(Order))


@given(positions, listings)
def test_an_event_comes_back_as_it_went(position: Position, listing: Listing) -> None:
    cursor = CURSORS.after_event(listing, position)

    assert CURSORS.event(listing, cursor) == position


@given(rows)
def test_a_row_comes_back_as_it_went(row: Page) -> None:
    listing = Listing.of_rows("keys", [UUID(int=1)])

    assert CURSORS.row(listing, CURSORS.after_row(listing, row)) == row


@given(positions, listings)
def test_a_cursor_is_safe_in_a_url_and_short(position: Position, listing: Listing) -> None:
    cursor = CURSORS.after_event(listing, position)

    assert cursor is not None
    assert len(cursor) == 56
    assert set(cursor) <= set(ascii_letters + digits + "-_")


@given(st.lists(positions, min_size=2, max_size=20, unique=True), st.sampled_from([None, *VIEWS]))
def test_a_cursor_does_not_say_where_it_stands(places: list[Position], view: View | None) -> None:
    """Two cursors have no more in common than chance would have it, however near to each other their places are."""
    listing = Listing.of_events(PROJECT, EventFilter(), Order.DESC, view)

    sealed = [urlsafe_b64decode(CURSORS.after_event(listing, place) or "") for place in places]

    for place, cursor in zip(places, sealed, strict=True):
        assert place.id.bytes not in cursor
    assert len({cursor[:8] for cursor in sealed}) == len(sealed)


@given(positions, st.integers(0, 56 * 6 - 1))
def test_no_bit_may_change(position: Position, bit: int) -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    listing = Listing.of_events(PROJECT, EventFilter(), Order.DESC)
    cursor = CURSORS.after_event(listing, position)
    assert cursor is not None
    at, flip = divmod(bit, 6)
    changed = cursor[:at] + alphabet[alphabet.index(cursor[at]) ^ (1 << flip)] + cursor[at + 1 :]

    with pytest.raises(InvalidRequest):
        CURSORS.event(listing, changed)


@given(positions, listings, listings)
def test_a_cursor_fits_its_own_list_only(position: Position, own: Listing, other: Listing) -> None:
    cursor = CURSORS.after_event(own, position)

    if own == other:
        assert CURSORS.event(other, cursor) == position
    else:
        with pytest.raises(InvalidRequest) as refused:
            CURSORS.event(other, cursor)
        assert [detail.field for detail in refused.value.details] == ["cursor"]


@given(st.text(max_size=80))
def test_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidRequest):
        CURSORS.event(Listing.of_rows("keys", []), text)


@pytest.mark.parametrize("mangle", ["{}=", " {}", "{}\n", "{0}{0}", "{}%"])
def test_a_cursor_has_one_spelling(mangle: str) -> None:
    listing = Listing.of_rows("keys", [UUID(int=1)])
    cursor = CURSORS.after_event(listing, Position(0, UUID(int=0)))

    with pytest.raises(InvalidRequest):
        CURSORS.event(listing, mangle.format(cursor))


@pytest.mark.parametrize("name", [field.name for field in fields(EventFilter)])
def test_every_filter_is_sealed_in(name: str) -> None:
    """A filter that is added later is not forgotten here."""
    value = {"words": (b"w",), "start_ms": 1, "end_ms": 1}.get(name, "x")
    plain = EventFilter()

    changed = replace(plain, **{name: value})  # type: ignore[arg-type]

    assert Listing.of_events(PROJECT, plain, Order.ASC) != Listing.of_events(PROJECT, changed, Order.ASC)


def test_project_order_and_resource_are_sealed_in() -> None:
    other = replace(PROJECT, id=UUID(int=9))
    listings = [
        Listing.of_events(PROJECT, EventFilter(), Order.ASC),
        Listing.of_events(PROJECT, EventFilter(), Order.DESC),
        Listing.of_events(other, EventFilter(), Order.ASC),
        *(Listing.of_events(PROJECT, EventFilter(tenant_id="t"), Order.DESC, view) for view in (None, *VIEWS)),
        Listing.of_rows("keys", [PROJECT.id]),
        Listing.of_rows("keys", [PROJECT.id, None]),
        Listing.of_rows("keys", [other.id]),
        Listing.of_rows("projects", [PROJECT.id]),
    ]

    assert len(set(listings)) == len(listings)


@given(positions, st.binary(min_size=32, max_size=40))
def test_another_deployments_cursor_is_none(position: Position, key: bytes) -> None:
    listing = Listing.of_rows("keys", [])
    cursor = Cursors(key + b"another").after_event(listing, position)

    with pytest.raises(InvalidRequest):
        CURSORS.event(listing, cursor)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Cursors(b"short")


def test_no_place_is_no_cursor() -> None:
    listing = Listing.of_rows("keys", [])

    assert CURSORS.after_event(listing, None) is None
    assert CURSORS.event(listing, None) is None
    assert CURSORS.after_row(listing, None) is None
    assert CURSORS.row(listing, None) is None
