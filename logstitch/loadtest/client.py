"""A small HTTP client that behaves as the public SDK does and costs little: one connection a client, one deadline an
attempt, bodies made beforehand.

It drives httpx's transports without httpx's client above them. One measurement on a busy machine, single events, 16
connections, a server that only answers: 770 µs of client CPU a request through one ``AsyncClient``, 700 through one
shared transport, 260 through a transport for each connection. Most of the difference is the pool, which is searched
at each request; the rest is redirects, cookies and authentication.
"""

from __future__ import annotations

import random
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import trio

from logstitch.errors import ConfigurationError, Unavailable
from logstitch.loadtest.ledger import pack_id
from logstitch.loadtest.plan import retry_delays

RESPONSE_BYTES = 64 * 1024 * 1024
"""The most that is read of one answer: a page of 100 events of the largest kind is about 7 MiB."""

PATIENCE = 30.0
"""Seconds that a reading request is repeated for while the service is away; then the account cannot be closed."""

PATIENCE_STEP = 0.5
PAGE = 100


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: ``body`` is the decoded JSON object, empty where there was none to decode."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def code(self) -> str:
        """``400 validation_error``; only the number where the body is not the service's error object."""
        error = self.body.get("error")
        code = error.get("code") if isinstance(error, dict) else None
        return f"{self.status} {code}" if isinstance(code, str) else str(self.status)

    @property
    def complaint(self) -> str:
        """The code with the service's message."""
        error = self.body.get("error")
        return f"{self.code}: {error.get('message')}" if isinstance(error, dict) else self.code


class NoAnswer(Exception):
    """The attempt ended without an answer; ``kind`` says how: ``timeout``, or the name of the network error.

    Whether the service did what it was asked is unknown.
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """201: one packed id for each event; ``replays`` of them were stored by an earlier attempt."""

    ids: Sequence[bytes]
    replays: int


@dataclass(frozen=True, slots=True)
class Refused:
    """A 4xx to an attempt, when no attempt before it can have stored anything: the events are not there."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """Given up on: the events may be there or not."""


Outcome = Acknowledged | Refused | Unknown


@dataclass(frozen=True, slots=True)
class Project:
    """A place to send to; ``id`` is ``None`` for the one project of a project key."""

    id: str | None
    name: str


class Client:
    """Requests to one service with one key. At most as many at once as there are connections; more wait."""

    def __init__(
        self,
        url: str,
        key: str,
        transports: Sequence[httpx.AsyncHTTPTransport],
        *,
        attempt_seconds: float,
        rng: random.Random,
    ) -> None:
        self._base = url.rstrip("/")
        host = httpx.URL(url).netloc.decode()
        self._headers = [
            ("host", host),
            ("authorization", f"Bearer {key}"),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),  # nothing to decompress, so nothing that unpacks to more than it says
            ("user-agent", "logstitch-loadtest"),
        ]
        self._free = list(transports)
        self._room = trio.Semaphore(len(transports))
        self._attempt_seconds = attempt_seconds
        self._rng = rng
        self._known: dict[str | None, httpx.Headers] = {}
        self._events = httpx.URL(f"{self._base}/api/v1/events")
        self.errors: Counter[str] = Counter()
        """Attempts that did not succeed, by code or kind."""
        self.bad_answers = 0
        """Acknowledgements that do not name one id for each event."""
        self.complaint: str | None = None
        """The first refusal in the service's words."""

    # -- one attempt

    async def attempt(
        self, method: str, url: httpx.URL, *, body: bytes | None = None, project: str | None = None
    ) -> Answer:
        """One request, one answer, within the timeout. Raises ``NoAnswer``; never retries."""
        headers = self._known.get(project)
        if headers is None:
            named = [*self._headers, ("x-project-id", project)] if project is not None else self._headers
            headers = self._known[project] = httpx.Headers([*named, ("content-type", "application/json")])
        request = httpx.Request(method, url, headers=headers, content=body)
        async with self._room:
            transport = self._free.pop()
            try:
                with trio.fail_after(self._attempt_seconds):
                    response = await transport.handle_async_request(request)
                    try:
                        return Answer(response.status_code, response.headers, await _read(response))
                    finally:
                        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                            await response.aclose()
            except trio.TooSlowError:
                raise NoAnswer("timeout") from None
            except (httpx.HTTPError, OSError) as error:
                raise NoAnswer(type(error).__name__) from error
            finally:
                self._free.append(transport)

    # -- sending

    async def send(self, body: bytes, count: int, *, project: str | None, stop: trio.Event) -> Outcome:
        """Sends ``count`` events. No answer and 5xx are tried again three times with the same body, thus the same
        keys, unless ``stop`` is set; a 4xx never is."""
        delays = iter(retry_delays(self._rng))
        uncertain = False
        while True:
            try:
                answer = await self.attempt("POST", self._events, body=body, project=project)
            except NoAnswer as error:
                self.errors[error.kind] += 1
                uncertain = True
            else:
                if answer.status == 201:
                    return self._acknowledged(answer, count)
                self.errors[answer.code] += 1
                if self.complaint is None:
                    self.complaint = answer.complaint
                if answer.status < 500:
                    return Unknown() if uncertain else Refused()
                uncertain = True  # a 503 after the work was handed on says nothing of what became of it
            delay = next(delays, None)
            if delay is None:
                return Unknown()
            with trio.move_on_after(delay):
                await stop.wait()
            if stop.is_set():
                return Unknown()

    def _acknowledged(self, answer: Answer, count: int) -> Acknowledged | Unknown:
        listed = answer.body.get("ids")
        ids = [pack_id(identity) for identity in listed] if isinstance(listed, list) else []
        packed = [identity for identity in ids if identity is not None]
        if len(packed) != count or len(ids) != count:
            self.bad_answers += 1
            self.errors["201 without its ids"] += 1
            return Unknown()
        replays = answer.headers.get("idempotent-replays", "0")
        return Acknowledged(packed, int(replays) if replays.isascii() and replays.isdigit() else 0)

    # -- reading

    async def get(
        self, path: str, *, project: str | None = None, patience: float = PATIENCE, query: Mapping[str, str]
    ) -> Answer:
        """A 200 answer. While there is no answer, or 5xx or 429, the request is repeated for ``patience`` seconds.

        Raises ``Unavailable`` when that did not help, ``ConfigurationError`` on any other answer.
        """
        url = httpx.URL(f"{self._base}{path}", params=query)
        deadline = trio.current_time() + patience
        while True:
            try:
                answer = await self.attempt("GET", url, project=project)
            except NoAnswer as error:
                trouble = error.kind
            else:
                if answer.status == 200:
                    return answer
                trouble = answer.complaint
                if answer.status < 500 and answer.status != 429:
                    raise ConfigurationError(f"GET {path} was answered {trouble}")
            if trio.current_time() + PATIENCE_STEP > deadline:
                raise Unavailable(f"GET {path}: no good answer from {self._base} ({trouble})")
            await trio.sleep(PATIENCE_STEP)

    async def pages(
        self, path: str, listed: str, *, project: str | None = None, query: Mapping[str, str]
    ) -> AsyncGenerator[list[Any], None]:
        """The pages of a list, to its end. Raises as ``get`` does."""
        cursor: str | None = None
        seen: set[str] = set()
        while True:
            asked = {**query, "limit": str(PAGE)}
            if cursor is not None:
                asked["cursor"] = cursor
            answer = await self.get(path, project=project, query=asked)
            rows, cursor = answer.body.get(listed), answer.body.get("cursor")
            if not isinstance(rows, list):
                raise ConfigurationError(f"GET {path}: the answer has no {listed}")
            yield rows
            if not answer.body.get("has_more"):
                return
            if not isinstance(cursor, str) or cursor in seen:
                raise ConfigurationError(f"GET {path}: has_more without a new cursor")
            seen = {cursor}

    # -- before sending

    async def projects(self, names: Sequence[str]) -> list[Project]:
        """The projects with these names; those that are missing are made. Needs a master key."""
        found: dict[str, str] = {}
        async for page in self.pages("/api/v1/projects", "projects", query={}):
            found.update({str(row["name"]): str(row["id"]) for row in page if row.get("name") in names})
        for name in names:
            if name in found:
                continue
            body = orjson.dumps({"name": name})
            try:
                answer = await self.attempt("POST", httpx.URL(f"{self._base}/api/v1/projects"), body=body)
            except NoAnswer as error:
                raise Unavailable(f"POST /api/v1/projects: no answer from {self._base} ({error.kind})") from error
            if answer.status != 201:
                raise ConfigurationError(f"the project {name} could not be made: {answer.complaint}")
            found[name] = str(answer.body["id"])
        return [Project(found[name], name) for name in names]

    async def check(self) -> None:
        """Whether the service answers and takes the key, told at once rather than by a run of nothing but errors."""
        answer = await self.get("/api/v1/events", patience=0.0, query={"limit": "1"})
        if not isinstance(answer.body.get("events"), list):
            raise ConfigurationError(f"{self._base} answers, but not as LogStitch does")


async def _read(response: httpx.Response) -> dict[str, Any]:
    parts, size = [], 0
    async for part in response.aiter_raw():
        size += len(part)
        if size > RESPONSE_BYTES:
            raise NoAnswer("answer too large")
        parts.append(part)
    try:
        body = orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


@asynccontextmanager
async def open_client(
    url: str, key: str, *, connections: int, attempt_seconds: float, rng: random.Random
) -> AsyncIterator[Client]:
    """A client with this many connections; ``attempt_seconds`` is what each attempt may take.

    Proxies and other settings of the environment are not obeyed: a load test talks to the address it was given.
    Raises ``ConfigurationError`` for a URL that cannot be read.
    """
    try:
        httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigurationError(f"{url}: {error}") from error
    context = ssl.create_default_context() if url.startswith("https:") else False
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=60)
    async with AsyncExitStack() as stack:
        transports = [
            await stack.enter_async_context(httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits))
            for _ in range(connections)
        ]
        yield Client(url, key, transports, attempt_seconds=attempt_seconds, rng=rng)
