"""The Quart app: it finds the endpoint of a path and a method, and nothing more.

Quart's own handling of requests is left out where it has failed: it buffers bodies before it knows who sends them,
answers 500 to odd headers and targets, and redirects with HTML. So it is given a head without headers and without a
body; whoever needs those has them from the ``Exchange`` that travels in the scope. Two tasks and a nursery for each
request go with the body.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from quart import Response, request
from quart.ctx import RequestContext
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.datastructures import Headers
from werkzeug.exceptions import MethodNotAllowed as WrongMethod
from werkzeug.exceptions import NotFound as NoRoute
from werkzeug.routing import BaseConverter, Map, Rule
from werkzeug.wrappers import Response as AnyResponse

from logstitch.errors import NotFound
from logstitch.http import responses
from logstitch.http.bodies import ClientGone
from logstitch.http.endpoints import Endpoint
from logstitch.http.errors import MethodNotAllowed, reply_to
from logstitch.http.pipeline import Exchange, Pipeline
from logstitch.http.responses import Answer, Reply, resource

Send = Callable[[Any], Awaitable[None]]

EXCHANGE = "logstitch.exchange"
"""Where the exchange travels in the scope."""

_CORS: responses.Headers = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-expose-headers", b"X-Request-Id, Retry-After, Content-Disposition"),
)
_PREFLIGHT: responses.Headers = (
    *_CORS,
    (b"access-control-allow-methods", b"GET, HEAD"),
    (b"access-control-allow-headers", b"Authorization, Content-Type, X-Project-Id"),
    (b"access-control-max-age", b"86400"),
)


class _Connection(TrioASGIHTTPConnection):
    """Quart's way from scope to response, without the task that reads a body and the one that waits for it to end."""

    async def __call__(self, receive: Callable[[], Awaitable[Any]], send: Send) -> None:
        request = self._create_request_from_scope(send)
        request.body.set_complete()
        await self._send_response(send, await self.app.handle_request(request))


class _OtherThan(BaseConverter):
    """A variable part of a path, but not one of some words, which are endpoints of their own.

    ``/rules/test`` is there for POST; without this it would be there for PUT, too, as the rule of the id ``test``.
    """

    def __init__(self, map: Map, *taken: str) -> None:
        super().__init__(map)
        self.regex = f"(?!(?:{'|'.join(re.escape(word) for word in taken)})$)[^/]+"


class Router(QuartTrio):
    """Quart with the endpoints as its routes."""

    asgi_http_class = _Connection

    def __init__(self, endpoints: Iterable[Endpoint], pipeline: Pipeline) -> None:
        super().__init__("logstitch", static_folder=None, template_folder=None)
        self.url_map.merge_slashes = False  # or it answers // with a redirect of its own
        self.url_map.redirect_defaults = False
        self.config["PROPAGATE_EXCEPTIONS"] = False
        self.url_map.converters["other"] = _OtherThan
        endpoints = tuple(endpoints)
        self._paths = frozenset(endpoint.path for endpoint in endpoints)
        methods: dict[str, set[str]] = {}
        readable = set()
        for endpoint in endpoints:
            self._route(endpoint.path, endpoint.method, endpoint.name, _view(endpoint, pipeline))
            methods.setdefault(endpoint.path, {"HEAD", "OPTIONS"}).add(endpoint.method)
            if endpoint.cors:
                readable.add(endpoint.path)
        for path in sorted(readable):
            self._route(path, "OPTIONS", f"preflight {path}", _preflight(methods[path]))

    async def forward(self, exchange: Exchange, path: str, send: Send) -> None:
        """Answer through ``send``. Everything of the request but ``path`` and its method is in the exchange."""
        bare: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": exchange.head.method,
            "scheme": "http",
            "path": path,
            "raw_path": b"",
            "query_string": b"",
            "root_path": "",
            "headers": [],
            "client": None,
            "server": None,
            EXCHANGE: exchange,
        }
        await self.asgi_http_class(self, cast(Any, bare))(_never, send)

    async def full_dispatch_request(self, request_context: RequestContext | None = None) -> Response:
        """Call the view. Quart's also sends signals, runs hooks and saves a session: nothing of it is used here."""
        found = cast(RequestContext, request_context).request
        if found.routing_exception is not None:
            return _no_endpoint(found.routing_exception)
        rule = cast(Rule, found.url_rule)
        view = cast(Callable[..., Awaitable[Response]], self.view_functions[rule.endpoint])
        return await view(**(found.view_args or {}))

    async def handle_exception(self, error: Exception) -> Response | AnyResponse:
        """Whatever a view lets out. Quart's own answer is HTML."""
        if isinstance(error, ClientGone):
            raise error
        return _response(reply_to(error, _exchange().head.request_id))

    def _route(self, path: str, method: str, name: str, view: Callable[..., Awaitable[Response]]) -> None:
        rule = path.replace("*}", "}").replace("{", "<path:" if "*}" in path else "<").replace("}", ">")
        if taken := _words_beside(path, self._paths):
            rule = rule.replace("<", f"<other({', '.join(map(repr, taken))}):")
        self.add_url_rule(rule, name, cast(Any, view), methods=[method], provide_automatic_options=False)


def _words_beside(path: str, paths: Iterable[str]) -> list[str]:
    """The words that stand, in another path, where this one ends in a variable part."""
    before, _, last = path.rpartition("/")
    if not last.startswith("{") or "*" in last:
        return []
    others = (other.rpartition("/") for other in paths)
    return sorted(word for start, _, word in others if start == before and not word.startswith("{"))


def with_cors(endpoint: Endpoint | None, answer: Answer) -> Answer:
    """The answer as pages of any origin may read it, where the endpoint is one for them."""
    if endpoint is None or not endpoint.cors:
        return answer
    return replace(answer, headers=(*answer.headers, *_CORS))


def _view(endpoint: Endpoint, pipeline: Pipeline) -> Callable[..., Awaitable[Response]]:
    async def view(**path: str) -> Response:
        answer = with_cors(endpoint, await pipeline.answer(_exchange(), endpoint, path))
        if not isinstance(answer, Reply):
            raise TypeError("Quart would gather what is to be streamed; such an endpoint is found without it")
        return _response(answer)

    return view


def _preflight(methods: Iterable[str]) -> Callable[..., Awaitable[Response]]:
    headers = (*_PREFLIGHT, (b"allow", ", ".join(sorted(methods)).encode()))

    async def view(**path: str) -> Response:
        reply = resource(_exchange().head.request_id, {})
        return _response(Reply(reply.status, reply.body, headers))

    return view


def _no_endpoint(error: Exception) -> Response:
    failure = error
    if isinstance(error, WrongMethod):
        failure = MethodNotAllowed(error.valid_methods or ())
    elif isinstance(error, NoRoute):
        failure = NotFound("There is no such route.")
    return _response(reply_to(failure, _exchange().head.request_id))


def _exchange() -> Exchange:
    exchange: Exchange = cast(dict[str, Any], request.scope)[EXCHANGE]
    return exchange


def _response(reply: Reply) -> Response:
    headers = Headers((name.decode(), value.decode()) for name, value in reply.headers)
    return Response(reply.body, reply.status, headers, content_type=reply.content_type.decode())


async def _never() -> Any:
    raise TypeError("Quart has no business with the body")
