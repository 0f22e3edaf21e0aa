"""The HTTP server: our own accept loop around Hypercorn's connections, so that no client ends or blocks the process.

``bind`` makes listening sockets, ``serve`` runs an ASGI app on them until it is told to drain. Accepting and handling
live in two nurseries, cancelled one after the other: stop accepting, let requests finish, deadline, cancel.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from wsgiref.handlers import format_date_time

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.logging import Logger
from hypercorn.trio.worker_context import EventWrapper, WorkerContext
from hypercorn.typing import AppWrapper, ASGIFramework
from hypercorn.utils import repr_socket_addr

from logstitch.errors import CannotStartNow, ConfigurationError
from logstitch.http.connection import Connection

BACKLOG = 1024  # connections that the kernel holds for us while the loop is busy
TURNED_AWAY = 100  # clients that may be told 503 at one time; more are closed without a word
TURN_AWAY_SECONDS = 1.0

Address = bytes
"""Of a client: the 4 bytes of an IPv4 address, or the first 8 of an IPv6 one."""

RefusalBody = Callable[[str, str], bytes]
"""Builds the JSON error envelope, ``request_id`` included, from a code and a message of the contract's table."""


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one client, and all clients together, may take. Times in seconds, sizes in bytes.

    Attributes:
        max_connections: open connections. One more evicts the one that has been idle longest; where none is idle, the
            newcomer is answered 503. Never more than the process has file descriptors for.
        max_connections_per_address: the same for the connections of one client address, so that nobody takes all there
            are. An IPv6 address counts by its first 64 bits, since one client has all of the others. The clients of a
            Unix socket have no address, and only the limit of all.
        idle_seconds: between an answer and the first byte of the next request.
        head_seconds: for a complete request head; from the accept for the first, else from its first byte.
        write_seconds: for each piece of 64 KiB; a client that reads slower is cut.
        linger_seconds: after the last answer, for the client to read it and to close.
        max_header_bytes: all header fields, as they were on the wire.
        max_headers: header fields.
        max_target_bytes: the request target (path and query).
    """

    max_connections: int = 2000
    max_connections_per_address: int = 500
    idle_seconds: float = 30.0
    head_seconds: float = 10.0
    write_seconds: float = 15.0
    linger_seconds: float = 2.0
    max_header_bytes: int = 16 * 1024
    max_headers: int = 64
    max_target_bytes: int = 8 * 1024


class _NoLog(Logger):
    """Hypercorn's own log is not used: its tracebacks carry exception texts, which may quote what was redacted."""

    def __init__(self, config: Config) -> None:
        pass

    async def access(self, request: object, response: object, request_time: float) -> None:
        pass


class _Config(Config):
    logger_class = _NoLog
    _second = 0
    _date: list[tuple[bytes, bytes]] = []  # noqa: RUF012  (replaced, never changed)

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """The date, and nothing that tells which server this is."""
        now = int(time.time())
        if now != self._second:  # formatted once a second, not once a response
            self._second, self._date = now, [(b"date", format_date_time(now).encode("ascii"))]
        return self._date


class _Draining(EventWrapper):
    def __init__(self, drain: trio.Event) -> None:
        self._event = drain


@dataclass(slots=True)
class _Guests:
    """The connections of one address."""

    count: int = 0
    idle: dict[Connection, None] = field(default_factory=dict)


class Site:
    """What all connections of one server share: the app, the limits, and who is connected."""

    def __init__(self, app: AppWrapper, limits: ServerLimits, refusal: RefusalBody, drain: trio.Event) -> None:
        self.app = app
        self.limits = limits
        self.refusal = refusal
        self.config = _Config()
        self.config.h11_max_incomplete_size = limits.max_header_bytes + limits.max_target_bytes
        self.context = WorkerContext(max_requests=None)
        self.context.terminated = _Draining(drain)  # from the very moment it is set, nothing is kept alive
        self.connections: set[Connection] = set()
        self.idle: dict[Connection, None] = {}  # those without a request, the longest idle first
        self._guests: dict[Address | None, _Guests] = {}
        self.requests_in_flight = 0

    def enter(self, connection: Connection) -> None:
        self.connections.add(connection)
        self._guests.setdefault(connection.address, _Guests()).count += 1
        self.mark_idle(connection)

    def leave(self, connection: Connection) -> None:
        self.mark_busy(connection)
        self.connections.discard(connection)
        guests = self._guests[connection.address]
        guests.count -= 1
        if not guests.count:
            del self._guests[connection.address]

    def mark_idle(self, connection: Connection) -> None:
        """``connection`` has no request now."""
        self.idle[connection] = None
        self._guests[connection.address].idle[connection] = None

    def mark_busy(self, connection: Connection) -> None:
        """``connection`` has a request, or is about to end."""
        self.idle.pop(connection, None)
        self._guests[connection.address].idle.pop(connection, None)

    def guests(self, address: Address | None) -> _Guests:
        """Who is connected from there."""
        return self._guests.get(address) or _Guests()

    def refuse(self, code: str, message: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """Headers and body of an answer that no app gave; the connection ends with it."""
        body = self.refusal(code, message)
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
            (b"x-request-id", str(json.loads(body).get("request_id", "")).encode("ascii")),
        ]
        if code == "unavailable":
            headers.append((b"retry-after", b"1"))
        return headers, body


class Server:
    """A running server, as its owner sees it."""

    def __init__(self, site: Site, addresses: Sequence[str]) -> None:
        self._site = site
        self.addresses = tuple(addresses)
        """Where it listens: ``127.0.0.1:8700``, ``[::1]:8700``, ``unix:/run/logstitch.sock``."""

    @property
    def connections(self) -> int:
        """Open connections, idle ones included."""
        return len(self._site.connections)

    @property
    def requests_in_flight(self) -> int:
        """Requests that the app is working on."""
        return self._site.requests_in_flight


async def serve(
    app: ASGIFramework,
    sockets: Sequence[socket.socket],
    *,
    limits: ServerLimits,
    drain: trio.Event,
    drain_seconds: float,
    refusal: RefusalBody,
    task_status: trio.TaskStatus[Server] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on listening ``sockets``, which are closed on the way out; returns only after ``drain`` was set.

    Draining: the sockets close; connections without a request close within a quarter of a second; requests under way
    are answered with ``Connection: close``; after ``drain_seconds`` whatever is left is reset and cancelled.
    """
    site = Site(ASGIWrapper(app), limits, refusal, drain)
    listeners = [trio.SocketListener(trio.socket.from_stdlib_socket(sock)) for sock in sockets]
    server = Server(site, [repr_socket_addr(sock.family, sock.getsockname()) for sock in sockets])
    accept = partial(trio.serve_listeners, _Door(site), listeners)
    async with trio.open_nursery() as overseer:
        async with trio.open_nursery() as handling:
            overseer.start_soon(_end, site, drain, drain_seconds, handling.cancel_scope)
            try:
                async with trio.open_nursery() as accepting:
                    # It backs off when accept finds no descriptor or memory, and raises what it cannot mend.
                    accepting.start_soon(partial(accept, handler_nursery=handling))
                    task_status.started(server)
                    await drain.wait()
                    accepting.cancel_scope.cancel()
            except BaseException:  # a listener broke, say: the handlers are cancelled, but not their shielded writes
                _abort_all(site)
                raise
            for connection in list(site.connections):
                connection.drain()
        overseer.cancel_scope.cancel()


async def _end(site: Site, drain: trio.Event, drain_seconds: float, handling: trio.CancelScope) -> None:
    # Writes are shielded from cancellation, so cancelling alone would wait for a client that never reads.
    try:
        await drain.wait()
        await trio.sleep(drain_seconds)
    finally:
        _abort_all(site)
        handling.cancel()


def _abort_all(site: Site) -> None:
    for connection in list(site.connections):
        connection.abort()


class _Door:
    """Lets an accepted client in, makes room for it, or turns it away."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._turning_away = 0
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)  # the database and webhooks need descriptors too
        self._room = min(site.limits.max_connections, max(files - 256, files // 2))

    async def __call__(self, stream: trio.SocketStream) -> None:
        site, address = self._site, _address_of(stream)
        guests = site.guests(address)
        if address is not None and guests.count >= site.limits.max_connections_per_address:
            await self._make_room(guests.idle, stream, address, "Your address has as many connections as it may hold.")
        elif len(site.connections) >= self._room:
            await self._make_room(site.idle, stream, address, "The server has as many connections as it may hold.")
        else:
            await Connection(site, stream, address).run()

    async def _make_room(
        self, idle: Mapping[Connection, None], stream: trio.SocketStream, address: Address | None, refusal: str
    ) -> None:
        if not idle:
            await self._turn_away(stream, refusal)
            return
        next(iter(idle)).abort()  # its dict order is the order in which they became idle
        await Connection(self._site, stream, address).run()

    async def _turn_away(self, stream: trio.SocketStream, message: str) -> None:
        if self._turning_away >= TURNED_AWAY:
            return  # serve_listeners closes it
        self._turning_away += 1
        try:
            with trio.move_on_after(TURN_AWAY_SECONDS):
                headers, body = self._site.refuse("unavailable", message)
                head = b"".join(b"%s: %s\r\n" % header for header in headers)
                await stream.send_all(b"HTTP/1.1 503 Service Unavailable\r\n" + head + b"\r\n" + body)
                await stream.send_eof()
                while await stream.receive_some():  # unread input would turn the close into a reset
                    pass
        except trio.BrokenResourceError:
            pass
        finally:
            self._turning_away -= 1


def _address_of(stream: trio.SocketStream) -> Address | None:
    try:
        peer = stream.socket.getpeername()
    except OSError:  # gone before we looked
        return None
    return address_of(stream.socket.family, peer)


def address_of(family: int, peer: Any) -> Address | None:
    """The part of a peer's address that tells clients apart; ``None`` for those of a Unix socket."""
    if family == socket.AF_INET:
        return socket.inet_pton(socket.AF_INET, peer[0])
    if family == socket.AF_INET6:
        return socket.inet_pton(socket.AF_INET6, peer[0].partition("%")[0])[:8]
    return None


def bind(address: str) -> list[socket.socket]:
    """Listen on ``host:port``, ``[ipv6]:port`` or ``unix:/path``; a name may have several addresses, one socket each.

    Raises ConfigurationError where the address cannot be read or may not be used, CannotStartNow where it is taken or
    not there yet.
    """
    if address.startswith("unix:"):
        family_addresses: list[tuple[int, Any]] = [(socket.AF_UNIX, _free_path(address))]
    else:
        host, colon, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise ConfigurationError(f"Cannot listen on {address!r}: write it as host:port, [ipv6]:port or unix:/path.")
        try:
            found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError):
            raise CannotStartNow(f"Cannot listen on {address}: the host has no address.") from None
        family_addresses = [(family, found_address) for family, _, _, _, found_address in found]
    sockets: list[socket.socket] = []
    try:
        for family, found_address in family_addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # the IPv4 wildcard stays free for a socket of its own
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(found_address)
            sock.listen(BACKLOG)
            sock.setblocking(False)
    except OSError as error:
        for sock in sockets:
            sock.close()
        reason = "it is in use" if error.errno == errno.EADDRINUSE else (error.strerror or "it is refused").lower()
        kind = ConfigurationError if isinstance(error, PermissionError) else CannotStartNow
        raise kind(f"Cannot listen on {address}: {reason}.") from None
    return sockets


def _free_path(address: str) -> str:
    """The path of a Unix address, without the socket that a process which is gone may have left there."""
    path = address.removeprefix("unix:")
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
    except OSError:
        pass  # not there, or not ours: bind will say
    return path
