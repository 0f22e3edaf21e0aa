"""Downloads from the viewer: what is saved, where it ends, and what becomes of one that fails."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from tests.browser.element import EVENTS, embed, rows, show
from tests.browser.samples import Product, event, stored
from tests.support.browser import Tab
from tests.support.pages_api import Answer, PagesApi, Request, error, page_of

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
