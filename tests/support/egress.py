"""What stands in for the network in tests of outgoing requests: nothing is ever dialled but loopback."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from ipaddress import ip_address
from typing import Any

import httpcore
import trio
import trustme

from logstitch.egress.addresses import Address, Allow
from logstitch.egress.client import Outcome, Sender, open_egress
from logstitch.egress.resolver import Resolver
from logstitch.egress.targets import Target, check_url


class ScriptedResolver:
    """Answers each look-up with the next of ``answers``, the last one again and again; an error is raised."""

    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        await trio.lowlevel.checkpoint()
        answer = self._answers[min(len(self.asked), len(self._answers) - 1)]
        self.asked.append(host)
        if isinstance(answer, OSError):
            raise answer
        return [ip_address(address) for address in answer]


class StubNetwork(httpcore.AsyncNetworkBackend):
    """Notes what would have been dialled, and connects to ``streams``: an exception is raised, ``None`` hangs."""

    def __init__(self, *streams: httpcore.AsyncNetworkStream | Exception | None) -> None:
        self._streams = list(streams)
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.dialled.append((host, port))
        await trio.lowlevel.checkpoint()
        stream = self._streams.pop(0) if self._streams else httpcore.ConnectError("nobody is there")
        if stream is None:
            await trio.sleep_forever()
        if isinstance(stream, Exception):
            raise stream
        assert stream is not None
        return stream


class ScriptedStream(httpcore.AsyncNetworkStream):
    """A connection whose other side says ``chunks``, one a read, and then nothing more, or hangs up if ``ends``.

    TLS is only noted: ``names`` are what certificates would have been checked against.
    """

    def __init__(self, *chunks: bytes, ends: bool = True) -> None:
        self._chunks = list(chunks)
        self._ends = ends
        self.written = b""
        self.names: list[str | None] = []
        self.closed = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._chunks:
            if not self._ends:
                await trio.sleep_forever()
            return b""
        chunk = self._chunks.pop(0)
        if len(chunk) > max_bytes:
            self._chunks.insert(0, chunk[max_bytes:])
        return chunk[:max_bytes]

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await trio.lowlevel.checkpoint()
        self.written += buffer

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()  # as a socket does, once it is closed

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        await trio.lowlevel.checkpoint()
        self.names.append(server_hostname)
        return self


NOTHING = Allow()
LOOPBACK = Allow.parse("127.0.0.0/8,::1")
HOOKS = check_url("https://hooks.example/in?box=1", NOTHING)
PUBLIC = "198.41.0.4"
OTHER = "199.9.14.201"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
SOON = 10.0
BODY = b'{"type":"alert.triggered"}'
Handler = Callable[[trio.abc.Stream], Awaitable[None]]


@asynccontextmanager
async def receiver(handler: Handler, certificate: trustme.LeafCert | None = None) -> AsyncIterator[int]:
    """Answers on a port of 127.0.0.1, with TLS if it has a certificate; what a client does to it is its own affair."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if certificate is None:
                await handler(stream)
            else:
                context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
                certificate.configure_cert(context)
                await handler(trio.SSLStream(stream, context, server_side=True, https_compatible=True))
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def read_request(stream: trio.abc.Stream) -> bytes:
    """All of a request that has a content-length."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await _some(stream)
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
    while len(body) < length:
        body += await _some(stream)
    return head + b"\r\n\r\n" + body


async def _some(stream: trio.abc.Stream) -> bytes:
    if not (data := await stream.receive_some()):
        raise trio.BrokenResourceError
    return bytes(data)


def answering(answer: bytes, requests: list[bytes] | None = None) -> Handler:
    async def handler(stream: trio.abc.Stream) -> None:
        request = await read_request(stream)
        if requests is not None:
            requests.append(request)
        await stream.send_all(answer)

    return handler


async def post(sender: Sender, target: Target = HOOKS) -> Outcome:
    return await sender.post(target, BODY, {"webhook-id": "dlv_1"})


def stubbed(
    network: StubNetwork, resolver: Resolver, allow: Allow = NOTHING, **options: Any
) -> AbstractAsyncContextManager[Sender]:
    """A sender over a stub network, which only notes what TLS would have checked."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the system's authorities takes its time
    return open_egress(allow, resolver=resolver, network=network, tls=tls, **options)


async def attempt(
    network: StubNetwork, *answers: Sequence[str] | OSError, target: Target = HOOKS, allow: Allow = NOTHING
) -> Outcome:
    """One attempt over a stub network, the name being looked up to ``answers``."""
    async with stubbed(network, ScriptedResolver(*answers), allow) as sender:
        return await post(sender, target)


def at_port(port: int, host: str = "hooks.example", scheme: str = "https") -> Target:
    return Target(scheme, host, port, "/in")
