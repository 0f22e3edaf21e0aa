"""The network as one attempt sees it: a name is looked up once, all answers are judged, and a judged one is dialled.

It stands where httpcore's network stands, so there is no other way out. The name itself goes on to be what the
certificate is checked against.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import httpcore
import trio

from logstitch.egress.addresses import Address, Allow, forbidden, is_loopback, unwrapped
from logstitch.egress.resolver import Resolver
from logstitch.egress.targets import literal

RESPONSE_BYTES: Final = 64 * 1024
"""The most that is read of an answer, head and body: only its status is wanted."""

DIAL_SECONDS: Final = 5.0
"""For the first address, where there is a second one to try; the last has all the time that the attempt has left."""

CLOSE_SECONDS: Final = 1.0


class NotDialled(httpcore.ConnectError):
    """There is no address to connect to, or none that may be. The text is for the operator only."""


class TooMuch(Exception):
    """The answer has more than ``RESPONSE_BYTES``."""


class Line(httpcore.AsyncNetworkBackend):
    """The network of one attempt; to be closed with ``aclose``, which closes every socket that it opened.

    ``loopback_only`` is for plain http, which must not leave the host.
    """

    def __init__(
        self, network: httpcore.AsyncNetworkBackend, resolver: Resolver, allow: Allow, *, loopback_only: bool
    ) -> None:
        self._network = network
        self._resolver = resolver
        self._allow = allow
        self._loopback_only = loopback_only
        self._opened: list[httpcore.AsyncNetworkStream] = []
        self.asked = False
        """Something of the request went out: there was a connection, and it was secure where it had to be."""
        self.received = 0
        """Bytes of the answer so far."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to ``host``. Raises ``httpcore.ConnectError``, also for a host that must not be reached.

        The options, which httpcore leaves unset here, are not for use; nor is the timeout: the attempt has a deadline.
        """
        *early, last = dial_order(await self._judged(host, port))
        for address in early:
            with trio.move_on_after(DIAL_SECONDS), suppress(httpcore.ConnectError):
                return await self._dial(address, port)
        return await self._dial(last, port)

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Refused: there is no host behind it."""
        await trio.lowlevel.checkpoint()
        raise NotDialled("a unix socket")

    async def aclose(self) -> None:
        """Close what was opened, also when cancelled."""
        # httpcore leaves the socket open when it is cancelled in a TLS handshake.
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            for stream in self._opened:
                await stream.aclose()

    async def _judged(self, host: str, port: int) -> Sequence[Address]:
        """All addresses of ``host``, every one of which may be dialled."""
        addresses = [unwrapped(address) for address in await self._addresses(host, port)]
        if not addresses:
            raise NotDialled("the name has no address")
        for address in addresses:
            if (reason := forbidden(address, self._allow)) is not None:
                raise NotDialled(f"forbidden: {reason}")
            if self._loopback_only and not is_loopback(address):
                raise NotDialled("forbidden: not loopback, and not https")
        return addresses

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        address = literal(host)
        if address is not None:
            return [address]
        if host == "localhost":  # RFC 6761 section 6.3: loopback, and nobody is asked
            return self._allow.localhost
        try:
            return await self._resolver.look_up(host, port)
        except OSError as error:
            raise NotDialled(f"the name was not found ({error.errno})") from error

    async def _dial(self, address: Address, port: int) -> httpcore.AsyncNetworkStream:
        stream = await self._network.connect_tcp(str(address), port)
        self._opened.append(stream)
        return _Metered(self, stream)


def dial_order(addresses: Sequence[Address]) -> Sequence[Address]:
    """Which one or two of them to try: the first, and the first of the other family, else the second.

    Two, because hosts with IPv6 that does not work are common. No more, because whoever controls the name chooses what
    we knock at.
    """
    first, others = addresses[0], addresses[1:]
    other_family = [address for address in others if address.version != first.version]
    return [first, *(other_family or others)[:1]]


class _Metered(httpcore.AsyncNetworkStream):
    """A connection that reads so much and no more."""

    def __init__(self, line: Line, stream: httpcore.AsyncNetworkStream) -> None:
        self._line = line
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = RESPONSE_BYTES - self._line.received
        if left <= 0:
            raise TooMuch
        data = await self._stream.read(min(max_bytes, left), timeout)
        self._line.received += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._line.asked = True
        await self._stream.write(buffer, timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _Metered(self._line, await self._stream.start_tls(ssl_context, server_hostname, timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
