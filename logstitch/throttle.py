"""How often one address may do something, as a pure rule: a bucket of tokens an address, refilled steadily.

It holds a bounded number of buckets whoever comes: a bucket that is full again is none, and where there are too many,
those go that were touched least recently. An IPv6 client has 2⁶⁴ addresses of its own, so it counts by its network.
"""

from __future__ import annotations

from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

MAX_ADDRESSES: Final = 20_000
"""Buckets that are kept: some 4 MB."""


class Throttle:
    """Lets ``rate`` things an hour pass for each address, and ``burst`` at once for one that was quiet."""

    def __init__(self, rate: int, *, burst: int | None = None, max_addresses: int = MAX_ADDRESSES) -> None:
        """``rate`` of 0 lets nothing pass; without a ``burst``, an hour's worth may come at once."""
        self._rate = rate
        self._burst = rate if burst is None else burst
        self._per_second = rate / 3600
        self._max = max_addresses
        # What each had left, and when that was; least recently touched first.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, address: str, now: float, count: int = 1) -> float:
        """Take so many for the address at ``now`` (seconds on any clock): 0 when it may, else how many seconds to wait,
        for ever where they are more than may come at once."""
        if self._rate <= 0 or count > self._burst:
            return float("inf")
        left = self._left(address, now)
        if left < count:
            return (count - left) / self._per_second
        self._put(address, left - count, now)
        return 0.0

    def give_back(self, address: str, now: float, count: int = 1) -> None:
        """Let an address have again what it took, since nothing came of it."""
        self._put(address, self._left(address, now) + count, now)

    def _left(self, address: str, now: float) -> float:
        left, then = self._buckets.get(address, (float(self._burst), now))
        return min(float(self._burst), left + max(0.0, now - then) * self._per_second)

    def _put(self, address: str, left: float, now: float) -> None:
        self._buckets.pop(address, None)
        if left < self._burst:
            self._buckets[address] = (left, now)
            if len(self._buckets) > self._max:
                self._buckets.popitem(last=False)


def network_of(address: str) -> str:
    """What a client's address counts as: itself; of an IPv6 one its first 64 bits, of one that stands for IPv4 that.

    What is no address (a Unix socket has none) counts as it is.
    """
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return str(parsed)
