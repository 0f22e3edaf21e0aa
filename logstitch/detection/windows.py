"""The sliding window of one group: when its events came, the ids of the newest, and which addresses they came from.

Nothing is removed one by one. What has left the window stays in front of it until there is as much of that as of the
rest, so an event costs the same however many there are.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from heapq import heappop, heappush, heapreplace
from typing import Final

GRACE_MS: Final = 60_000
"""How far ``received_at`` may step back in the order of ``seq``: several processes commit, each by its own clock."""
KEPT: Final = 10_000
"""Times kept of one window, and addresses: the newest, and as many as the highest threshold asks for."""
EVIDENCE: Final = 100
"""Ids kept of one window, the newest: as many as an alert names."""
ADDRESS_COST: Final = 10
"""An address takes 250 bytes: as much as ten events, each with a time of 8 bytes and an id of 16."""

_ID: Final = 16
_SLACK: Final = 32
"""Times that have left the window and are not worth the trouble yet."""


class Window:
    """``count`` events lie within the window that ends at ``clock``, the latest time that was counted.

    ``touched`` is the caller's: the chunk in which the group was last heard of.
    """

    __slots__ = ("_ids", "_times", "addresses", "clock", "count", "touched")

    def __init__(self, at_ms: int, *, distinct: bool) -> None:
        self.clock = at_ms
        self.count = 0
        self.touched = 0
        self.addresses = Addresses() if distinct else None
        self._times = array("q")  # In order, and the last ``count`` of them are those in the window.
        self._ids = bytearray()  # Of the last of the times.

    @property
    def size(self) -> int:
        """What it takes to keep, in events."""
        return len(self._times) + (0 if self.addresses is None else ADDRESS_COST * len(self.addresses))

    def add(self, at_ms: int, event_id: bytes, span_ms: int, kept: int) -> int | None:
        """Count an event, if it is not outside the window, which is ``span_ms`` long and holds ``kept`` at most.

        Gives the number of times that are kept in addition, which is less than none where old ones were let go; or None
        for an event that does not count.
        """
        times = self._times
        start = len(times) - self.count
        if at_ms >= self.clock:
            self.clock = at_ms
            times.append(at_ms)
            self._ids += event_id
        elif at_ms > self.clock - span_ms:
            self._insert(at_ms, event_id, start)
        else:
            return None
        edge = self.clock - span_ms
        if times[start] <= edge:
            start = bisect_right(times, edge, start)
        count = len(times) - start
        if count > kept:
            start += count - kept
            count = kept
        self.count = count
        if len(self._ids) > 2 * EVIDENCE * _ID:
            del self._ids[: -EVIDENCE * _ID]
        if start > _SLACK and start > count:
            del times[:start]
            del self._ids[: -count * _ID]
            return 1 - start
        return 1

    def _insert(self, at_ms: int, event_id: bytes, start: int) -> None:
        """Later ones were committed before it. It goes behind those of its own time: its ``seq`` is greater."""
        place = bisect_right(self._times, at_ms, start)
        later = len(self._times) - place
        self._times.insert(place, at_ms)
        at = len(self._ids) - later * _ID
        if at >= 0:
            self._ids[at:at] = event_id

    def newest(self, last: bytes) -> tuple[bytes, ...]:
        """The ids of the newest events in the window, oldest first, but ``last``, which is one of them, at the end."""
        many = min(self.count, EVIDENCE)
        data = bytes(self._ids[-many * _ID :])
        others = [event_id for n in range(0, len(data), _ID) if (event_id := data[n : n + _ID]) != last]
        return (*others[len(others) - many + 1 :], last)


class Addresses:
    """Different addresses, each with the last time it was seen; ``len`` of it is how many there are in the window."""

    __slots__ = ("_last", "_queue")

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        # A heap that has each address once, at a time at which it was seen: when that comes up, it is looked whether it
        # was seen later. So an address that is seen again costs a look-up, and the queue does not grow by it.
        self._queue: list[tuple[int, str]] = []

    def __len__(self) -> int:
        return len(self._last)

    def see(self, address: str, at_ms: int, edge_ms: int, kept: int) -> int:
        """An address at a time, and the window begins after ``edge_ms``. Gives how many addresses there are more."""
        last, queue = self._last, self._queue
        many = len(last)
        known = last.get(address)
        if known is None:
            last[address] = at_ms
            heappush(queue, (at_ms, address))
        elif known < at_ms:
            last[address] = at_ms
        while queue[0][0] <= edge_ms or len(last) > kept:
            queued, oldest = queue[0]
            seen = last[oldest]
            if seen > queued:
                heapreplace(queue, (seen, oldest))
            else:
                heappop(queue)
                del last[oldest]
        return len(last) - many
