"""A stand-in for the service that answers as a test says: for what the real one does rarely, or not on demand.

It serves the real pages with their real headers, and answers requests to the API by handlers of the test's. Every
request is written down with its headers, so that a test can tell what a page has sent, and to whom.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from logstitch.http import pages
from logstitch.http.responses import Headers


@dataclass(frozen=True, slots=True)
class Request:
    """What a page has sent. Header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class Answer:
    """What it gets."""

    status: int
    body: Any
    """A text as it is, anything else as JSON; an iterator's pieces are sent as they come, and if it raises, the answer
    breaks off."""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"


Handler = Callable[[Request], Answer]


def error(status: int, code: str, message: str = "No.", *, details: object = (), **headers: str) -> Answer:
    """An error of the API."""
    told: dict[str, Any] = {"code": code, "message": message, "details": details}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {"error": told, "request_id": "req_01KARHK7T0C8Q2M4V6X9Z1B3D5"}, names)


def page_of(*events: object, cursor: str | None = None) -> Answer:
    """A page of events."""
    return Answer(200, {"events": events, "cursor": cursor, "has_more": cursor is not None, "request_id": "req_1"})


class PagesApi:
    """``on`` says who answers: by method and path, or by the path's beginning where it ends in ``*``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self._handlers: dict[str, Handler] = {}
        self._documents: dict[str, tuple[str, str, dict[str, str]]] = {}
        for asset in (*pages.PUBLIC, *(a for a in pages.OPERATOR if a.path != "/")):
            self._documents[asset.path] = (asset.text(), asset.media, _headers(pages.endpoint_headers(asset)))
        operator = pages.OPERATOR[0]
        self._documents["/operator"] = (operator.text(), operator.media, _headers(pages.endpoint_headers(operator)))

    def on(self, route: str, answer: Handler | Answer) -> None:
        """From now on, ``GET /api/v1/events`` is answered so."""
        self._handlers[route] = answer if callable(answer) else lambda _: answer

    def page(self, path: str, html: str, **headers: str) -> str:
        """A page of a test's own, and its address."""
        self._documents[path] = (html, "text/html", {k.replace("_", "-"): v for k, v in headers.items()})
        return self.url + path

    def sent(self, route: str) -> list[Request]:
        """The requests to a route."""
        return [r for r in self.requests if f"{r.method} {r.path}" == route]

    def answer(self, request: Request) -> Answer:
        """Whatever is asked for."""
        if request.method == "OPTIONS":
            return Answer(200, {}, {"access-control-allow-headers": "authorization"})
        if request.method == "GET" and request.path in self._documents:
            text, media, headers = self._documents[request.path]
            return Answer(200, text, headers, f"{media}; charset=utf-8")
        self.requests.append(request)
        name = f"{request.method} {request.path}"
        for route, handler in self._handlers.items():
            if route == name or (route.endswith("*") and name.startswith(route[:-1])):
                return handler(request)
        return error(404, "not_found", "There is no such route.")


def _headers(pairs: Headers) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in pairs}


@contextmanager
def running_pages_api() -> Iterator[PagesApi]:
    """It, on a loopback port, until the end."""

    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            target = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = api.answer(Request(self.command, target.path, dict(parse_qsl(target.query)), headers, body))
            streamed = isinstance(answer.body, Iterator)
            raw = answer.body if isinstance(answer.body, str) else "" if streamed else json.dumps(answer.body)
            data = raw.encode()
            self.send_response(answer.status)
            for name, value in {
                "access-control-allow-origin": "*",
                "access-control-expose-headers": "X-Request-Id, Retry-After",
                "content-type": answer.content_type,
                **({"transfer-encoding": "chunked"} if streamed else {"content-length": str(len(data))}),
                **answer.headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if streamed:
                self.send_pieces(answer.body)
            else:
                self.wfile.write(data)

        def send_pieces(self, pieces: Iterator[bytes]) -> None:
            for piece in pieces:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_OPTIONS = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a page that has left

    with Server(("127.0.0.1", 0), Connection) as server:
        api = PagesApi(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
