"""Lists that are at hand are paged whole: each item once, in its order, however long a page is."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.actors.messages.pages import Page, page_of

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)

places = st.builds(
    lambda seconds, number: Page(NOON + timedelta(seconds=seconds), UUID(int=number)),
    st.integers(0, 3),
    st.integers(0, 5),
)


def key(place: Page) -> tuple[datetime, UUID]:
    return place.created_at, place.id


def pages(items: list[Page | str], limit: int, *, newest_first: bool = False) -> Iterator[tuple[Page | str, ...]]:
    """All pages, one after the other. A text stands for what nobody created."""
    after: Page | None = None
    for _ in range(len(items) + 1):
        page, after = page_of(
            items, lambda item: item if isinstance(item, Page) else None, after, limit, newest_first=newest_first
        )
        yield page
        if after is None:
            return
    pytest.fail("the pages have no end")


@given(st.integers(0, 4), st.sets(places), st.integers(1, 5))
def test_what_nobody_created_comes_first_and_then_the_oldest(builtins: int, created: set[Page], limit: int) -> None:
    items: list[Page | str] = [*(f"built-in {n}" for n in range(builtins)), *sorted(created, key=key)]

    found = list(pages(items, limit))

    assert [item for page in found for item in page] == items
    assert all(len(page) == limit for page in found[:-1])
    assert 0 < len(found[-1]) <= limit or not items


@given(st.sets(places), st.integers(1, 5))
def test_or_the_newest_first(created: set[Page], limit: int) -> None:
    items: list[Page | str] = [*sorted(created, key=key, reverse=True)]

    assert [item for page in pages(items, limit, newest_first=True) for item in page] == items


@given(st.sets(places, min_size=2), st.integers(1, 5), st.booleans())
def test_what_goes_between_two_pages_moves_nothing_else(created: set[Page], limit: int, newest_first: bool) -> None:
    items = sorted(created, key=key, reverse=newest_first)
    first, after = page_of(items, lambda item: item, None, limit, newest_first=newest_first)

    rest, _ = page_of(items[len(first) // 2 + 1 :], lambda item: item, after, 100, newest_first=newest_first)

    assert after is None or (*first, *rest) == tuple(items)


def test_a_page_that_ends_with_the_list_has_none_behind_it() -> None:
    place = Page(NOON, UUID(int=1))

    assert page_of([place], lambda item: item, None, 1) == ((place,), None)
    assert page_of([place], lambda item: item, place, 1) == ((), None)
