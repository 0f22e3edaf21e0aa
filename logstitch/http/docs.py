"""The OpenAPI document as a page for people: made on the server, readable without a network and without scripts.

The page is made once, when the app is. Its policy lets it load nothing, and style itself with the one sheet in it.
"""

from __future__ import annotations

import json
import re
import shlex
from base64 import b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from logstitch.http.endpoints import Call, Endpoint, Success
from logstitch.http.responses import Reply
from logstitch.http.schemas.common import AnyText

_STATIC = files("logstitch.http") / "static"
_CREDENTIALS = {"masterKey": "master key", "projectKey": "project key", "viewerToken": "viewer token"}


def page(document: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """The page, and the Content-Security-Policy (https://www.w3.org/TR/CSP3/) that fits it."""
    style = (_STATIC / "docs.css").read_text(encoding="utf-8")
    template = (_STATIC / "docs.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"prose": _prose, "pretty": _pretty, "kind": _kind}
    html = environment.from_string(template).render(
        document=document,
        style=Markup(style),  # noqa: S704  (our own file)
        groups=_groups(document),
        schemas={name: _fields(schema) for name, schema in sorted(document["components"]["schemas"].items())},
    )
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html.encode(), policy.encode()


def _groups(document: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups.setdefault(operation["tags"][0], []).append(_shown(document, path, method.upper(), operation))
    return groups


def _shown(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    successes: list[Mapping[str, Any]] = []
    failures: list[Mapping[str, Any]] = []
    for status, response in operation["responses"].items():
        resolved = _resolve(document, response)
        (successes if status.startswith("2") else failures).append({"status": status, **resolved})
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    bodies = {name: example["value"] for name, example in content.get("examples", {}).items()}
    schemes = [next(iter(choice)) for choice in operation["security"]]
    return {
        **operation,
        "id": operation["operationId"],
        "method": method,
        "path": path,
        "successes": successes,
        "failures": failures,
        "body": content.get("schema"),
        "credentials": [_CREDENTIALS[scheme] for scheme in schemes],
        "curl": _curl(method, path, next(iter(bodies.values()), None), bool(schemes)),
    }


def _curl(method: str, path: str, body: Any, credential: bool) -> str:
    lines = [f'curl "$LOGSTITCH_URL{path}"'] if method == "GET" else [f'curl -X {method} "$LOGSTITCH_URL{path}"']
    if credential:
        lines.append('-H "Authorization: Bearer $LOGSTITCH_KEY"')
    if body is not None:
        lines.append('-H "Content-Type: application/json"')
        lines.append(f"-d {shlex.quote(json.dumps(body, indent=2, ensure_ascii=False))}")
    return " \\\n  ".join(lines)


def _resolve(document: Mapping[str, Any], value: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in value:
        return value
    found: Any = document
    for part in value["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    resolved: Mapping[str, Any] = found
    return resolved


def _fields(schema: Mapping[str, Any]) -> dict[str, Any]:
    required = schema.get("required", ())
    return {
        "description": schema.get("description", ""),
        "fields": [
            {"name": name, "required": name in required, "schema": inner}
            for name, inner in schema.get("properties", {}).items()
        ],
    }


def _prose(text: str) -> Markup:
    """Paragraphs, **strong** and `code`: all the Markdown that the descriptions use."""
    paragraphs = re.split(r"\n\s*\n", str(escape(text.strip())))
    html = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html)
    return Markup(html)  # noqa: S704  (escaped above)


def _pretty(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)


def _kind(schema: Mapping[str, Any]) -> Markup:
    """A schema in a few words, with a link where it has a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    if branches := schema.get("anyOf") or schema.get("oneOf"):
        return Markup(" or ").join(_kind(branch) for branch in branches)
    if "const" in schema:
        return Markup("<code>{}</code>").format(json.dumps(schema["const"]))
    if "enum" in schema:
        return Markup(" | ").join(Markup("<code>{}</code>").format(value) for value in schema["enum"])
    words = Markup("{}").format(schema.get("format") or schema.get("type") or "any JSON")
    if schema.get("type") == "array" and schema.get("items"):
        words = Markup("array of {}").format(_kind(schema["items"]))
    limits = []
    for low, high, unit in (("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items")):
        if high in schema:
            limits.append(f"{schema[low]}–{schema[high]}{unit}" if low in schema else f"up to {schema[high]}{unit}")
    if "minimum" in schema:
        limits.append(f"{schema['minimum']}–{schema['maximum']}" if "maximum" in schema else f"≥ {schema['minimum']}")
    if "default" in schema:
        limits.append(f"default {schema['default']}")
    return words if not limits else Markup("{} <small>{}</small>").format(words, ", ".join(limits))


def endpoints(document: Mapping[str, Any]) -> tuple[Endpoint, ...]:
    """The endpoint that answers with the page."""
    html, policy = page(document)
    headers = (
        (b"content-security-policy", policy),
        (b"referrer-policy", b"no-referrer"),
        (b"cache-control", b"no-cache"),
    )
    reply = Reply(200, html, headers, b"text/html; charset=utf-8")

    async def answer(call: Call, _: bytes) -> Reply:
        return reply

    return (
        Endpoint(
            name="docs",
            method="GET",
            path="/docs",
            handler=answer,
            summary="This documentation as a page",
            description="HTML.",
            success=Success(200, "The page.", AnyText, "<!doctype html>…", {}, "text/html"),
        ),
    )
