"""The pages as they are served: their policies, their size, and what must not be in their sources."""

from __future__ import annotations

import gzip
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logstitch.http import pages
from logstitch.http.api import create_ops_app
from tests.support.client import Client
from tests.support.world import WellBeing

MODULE_BYTES = 40 * 1024
PUBLIC = {asset.path: asset for asset in pages.PUBLIC}
EVERYTHING = (*pages.PUBLIC, *pages.OPERATOR)
DOCUMENTS = [asset for asset in EVERYTHING if asset.media == "text/html"]
SCRIPTS = [asset for asset in EVERYTHING if asset.media == "text/javascript"]


@pytest.fixture
def ops() -> Client:
    return Client(create_ops_app(WellBeing()))


@pytest.fixture
def client_of(anyone: Client, ops: Client) -> dict[str, Client]:
    """Who serves which."""
    return {**dict.fromkeys((a.name for a in pages.PUBLIC), anyone), **{a.name: ops for a in pages.OPERATOR}}


def named(asset: pages.Asset) -> str:
    return asset.path


@pytest.mark.parametrize("asset", EVERYTHING, ids=named)
async def test_each_is_served_as_it_is_plain_and_packed(asset: pages.Asset, client_of: dict[str, Client]) -> None:
    client = client_of[asset.name]

    plain, packed = await client.get(asset.path), await client.get(asset.path, accept_encoding="br, gzip;q=0.8")

    assert plain.status == 200
    assert plain.body.decode() == asset.text()
    assert plain.headers["content-type"] == f"{asset.media}; charset=utf-8"
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert "content-encoding" not in plain.headers
    assert (packed.headers["content-encoding"], packed.headers["vary"]) == ("gzip", "Accept-Encoding")
    assert gzip.decompress(packed.body) == plain.body


@pytest.mark.parametrize("asset", DOCUMENTS, ids=named)
async def test_a_page_may_load_what_is_its_own_and_nothing_else(
    asset: pages.Asset, client_of: dict[str, Client]
) -> None:
    answer = await client_of[asset.name].get(asset.path)

    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers


class Source(HTMLParser):
    """Tags, and the text that stands in scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline = ""
        self._in = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in = tag

    def handle_data(self, data: str) -> None:
        if self._in in ("script", "style"):
            self.inline += data.strip()


@pytest.mark.parametrize("asset", DOCUMENTS, ids=named)
def test_nothing_is_inline_and_every_address_is_relative(asset: pages.Asset) -> None:
    source = Source(asset.text())

    assert source.inline == ""
    served = {a.path.lstrip("/") for a in EVERYTHING} | {"docs", "metrics", "health/ready", "health/actors"}
    for tag, attributes in source.tags:
        assert tag not in ("style", "iframe", "object", "embed", "base", "img")
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "action")]
        for name in ("src", "href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("#", "data:image/svg+xml,")) or address in served, address
    assert [attributes for tag, attributes in source.tags if tag == "html"] == [{"lang": "en"}]


@pytest.mark.parametrize("asset", SCRIPTS, ids=named)
def test_no_script_makes_markup_or_code_of_text_or_keeps_anything(asset: pages.Asset) -> None:
    source = re.sub(r"^\s*//.*$", "", asset.text(), flags=re.MULTILINE)

    for never in (
        r"\b(inner|outer)HTML\b|insertAdjacentHTML|document\.write|\bDOMParser\b|createContextualFragment|\bsrcdoc\b",
        r"\beval\b|\bnew Function\b|set(Timeout|Interval)\(\s*['\"`]|\bjavascript:",
        r"\b(local|session)Storage\b|\bindexedDB\b|document\.cookie|\bcaches\b|serviceWorker",
        r"\.setAttribute\(\s*['\"`](style|on\w+)|\bcssText\b|createElement\(\s*['\"`](script|style|iframe)",
        r"https?://(?!www\.w3\.org/)",
    ):
        assert re.findall(never, source) == [], never


def test_the_module_is_small_and_whole() -> None:
    (module,) = (asset for asset in pages.PUBLIC if asset.path == "/viewer.js")

    assert len(gzip.compress(module.text().encode(), 9)) <= MODULE_BYTES
    assert not re.search(r"^\s*import\b|\bimport\(", module.text(), re.MULTILINE)


async def test_pages_of_any_origin_may_load_the_module(anyone: Client) -> None:
    answer = await anyone.get("/viewer.js", origin="https://shop.example")

    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert answer.headers["cache-control"] == "public, max-age=300"
    assert (await anyone.request("OPTIONS", "/viewer.js")).status == 200


async def test_a_page_is_shown_whatever_a_link_has_collected_on_its_way(anyone: Client, ops: Client) -> None:
    for target in ("/claim", "/claim?token=", "/claim?token=nope&utm_source=mail", "/viewer?x=1"):
        assert (await anyone.get(target)).status == 200
    assert (await ops.get("/?refresh=1")).status == 200


async def test_a_claim_page_does_not_repeat_its_token(anyone: Client) -> None:
    token = "3f0c7e52-9a1b-4c6d-8e2f-7a5b4c3d2e1f"

    answer = await anyone.get(f"/claim?token={token}")

    assert token.encode() not in answer.body
    assert token not in str(answer.headers)


async def test_the_operator_page_is_not_public_nor_the_others_operators(anyone: Client, ops: Client) -> None:
    for asset in pages.OPERATOR:
        assert (await anyone.get(asset.path)).code == "not_found"
    for asset in pages.PUBLIC:
        assert (await ops.get(asset.path)).code == "not_found"


@pytest.mark.parametrize(
    ("header", "takes"),
    [
        ("gzip", True),
        ("GZIP", True),
        ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        ("deflate,gzip", True),
        ("gzip;q=0.001", True),
        ("", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("br, gzip; q=0.0", False),
        ("*", False),
        ("x-gzip", False),
        ("notgzip", False),
        ("gzipped", False),
    ],
)
def test_who_takes_gzip(header: str, takes: bool) -> None:
    assert pages.takes_gzip(header.encode()) is takes


@given(
    st.lists(
        st.tuples(st.sampled_from(["gzip", "br", "*", "identity", "zstd"]), st.integers(0, 1000) | st.none()),
        unique_by=lambda pair: pair[0],
    )
)
def test_gzip_is_taken_if_it_is_named_with_any_weight(codings: list[tuple[str, int | None]]) -> None:
    header = ", ".join(name if weight is None else f"{name};q={weight / 1000:.3f}" for name, weight in codings)

    assert pages.takes_gzip(header.encode()) is any(name == "gzip" and weight != 0 for name, weight in codings)


@given(st.binary(max_size=200))
def test_any_header_has_an_answer(header: bytes) -> None:
    assert pages.takes_gzip(header) in (True, False)
