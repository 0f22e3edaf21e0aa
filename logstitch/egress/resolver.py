"""Names to addresses: the system's resolver, in threads of its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final, Protocol

import trio

from logstitch.egress.addresses import Address

LOOK_UP_SECONDS: Final = 40.0
"""How long the C library may take to give up on name servers that do not answer: two tries of up to three of them."""
THREADS: Final = 768
"""Look-ups at the same time in one process. A look-up cannot be stopped: its thread lives on until the C library gives
up, longer than the attempt that waited for it. So three for each attempt that may be under way, as a place in flight is
taken for 16 s, and not Trio's own threads, which everybody shares: customers' dead name servers must use up neither. A
thread that waits has some twenty kilobytes."""


class Resolver(Protocol):
    """What looks names up."""

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        """All addresses of ``host``, the best first. Raises ``OSError`` where there are none."""
        ...


@dataclass(slots=True)
class _LookUp:
    """One that is under way, and how it ended. When the event loop ends before it, it has neither answer nor error."""

    over: trio.Event = field(default_factory=trio.Event)
    found: Sequence[Address] = ()
    error: Exception | None = None


class SystemResolver:
    """``getaddrinfo``, with all that the operator has configured: hosts file, search domains, name servers.

    A host is looked up once at a time, and whoever asks meanwhile has that answer: however often a name is asked for
    whose name server is dead, it has one thread.
    """

    def __init__(self, *, threads: int = THREADS) -> None:
        self._limiter = trio.CapacityLimiter(threads)
        self._under_way: dict[str, _LookUp] = {}

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        under_way = self._under_way.get(host)
        if under_way is None:
            under_way = self._under_way[host] = _LookUp()
            # A task of nobody's: whoever began it may give up before the others, and before the thread ends.
            trio.lowlevel.spawn_system_task(self._look, host, port, under_way)
        await under_way.over.wait()
        if under_way.error is not None:
            raise under_way.error.with_traceback(None)
        return under_way.found

    async def _look(self, host: str, port: int, look_up: _LookUp) -> None:
        try:
            look_up.found = await trio.to_thread.run_sync(
                _look_up, host, port, limiter=self._limiter, abandon_on_cancel=True
            )
        except Exception as error:
            look_up.error = error
        finally:
            del self._under_way[host]
            look_up.over.set()


def _look_up(host: str, port: int) -> Sequence[Address]:
    try:
        # As bytes: a str would first be mapped by IDNA 2003, which makes digits of full-width digits.
        name = host.encode("ascii")
    except UnicodeEncodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    # Without AI_ADDRCONFIG: every answer is to be seen and judged, also one that this host has no route to.
    answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
