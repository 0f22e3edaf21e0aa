"""Hostile strings in the viewer, from events and from a service that lies: they are text, and nothing runs."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.element import EVENTS, embed, inside, rows, show
from tests.browser.samples import Product, event, stored
from tests.support.browser import DESKTOP, PHONE, Tab
from tests.support.pages_api import PagesApi, error, page_of

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
