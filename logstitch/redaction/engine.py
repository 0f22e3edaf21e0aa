"""Apply a rule set to events: those that are clean are seen to be clean at a glance, the others are looked at closely.

The glance is one scan over the JSON of a whole batch (``scan``). What it suspects is taken apart: every string, number
and key of the event is collected, scanned again as the single text that it is, and what is still suspected goes through
the rules one by one (``texts``). Only then is the event made anew, where something changed, and never in place.

What is scanned: string values, numbers of 13 or more digits and the keys of objects, at any depth, in the five
sections. The names that the event schema itself gives to members are not scanned: they are not the sender's words.

Decisions where the contract is silent:

* A rule on a whole ``actor`` or ``target`` leaves an object with ``id`` and ``type``, both redacted, since an event
  cannot be stored without them. Every other section, and every member, becomes the replacement itself.
* Keys that redaction makes equal are told apart by a number: ``[REDACTED]``, ``[REDACTED] (2)``. No value is lost.
* A key with a dot counts as several levels as well as one for a field path, and its value is below each of them: where
  a path ends at one, the value is replaced as a whole.
* A key of more than 64 parts, or one that would take too long to follow, is taken by a rule that might find it, where
  the event is looked at closely at all.
* A record names a field by its redacted key, and parts over 200 characters are cut. From the 1,001st change of an
  event on, or from 16 KiB of their paths on, there is one record a section, which counts how many it stands for.
* What would make an event far longer (``budget.EVENT_GROWTH``) becomes ``[REDACTED]``; where that is longer, too, the
  whole section does.
* A hash is of the text as it was sent, not as it is seen.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import islice, repeat
from typing import Any, Final, NamedTuple

import orjson

from logstitch.redaction import paths
from logstitch.redaction.behaviors import Replace, replace_value
from logstitch.redaction.budget import (
    EVENT_GROWTH,
    MAX_UNICODE_TEXT,
    REQUEST_GROWTH,
    REQUEST_SECONDS,
    STEPS_A_LOOK,
    Allowance,
    Budget,
    Clock,
    OverBudget,
    Overgrown,
)
from logstitch.redaction.definitions import LIMIT, REDACTED, Behavior
from logstitch.redaction.folding import encode, fold, read_apart
from logstitch.redaction.scan import Scan
from logstitch.redaction.texts import Redacted, TextRule, text_slices
from logstitch.redaction.turns import result_of
from logstitch.sections import SECTIONS

MIN_DIGITS: Final = 13
"""Of a number that is scanned."""
MAX_RECORDS: Final = 1000
MAX_RECORD_BYTES: Final = 16 * 1024
"""Of the paths in an event's records, which are stored with it, and of the rules beyond the first in each."""
MAX_PART: Final = 200
"""Characters of a key in a record."""

_MIN_INTEGER: Final = 10 ** (MIN_DIGITS - 1)
_PIECE: Final = 4096
_FOLD_PIECE: Final = 4 * 1024

# The members that the schema names; what else a section holds was named by the sender.
_SCHEMA_NAMES: Final[Mapping[str, frozenset[str]]] = {
    "actor": frozenset(("id", "type", "name", "email")),
    "target": frozenset(("id", "type", "name")),
    "context": frozenset(("ip_address", "user_agent", "location", "session_id")),
    "changes": frozenset(("field", "before", "after")),
}
_NONE: Final[frozenset[str]] = frozenset()


class FieldRule(NamedTuple):
    """A rule that takes whole values, found by their path."""

    id: str
    behavior: Behavior
    replace: Replace


@dataclass(frozen=True, slots=True)
class RuleSet:
    """One version of a project's enabled rules, compiled. Made by ``rules.compile_rules``; without rules by itself."""

    version: int = 0
    texts: tuple[TextRule, ...] = field(default=(), repr=False)
    fields: tuple[FieldRule, ...] = field(default=(), repr=False)
    root: paths.Node | None = field(default=None, repr=False)
    json_scans: tuple[Scan, ...] | None = field(default=(), repr=False)
    """None where a rule cannot be scanned for: then every event is looked at closely."""
    text_scans: tuple[Scan, ...] | None = field(default=(), repr=False)

    @property
    def empty(self) -> bool:
        """Whether nothing can change."""
        return not self.texts and not self.fields


class Change(NamedTuple):
    """One field value that was changed: its dot path, and the ids of the rules that changed it (``LIMIT`` is none)."""

    field: str
    rules: tuple[str, ...]
    values: int = 1
    """How many field values it stands for: more than one where ``field`` is a section that has too many to name."""


class Redaction(NamedTuple):  # a tuple, because it is made for every event
    """A redacted event, and what was done to it. ``event`` is the very one that went in where nothing was."""

    event: Mapping[str, Any]
    changes: tuple[Change, ...]


def redact(event: Mapping[str, Any], rules: RuleSet) -> Redaction:
    """``event``, whole or partial, as ``rules`` allow it to be stored. What was passed in is never modified."""
    return redact_batch((event,), rules)[0]


def redact_batch(events: Sequence[Mapping[str, Any]], rules: RuleSet) -> list[Redaction]:
    """The same for many events at once, which costs less an event."""
    return result_of(slices(events, rules))


def slices(
    events: Sequence[Mapping[str, Any]],
    rules: RuleSet,
    *,
    clock: Clock = time.thread_time,
    seconds: float = REQUEST_SECONDS,
    shared: bool = False,
) -> Generator[None, None, list[Redaction]]:
    """``redact_batch`` in pieces of some 4 ms: it yields where others may have a turn, and returns the results.

        work = slices(events, rules)
        while True:
            try:
                next(work)
            except StopIteration as done:
                return done.value
            await trio.lowlevel.checkpoint()

    ``clock`` tells the CPU time of the running thread in seconds, ``seconds`` is what the whole request may use. What
    could not be examined by then is replaced, section by section. Where the events are ``shared`` by several requests,
    so that one would suffer for another, ``OverBudget`` is raised instead.
    """
    if rules.empty:
        return [Redaction(event, ()) for event in events]
    results = list(map(Redaction, events, repeat(())))
    budget = Budget(clock, seconds)
    job = _Job(rules, budget, events, shared)
    place = 0
    suspects: Sequence[int] = range(len(events))
    try:
        suspects = yield from job.suspects(events)
        # Together, since the events of a batch have most of their keys and many of their values in common.
        hits = (yield from job.find_hits([events[index] for index in suspects])) if rules.texts and suspects else {}
        if hits or rules.root is not None:
            for place, index in enumerate(suspects):  # noqa: B007 - where it was, when time is up
                results[index] = yield from job.apply(events[index], hits)
                if budget.due():
                    yield from job.pause()
    except OverBudget:
        if shared:
            raise
        for index in suspects[place:]:
            results[index] = job.give_up(events[index])
    return results


class _Job:
    """One request on its way through the rules."""

    __slots__ = ("_budget", "_event", "_request", "_rules", "_shared", "_sizes")

    def __init__(self, rules: RuleSet, budget: Budget, events: Sequence[Mapping[str, Any]], shared: bool) -> None:
        self._rules = rules
        self._budget = budget
        self._shared = shared
        self._sizes = lambda: sum(map(_size, events))
        self._request = Allowance(REQUEST_GROWTH, self._sizes)
        self._event = Allowance(0, int)

    def pause(self) -> Iterator[None]:
        """Let others have a turn."""
        self._budget.pause()
        yield
        self._budget.resume()

    def _turn(self) -> Iterator[None]:
        if self._budget.due():
            yield from self.pause()

    # -- at a glance -----------------------------------------------------------------------------------------------

    def suspects(self, events: Sequence[Mapping[str, Any]]) -> Generator[None, None, Sequence[int]]:
        """Which events need a closer look, in order."""
        scans = self._rules.json_scans
        if scans is None:
            return range(len(events))
        texts, suspected = _as_json(events)
        if len(texts) > 1:
            yield from self._turn()
        clear = list(range(len(events))) if not suspected else [i for i in range(len(events)) if i not in suspected]
        for scan in scans:
            if suspected:
                clear = [i for i in clear if i not in suspected]
            here = texts if len(clear) == len(texts) else [texts[i] for i in clear]
            for found in scan.suspects(here):
                suspected.update([clear[i] for i in found])
                yield from self._turn()
        return sorted(suspected)

    # -- closely ---------------------------------------------------------------------------------------------------

    def apply(self, event: Mapping[str, Any], hits: Mapping[str, Redacted]) -> Generator[None, None, Redaction]:
        """One event made anew, where it holds hits or what a rule on fields names."""
        root = self._rules.root
        records = _Records()
        self._event = Allowance(EVENT_GROWTH, lambda: _size(event))
        nodes = () if root is None else paths.start(root)
        redacted: dict[str, Any] | None = None
        for section in SECTIONS:
            if section in event:
                records.begin(section)
                value = event[section]
                event_left, request_left = self._event.left, self._request.left
                try:
                    new = yield from self._section(section, value, nodes, hits, records)
                except Overgrown:
                    self._event.left, self._request.left = event_left, request_left
                    records.replace_section()
                    new = _given_up(section, value)
                if new is not value:
                    if redacted is None:
                        redacted = dict(event)
                    redacted[section] = new
        return Redaction(event if redacted is None else redacted, records.done())

    def give_up(self, event: Mapping[str, Any]) -> Redaction:
        """An event for which no time is left: nothing that may hold something is kept."""
        redacted = dict(event)
        changes = []
        for section in SECTIONS:
            if section in event:
                redacted[section] = _given_up(section, event[section])
                changes.append(Change(section, (LIMIT,)))
        return Redaction(redacted, tuple(changes))

    def find_hits(self, events: Sequence[Mapping[str, Any]]) -> Generator[None, None, dict[str, Redacted]]:
        """What the rules on texts make of the texts of these events; texts that stay as they are are left out."""
        texts = yield from self._collect(events)
        if (scans := self._rules.text_scans) is not None:
            texts = yield from self._suspected(texts, scans)
        hits = {}
        # Each of the texts is there once at least, so what is made of them is bounded as the events are.
        room = Allowance(REQUEST_GROWTH, self._sizes)
        for text in texts:
            redacted = yield from text_slices(text, self._rules.texts, self._budget)
            if redacted is not None:
                if not room.takes(len(redacted.text) - len(text)):
                    if self._shared:
                        raise OverBudget
                    redacted = _too_long(redacted.rules)
                hits[text] = redacted
            yield from self._turn()
        return hits

    def _collect(self, events: Sequence[Mapping[str, Any]]) -> Generator[None, None, list[str]]:
        """The distinct texts of events: strings, keys, and long numbers as they are written."""
        distinct: dict[str, None] = {}
        found: list[str] = []
        stack: list[Any] = []
        for event in events:
            for section in SECTIONS:
                value = event.get(section)
                if type(value) is dict and section != "metadata":
                    known = _SCHEMA_NAMES[section]
                    found += [key for key in value if key not in known]
                    stack.append(list(value.values()))
                elif section == "changes" and type(value) is list:
                    known = _SCHEMA_NAMES[section]
                    for item in value:
                        if type(item) is dict:
                            found += [key for key in item if key not in known]
                            stack.append(list(item.values()))
                        else:
                            stack.append([item])
                elif value is not None:
                    stack.append([value])
        looked = 0
        while stack:
            value = stack.pop()
            if type(value) is dict:
                found += value
                value = list(value.values())
            if len(value) > _PIECE:  # So that others get a turn on the way through a long list.
                stack += [value[start : start + _PIECE] for start in range(0, len(value), _PIECE)]
                continue
            for item in value:
                kind = type(item)
                if kind is str:
                    found.append(item)
                elif kind is dict or kind is list:
                    stack.append(item)
                elif (kind is int or kind is float) and (text := number_text(item)):
                    found.append(text)
            looked += len(value) + 1
            if looked > STEPS_A_LOOK:
                looked = 0
                for start in range(0, len(found), _PIECE):
                    distinct.update(dict.fromkeys(found[start : start + _PIECE]))
                    yield from self._turn()
                found = []
        distinct.update(dict.fromkeys(found))
        return list(distinct)

    def _suspected(self, texts: list[str], scans: Sequence[Scan]) -> Generator[None, None, list[str]]:
        """Which texts the rules have to see."""
        suspected: list[str] = []
        for start in range(0, len(texts), _PIECE):
            piece = texts[start : start + _PIECE]
            seen = list(map(encode, piece))
            owners = list(range(len(piece)))
            size = 0
            for index in [i for i, text in enumerate(piece) if not (text.isascii() and text.isprintable())]:
                folded = yield from self._fold(piece[index])
                if folded != piece[index]:
                    seen.append(encode(folded))
                    owners.append(index)
                    if len(folded) <= MAX_UNICODE_TEXT and (apart := read_apart(piece[index])) is not None:
                        seen.append(apart.data)
                        owners.append(index)
                size += len(folded) + 16
                if size > _FOLD_PIECE:
                    size = 0
                    yield from self._turn()
            found: set[int] = set()
            for scan in scans:
                for hits in scan.suspects(seen):
                    found.update([owners[i] for i in hits])
                    yield from self._turn()
            suspected += [piece[index] for index in sorted(found)]
        return suspected

    def _fold(self, text: str) -> Generator[None, None, str]:
        if len(text) <= _FOLD_PIECE:
            return fold(text)
        pieces = []
        for start in range(0, len(text), _FOLD_PIECE):
            pieces.append(fold(text[start : start + _FOLD_PIECE]))
            yield from self._turn()
        return "".join(pieces)

    # -- making anew -----------------------------------------------------------------------------------------------

    def _put(self, redacted: Redacted, instead_of: Any) -> Redacted:
        """What takes the place of a value, or, where that would be too long, what takes the place of that. Raises
        ``Overgrown`` where either would."""
        size = len(instead_of) if type(instead_of) is str else 0
        if self._takes(len(redacted.text) - size):
            return redacted
        redacted = _too_long(redacted.rules)
        self._add(len(redacted.text) - size)
        return redacted

    def _add(self, more: int) -> None:
        if not self._takes(more):
            raise Overgrown

    def _takes(self, more: int) -> bool:
        if more <= 0:
            return True
        if not self._event.takes(more):
            return False
        if self._request.takes(more):
            return True
        if self._shared:
            raise OverBudget
        return False

    def _whole(self, rule: int, value: Any) -> Redacted:
        """What a rule on fields makes of a whole value."""
        found = self._rules.fields[rule]
        return self._put(Redacted(replace_value(value, found.behavior, found.replace), (found.id,)), value)

    def _section(
        self, section: str, value: Any, nodes: paths.Nodes, hits: Mapping[str, Redacted], records: _Records
    ) -> Generator[None, None, Any]:
        rule = None
        if nodes:
            nodes, rule = paths.step(nodes, section, self._budget)
        if rule is not None:
            if section in ("actor", "target") and isinstance(value, dict):
                records.add(section, (self._rules.fields[rule].id,))
                return {name: self._whole(rule, value.get(name, "")).text for name in ("id", "type")}
            replaced = self._whole(rule, value)
            records.add(section, replaced.rules)
            return replaced.text
        if section == "changes" and type(value) is list:
            return (yield from self._list(value, section, nodes, hits, records, _SCHEMA_NAMES[section]))
        return (yield from self._value(value, section, nodes, hits, records, _SCHEMA_NAMES.get(section, _NONE)))

    def _value(
        self,
        value: Any,
        path: str,
        nodes: paths.Nodes,
        hits: Mapping[str, Redacted],
        records: _Records,
        known: frozenset[str],
    ) -> Generator[None, None, Any]:
        kind = type(value)
        if kind is dict:
            return (yield from self._dict(value, path, nodes, hits, records, known))
        if kind is list:
            return (yield from self._list(value, path, nodes, hits, records, _NONE))
        if (hit := _hit(value, hits)) is not None:
            hit = self._put(hit, value)
            records.add(path, hit.rules)
            return hit.text
        return value

    def _dict(
        self,
        value: dict[str, Any],
        path: str,
        nodes: paths.Nodes,
        hits: Mapping[str, Redacted],
        records: _Records,
        known: frozenset[str],
    ) -> Generator[None, None, Any]:
        new: dict[str, Any] = {}
        same = True
        renamed = (yield from self._renamed(value, hits, known)) if hits else {}
        for key, item in value.items():
            self._budget.steps += 1
            if self._budget.steps >= STEPS_A_LOOK:
                yield from self._turn()
            rule = None
            below: paths.Nodes = ()
            if nodes:
                below, rule = paths.step(nodes, key, self._budget)
            if rule is None and not renamed and not below and not hits:
                new[key] = item
                continue
            shown = key
            ids: tuple[str, ...] = ()
            if key in renamed:
                shown, ids = renamed[key], hits[key].rules
                self._add(len(shown) - len(key))
            kind = type(item)
            if rule is not None:
                replaced = self._whole(rule, item)
                item = replaced.text
                ids += tuple(rule_id for rule_id in replaced.rules if rule_id not in ids)
                same = False
            elif kind is dict or kind is list:
                inner = yield from self._value(item, key_path(path, shown), below, hits, records, _NONE)
                if inner is not item:
                    item, same = inner, False
            elif (hit := _hit(item, hits)) is not None:
                hit = self._put(hit, item)
                item = hit.text
                ids += tuple(rule_id for rule_id in hit.rules if rule_id not in ids)
                same = False
            if ids:
                records.add(key_path(path, shown), ids)
                same = False
            new[shown] = item
        return value if same else new

    def _renamed(
        self, value: Mapping[str, Any], hits: Mapping[str, Redacted], known: frozenset[str]
    ) -> Generator[None, None, dict[str, str]]:
        """New names for the keys that redaction changes, different from each other and from those that stay."""
        changed: list[str] = []
        taken: set[str] = set()
        names = iter(value)
        while piece := list(islice(names, _PIECE)):
            found = [key for key in piece if key in hits and key not in known]
            taken.update(piece)
            changed += found
            yield from self._turn_within(piece)
        if not changed:
            return {}
        numbers: dict[str, int] = {}
        renamed: dict[str, str] = {}
        for start in range(0, len(changed), _PIECE):
            taken.difference_update(changed[start : start + _PIECE])
        for start in range(0, len(changed), STEPS_A_LOOK):
            for key in changed[start : start + STEPS_A_LOOK]:
                text = name = hits[key].text
                number = numbers.get(text, 1)
                while name in taken:
                    number += 1
                    name = f"{text} ({number})"
                numbers[text] = number
                taken.add(name)
                renamed[key] = name
            yield from self._turn_within(changed)
        return renamed

    def _turn_within(self, keys: Sequence[str]) -> Iterator[None]:
        """A turn for others, unless there are few keys: looking at the clock costs more than those."""
        if len(keys) >= STEPS_A_LOOK:
            yield from self._turn()

    def _list(
        self,
        value: list[Any],
        path: str,
        nodes: paths.Nodes,
        hits: Mapping[str, Redacted],
        records: _Records,
        known: frozenset[str],
    ) -> Generator[None, None, Any]:
        new: list[Any] | None = None
        for index, item in enumerate(value):
            self._budget.steps += 1
            if self._budget.steps >= STEPS_A_LOOK:
                yield from self._turn()
            changed = item
            rule = None
            below: paths.Nodes = ()
            if nodes:
                below, rule = paths.step(nodes, str(index), self._budget)
            kind = type(item)
            if rule is not None:
                replaced = self._whole(rule, item)
                changed = replaced.text
                records.add(f"{path}.{index}", replaced.rules)
            elif kind is dict:
                changed = yield from self._dict(item, f"{path}.{index}", below, hits, records, known)
            elif kind is list:
                changed = yield from self._list(item, f"{path}.{index}", below, hits, records, _NONE)
            elif (hit := _hit(item, hits)) is not None:
                hit = self._put(hit, item)
                changed = hit.text
                records.add(f"{path}.{index}", hit.rules)
            if changed is not item:
                if new is None:
                    new = value.copy()
                new[index] = changed
        return value if new is None else new


class _Records:
    """What was changed in one event, bounded however much it was."""

    __slots__ = ("_changes", "_left", "_rest", "_section", "_start")

    def __init__(self) -> None:
        self._section = ""
        self._changes: list[Change] = []
        self._start = (0, MAX_RECORD_BYTES)
        self._left = MAX_RECORD_BYTES
        self._rest: dict[str, tuple[dict[str, None], int]] = {}

    def begin(self, section: str) -> None:
        """What is added from here on was changed there."""
        self._section = section
        self._start = (len(self._changes), self._left)

    def replace_section(self) -> None:
        """Forget what was added since: all of it was replaced, since it would have grown too much."""
        length, self._left = self._start
        del self._changes[length:]
        self._rest.pop(self._section, None)
        self.add(self._section, (LIMIT,))

    def add(self, path: str, rules: tuple[str, ...]) -> None:
        if self._left > 0:
            self._left -= len(path) if path.isascii() else len(encode(path))
            self._left -= sum(map(len, rules[1:]))
            if len(self._changes) >= MAX_RECORDS:
                self._left = 0
        if self._left > 0:
            self._changes.append(Change(path, rules))
        else:
            ids, values = self._rest.get(self._section, ({}, 0))
            ids.update(dict.fromkeys(rules))
            self._rest[self._section] = (ids, values + 1)

    def done(self) -> tuple[Change, ...]:
        rest = (Change(section, tuple(ids), values) for section, (ids, values) in self._rest.items())
        return (*self._changes, *rest)


def number_text(number: float) -> str | None:
    """The digits of a number as they are matched, without an exponent; None for a number of fewer than 13 digits."""
    if type(number) is int:
        return str(number) if number >= _MIN_INTEGER or number <= -_MIN_INTEGER else None
    text = repr(number)
    if "e" in text:
        text = format(Decimal(text), "f")
    elif text.endswith(".0"):
        text = text[:-2]
    return text if sum(map(text.count, "0123456789")) >= MIN_DIGITS else None


def _given_up(section: str, value: Any) -> Any:
    """What a section becomes of which nothing may be kept."""
    keeps_shape = section in ("actor", "target") and isinstance(value, dict)
    return dict.fromkeys(("id", "type"), REDACTED) if keeps_shape else REDACTED


def _too_long(rules: tuple[str, ...]) -> Redacted:
    return Redacted(REDACTED, rules if LIMIT in rules else (*rules, LIMIT))


def _size(event: Mapping[str, Any]) -> int:
    try:
        return len(orjson.dumps(event))
    except TypeError:  # It has what cannot be written, so nobody knows.
        return 0


def _as_json(events: Sequence[Mapping[str, Any]]) -> tuple[list[bytes], set[int]]:
    """Each event as JSON, and which of them cannot be written so: they can only be looked at closely."""
    try:
        return list(map(orjson.dumps, events)), set()
    except TypeError:
        texts = []
        odd = set()
        for index, event in enumerate(events):
            try:
                texts.append(orjson.dumps(event))
            except TypeError:
                texts.append(b"")
                odd.add(index)
        return texts, odd


def _hit(value: Any, hits: Mapping[str, Redacted]) -> Redacted | None:
    if not hits:
        return None
    kind = type(value)
    if kind is str:
        return hits.get(value)
    if kind is int or kind is float:
        text = number_text(value)
        return None if text is None else hits.get(text)
    return None


def key_path(path: str, key: str) -> str:
    """The path on record of what is under ``key`` in the object at ``path``: a long key is cut."""
    return f"{path}.{key}" if len(key) <= MAX_PART else f"{path}.{key[:MAX_PART]}…"
