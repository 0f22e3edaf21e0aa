"""The viewer kept up to date: what is polled, when, and what it does to what the reader looks at."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.browser.element import EVENTS, embed, inside, rows
from tests.browser.samples import lines, stored
from tests.support.browser import Tab
from tests.support.pages_api import PagesApi, error, page_of


@pytest.fixture
def polls(tab: Tab, api: PagesApi) -> Callable[[], None]:
    """A viewer that is live, whose five seconds are a quarter of one; and a poll at this very moment."""
    embed(tab, api)
    tab.until(lambda: rows(tab) > 0)
    tab.run(
        "const real = setTimeout; window.waits = [];"
        "setTimeout = (f, ms) => { waits.push(ms); return real(f, ms === 5000 ? 250 : ms) }"
    )
    tab.click(".live")

    def now() -> None:
        tab.click(".live")
        tab.click(".live")

    return now


class TestLive:
    @pytest.fixture(autouse=True)
    def listed(self, api: PagesApi) -> list[dict[str, object]]:
        events: list[dict[str, object]] = [stored(2, action="a.old"), stored(1, action="a.older")]
        api.on(EVENTS, lambda _: page_of(*events))
        return events

    def test_new_events_appear_while_nobody_reads(
        self, tab: Tab, listed: list[dict[str, object]], polls: Callable[[], None]
    ) -> None:
        listed.insert(0, stored(9, action="a.new"))
        listed.insert(2, stored(1, action="a.late", id="evt_01KARHK7T0C8Q2M4V6X9ZZZZZZ"))

        polls()

        tab.until(lambda: rows(tab) == 4)
        assert lines(tab, ".row .what") == ["a.new", "a.old", "a.late", "a.older"]
        assert [row.get_attribute("aria-rowindex") for row in tab.all(".row")] == ["2", "3", "4", "5"]
        assert tab.text("[role=status]") == "2 new events"

    def test_they_are_announced_and_do_not_move_what_somebody_reads(
        self, tab: Tab, listed: list[dict[str, object]], polls: Callable[[], None]
    ) -> None:
        inside(tab, "root.querySelector('.row').focus()")
        listed.insert(0, stored(9, action="a.new"))

        tab.until(lambda: tab.seen(".fresh"))
        assert rows(tab) == 2
        assert "a.old" in tab.focused()
        assert tab.text("[role=status]") == "1 new event above the list"

        tab.click(".fresh")
        assert rows(tab) == 3
        assert "a.new" in tab.focused()
        assert not tab.seen(".fresh")

    def test_it_waits_longer_when_the_service_is_in_trouble(
        self, tab: Tab, api: PagesApi, polls: Callable[[], None]
    ) -> None:
        api.on(EVENTS, error(503, "unavailable", Retry_After="33"))

        polls()

        tab.until(lambda: 33_000 in tab.run("return window.waits"))
        assert tab.seen(".live.troubled")
        assert rows(tab) == 2  # what is there stays there
        api.on(EVENTS, error(500, "internal_error"))
        polls()
        tab.until(lambda: 10_000 in tab.run("return window.waits"))
        api.on(EVENTS, page_of(stored(9)))
        polls()
        tab.until(lambda: rows(tab) == 3)
        assert not tab.seen(".live.troubled")

    def test_a_hidden_tab_asks_nothing_and_asks_at_once_when_it_is_seen_again(
        self, tab: Tab, api: PagesApi, polls: Callable[[], None]
    ) -> None:
        hide = (
            "Object.defineProperty(document, 'hidden', {configurable: true, value: arguments[0]});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        tab.until(lambda: len(api.sent(EVENTS)) >= 4)
        tab.run(hide, True)
        time.sleep(0.3)  # for one that was on its way
        asked = len(api.sent(EVENTS))
        time.sleep(0.8)
        assert len(api.sent(EVENTS)) == asked

        tab.run(hide, False)

        tab.until(lambda: len(api.sent(EVENTS)) > asked)

    def test_a_token_that_expires_ends_it(self, tab: Tab, api: PagesApi, polls: Callable[[], None]) -> None:
        api.on(EVENTS, error(401, "unauthorized"))

        polls()

        tab.until_text(".message", "Access has expired")
        assert tab.one(".live").get_attribute("aria-pressed") == "false"

    def test_more_than_a_page_of_them_asks_to_load_again(
        self, tab: Tab, api: PagesApi, polls: Callable[[], None]
    ) -> None:
        api.on(EVENTS, page_of(*(stored(n) for n in range(500, 400, -1)), cursor="c"))

        polls()

        tab.until_text(".fresh", "Many new events")
        api.on(EVENTS, page_of(stored(500)))
        tab.click(".fresh")
        tab.until(lambda: rows(tab) == 1)
