"""Names to addresses: the system's resolver, in threads of its own."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, Protocol

import trio

from logstitch.egress.addresses import Address

THREADS: Final = 128
"""Look-ups at the same time in one process. A look-up cannot be stopped: its thread lives on until the C library gives
up (some 10 to 40 s), longer than the attempt that waited for it. So more than attempts at the same time, and not Trio's
own threads, which everybody shares: a customer's dead name server must not use those up."""


class Resolver(Protocol):
    """What looks names up."""

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        """All addresses of ``host``, the best first. Raises ``OSError`` where there are none."""
        ...


class SystemResolver:
    """``getaddrinfo``, with all that the operator has configured: hosts file, search domains, name servers."""

    def __init__(self, *, threads: int = THREADS) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def look_up(self, host: str, port: int) -> Sequence[Address]:
        return await trio.to_thread.run_sync(_look_up, host, port, limiter=self._limiter, abandon_on_cancel=True)


def _look_up(host: str, port: int) -> Sequence[Address]:
    try:
        # As bytes: a str would first be mapped by IDNA 2003, which makes digits of full-width digits.
        name = host.encode("ascii")
    except UnicodeEncodeError:
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    # Without AI_ADDRCONFIG: every answer is to be seen and judged, also one that this host has no route to.
    answers = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
