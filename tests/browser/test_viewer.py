"""The viewer in a browser: what a reader sees and does, by mouse, keyboard and screen reader."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.element import EVENTS, embed, inside, rows, set_, show
from tests.browser.samples import Product, event, lines, stored
from tests.support.browser import DESKTOP, PHONE, Tab
from tests.support.pages_api import PagesApi, page_of

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

    expected = {"grid": 1, "columnheader": 6, "row": 3, "gridcell": 12}

    # Chromium makes the tree some time after the page: it is read until it is whole.
    def tree() -> list[dict[str, Any]] | None:
        nodes: list[dict[str, Any]] = tab.cdp("Accessibility.getFullAXTree")["nodes"]
        roles = Counter(node["role"]["value"] for node in nodes if "role" in node and not node.get("ignored"))
        return nodes if {role: roles[role] for role in expected} == expected else None

    names = {node.get("name", {}).get("value") for node in tab.until(tree, f"the tree never had {expected}")}
    assert {"Events, newest first", "Search events", "Download what is filtered as CSV"} <= names
    assert tab.one(".grid").get_attribute("aria-rowcount") == "3"
    assert tab.text("[role=status]") == "2 events"


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
