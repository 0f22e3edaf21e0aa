"""A client of an app in the same process, that holds every answer against the app's OpenAPI document.

So each HTTP test is a test of the documentation, too: an answer with an undocumented status, field or header fails.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson
import trio
from jsonschema import Draft202012Validator, FormatChecker
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from logstitch.http import openapi
from logstitch.http.api import App

STREAMED = ("application/x-ndjson", "text/csv; charset=utf-8; header=present")
"""Types of answers whose length nobody knows when they begin."""
REQUEST_ID = re.compile(r"req_[0-7][0-9A-HJKMNP-TV-Z]{25}")


@dataclass
class Answer:
    """What came back. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True
    """Whether the answer came to its end; one that is streamed may be cut."""

    def json(self) -> Any:
        """The body's JSON."""
        return orjson.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code."""
        code: str = self.json()["error"]["code"]
        return code

    @property
    def details(self) -> dict[str, str]:
        """The messages of the bad fields by their paths."""
        return {detail["field"]: detail["message"] for detail in self.json()["error"].get("details", [])}


class Documented:
    """Judges answers by the OpenAPI document of an app's endpoints."""

    def __init__(self, app: App) -> None:
        self.document = openapi.document(app.endpoints)
        resource = Resource.from_contents(self.document, default_specification=DRAFT202012)
        self._registry = Registry().with_resource("urn:openapi", resource)
        self._routes = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.sub(r"\\\{path\\\}", ".+", re.escape(path)))), path)
            for path in sorted(self.document["paths"], key=lambda path: "{" in path)  # exact paths first
        ]

    def judge(self, method: str, path: str, answer: Answer) -> None:
        """Raises ``AssertionError`` that says how the answer differs from the documentation."""
        operation = self._operation(method, path)
        if operation is None:  # no route, or not this method; or a preflight
            if method == "OPTIONS" and answer.status == 200:
                return
            assert answer.status in (404, 405), f"undocumented: {method} {path} -> {answer.status}"
            if method != "HEAD":
                self.check({"$ref": "#/components/schemas/ErrorBody"}, answer.json())
            return
        responses = operation["responses"]
        assert str(answer.status) in responses, (
            f"undocumented status: {method} {path} -> {answer.status} {answer.body!r}"
        )
        response = responses[str(answer.status)]
        if "$ref" in response:
            response = self.document["components"]["responses"][str(answer.status)]
        for name, header in response["headers"].items():
            assert name.lower() in answer.headers or not header["required"], f"{name} is missing"
            if name.lower() in answer.headers:
                value: Any = answer.headers[name.lower()]
                self.check(header["schema"], int(value) if header["schema"]["type"] == "integer" else value)
        content_type = answer.headers["content-type"].partition(";")[0]
        assert content_type in response["content"], f"undocumented content type: {content_type}"
        if content_type == "application/json" and method != "HEAD":
            self.check(response["content"][content_type]["schema"], answer.json())

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for pattern, template in self._routes:
            if pattern.fullmatch(path):
                found: dict[str, Any] | None = self.document["paths"][template].get(
                    "get" if method == "HEAD" else method.lower()
                )
                return found
        return None

    def check(self, schema: Mapping[str, Any], value: object) -> None:
        """Raises ``AssertionError`` if ``value`` does not fit a schema of the document."""
        absolute = orjson.loads(orjson.dumps(schema).replace(b'"$ref":"#/', b'"$ref":"urn:openapi#/'))
        validator = Draft202012Validator(absolute, registry=self._registry, format_checker=FormatChecker())
        for error in validator.iter_errors(value):
            raise AssertionError(f"{error.json_path}: {error.message}")


@dataclass
class Client:
    """Sends requests to an app as a server would, byte for byte."""

    app: App
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    documented: Documented | None = None

    def __post_init__(self) -> None:
        self.documented = self.documented or Documented(self.app)

    def with_key(self, key: str | None, **headers: str) -> Client:
        """The same client with another credential."""
        return Client(self.app, key, headers, self.documented)

    async def get(self, target: str, **headers: str) -> Answer:
        return await self.request("GET", target, headers=headers)

    async def post(self, target: str, json: object, **headers: str) -> Answer:
        return await self.request("POST", target, body=orjson.dumps(json), headers=headers)

    async def delete(self, target: str, **headers: str) -> Answer:
        return await self.request("DELETE", target, headers=headers)

    async def request(
        self,
        method: str,
        target: str | bytes,
        *,
        body: bytes | Iterable[bytes] | AsyncGenerator[bytes, None] | None = None,
        headers: Mapping[str, str | None] | Iterable[tuple[str, str]] = (),
        judge: bool = True,
    ) -> Answer:
        """One request and its answer.

        ``target`` is path and query as on the wire. A body of bytes is sent with its length and as JSON, unless
        ``headers`` say otherwise (None leaves a header out; an underscore in a name stands for a dash); one of several
        chunks is sent in chunks, without a length. One that ends with an exception is a client that left.
        """
        raw = target.encode() if isinstance(target, str) else target
        path, _, query = raw.partition(b"?")
        sent: list[tuple[str, str | None]] = [("host", "logstitch.test"), *self.headers.items()]
        if self.key is not None:
            sent.append(("authorization", f"Bearer {self.key}"))
        if body is not None:
            sent.append(("content-type", "application/json"))
            sent.append(
                ("content-length", str(len(body))) if isinstance(body, bytes) else ("transfer-encoding", "chunked")
            )
        given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        named = {name.replace("_", "-").lower() for name, _ in given}
        wire = [
            (name.replace("_", "-").lower().encode(), value.encode("latin-1"))
            for name, value in [*((n, v) for n, v in sent if n.replace("_", "-") not in named), *given]
            if value is not None
        ]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": _decoded(path),
            "raw_path": path,
            "query_string": query,
            "root_path": "",
            "headers": wire,
            "client": ("192.0.2.1", 50000),
            "server": ("127.0.0.1", 8700),
        }
        answer = await exchange(self.app, scope, body)
        assert REQUEST_ID.fullmatch(answer.headers["x-request-id"]), answer.headers
        if answer.headers["content-type"] == "application/json" and method != "HEAD" and path != openapi.PATH.encode():
            assert answer.json()["request_id"] == answer.headers["x-request-id"]
        if judge and self.documented is not None:
            self.documented.judge(method, _decoded(path), answer)
        return answer


class NoAnswer(Exception):
    """The app ended without an answer."""


async def exchange(
    app: App, scope: dict[str, Any], body: bytes | Iterable[bytes] | AsyncGenerator[bytes, None] | None
) -> Answer:
    """One ASGI exchange. Raises ``NoAnswer``."""
    async with aclosing(_chunks(body)) as chunks:
        return await _exchange(app, scope, chunks)


async def _exchange(app: App, scope: dict[str, Any], chunks: AsyncGenerator[bytes, None]) -> Answer:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        try:
            return {"type": "http.request", "body": await anext(chunks), "more_body": True}
        except StopAsyncIteration:
            return {"type": "http.request", "body": b"", "more_body": False}
        except ConnectionError:
            return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await app(scope, receive, send)
    if not sent:
        raise NoAnswer
    assert [message["type"] for message in sent] == ["http.response.start"] + ["http.response.body"] * (len(sent) - 1)
    assert all(message["more_body"] for message in sent[1:-1])
    whole = not sent[-1].get("more_body", True)
    names = [name for name, _ in sent[0]["headers"]]
    assert len(names) == len(set(names)), f"a header twice: {names}"
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    content = b"".join(message["body"] for message in sent[1:])
    if scope["method"] == "HEAD":
        assert content == b""
    elif headers["content-type"] in STREAMED:
        assert "content-length" not in headers
    else:
        assert headers["content-length"] == str(len(content))
        assert whole
    return Answer(sent[0]["status"], headers, content, whole)


async def _chunks(body: bytes | Iterable[bytes] | AsyncGenerator[bytes, None] | None) -> AsyncGenerator[bytes, None]:
    if isinstance(body, bytes):
        yield body
    elif isinstance(body, AsyncGenerator):
        async with aclosing(body):
            async for chunk in body:
                yield chunk
    else:
        for chunk in body or ():
            yield chunk


def _decoded(path: bytes) -> str:
    # What Hypercorn makes of it: urllib.parse.unquote, which replaces what is no UTF-8.
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), path).decode("utf-8", "replace")
