"""What stands in for the network in tests of outgoing requests: nothing is ever dialled but loopback."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Any

import httpcore
import trio

from logstitch.egress.addresses import Address


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
