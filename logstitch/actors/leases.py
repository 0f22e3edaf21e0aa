"""What was looked up is believed for a short lease, counted from before the look-up, and then looked up again.

Whoever withdraws something (revokes a key, changes a tier) answers only when every lease that could have been taken
before its commit has run out. So what is withdrawn is withdrawn in every process from the moment of the answer, without
a message between processes that could be lost, for a look-up a lease of each thing in use.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar

import trio

from logstitch.errors import Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

LEASE_SECONDS: Final = 0.5
"""How long what was looked up is believed, counted from before the look-up."""
LEASE_MARGIN_SECONDS: Final = 0.1
"""Added to the lease by whoever withdraws: clocks of processes run at slightly different speeds."""
MAX_KNOWN: Final = 20_000
"""Things remembered. Beyond it those whose lease has run out are forgotten."""


async def leases_over() -> None:
    """Wait until every lease has run out, in every process, that was taken before now."""
    await trio.sleep(LEASE_SECONDS + LEASE_MARGIN_SECONDS)


class Asker(Protocol):
    """Who wants a value. ``Envelope`` is one."""

    @property
    def posted_at(self) -> float:
        """Since when, on Trio's clock."""

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class _Known(Generic[V]):
    value: V
    began: float

    @property
    def expires(self) -> float:
        return self.began + LEASE_SECONDS


@dataclass(slots=True)
class _LookUp(Generic[V]):
    """One that is under way: who waits for it, and how it ended. Cancelled, it has neither outcome nor error."""

    askers: list[Asker]
    over: trio.Event = field(default_factory=trio.Event)
    outcome: _Known[V] | None = None
    error: Exception | None = None


class Leases(Generic[K, V]):
    """Values by key, each looked up by whoever asks first; what that raises is raised to all who wait for it.

    Look-ups wait for the ``limiter``, and a lease counts from behind that; one that nobody waits for any more by then
    is not made. ``lasting`` says of a value whether it may be believed at all; others are good for those who waited
    only.
    """

    def __init__(
        self,
        look_up: Callable[[K], Awaitable[V]],
        limiter: trio.CapacityLimiter,
        *,
        lasting: Callable[[V], bool] = lambda _: True,
        most: int = MAX_KNOWN,
    ) -> None:
        self._look_up = look_up
        self._limiter = limiter
        self._lasting = lasting
        self._most = most
        self._known: dict[K, _Known[V]] = {}
        self._under_way: dict[K, _LookUp[V]] = {}

    def get(self, key: K) -> V | None:
        """What is believed now, if anything is."""
        known = self._known.get(key)
        return known.value if known is not None and trio.current_time() < known.expires else None

    async def find(self, key: K, asker: Asker, *, fresh: bool = False) -> V:
        """The value, for somebody who has asked; one look-up answers all who wait.

        ``fresh``: one that was looked up after the question, however recent another one is. Raises ``Unavailable`` if
        nobody waits any more when it would be looked up.
        """
        asked_at = asker.posted_at
        while True:
            known = self._known.get(key)
            if known is not None and (known.began >= asked_at or (not fresh and trio.current_time() < known.expires)):
                return known.value
            under_way = self._under_way.get(key)
            if under_way is None:
                under_way = await self._look(key, asker)
            else:
                under_way.askers.append(asker)
                await under_way.over.wait()
            if under_way.error is not None:
                raise under_way.error
            outcome = under_way.outcome
            # One that took longer than it may be believed is good for who had asked before it began. Who came later may
            # have heard of a withdrawal meanwhile.
            if outcome is not None and (
                outcome.began >= asked_at or (not fresh and trio.current_time() < outcome.expires)
            ):
                return outcome.value

    async def _look(self, key: K, asker: Asker) -> _LookUp[V]:
        look_up = self._under_way[key] = _LookUp[V]([asker])
        try:
            async with self._limiter:
                if all(asker.abandoned for asker in look_up.askers):
                    raise Unavailable("Nobody waits for this any more.")
                began = trio.current_time()
                look_up.outcome = _Known(await self._look_up(key), began)
            self._remember(key, look_up.outcome)
        except Exception as error:
            look_up.error = error
        finally:
            del self._under_way[key]
            look_up.over.set()
        return look_up

    def _remember(self, key: K, known: _Known[V]) -> None:
        if not self._lasting(known.value):
            self._known.pop(key, None)
            return
        if len(self._known) >= self._most:
            now = trio.current_time()
            self._known = {key: entry for key, entry in self._known.items() if entry.expires > now}
        self._known[key] = known
