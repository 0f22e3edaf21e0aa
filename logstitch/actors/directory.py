"""One actor a key, started by the first message and stopped when idle; callers name the key and see no more of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import final

import trio

from logstitch.actors.mailbox import Address, Ask, R
from logstitch.actors.supervisor import Actor, Supervisor
from logstitch.errors import Unavailable

IDLE_AFTER = 60.0
"""Seconds without work after which a key's actor is stopped."""
CAP = 2000
"""How many actors of a directory run at once: some tens of kilobytes each, and one look a second."""


@final
class Directory:
    """The actors of one kind, by key (a project's number).

    No message is lost between an actor that goes idle and its successor: an actor is stopped only while nothing waits
    for it, whoever posts next gets the mailbox of a new one at once, and that one runs when the old one has ended.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        prefix: str,
        factory: Callable[[int], Actor],
        *,
        capacity: int,
        idle_after: float = IDLE_AFTER,
        cap: int = CAP,
    ) -> None:
        """The actor of key 7 has the path ``prefix/7`` and is made by ``factory(7)``; its mailbox holds ``capacity``.

        The order in which directories are made counts as the order of their start (see ``Supervisor``).
        """
        supervisor.reserve(prefix)
        self._supervisor = supervisor
        self._prefix = prefix
        self._factory = factory
        self._capacity = capacity
        self._idle_after = idle_after
        self._cap = cap
        self._slots = trio.Semaphore(cap)
        self._addresses: dict[int, Address] = {}  # least recently used first; some may have been stopped since

    def tell(self, key: int, message: object) -> None:
        """Post ``message`` to the key's actor and want no answer.

        Raises:
          MailboxFull: as much is waiting as may wait.
          Unavailable: no actor may be started for the key, because too many are at work.
          Draining: the service is shutting down.
        """
        self._address(key).tell(message)

    async def ask(self, key: int, message: Ask[R], *, timeout: float) -> R:
        """Ask the key's actor and wait at most ``timeout`` seconds, its start included.

        Raises:
          MailboxFull, ActorDown, AskTimeout, Exception: as ``Address.ask`` does.
          Unavailable: no actor may be started for the key, because too many are at work.
          Draining: the service is shutting down.
        """
        return await self._address(key).ask(message, timeout=timeout)

    def _address(self, key: int) -> Address:
        address = self._addresses.pop(key, None)
        if address is None or address.closed:
            address = self._start(key)
        self._addresses[key] = address
        return address

    def _start(self, key: int) -> Address:
        if len(self._addresses) >= self._cap:
            self._make_room()
        return self._supervisor.start(
            f"{self._prefix}/{key}",
            partial(self._factory, key),
            capacity=self._capacity,
            idle_after=self._idle_after,
            slots=self._slots,
        )

    def _make_room(self) -> None:
        """Let go of the idle actor that was used least recently; those that were stopped already are idle, too.

        One that was just stopped keeps its slot while it puts its things away, and the newcomer waits for a slot. As
        there are never more open mailboxes than slots, there is one for each.
        """
        for key, address in self._addresses.items():
            if address.idle:
                del self._addresses[key]
                self._supervisor.retire(address.name)
                return
        raise Unavailable(f"As many actors of {self._prefix} are at work as may be.")
