"""One attempt to deliver a webhook: a POST, of whose answer only the status is kept.

It is httpcore's single connection, one for each attempt. httpx above it would bring what would have to be turned off
again: proxies of the environment, redirects, cookies, decoding, timeouts for each operation in place of one for all.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpcore
import structlog
import trio

from logstitch import __version__
from logstitch.egress.addresses import Allow
from logstitch.egress.line import Line, NotDialled, TooMuch
from logstitch.egress.resolver import Resolver, SystemResolver
from logstitch.egress.targets import Target

log: structlog.typing.FilteringBoundLogger = structlog.get_logger(__name__)

ATTEMPT_SECONDS: Final = 15.0
"""For all of an attempt: looking up, connecting, TLS, sending, and the head of the answer."""

DRAIN_SECONDS: Final = 1.0
"""For the body of an answer whose status is known. It is read only so that the receiver can finish in peace."""


class Category(StrEnum):
    """How an attempt ended, in words that are safe to show to whoever chose the URL.

    There are few on purpose. ``CONNECTION_FAILED`` is one for all that happens before the request goes out, save a
    certificate that does not hold: for a name that does not exist, one that leads to an address it must not, a closed
    port, an open one that speaks no TLS, and one that swallows packets. Told apart, they would make a port scanner.
    """

    DELIVERED = "delivered"
    """2xx."""
    REDIRECT = "redirect"
    """3xx: redirects are not followed."""
    HTTP_ERROR = "http_error"
    """Any other status."""
    TIMEOUT = "timeout"
    """The request went out, and no answer came in time."""
    CONNECTION_FAILED = "connection_failed"
    """The request could not be sent, or the connection broke before an answer."""
    TLS_FAILED = "tls_failed"
    """The receiver's certificate does not hold: expired, for another name, or of an unknown authority."""
    INVALID_RESPONSE = "invalid_response"
    """What came back is not HTTP, or its head is too large."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended; it holds nothing that the receiver said but the number of the status.

    ``duration_ms`` is that until the head of the answer, or until the failure. ``CONNECTION_FAILED`` has none: how long
    it takes tells a closed port from one that swallows packets.
    """

    status: int | None
    category: Category
    duration_ms: int | None


REFUSED: Final = Outcome(None, Category.CONNECTION_FAILED, None)
"""Also the outcome for a URL that was saved once and that ``check_url`` no longer takes."""


class Sender:
    """Sends; made by ``open_egress``. Takes any number of attempts at the same time: the caller bounds them."""

    def __init__(
        self,
        allow: Allow,
        resolver: Resolver,
        network: httpcore.AsyncNetworkBackend,
        tls: ssl.SSLContext,
        attempt_seconds: float,
    ) -> None:
        self._allow = allow
        self._resolver = resolver
        self._network = network
        self._tls = tls
        self._attempt_seconds = attempt_seconds

    async def post(self, target: Target, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """Make one attempt. ``target`` is made by ``check_url`` of the stored URL, at each attempt anew.

        ``headers`` go beside those that every request has; ``content-type`` is JSON unless it is among them. Raises
        ``ValueError`` if one of them is no header or not for the caller to set, and nothing else but cancellation. Once
        the head of the answer is here it is not cancelled any more: that the message arrived must not be forgotten.
        """
        url = httpcore.URL(
            scheme=target.scheme.encode("ascii"),
            host=target.host.encode("ascii"),
            port=target.port,
            target=target.path.encode("ascii"),
        )
        request = httpcore.Request("POST", url, headers=list(_headers(target, body, headers)), content=body)
        line = Line(self._network, self._resolver, self._allow, loopback_only=target.scheme != "https")
        connection = httpcore.AsyncHTTPConnection(url.origin, ssl_context=self._tls, network_backend=line)
        began = trio.current_time()
        async with aclosing(line):
            try:
                with trio.fail_after(self._attempt_seconds) as patience:
                    response = await connection.handle_async_request(request)
            except (trio.TooSlowError, TooMuch, httpcore.NetworkError, httpcore.RemoteProtocolError) as error:
                category, reason = _failure(error, line)
                log.info("egress.failed", host=target.host, port=target.port, category=category, reason=reason)
                told = category is not Category.CONNECTION_FAILED
                return Outcome(None, category, _milliseconds(began)) if told else REFUSED
            outcome = Outcome(response.status, _category(response.status), _milliseconds(began))
            until = min(patience.deadline, trio.current_time() + DRAIN_SECONDS)
            with (
                trio.CancelScope(deadline=until, shield=True),
                suppress(TooMuch, httpcore.NetworkError, httpcore.RemoteProtocolError),
            ):
                async for _ in response.aiter_stream():
                    pass
        return outcome


@asynccontextmanager
async def open_egress(
    allow: Allow,
    *,
    resolver: Resolver | None = None,
    network: httpcore.AsyncNetworkBackend | None = None,
    tls: ssl.SSLContext | None = None,
    attempt_seconds: float = ATTEMPT_SECONDS,
) -> AsyncGenerator[Sender, None]:
    """A sender that reaches what is public, and what ``allow`` holds.

    ``resolver`` and ``network`` are the system's, ``tls`` the default context with the system's authorities (OpenSSL's
    ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` apply). Raises ``ValueError`` for a context that does not check certificates
    and names.
    """
    # Reading the authorities takes tens of milliseconds.
    if tls is None:
        tls = await trio.to_thread.run_sync(ssl.create_default_context)
    if not tls.check_hostname:  # Python has no context that checks names and not certificates
        raise ValueError("this TLS context does not check certificates and names")
    yield Sender(allow, resolver or SystemResolver(), network or httpcore.TrioBackend(), tls, attempt_seconds)


_OWN_HEADERS: Final = frozenset(
    {"host", "user-agent", "accept", "accept-encoding", "connection", "content-length", "transfer-encoding"}
)


def _headers(target: Target, body: bytes, given: Mapping[str, str]) -> Iterator[tuple[bytes, bytes]]:
    headers = {"content-type": "application/json", **{name.lower(): value for name, value in given.items()}}
    if own := _OWN_HEADERS & headers.keys():
        raise ValueError(f"not for the caller to set: {', '.join(sorted(own))}")
    if not all(name.isascii() and value.isascii() and value.isprintable() for name, value in headers.items()):
        raise ValueError("a header that is not printable ASCII")
    headers = {
        "host": target.authority,
        "user-agent": f"LogStitch/{__version__}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
        "content-length": str(len(body)),
        **headers,
    }
    return ((name.encode("ascii"), value.encode("ascii")) for name, value in headers.items())


def _category(status: int) -> Category:
    if 200 <= status <= 299:
        return Category.DELIVERED
    return Category.REDIRECT if 300 <= status <= 399 else Category.HTTP_ERROR


def _failure(error: Exception, line: Line) -> tuple[Category, str]:
    """What to call it, and what to tell the operator."""
    reason = str(error) if isinstance(error, NotDialled) else type(error).__name__
    if isinstance(error, trio.TooSlowError):
        return (Category.TIMEOUT if line.asked else Category.CONNECTION_FAILED), reason
    if isinstance(error, httpcore.ConnectError):
        untrusted = next((e for e in _causes(error) if isinstance(e, ssl.SSLCertVerificationError)), None)
        if untrusted is not None:
            return Category.TLS_FAILED, f"certificate ({untrusted.verify_code})"
        return Category.CONNECTION_FAILED, reason
    if isinstance(error, TooMuch | httpcore.RemoteProtocolError) and line.received:
        return Category.INVALID_RESPONSE, reason
    return Category.CONNECTION_FAILED, reason


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _milliseconds(began: float) -> int:
    return round((trio.current_time() - began) * 1000)
