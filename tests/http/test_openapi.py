"""The published document: valid, complete, made of what checks; and the page that is made of it."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from logstitch.errors import LogStitchError
from logstitch.http.api import App, create_ops_app
from logstitch.http.errors import TABLE
from logstitch.http.openapi import document
from logstitch.http.responses import Reply
from logstitch.http.roles import Kind
from logstitch.http.routing import with_cors
from logstitch.http.schemas.events import EventExportQuery, EventListQuery
from logstitch.model import EVENT
from tests.support.client import Answer, Client, Documented
from tests.support.world import WellBeing


def is_page(endpoint: str) -> bool:
    """Whether it is for browsers, and so not in the document."""
    return endpoint in ("openapi", "docs") or endpoint.startswith("pages.")


@pytest.fixture
async def published(anyone: Client) -> dict[str, Any]:
    """The document as anyone gets it."""
    answer = await anyone.get("/api/v1/openapi.json")
    found: dict[str, Any] = answer.json()
    return found


async def test_it_is_valid_openapi(published: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(published).validate()
    OpenAPIV31SpecValidator(document(create_ops_app(WellBeing()).endpoints)).validate()


async def test_every_endpoint_is_in_it(published: dict[str, Any], app: App) -> None:
    listed = {(method.upper(), path) for path, operations in published["paths"].items() for method in operations}

    assert listed == {(e.method, e.route) for e in app.endpoints if not is_page(e.name)}


async def test_who_may_call_is_said_by_the_table_of_roles(published: dict[str, Any], app: App) -> None:
    names = {"masterKey": Kind.MASTER, "projectKey": Kind.PROJECT, "viewerToken": Kind.VIEWER}
    for endpoint in app.endpoints:
        if endpoint.route in published["paths"]:
            security = published["paths"][endpoint.route][endpoint.method.lower()]["security"]
            assert {names[scheme] for choice in security for scheme in choice} == endpoint.roles - {Kind.NONE}


async def test_every_filter_is_a_parameter_and_none_is_required(published: dict[str, Any]) -> None:
    parameters = published["paths"]["/api/v1/events"]["get"]["parameters"]

    assert {p["name"] for p in parameters if p["in"] == "query"} == set(EventListQuery.model_fields)
    assert not any(p["required"] for p in parameters)
    (limit,) = (p["schema"] for p in parameters if p["name"] == "limit")
    assert (limit["type"], limit["minimum"], limit["maximum"], limit["default"]) == ("integer", 1, 100, 50)

    parameters = published["paths"]["/api/v1/events/export"]["get"]["parameters"]
    assert {p["name"] for p in parameters if p["in"] == "query"} == set(EventExportQuery.model_fields)
    assert set(EventExportQuery.model_fields) == {*EventListQuery.model_fields, "format"}
    (limit,) = (p["schema"] for p in parameters if p["name"] == "limit")
    assert limit == {"type": "integer", "minimum": 1, "maximum": 1_000_000}


async def test_the_event_is_the_schema_that_checks_it(published: dict[str, Any]) -> None:
    checked = EVENT.json_schema()
    shown = published["components"]["schemas"]["EventIn"]

    assert set(shown["properties"]) == set(checked["properties"])
    assert shown["required"] == checked["required"]
    assert shown["properties"]["action"]["pattern"] == checked["properties"]["action"]["pattern"]
    assert shown["additionalProperties"] is False


async def test_every_example_fits_its_schema(published: dict[str, Any], documented: Documented) -> None:
    count = 0
    for operations in published["paths"].values():
        for operation in operations.values():
            contents = [r["content"] for r in operation["responses"].values() if "content" in r]
            contents += [operation["requestBody"]["content"]] if "requestBody" in operation else []
            for media in (media for content in contents for media in content.values()):
                values = [media["example"]] if "example" in media else []
                values += [example["value"] for example in media.get("examples", {}).values()]
                for value in values:
                    documented.check(media["schema"], value)
                    count += 1
    for response in published["components"]["responses"].values():
        media = response["content"]["application/json"]
        for example in media["examples"].values():
            documented.check(media["schema"], example["value"])
            count += 1
    assert count > 25


async def test_every_schema_is_json_schema(published: dict[str, Any]) -> None:
    for schema in published["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


async def test_every_answer_that_is_worth_repeating_is_told_of(published: dict[str, Any]) -> None:
    (trying,) = (p for p in published["info"]["description"].split("\n\n") if p.startswith("**Trying again.**"))
    with_a_wait = {
        status
        for status, response in published["components"]["responses"].items()
        if "Retry-After" in response["headers"]
    }

    assert with_a_wait == {"429", "503"}
    assert with_a_wait | {"408", "500"} == set(re.findall(r"`([45]\d\d)`", trying))
    assert "Every other answer" not in trying


async def test_which_answers_have_no_request_id_in_their_body_is_said_in_one_way(app: App) -> None:
    (own,) = (endpoint for endpoint in app.endpoints if endpoint.name == "openapi")

    assert "The one answer" not in own.description
    introduction = document(app.endpoints)["info"]["description"]
    assert "only exports and this document have none in their body" in " ".join(introduction.split())


async def test_every_header_that_is_documented_may_be_read_by_pages_of_any_origin(app: App) -> None:
    answer = with_cors(next(e for e in app.endpoints if e.cors), Reply(200, b""))
    exposed = {name.lower() for name in dict(answer.headers)[b"access-control-expose-headers"].decode().split(", ")}

    documented = {"x-request-id", "retry-after"}
    for endpoint in app.endpoints:
        if endpoint.cors:
            documented |= {name.lower() for name in endpoint.success.headers}
    assert documented - {"cache-control"} == exposed


async def test_paths_of_fields_say_how_a_key_with_dots_is_named(published: dict[str, Any]) -> None:
    found = {
        f"{name}.{field}": schema["properties"][field]["description"]
        for name, schema in published["components"]["schemas"].items()
        for field in ("fields", "hidden_fields")
        if "dot paths" in schema.get("properties", {}).get(field, {}).get("description", "").lower()
    }

    assert len(found) >= 4
    for where, description in found.items():
        assert "A key with dots in its name" in description, where


def test_every_code_of_the_contract_has_one_row() -> None:
    codes = [meaning.code for meaning in TABLE.values()]

    assert len(codes) == len(set(codes))
    assert TABLE[LogStitchError].status == 500


async def test_the_judge_itself_finds_what_is_undocumented(documented: Documented, anyone: Client) -> None:
    good = await anyone.get("/api/v1/events")
    documented.judge("GET", "/api/v1/events", good)
    for status, headers, body in [
        (418, good.headers, good.body),
        (401, {**good.headers, "content-type": "text/html"}, good.body),
        (401, {k: v for k, v in good.headers.items() if k != "x-request-id"}, good.body),
        (401, good.headers, b'{"error": "no"}'),
    ]:
        with pytest.raises(AssertionError):
            documented.judge("GET", "/api/v1/events", Answer(status, headers, body))


# -- the page ------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_loads_nothing_and_runs_nothing(anyone: Client) -> None:
    answer = await anyone.get("/docs")

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    page = Page(answer.body.decode())
    assert page.open == []
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "form", "object", "base"}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("style", "src")]
        assert re.match(r"[#/]", attributes.get("href") or "#")
    assert b"url(" not in answer.body
    assert b"@import" not in answer.body


async def test_the_pages_one_style_is_the_one_that_its_policy_allows(anyone: Client) -> None:
    from base64 import b64encode
    from hashlib import sha256

    answer = await anyone.get("/docs")
    (style,) = re.findall(r"<style>(.*?)</style>", answer.body.decode(), re.DOTALL)

    digest = b64encode(sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]


async def test_the_page_has_every_endpoint_with_a_command_and_links_that_lead_somewhere(
    anyone: Client, app: App
) -> None:
    html = (await anyone.get("/docs")).body.decode()
    page = Page(html)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]

    assert len(ids) == len(set(ids))
    for _, attributes in page.tags:
        if (href := attributes.get("href") or "").startswith("#"):
            assert href[1:] in ids
    for endpoint in app.endpoints:
        if not is_page(endpoint.name):
            assert endpoint.name.replace(".", "_") in ids
    assert html.count("curl ") == len([e for e in app.endpoints if not is_page(e.name)])


async def test_the_page_is_for_everybody(anyone: Client) -> None:
    tags = Page((await anyone.get("/docs")).body.decode()).tags

    names = [tag for tag, _ in tags]
    assert names.count("main") == names.count("h1") == 1
    assert ("html", {"lang": "en"}) in tags
    assert ("a", {"class": "skip", "href": "#main"}) in tags
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    after_the_contents = levels[levels.index(1) :]
    assert all(b - a <= 1 for a, b in itertools.pairwise(after_the_contents))
