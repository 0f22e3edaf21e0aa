"""The viewer in a browser: what a reader sees, does with a keyboard, downloads; and what must never happen."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.samples import Product, event, lines, stored
from tests.support.browser import DESKTOP, PHONE, Tab
from tests.support.pages_api import Answer, PagesApi, Request, error, page_of

EVENTS = "GET /api/v1/events"


def show(tab: Tab, product: Product) -> None:
    """The demonstration page of the real service, with a key of ``product``."""
    tab.open(f"{product.service.url}/viewer")
    tab.type("#token", product.key)
    tab.click("button[type=submit]")


def embed(tab: Tab, api: PagesApi, attributes: str = "", *, token: str = "vt_1") -> None:
    """A page of somebody's that has the viewer in it, under a policy that names nothing but what the viewer needs."""
    html = f"""<!doctype html><html lang="en"><head><title>A page</title>
        <meta name="viewport" content="width=device-width"><script type="module" src="/viewer.js"></script></head>
        <body><main><h1>Ours</h1><logstitch-viewer token="{token}" {attributes}></logstitch-viewer></main></body>"""
    policy = f"default-src 'none'; script-src {api.url}; connect-src {api.url}; style-src 'self'"
    policy += "; require-trusted-types-for 'script'; trusted-types 'none'"
    tab.open(api.page("/page", html, content_security_policy=policy))


def rows(tab: Tab) -> int:
    return len(tab.all(".row"))


def inside(tab: Tab, script: str) -> Any:
    """Runs a function's body that knows the viewer's shadow tree as ``root``."""
    return tab.run(f"const root = document.querySelector('logstitch-viewer').shadowRoot; {script}")


def set_(tab: Tab, name: str, value: str) -> None:
    tab.run(f"document.querySelector('logstitch-viewer').{name} = arguments[0]", value)


# -- the list ----------------------------------------------------------------------------------------------------------


def test_a_reader_sees_events_newest_first_and_scrolls_to_the_oldest(tab: Tab, product: Product) -> None:
    product.send(*(event(n, metadata={"n": n}, target={"id": f"t{n}", "type": "user"}) for n in range(120)))

    show(tab, product)

    tab.until(lambda: rows(tab) >= 50)
    assert lines(tab, ".row .which")[:2] == ["t0user", "t1user"]
    for _ in range(4):
        inside(tab, "root.querySelector('.scroller').scrollTo(0, 1e6)")
        time.sleep(0.1)
    tab.until(lambda: rows(tab) == 120)
    tab.until_text(".end", "No older events")
    assert len(set(lines(tab, ".row .which"))) == 120
    assert tab.text(".count").startswith("120 events · ")
    assert tab.text("[role=status]") == "120 events"


def test_filters_narrow_and_chips_take_them_back(tab: Tab, product: Product) -> None:
    product.send(
        event(1, action="auth.login", category="auth", actor={"id": "usr_1", "type": "user"}),
        event(2, action="auth.logout", category="auth"),
        event(3, metadata={"note": "quarterly invoice"}),
        event(60 * 24 * 3, action="report.exported", category="access"),
    )
    show(tab, product)
    tab.until(lambda: rows(tab) == 4)
    tab.click("button[aria-controls=filters]")

    tab.type("#filter-action", "auth.*")
    tab.until(lambda: rows(tab) == 2)
    tab.type("#filter-actor_id", "usr_1")
    tab.until(lambda: lines(tab, ".row .what") == ["auth.login"])
    assert lines(tab, ".chip") == ["Remove the filterActionauth.*", "Remove the filterActor IDusr_1"]
    tab.click(".chips .link")  # clear all
    tab.until(lambda: rows(tab) == 4)
    assert not tab.seen(".chips")

    tab.type("#search", "invoi")
    tab.until(lambda: rows(tab) == 1)
    tab.type("#search", "nothing like that")
    tab.until_text(".message", "No events match")
    tab.type("#search", "!!")
    tab.until_text(".message", "search: Must have at least one letter or digit")
    assert not tab.seen(".message button")


def test_a_search_for_an_id_shows_that_event(tab: Tab, product: Product) -> None:
    wanted, _ = product.send(event(1, action="auth.login"), event(2))
    show(tab, product)
    tab.until(lambda: rows(tab) == 2)

    tab.type("#search", wanted)

    tab.until(lambda: lines(tab, ".row .what") == ["auth.login"])
    tab.type("#search", wanted[:-4] + "0000")
    tab.until_text(".message", "No events match")


def test_times_are_the_readers_with_utc_in_the_title_and_so_are_dates(tab: Tab, api: PagesApi) -> None:
    tab.cdp("Emulation.setTimezoneOverride", timezoneId="Asia/Tokyo")
    api.on(EVENTS, page_of(stored(20, occurred_at="2026-11-22T20:00:00.123Z")))

    embed(tab, api)

    assert "Nov 23" in tab.until_text(".row time", "05:00:00")
    assert tab.one(".row time").get_attribute("title") == "2026-11-22 20:00:00.123 UTC"
    assert "Asia/Tokyo" in tab.text(".count")
    tab.run(
        "const root = document.querySelector('logstitch-viewer').shadowRoot;"
        "for (const name of ['start_date', 'end_date']) {"
        "  const field = root.querySelector(`#filter-${name}`); field.value = '2026-11-23';"
        "  field.dispatchEvent(new Event('input')); }"
    )
    query = tab.until(lambda: next((r.query for r in api.sent(EVENTS) if "end_date" in r.query), None))
    assert query["start_date"] == "2026-11-22T15:00:00.000Z"
    assert query["end_date"] == "2026-11-23T14:59:59.999Z"


# -- one event ---------------------------------------------------------------------------------------------------------


def test_an_event_opens_with_its_changes_as_a_diff_and_its_metadata_as_a_tree(tab: Tab, product: Product) -> None:
    (id_,) = product.send(
        event(
            changes=[
                {"field": "role", "before": "team member", "after": "team admin"},
                {"field": "limits", "before": {"a": 1, "b": 2}, "after": {"a": 1, "b": 3}},
            ],
            metadata={"request": {"path": "/members"}, "bytes": 9223372036854775807, "none": None},
            context={"ip_address": "203.0.113.42", "user_agent": "Firefox"},
        )
    )
    show(tab, product)
    tab.click(".row")

    tab.until_text("dialog h2", "user.role.updated")
    diff = lines(tab, ".diff .line")
    assert diff[:2] == ["−Before: team member", "+After: team admin"]
    assert ('−Before: "b": 2' in diff, '+After: "b": 3' in diff) == (True, True)
    assert ([e.text for e in tab.all("del")], [e.text for e in tab.all("ins")]) == (["member"], ["admin"])
    assert "bytes 9223372036854775807" in lines(tab, ".tree > li")
    assert "path /members" in lines(tab, ".tree .tree > li")
    details = lines(tab, ".fields > div")
    assert f"ID{id_}" in details
    assert "IP address203.0.113.42" in details

    tab.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite"], origin=product.service.url)
    tab.click("dialog footer button")
    tab.until_text("dialog footer [role=status]", "Copied")
    copied = tab.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert json.loads(copied)["metadata"]["bytes"] == 9223372036854775807
    assert f'"id": "{id_}"' in copied

    tab.click("button.only")  # of the actor's id
    tab.until_text(".chips", "usr_42")


def test_an_event_that_is_opened_by_its_id_is_copied_without_what_the_answer_says_of_itself(
    tab: Tab, product: Product
) -> None:
    (id_,) = product.send(event(1))
    show(tab, product)
    tab.until(lambda: rows(tab) == 1)
    product.send(event(2 * 24 * 60))
    (other,) = product.send(event(3 * 24 * 60, action="auth.login"))

    tab.driver.execute_async_script(
        "document.querySelector('logstitch-viewer').show(arguments[0]).then(arguments[1])", other
    )

    tab.until_text("dialog h2", "auth.login")
    tab.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite"], origin=product.service.url)
    tab.click("dialog footer button")
    tab.until_text("dialog footer [role=status]", "Copied")
    copied = json.loads(tab.driver.execute_async_script("navigator.clipboard.readText().then(arguments[0])"))
    with product.service.client(product.key) as client:
        listed = client.get("/api/v1/events", params={"action": "auth.login"}).json()["events"]
    assert (copied["id"], [copied]) == (other, listed)
    assert id_ != other


def test_sections_that_redaction_or_a_tier_has_changed_are_shown_as_they_are(tab: Tab, api: PagesApi) -> None:
    odd = stored(1, actor="[REDACTED]", target=None, context="[REDACTED]", metadata="[REDACTED]", changes="[REDACTED]")
    mixed = stored(2, changes=["[REDACTED]", {"field": "a"}, {"before": [], "after": None}, 7, None])
    bare = {"id": "evt_01KARHK7T0C8Q2M4V6X9Z1B3D7", "occurred_at": "2026-11-01T00:00:00.000Z"}
    api.on(EVENTS, page_of(mixed, odd, bare, None, {"no": "id"}))
    embed(tab, api)

    tab.until(lambda: rows(tab) == 3)

    assert "[REDACTED]" in lines(tab, ".row .who")
    for _ in range(3):
        tab.click("dialog .content") if tab.seen("dialog") else tab.click(".row")
        tab.until(lambda: tab.seen("dialog"))
        tab.chord(Keys.ALT, Keys.ARROW_DOWN)
    assert "(hidden)" in tab.text("dialog h2")


def test_what_is_long_is_shown_in_part_and_whole_when_asked(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, page_of(stored(1, metadata={"long": "x" * 5000, "many": {f"k{n}": n for n in range(250)}})))
    embed(tab, api)
    tab.click(".row")
    tab.until_text("dialog h2", "user")

    assert len(tab.text(".tree .string bdi")) < 1100
    tab.click(".tree .string button")
    tab.until(lambda: len(tab.text(".tree .string bdi")) == 5000)
    tab.click(".tree summary")
    tab.until(lambda: len(tab.all(".tree .tree > li")) == 101)
    tab.click(".tree .tree li > button")
    tab.until(lambda: len(tab.all(".tree .tree > li")) == 201)


def test_what_turns_text_around_is_marked_however_much_of_it_there_is(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, page_of(stored(1, metadata={"name": "gnp\u202e." * 150})))
    embed(tab, api)
    tab.click(".row")
    tab.until_text("dialog h2", "user")

    text = tab.text(".tree .string bdi")

    assert "\u202e" not in text
    assert text == "gnpU+202E." * 100 + "gnp\u25af." * 50


# -- keyboard and screen reader ----------------------------------------------------------------------------------------


def test_a_keyboard_is_enough(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, page_of(*(stored(n, action=f"a.n{n}") for n in (5, 4, 3, 2, 1))))
    embed(tab, api)
    tab.until(lambda: rows(tab) == 5)
    inside(tab, "root.querySelector('#search').focus()")

    tab.keys(Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB)  # filters, live, reload, and then one stop for all rows
    assert "div.row" in tab.focused()
    tab.keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert "a.n3" in tab.focused()
    tab.keys(Keys.END)
    assert "a.n1" in tab.focused()
    tab.keys(Keys.HOME, Keys.ARROW_UP, Keys.ARROW_DOWN, Keys.ENTER)
    tab.until_text("dialog h2", "a.n4")
    assert "Close" in tab.focused()

    stops = [tab.focused()]
    for _ in range(30):
        tab.keys(Keys.TAB)
        stops.append(tab.focused())
    in_drawer = "return root.activeElement?.closest('dialog') != null"
    assert stops.count(stops[0]) > 1, "focus goes round in the drawer"
    assert inside(tab, in_drawer)
    tab.chord(Keys.SHIFT, Keys.TAB)
    assert inside(tab, in_drawer)

    tab.chord(Keys.ALT, Keys.ARROW_DOWN)
    tab.until_text("dialog h2", "a.n3")
    tab.keys(Keys.ESCAPE)
    tab.until(lambda: not tab.seen("dialog"))
    tab.until(lambda: "div.row" in tab.focused() and "a.n3" in tab.focused())
    tab.keys(Keys.TAB)
    assert "CSV" in tab.focused()


def test_it_is_a_grid_to_a_screen_reader(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, page_of(stored(2), stored(1)))
    embed(tab, api)
    tab.until(lambda: rows(tab) == 2)

    tree = tab.cdp("Accessibility.getFullAXTree")["nodes"]
    roles = [node["role"]["value"] for node in tree if "role" in node and not node.get("ignored")]

    assert [roles.count(role) for role in ("grid", "columnheader", "row", "gridcell")] == [1, 6, 3, 12]
    names = {node.get("name", {}).get("value") for node in tree}
    assert {"Events, newest first", "Search events", "Download what is filtered as CSV"} <= names
    assert tab.one(".grid").get_attribute("aria-rowcount") == "3"
    assert tab.text("[role=status]") == "2 events"


# -- when things go wrong ----------------------------------------------------------------------------------------------


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


# -- live tail ---------------------------------------------------------------------------------------------------------


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


# -- download ----------------------------------------------------------------------------------------------------------

EXPORT = "GET /api/v1/events/export"
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "＝1", " =cmd|' /C calc'!A0"]


def saved(tab: Tab, suffix: str) -> Path:
    """The file that a page has just saved."""

    def whole() -> Path | None:
        found = list(tab.downloads.glob(f"*.{suffix}"))
        return found[0] if found and not list(tab.downloads.glob("*.crdownload")) else None

    return tab.until(whole, "nothing was saved")


def export_of(*pieces: str) -> Answer:
    """An export that comes in such pieces."""
    return Answer(200, iter([piece.encode() for piece in pieces]), content_type="application/x-ndjson")


@pytest.fixture(autouse=True)
def _no_old_downloads(request: pytest.FixtureRequest) -> None:
    for old in request.getfixturevalue("tab").downloads.glob("*"):
        old.unlink()


@pytest.fixture
def listed(tab: Tab, api: PagesApi) -> PagesApi:
    """A viewer that shows one event, of which the stand-in exports what a test says."""
    api.on(EVENTS, page_of(stored(1)))
    embed(tab, api)
    tab.until(lambda: rows(tab) == 1)
    return api


def test_what_is_filtered_is_saved_as_csv_that_no_spreadsheet_runs(tab: Tab, product: Product) -> None:
    wanted = [
        event(n, actor={"id": f, "type": "user", "name": 'a "b", c\nd\n=1;e'}, metadata={"x": "; =1"})
        for n, f in enumerate([*FORMULAS, "a;=1;b"])
    ]
    product.send(*wanted, *(event(200 + n) for n in range(150)), event(1, action="auth.login"))
    show(tab, product)
    tab.until(lambda: rows(tab) == 50)
    tab.click("button[aria-controls=filters]")
    tab.type("#filter-action", "user.*")
    tab.until_text(".chips", "user.*")
    tab.until(lambda: rows(tab) == 50)

    tab.click("button[aria-label$=CSV]")

    text = saved(tab, "csv").read_bytes().decode()
    assert text.startswith("\ufeffid,occurred_at,"), "by its first three bytes a spreadsheet knows UTF-8"
    read = list(csv.DictReader(io.StringIO(text[1:], newline="")))
    assert len(read) == 157
    assert {row["action"] for row in read} == {"user.role.updated"}
    assert [row["actor_id"] for row in read][:7] == [*(f"'{formula}" for formula in FORMULAS), "a;'=1;b"]
    assert read[0]["actor_name"] == 'a "b", c\nd\n\'=1;e'
    assert (json.loads(read[0]["metadata"]), ";" in read[0]["metadata"]) == ({"x": "; =1"}, False)
    with product.service.client(product.key) as client:
        exported = client.get("/api/v1/events/export", params={"format": "csv", "action": "user.*"})
    assert text[1:] == exported.content.decode()
    tab.until_text(".progress", "157 events saved")


def test_ndjson_holds_every_number_exactly(tab: Tab, product: Product) -> None:
    product.send(event(metadata={"big": 9223372036854775807, "float": 1e-7, "text": '"\\u0000" \\'}))
    show(tab, product)
    tab.until(lambda: rows(tab) == 1)

    tab.click("button[aria-label$=NDJSON]")

    (line,) = saved(tab, "ndjson").read_text().splitlines()
    assert json.loads(line)["metadata"] == {"big": 9223372036854775807, "float": 1e-7, "text": '"\\u0000" \\'}
    tab.until_text(".progress", "1 event saved")


def test_one_event_that_is_looked_up_is_saved_as_it_is_shown(tab: Tab, product: Product) -> None:
    wanted, _ = product.send(event(metadata={"big": 9223372036854775807}), event(1))
    show(tab, product)
    tab.until(lambda: rows(tab) == 2)
    assert tab.seen("button[aria-label$=CSV]")
    tab.type("#search", wanted)
    tab.until(lambda: rows(tab) == 1)
    assert not tab.seen("button[aria-label$=CSV]"), "no filter of the export finds one event"

    tab.click("button[aria-label$=NDJSON]")

    (line,) = saved(tab, "ndjson").read_text().splitlines()
    with product.service.client(product.key) as client:
        (first, _) = client.get("/api/v1/events/export").text.splitlines()
    assert json.loads(line) == json.loads(first)
    assert '"big":9223372036854775807' in line
    tab.type("#search", Keys.ENTER)
    tab.until(lambda: rows(tab) == 2)
    assert tab.seen("button[aria-label$=CSV]")


def test_a_page_of_another_origin_saves_what_its_viewer_token_shows(tab: Tab, api: PagesApi, product: Product) -> None:
    product.send(event(1), event(2, tenant_id="globex"))
    with product.service.client(product.key) as client:
        token = client.post("/api/v1/viewer-tokens", json={"tenant_id": "acme"}).json()["token"]
    url = product.service.url
    html = f"""<!doctype html><title>x</title><script type="module" src="{url}/viewer.js"></script>
        <logstitch-viewer token="{token}"></logstitch-viewer>"""
    policy = f"default-src 'none'; script-src {url}; connect-src {url}"
    tab.open(api.page("/page", html, content_security_policy=policy))
    tab.until(lambda: rows(tab) == 1)

    tab.click("button[aria-label$=CSV]")

    (row,) = csv.DictReader(io.StringIO(saved(tab, "csv").read_text("utf-8-sig"), newline=""))
    assert row["tenant_id"] == "acme"


def test_the_export_is_asked_for_by_header_with_the_filters_and_a_bound(tab: Tab, listed: PagesApi) -> None:
    listed.on(EXPORT, lambda _: export_of("id,name\r\n", 'evt_1,"a\r\nb"\r\n'))
    tab.type("#search", "invoice")
    tab.until(lambda: any("search" in r.query for r in listed.sent(EVENTS)) and rows(tab) == 1)

    tab.click("button[aria-label$=CSV]")

    tab.until_text(".progress", "1 event saved")
    assert saved(tab, "csv").read_bytes() == b'\xef\xbb\xbfid,name\r\nevt_1,"a\r\nb"\r\n'
    (request,) = listed.sent(EXPORT)
    assert request.query == {"search": "invoice", "format": "csv", "limit": "10001"}
    assert request.headers["authorization"] == "Bearer vt_1"
    assert "referer" not in request.headers


CSV_EVENT = 'evt_1,"one\r\n""two""\n"\r\n'


@pytest.mark.parametrize(
    ("format", "head", "one"), [("NDJSON", "", '{"a":"\\"\\n"}\n'), ("CSV", "id,name\r\n", CSV_EVENT)]
)
@pytest.mark.parametrize(
    ("events", "told"), [(10_000, "10,000 events saved"), (10_001, "The newest 10,000 events saved; ")]
)
def test_a_download_ends_at_its_bound_of_events(
    format: str, head: str, one: str, events: int, told: str, tab: Tab, listed: PagesApi
) -> None:
    text = head + one * events
    pieces = [text[at : at + 7919] for at in range(0, len(text), 7919)]
    listed.on(EXPORT, lambda _: export_of(*pieces))

    tab.click(f"button[aria-label$={format}]")

    said = tab.until_text(".progress", "saved", seconds=20)
    assert said.startswith(told)
    assert ("narrow the filters" in said) == (events > 10_000)
    found = saved(tab, format.lower()).read_bytes().decode().removeprefix("\ufeff")
    assert found == head + one * 10_000


def test_a_download_ends_at_its_bound_of_bytes_behind_a_whole_event(tab: Tab, listed: PagesApi) -> None:
    line = b'{"a":"' + b"x" * 99_000 + b'"}\n'
    ended = threading.Event()

    def pieces() -> Iterator[bytes]:
        try:
            for _ in range(2000):
                yield line
        finally:
            ended.set()

    listed.on(EXPORT, lambda _: Answer(200, pieces(), content_type="application/x-ndjson"))

    tab.click("button[aria-label$=NDJSON]")

    tab.until_text(".progress", "The newest 1,010 events saved; narrow the filters", seconds=30)
    file = saved(tab, "ndjson")
    assert file.stat().st_size == 100_000_000 // len(line) * len(line)
    assert ended.wait(10), "the rest is not fetched"
    file.unlink()


def test_a_download_can_be_cancelled(tab: Tab, listed: PagesApi) -> None:
    go, ended = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"{}\n" * 100
        go.wait(30)
        try:
            while True:
                yield b"{}\n" * 100
        finally:
            ended.set()

    listed.on(EXPORT, lambda _: Answer(200, pieces(), content_type="application/x-ndjson"))
    tab.click("button[aria-label$=NDJSON]")
    tab.until_text(".progress", "100 events")

    tab.click(".progress button")

    tab.until_text(".progress", "Download cancelled")
    go.set()
    assert ended.wait(10), "the service is told"
    assert list(tab.downloads.glob("*")) == []


def broken(*pieces: bytes) -> Answer:
    """An export that breaks off behind such pieces, as when the key is revoked meanwhile."""

    def send() -> Iterator[bytes]:
        yield from pieces
        raise ConnectionError

    return Answer(200, send(), content_type="text/csv")


@pytest.mark.parametrize(
    "answer",
    [
        lambda: broken(b"id\r\nevt_1\r\n"),
        lambda: export_of("id\r\nevt_1\r\nev"),
        lambda: export_of(""),
        lambda: error(500, "internal_error"),
        lambda: error(400, "validation_error"),
    ],
    ids=["cut", "half a line", "nothing", "failed", "refused"],
)
def test_a_download_that_fails_saves_nothing_and_can_be_tried_again(
    answer: Callable[[], Answer], tab: Tab, listed: PagesApi
) -> None:
    listed.on(EXPORT, lambda _: answer())
    tab.click("button[aria-label$=CSV]")
    tab.until_text(".progress", "The download failed")
    assert list(tab.downloads.glob("*")) == []
    assert rows(tab) == 1

    listed.on(EXPORT, lambda _: export_of("id\r\nevt_1\r\n"))
    tab.click(".progress button")

    tab.until_text(".progress", "1 event saved")


def test_a_download_waits_for_a_service_that_is_busy(tab: Tab, listed: PagesApi) -> None:
    answers = [error(429, "rate_limited", Retry_After="1"), error(503, "unavailable"), export_of("{}\n")]
    listed.on(EXPORT, lambda _: answers.pop(0))

    tab.click("button[aria-label$=NDJSON]")

    tab.until_text(".progress", "1 event saved")
    assert answers == []


def hurry(tab: Tab, waits_ms: int) -> None:
    """From now on the page waits a quarter of a second where it would wait so long."""
    tab.run(f"const real = setTimeout; setTimeout = (f, ms) => real(f, ms === {waits_ms} ? 250 : ms)")


def test_a_service_that_does_not_answer_is_asked_again(tab: Tab, listed: PagesApi) -> None:
    left = threading.Event()

    def answer(_: Request) -> Answer:
        if len(listed.sent(EXPORT)) == 1:
            left.wait(10)
        return export_of("{}\n")

    listed.on(EXPORT, answer)
    hurry(tab, 20_000)

    tab.click("button[aria-label$=NDJSON]")

    tab.until_text(".progress", "1 event saved")
    assert len(listed.sent(EXPORT)) == 2
    left.set()


def test_a_download_whose_service_falls_silent_fails(tab: Tab, listed: PagesApi) -> None:
    go = threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b"{}\n"
        go.wait(30)

    listed.on(EXPORT, lambda _: Answer(200, pieces(), content_type="application/x-ndjson"))
    hurry(tab, 45_000)

    tab.click("button[aria-label$=NDJSON]")

    tab.until_text(".progress", "The download failed")
    go.set()


def test_a_download_with_a_token_that_has_expired_ends_the_view(tab: Tab, listed: PagesApi) -> None:
    listed.on(EXPORT, error(401, "unauthorized"))

    tab.click("button[aria-label$=NDJSON]")

    tab.until_text(".message", "Access has expired")
    assert not tab.seen(".progress")


# -- hostile strings ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>pwned()</script>",
    "<img src=x onerror=pwned()>",
    "\"'><svg/onload=pwned()>",
    "</style><script>pwned()</script>",
    "javascript:pwned()",
    "{{constructor.constructor('pwned()')()}}",
    "${pwned()}",
    "‮gnp.exe‬ ⁦⁧⁨",
    "W" * 250,
    "﷽" * 60,
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A̴̵̜̰͔ͫ͗͢" * 6,
    "a\nb\tc\r\u0085\u2028d",
]


def hostile(text: str) -> dict[str, object]:
    """An event that carries it wherever the API takes text."""
    return event(
        actor={"id": text[:256], "type": "user", "name": text[:256], "email": text[:256]},
        tenant_id=text[:256],
        target={"id": text[:256], "type": text[:128], "name": text[:256]},
        context={"ip_address": text[:64], "user_agent": text, "location": text, "session_id": text},
        metadata={text: text, "list": [text, {text: [text]}], "__proto__": text, "constructor": {text: 1}},
        changes=[
            {"field": text, "before": text, "after": {text: text}},
            {"field": "x", "before": {"a": text}, "after": {}},
        ],
        idempotency_key=f"{HOSTILE.index(text)}{text}"[:255],
    )


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_hostile_strings_are_text_and_nothing_else(size: tuple[int, int], tab: Tab, product: Product) -> None:
    product.send(*(hostile(text) for text in HOSTILE))
    tab.look(size=size)
    show(tab, product)

    tab.until(lambda: rows(tab) == len(HOSTILE))
    assert tab.overflow() == []
    wide = "const s = root.querySelector('{}'); return s.scrollWidth - s.clientWidth"
    assert inside(tab, wide.format(".scroller")) == 0
    inside(tab, "root.querySelector('.row').click()")
    seen = set()
    for _ in HOSTILE:
        tab.until(lambda: tab.seen("dialog"))
        inside(tab, "root.querySelectorAll('details').forEach((d) => (d.open = true))")
        seen |= set(tab.texts("dialog .fields dd bdi"))
        assert inside(tab, wide.format("dialog .content")) == 0
        tab.chord(Keys.ALT, Keys.ARROW_DOWN)
    assert {text for text in HOSTILE[:7] if text not in seen} == set()
    assert any("U+202E" in text for text in seen), "what turns text around can be seen"
    tab.keys(Keys.ESCAPE)
    assert (
        inside(tab, "return root.querySelectorAll('a, script, img, iframe, style, [style], [href], [src]').length") == 0
    )
    assert tab.troubles() == []


def test_not_even_a_service_that_lies_can_run_a_script(tab: Tab, api: PagesApi) -> None:
    fields = ("action", "category", "occurred_at", "received_at", "content_hash", "idempotency_key")
    lies = []
    for text in HOSTILE:
        lie = {**stored(1), **hostile(text), **dict.fromkeys(fields, text), "id": f"evt_{text}", "unknown": text}
        lies += [lie, {**lie, "id": text, "changes": {text: text}, "actor": [text], "metadata": text}]
    api.on(EVENTS, page_of(*lies))
    embed(tab, api)
    tab.until(lambda: rows(tab) == len(lies))
    assert tab.overflow() == []
    inside(tab, "root.querySelector('.row').click()")
    for _ in lies:
        tab.chord(Keys.ALT, Keys.ARROW_DOWN)
        assert tab.overflow() == []
    tab.keys(Keys.ESCAPE)

    for text in HOSTILE:
        api.on(EVENTS, error(400, text, text, details=[{"field": text, "message": text}]))
        tab.click("button[aria-label=Reload]")
        tab.until(lambda: tab.seen(".message"))
        assert tab.overflow() == []


# -- how it looks ------------------------------------------------------------------------------------------------------


def test_the_page_around_may_choose_theme_and_colours(tab: Tab, api: PagesApi) -> None:
    api.on(EVENTS, page_of(stored(1)))
    embed(tab, api, 'theme="dark"')
    background = (
        "return getComputedStyle(document.querySelector('logstitch-viewer').shadowRoot.querySelector('.frame'))"
        ".backgroundColor"
    )
    assert tab.run(background) == "rgb(20, 24, 30)"

    set_(tab, "theme", "light")
    assert tab.run(background) == "rgb(255, 255, 255)"
    set_(tab, "theme", "auto")
    tab.look(theme="dark")
    assert tab.run(background) == "rgb(20, 24, 30)"
    tab.run(
        "const s = new CSSStyleSheet(); s.replaceSync('logstitch-viewer { --logstitch-background: #102030 }');"
        "document.adoptedStyleSheets = [s]"
    )
    assert tab.run(background) == "rgb(16, 32, 48)"


@pytest.mark.parametrize(("theme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light desktop", "dark phone"])
def test_it_is_for_everybody(theme: str, size: tuple[int, int], tab: Tab, product: Product) -> None:
    product.send(
        event(
            changes=[
                {"field": "f", "before": "team a", "after": "team b"},
                {"field": "g", "before": {"a": 1}, "after": {}},
            ],
            metadata={"a": {"b": [1, None]}, "c": "‮x"},
        ),
        *(event(n + 1, category=c) for n, c in enumerate(("auth", "access", "security", "system", "mutation"))),
    )
    tab.look(theme=theme, size=size)
    tab.open(f"{product.service.url}/viewer")
    assert tab.axe() == []
    tab.type("#token", product.key)
    tab.click("button[type=submit]")
    tab.until(lambda: rows(tab) == 6)
    tab.click("button[aria-controls=filters]")
    tab.type("#filter-actor_id", "usr_42")
    tab.until(lambda: rows(tab) == 6 and tab.seen(".chips"))
    assert (tab.axe(), tab.overflow()) == ([], [])

    inside(tab, "root.querySelector('.row').click()")
    tab.until(lambda: tab.seen("dialog"))
    assert (tab.axe(), tab.overflow()) == ([], [])
    tab.keys(Keys.ESCAPE)
    tab.type("#filter-actor_id", "nobody")
    tab.until_text(".message", "No events match")
    assert tab.axe() == []
