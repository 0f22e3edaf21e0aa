"""The detector decides which alerts fire, from a project's events in the order of commit and nothing else.

What it decides is a function of the events, the rules and what fired before; it knows no clock, and its memory is a
cache of what the events and alerts tables hold. The rules of counting:

* A rule counts an event when it is enabled, the event's ``seq`` is greater than its ``since_seq``, its glob matches the
  action, and the event is not backfill: it did not occur more than the rule's window before it was received. A rule of
  distinct addresses counts those with an address that redaction has left distinct (see ``addresses``).
* Events are counted in groups, by actor or tenant, byte for byte. A group's clock is the latest ``received_at`` that
  was counted in it, and its window is what was counted with a ``received_at`` greater than the clock less the window.
  An event that lies outside does not count.
* After each event that counts, the rule fires if its window holds ``threshold`` events (or distinct addresses) or more
  and the rule is not silent about the group. It is silent from when it fired, by the group's clock, until its cooldown
  is over. An event that only silence keeps from firing is held back.
* A firing does not empty the window: after the cooldown the next event that counts fires at once, if there are still
  enough, and with a cooldown of 0 every one does. Silence is the cooldown's work alone, and it is the present cooldown
  that counts, from the last firing of the rule of that id for that group.
* A window holds the newest ``windows.KEPT`` events.

All this holds while ``received_at`` steps back by at most ``windows.GRACE_MS``; a clock that jumped may hide what
happened meanwhile, and then it goes on.

For each chunk of events, the caller asks what is ``missing``, reads that back and has it recalled, and then takes the
chunk; in the end it trims. What fired must then be stored: where that fails, this detector has gone ahead of the tables
and another one has to be made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from logstitch.detection.facts import Fact
from logstitch.detection.forgotten import CELL_BITS, Forgotten
from logstitch.detection.globs import compile_glob
from logstitch.detection.rules import GroupBy
from logstitch.detection.watch import NEVER, ActiveRule, Firing, Watch
from logstitch.detection.windows import ADDRESS_COST, GRACE_MS, KEPT

__all__ = ["GRACE_MS", "KEPT", "ActiveRule", "Detector", "Firing", "Missing"]

GROUPS: Final = 150_000
"""Windows and last firings in memory, of all rules: 75 MB, with keys of common length. Beyond it they are dropped and
read back again and again, which costs a hundred times as much as what is saved."""
TIMES: Final = 2_000_000
"""Events in all windows: 48 MB."""
MAX_ACTIONS: Final = 4096
"""Actions of which it is known which rules they matter to. Beyond that it is found out anew."""
_CHUNK: Final = 4096
"""Events of the past that are counted between two looks at the memory that they take."""
_EXPIRE_MS: Final = 1000
"""How often it is looked for what has expired, by the events' time."""

Fired = Mapping[tuple[str, str], int]
"""When a rule (its id) last fired for a group (its key), in milliseconds."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Groups whose past has to be read back; false if there are none.

    Asked for are the events of these actors and of these tenants with a ``seq`` less than ``before_seq`` and a
    ``received_at_ms`` greater than ``after_ms``, and the last firings of ``groups``, which are pairs of a rule's id and
    a group key. What is given beyond that does no harm.
    """

    groups: frozenset[tuple[str, str]] = frozenset()
    actor_ids: frozenset[str] = frozenset()
    tenant_ids: frozenset[str] = frozenset()
    after_ms: int = 0
    before_seq: int = 0

    def __bool__(self) -> bool:
        return bool(self.groups)


_NOTHING: Final = Missing()


class Detector:
    """Detects by rules, which are made to work by ``replace_rules``; the arguments are the same.

    At first nothing is known of what happened before: it is missing group by group, unless ``warm`` tells of all of it
    together. ``groups``, ``times``, ``kept`` and ``cell_bits`` bound the memory; ``kept`` is no less than a threshold.
    """

    def __init__(
        self,
        rules: Sequence[ActiveRule],
        fired: Fired | None = None,
        *,
        groups: int = GROUPS,
        times: int = TIMES,
        kept: int = KEPT,
        cell_bits: int = CELL_BITS,
    ) -> None:
        self._bounds = groups, times
        self._kept = kept
        self._forgotten = Forgotten(cell_bits)
        self._watches: tuple[Watch, ...] = ()
        self._globs: tuple[tuple[Callable[[str], bool], Watch], ...] = ()
        self._actions: dict[str, tuple[Watch, ...]] = {}
        self._unsure: tuple[Watch, ...] = ()
        self._chunk = 0
        self._seq: int | None = None
        self._now: int | None = None
        self._expired_at = NEVER
        self._spare = 0  # Events that may be taken before memory has to be looked at.
        self.replace_rules(rules, fired)

    # -- rules -----------------------------------------------------------------------------------------------------

    def replace_rules(self, rules: Sequence[ActiveRule], fired: Fired | None = None) -> None:
        """From the next event on, these rules hold. Each id comes once; disabled rules are as good as absent.

        What is known of a rule's groups is kept while it counts the same events (its id, pattern, window, grouping,
        ``distinct`` and ``since_seq`` stay) and its cooldown is not longer than it was. Other rules begin anew: what
        happened before, as far as it counts for them, is missing. ``fired`` tells when these others fired, all of them
        at once (with nothing in it for a rule that is new); without it, that is missing, too, for as long as the
        cooldown.
        """
        old = {watch.rule.id: watch for watch in self._watches}
        watches: list[Watch] = []
        for active in rules:
            if not active.rule.enabled:
                continue
            watch = old.get(active.rule.id)
            if watch is None or not watch.becomes(active):
                watch = self._begin(active, fired)
            watches.append(watch)
        self._watches = tuple(watches)
        self._globs = tuple((compile_glob(watch.rule.action_pattern), watch) for watch in watches)
        self._actions.clear()
        self._spare = 0
        self._look()

    def _begin(self, active: ActiveRule, fired: Fired | None) -> Watch:
        watch = Watch(active, kept=self._kept)
        doubts = []
        if self._seq is None or active.since_seq < self._seq:
            doubts.append(active.rule.window_seconds * 1000)
        if fired is None:
            doubts.append(active.rule.cooldown_seconds * 1000)
        watch.doubt = max(doubts, default=None)
        self._silence([watch], fired or {})
        return watch

    def _silence(self, watches: Iterable[Watch], fired: Fired) -> None:
        by_id = {watch.rule.id: watch for watch in watches}
        for (rule_id, key), at in sorted(fired.items(), key=lambda item: item[1]):
            if (watch := by_id.get(rule_id)) is not None:
                watch.silence(key, at)

    def _look(self) -> None:
        self._unsure = tuple(watch for watch in self._watches if not watch.is_known)

    def interested_in(self, action: str) -> bool:
        """Whether any rule may count events with that action."""
        return bool(self._matching(action))

    def _matching(self, action: str) -> tuple[Watch, ...]:
        found = self._actions.get(action)
        if found is None:
            if len(self._actions) >= MAX_ACTIONS:
                self._actions.clear()
            found = self._actions[action] = tuple(watch for matches, watch in self._globs if matches(action))
        return found

    @property
    def horizon_ms(self) -> int:
        """How long before the last event of the past the events reach that still matter."""
        return max((watch.rule.window_seconds * 1000 + GRACE_MS for watch in self._watches), default=0)

    @property
    def silence_ms(self) -> int:
        """The same for what fired."""
        return max((watch.rule.cooldown_seconds * 1000 + GRACE_MS for watch in self._watches), default=0)

    # -- the past --------------------------------------------------------------------------------------------------

    def warm(self, history: Iterable[Fact], fired: Fired) -> None:
        """This was all that still matters before the next event: events in the order of ``seq``, ``horizon_ms`` back
        from the last one, and what fired, ``silence_ms`` back. Nothing fires.

        It may be called again with the events that follow, and nothing fired, as long as nothing was taken.
        """
        for watch in self._watches:
            watch.doubt, watch.doubt_until = None, NEVER
        self._silence(self._watches, fired)
        events = iter(history)
        while chunk := list(islice(events, _CHUNK)):
            self._begin_chunk(chunk)
            for fact in chunk:
                for watch in self._matching(fact.action):
                    watch.replay(fact, self._chunk, self._forgotten)
            self._spare = 0
            self.trim()
        self._spare = 0
        self._look()

    def missing(self, facts: Sequence[Fact]) -> Missing:
        """What has to be recalled before these facts, which come next, are taken."""
        if not self._unsure or not facts:
            return _NOTHING
        for watch in self._unsure:
            watch.settle(facts[0].received_at_ms)
        unsure = frozenset(self._unsure)
        groups = set()
        keys: dict[GroupBy, set[str]] = {group_by: set() for group_by in GroupBy}
        after = facts[0].received_at_ms
        for fact in facts:
            for watch in self._matching(fact.action):
                if watch not in unsure or (key := watch.key_of(fact)) is None:
                    continue
                if watch.misses(key, fact.received_at_ms, self._forgotten):
                    groups.add((watch.rule.id, key))
                    keys[watch.rule.group_by].add(key)
                    after = min(after, fact.received_at_ms - watch.rule.window_seconds * 1000)
        return Missing(
            frozenset(groups),
            frozenset(keys[GroupBy.ACTOR_ID]),
            frozenset(keys[GroupBy.TENANT_ID]),
            after,
            facts[0].seq,
        )

    def recall(self, missing: Missing, history: Iterable[Fact], fired: Fired) -> None:
        """What was missing: events in the order of ``seq``, and what fired; if nothing was found, that is all there is.

        The facts that it was missing for are to be taken next.
        """
        self._chunk += 1
        wanted: dict[Watch, set[str]] = {}
        by_id = {watch.rule.id: watch for watch in self._watches}
        for group in missing.groups:
            wanted.setdefault(by_id[group[0]], set()).add(group[1])
        for fact in history:
            if fact.seq >= missing.before_seq:
                break
            for watch in self._matching(fact.action):
                if watch in wanted and (key := watch.key_of(fact)) is not None and key in wanted[watch]:
                    watch.add(key, fact, self._chunk)
        for group in missing.groups:
            if (at := fired.get(group)) is not None:
                by_id[group[0]].silence(group[1], at)
        self._spare = 0

    # -- events ----------------------------------------------------------------------------------------------------

    def _begin_chunk(self, facts: Sequence[Fact]) -> None:
        if self._seq is not None and facts[0].seq <= self._seq:
            raise ValueError(f"after seq {self._seq} comes {facts[0].seq}: an event would count twice")
        self._chunk += 1
        self._seq = facts[-1].seq
        # Not the latest time so far: a clock that was ahead for a moment would make everything seem old from then on.
        self._now = facts[-1].received_at_ms

    def take(self, facts: Sequence[Fact]) -> list[Firing]:
        """The next facts, and what fires, in order: by ``seq``, and for one fact in the order of the rules.

        Raises ``ValueError`` where the first is not after the last one that was taken.
        """
        firings: list[Firing] = []
        if not facts:
            return firings
        self._begin_chunk(facts)
        self._spare -= len(facts)
        chunk, known = self._chunk, self._actions
        for fact in facts:
            watches = known.get(fact.action)
            if watches is None:
                watches = self._matching(fact.action)
            for watch in watches:
                firing = watch.take(fact, chunk)
                if firing is not None:
                    firings.append(firing)
        return firings

    def held_back(self, rule_id: str) -> int:
        """How often the cooldown has held back an enabled rule since it is at work here. Raises ``KeyError`` for any
        other."""
        for watch in self._watches:
            if watch.rule.id == rule_id:
                return watch.held_back
        raise KeyError(rule_id)

    # -- memory ----------------------------------------------------------------------------------------------------

    @property
    def dropped(self) -> int:
        """How many groups were dropped though they still mattered, by the rules that hold now."""
        return sum(watch.dropped for watch in self._watches)

    @property
    def memory(self) -> tuple[int, int]:
        """Windows and last firings in memory, and events in all windows; an address is as many as it takes space."""
        return sum(watch.records for watch in self._watches), sum(watch.entries for watch in self._watches)

    def trim(self) -> None:
        """Drop what no longer matters; and where there is too much of what does, that of the groups that were longest
        not heard of, of each rule by its share. It will be missing when they are."""
        now = self._now
        if now is None:
            return
        if not 0 <= now - self._expired_at < _EXPIRE_MS:
            self._expired_at = now
            for watch in self._watches:
                watch.expire(now)
            self._look()
        if self._spare <= 0:
            self._bound(now)

    def _bound(self, now: int) -> None:
        most_records, most_entries = self._bounds
        records, entries = self.memory
        if records > most_records:
            # A little more than has to be, so that not every chunk has to; not much, which would take long at once.
            for watch, share in self._shares([watch.records for watch in self._watches], most_records):
                watch.drop(share, 0, now, self._forgotten)
            entries = self.memory[1]
        if entries > most_entries:
            for watch, share in self._shares([watch.entries for watch in self._watches], most_entries):
                watch.drop(0, share, now, self._forgotten)
        records, entries = self.memory
        # An event makes at most two records and an address for each rule.
        least = min((most_records - records) // 2, (most_entries - entries) // (1 + ADDRESS_COST))
        self._spare = least // max(1, len(self._watches))
        self._look()

    def _shares(self, sizes: Sequence[int], most: int) -> list[tuple[Watch, int]]:
        """How much each is to drop, in proportion to what it has, so that one that fills up does not push out others;
        what is left over falls to the largest."""
        total = sum(sizes)
        excess = total - most + most // 64
        shares = [size * excess // total for size in sizes]
        rest = excess - sum(shares)
        for index in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)[:rest]:
            shares[index] += 1
        return [(watch, share) for watch, share in zip(self._watches, shares, strict=True) if share]
