"""The viewer when things go wrong: no token, no service, no answer, an old one, and what brings it back."""

from __future__ import annotations

import time

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.element import EVENTS, embed, inside, rows, set_
from tests.browser.samples import Product, event, lines, stored
from tests.support.browser import Tab
from tests.support.pages_api import Answer, PagesApi, Request, error, page_of


def test_it_waits_for_a_token_loads_and_says_when_there_is_nothing(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, page_of())
    embed(tab, api, token="")
    tab.until_text(".message", "Waiting for access")
    assert api.sent(EVENTS) == []

    set_(tab, "token", "vt_2")

    tab.until_text(".message", "No events yet")
    assert [r.headers["authorization"] for r in api.sent(EVENTS)] == ["Bearer vt_2"]
    assert tab.run("return document.querySelector('logstitch-viewer').getAttribute('token')") == ""


def test_pages_may_be_empty_although_there_are_more(tab: Tab, api: PagesApi) -> None:
    def answer(request: Request) -> Answer:
        number = int(request.query.get("cursor", "0"))
        return page_of(stored(1), cursor=None) if number == 3 else page_of(cursor=str(number + 1))

    api.on(EVENTS, answer)
    embed(tab, api)

    tab.until(lambda: rows(tab) == 1)


def test_it_comes_back_by_itself_from_a_short_outage(tab: Tab, api: PagesApi) -> None:
    answers = [error(503, "unavailable", Retry_After="1"), page_of(stored(1))]
    api.on(EVENTS, lambda _: answers.pop(0))
    embed(tab, api)

    assert tab.seen(".skeleton")
    tab.until(lambda: rows(tab) == 1)


def test_a_long_outage_is_told_with_a_way_out(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, error(500, "internal_error", "The service failed to answer this request."))
    embed(tab, api)

    tab.until_text(".message", "The service failed to answer this request.")
    assert "req_01KARHK7T0C8Q2M4V6X9Z1B3D5" in tab.text(".message")
    api.on(EVENTS, page_of(stored(1)))
    tab.click(".message button")
    tab.until(lambda: rows(tab) == 1)


def test_a_page_that_fails_on_the_way_down_can_be_asked_for_again(tab: Tab, api: PagesApi) -> None:
    healthy = False

    def answer(request: Request) -> Answer:
        if "cursor" not in request.query:
            return page_of(*(stored(n) for n in range(90, 40, -1)), cursor="c")
        return page_of(stored(1)) if healthy else error(500, "internal_error")

    api.on(EVENTS, answer)
    embed(tab, api)
    tab.until(lambda: rows(tab) == 50)
    inside(tab, "root.querySelector('.scroller').scrollTo(0, 1e6)")
    tab.until_text(".end", "More events could not be loaded")

    healthy = True
    tab.click(".end button")

    tab.until(lambda: rows(tab) == 51)


@pytest.mark.parametrize("base", ["javascript:pwned()", "data:text/html,x", "http://[", "file:///etc"])
def test_a_base_url_that_is_no_web_address_is_never_followed(base: str, tab: Tab, api: PagesApi) -> None:
    embed(tab, api, f'base-url="{base}"')

    tab.until_text(".message", "base-url")


def test_nobody_there(tab: Tab, api: PagesApi) -> None:
    html = """<!doctype html><title>x</title><script type="module" src="/viewer.js"></script>
        <logstitch-viewer token="t" base-url="http://127.0.0.1:1"></logstitch-viewer>"""
    tab.open(api.page("/page", html))

    tab.until_text(".message", "The service cannot be reached")


def test_a_revoked_key_ends_the_view_and_a_new_token_brings_it_back(tab: Tab, product: Product) -> None:
    product.send(event())
    key_id, key = product.another_key()
    tab.open(f"{product.service.url}/viewer")
    tab.run("document.addEventListener('logstitch-token-expired', (e) => (window.told = e.detail))")
    tab.type("#token", key)
    tab.click("button[type=submit]")
    tab.until(lambda: rows(tab) == 1)

    product.revoke(key_id)
    tab.click("button[aria-label=Reload]")

    tab.until_text(".message", "Access was withdrawn")
    assert rows(tab) == 0
    assert tab.run("return window.told.code") == "key_revoked"
    assert "Paste another one" in tab.text("#token-note")
    assert "#token" in tab.focused()
    tab.keys(product.key, Keys.ENTER)
    tab.until(lambda: rows(tab) == 1)


def test_the_page_around_may_answer_an_expired_token_with_a_new_one(tab: Tab, api: PagesApi) -> None:
    def answer(request: Request) -> Answer:
        good = request.headers["authorization"] == "Bearer vt_new"
        return page_of(stored(1)) if good else error(401, "unauthorized", "The token has expired.")

    api.on(EVENTS, answer)
    embed(tab, api, token="vt_old")
    tab.until_text(".message", "Access has expired")

    set_(tab, "token", "vt_new")

    tab.until(lambda: rows(tab) == 1)


def test_attributes_that_change_load_again_once(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, lambda r: page_of(stored(1, action=f"a.{r.headers['authorization'][-1]}")))
    api.on("GET /other/api/v1/events", page_of(stored(2, action="a.other")))
    embed(tab, api)
    tab.until(lambda: lines(tab, ".row .what") == ["a.1"])

    tab.run("document.querySelector('logstitch-viewer').setAttribute('token', 'vt_2')")
    tab.until(lambda: lines(tab, ".row .what") == ["a.2"])
    assert len(api.sent(EVENTS)) == 2
    tab.run(
        "const v = document.querySelector('logstitch-viewer');"
        "v.setAttribute('token', 'vt_3'); v.setAttribute('base-url', arguments[0])",
        f"{api.url}/other/",
    )

    tab.until(lambda: lines(tab, ".row .what") == ["a.other"])
    assert len(api.sent(EVENTS)) == 2
    assert len(api.sent("GET /other/api/v1/events")) == 1


def test_a_slow_answer_of_old_filters_never_replaces_a_newer_one(tab: Tab, api: PagesApi) -> None:
    def answer(request: Request) -> Answer:
        if request.query.get("search") == "slow":
            time.sleep(0.8)
            return page_of(stored(1, action="a.slow"))
        return page_of(stored(2, action="a.fast"))

    api.on(EVENTS, answer)
    embed(tab, api)
    tab.until(lambda: rows(tab) == 1)
    tab.type("#search", "slow")
    tab.until(lambda: any(r.query.get("search") == "slow" for r in api.sent(EVENTS)))
    tab.type("#search", "fast")
    tab.until(lambda: lines(tab, ".row .what") == ["a.fast"])

    time.sleep(1)
    assert lines(tab, ".row .what") == ["a.fast"]
