"""One rule at work: the windows of its groups, and when it last fired for each.

A group is either in memory, complete as far as it can still matter; or it was dropped, and ``Forgotten`` tells so; or
nothing of it can matter. Its window and its last firing are dropped together, so that a part never passes for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from logstitch.detection.addresses import known_address
from logstitch.detection.facts import Fact
from logstitch.detection.forgotten import Forgotten
from logstitch.detection.rules import GroupBy, Rule
from logstitch.detection.windows import ADDRESS_COST, GRACE_MS, Window

NEVER: Final = -(2**63)
"""A time before all others, in milliseconds."""


@dataclass(frozen=True, slots=True)
class ActiveRule:
    """A rule, and after which ``seq`` events count for it."""

    rule: Rule
    since_seq: int


@dataclass(frozen=True, slots=True)
class Firing:
    """A rule has fired for a group.

    ``tenant_id`` and ``seq`` are those of the event that made it fire, and ``triggered_at_ms`` is the group's clock.
    ``event_count`` events were in the window, counted up to ``windows.KEPT``; ``event_ids`` are the newest of them, at
    most ``windows.EVIDENCE``, oldest first, but the event that made it fire is always the last.
    """

    rule: Rule
    group_key: str
    tenant_id: str
    event_count: int
    event_ids: tuple[bytes, ...]
    triggered_at_ms: int
    seq: int


class Watch:
    """An enabled rule. ``kept`` bounds a window; see ``windows.KEPT``."""

    __slots__ = (
        "_by_actor",
        "_cooldown_ms",
        "_distinct",
        "_kept",
        "_since_seq",
        "_span_ms",
        "active",
        "doubt",
        "doubt_until",
        "dropped",
        "entries",
        "fired",
        "held_back",
        "lost_until",
        "rule",
        "windows",
    )

    def __init__(self, active: ActiveRule, *, kept: int) -> None:
        self.active = active
        self.windows: dict[str, Window] = {}
        """By group key, the least recently touched first."""
        self.fired: dict[str, int] = {}
        """When the rule last fired for a group, in milliseconds, the longest ago first; while it may be silent."""
        self.entries = 0
        """Of all windows, see ``Window.size``."""
        self.held_back = 0
        self.dropped = 0
        """Groups that were dropped though they still mattered."""
        self.lost_until = NEVER
        """What was dropped matters to nothing at or after this time."""
        self.doubt: int | None = None
        """For how long, in milliseconds, what happened before may matter of which nothing is known here; this is so
        from the next event on, whose time is not known yet."""
        self.doubt_until = NEVER
        self._kept = kept
        self._set(active)

    def _set(self, active: ActiveRule) -> None:
        rule = active.rule
        self.active = active
        self.rule = rule
        self._since_seq = active.since_seq
        self._span_ms = rule.window_seconds * 1000
        self._cooldown_ms = rule.cooldown_seconds * 1000
        self._by_actor = rule.group_by is GroupBy.ACTOR_ID
        self._distinct = rule.distinct is not None

    def becomes(self, active: ActiveRule) -> bool:
        """Go on as another version of the rule; or False, where what is known here would not be all that matters."""
        if _counting(active) != _counting(self.active) or active.rule.cooldown_seconds > self.rule.cooldown_seconds:
            return False
        self._set(active)
        return True

    # -- events ----------------------------------------------------------------------------------------------------

    def key_of(self, fact: Fact) -> str | None:
        """The group that a fact counts for, if its time is not outside of that group's window; None where it does not
        count at all. Its action is taken to match."""
        if fact.seq <= self._since_seq or fact.received_at_ms - fact.occurred_at_ms > self._span_ms:
            return None
        if self._distinct and (fact.ip_address is None or known_address(fact.ip_address) is None):
            return None
        return fact.actor_id if self._by_actor else fact.tenant_id

    def add(self, key: str, fact: Fact, chunk: int) -> Window | None:
        """Count a fact in its group. None where it lies outside the window."""
        window = self.windows.get(key)
        if window is None:
            window = self.windows[key] = Window(fact.received_at_ms, distinct=self._distinct)
            window.touched = chunk
        elif window.touched != chunk:
            window.touched = chunk
            del self.windows[key]
            self.windows[key] = window
        more = window.add(fact.received_at_ms, fact.id, self._span_ms, self._kept)
        if more is None:
            return None
        if window.addresses is not None:
            address = known_address(fact.ip_address or "")
            if address is not None:
                edge = window.clock - self._span_ms
                more += ADDRESS_COST * window.addresses.see(address, fact.received_at_ms, edge, self._kept)
        self.entries += more
        return window

    def take(self, fact: Fact, chunk: int) -> Firing | None:
        """Count a fact whose action matches, and look whether the rule fires."""
        key = self.key_of(fact)
        if key is None:
            return None
        window = self.add(key, fact, chunk)
        if window is None:
            return None
        addresses = window.addresses
        if (window.count if addresses is None else len(addresses)) < self.rule.threshold:
            return None
        if self._cooldown_ms:
            last = self.fired.get(key)
            if last is not None and window.clock < last + self._cooldown_ms:
                self.held_back += 1
                return None
            self.fired.pop(key, None)
            self.fired[key] = window.clock
        event_ids = window.newest(fact.id)
        return Firing(self.rule, key, fact.tenant_id, window.count, event_ids, window.clock, fact.seq)

    # -- the past --------------------------------------------------------------------------------------------------

    @property
    def is_known(self) -> bool:
        """Whether no group can be missing."""
        return self.doubt is None and self.doubt_until == self.lost_until == NEVER

    def settle(self, first_ms: int) -> None:
        """The next event was received then, so that a doubt has an end."""
        if self.doubt is not None:
            self.doubt_until = first_ms + GRACE_MS + self.doubt
            self.doubt = None

    def misses(self, key: str, at_ms: int, forgotten: Forgotten) -> bool:
        """Whether the group's past has to be read back for what happens at that time."""
        if key in self.windows:
            return False
        return at_ms < self.doubt_until or self.lost(key, at_ms, forgotten)

    def lost(self, key: str, at_ms: int, forgotten: Forgotten) -> bool:
        """Whether the group was dropped and may matter to what happens at that time."""
        return (
            at_ms < self.lost_until
            and key not in self.windows
            and key not in self.fired
            and forgotten.matters((self.rule.id, key), at_ms)
        )

    def forget(self, key: str, until_ms: int, forgotten: Forgotten) -> None:
        """The group is not in memory, and matters until then."""
        forgotten.remember((self.rule.id, key), until_ms)
        self.lost_until = max(self.lost_until, until_ms)

    def silence(self, key: str, fired_ms: int) -> None:
        """The rule last fired for the group then."""
        if self._cooldown_ms and fired_ms > self.fired.get(key, NEVER):
            self.fired.pop(key, None)
            self.fired[key] = fired_ms

    def replay(self, fact: Fact, chunk: int, forgotten: Forgotten) -> None:
        """Count a fact of the past, in no group of which a part was dropped."""
        key = self.key_of(fact)
        if key is None:
            return
        if self.lost(key, fact.received_at_ms, forgotten):
            self.forget(key, fact.received_at_ms + self._span_ms, forgotten)
        else:
            self.add(key, fact, chunk)

    # -- memory ----------------------------------------------------------------------------------------------------

    @property
    def records(self) -> int:
        """Windows and last firings in memory."""
        return len(self.windows) + len(self.fired)

    def expire(self, now_ms: int) -> None:
        """Drop what can no longer matter to an event that is received at ``now_ms`` or a little before."""
        edge = now_ms - GRACE_MS
        if edge >= self.lost_until:
            self.lost_until = NEVER
        if edge >= self.doubt_until:
            self.doubt_until = NEVER
        gone = []
        for key, window in self.windows.items():
            if window.clock + self._span_ms > edge:
                break
            gone.append(key)
            self.entries -= window.size
        for key in gone:
            del self.windows[key]
        gone.clear()
        for key, fired in self.fired.items():
            if fired + self._cooldown_ms > edge:
                break
            gone.append(key)
        for key in gone:
            del self.fired[key]

    def drop(self, records: int, entries: int, now_ms: int, forgotten: Forgotten) -> None:
        """Drop at least that many records and entries, the least recently touched first."""
        quiet = [*islice((key for key in self.fired if key not in self.windows), records)]
        self._drop(quiet, now_ms, forgotten)
        records -= len(quiet)
        gone = []
        for key, window in self.windows.items():
            if records <= 0 and entries <= 0:
                break
            records -= 1 + (key in self.fired)
            entries -= window.size
            gone.append(key)
        self._drop(gone, now_ms, forgotten)

    def _drop(self, keys: Iterable[str], now_ms: int, forgotten: Forgotten) -> None:
        for key in keys:
            until = self.fired.pop(key, NEVER) + self._cooldown_ms
            window = self.windows.pop(key, None)
            if window is not None:
                self.entries -= window.size
                until = max(until, window.clock + self._span_ms)
            if until > now_ms - GRACE_MS:
                self.forget(key, until, forgotten)
                self.dropped += 1


def _counting(active: ActiveRule) -> tuple[object, ...]:
    """What decides which events are in a window."""
    rule = active.rule
    return (rule.id, rule.action_pattern, rule.group_by, rule.distinct, rule.window_seconds, active.since_seq)
