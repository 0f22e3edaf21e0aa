"""What one rule would do to events that are stored already: counted, and shown by examples.

The rule runs alone, by the very engine that events pass on their way in, over the sections as they are stored. What was
redacted then stays as it is: markers, hashes and masks are left alone, as a later rule leaves what an earlier one has
replaced.

Where an event changes is found by walking along both versions at once, in which what stayed is the same object. So a
field's path is known part by part, and an index of a list is told from a key of digits.

It is made for a child process: ``serve`` answers questions that come through a pipe, and what is held does not grow
with what was seen.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

import orjson

from logstitch.frames import frame, read_frame, write_frame
from logstitch.redaction.behaviors import text_of
from logstitch.redaction.builtins import compile_re2
from logstitch.redaction.definitions import Behavior, CustomRule, RuleType
from logstitch.redaction.engine import Redaction, RuleSet, key_path, redact, slices
from logstitch.redaction.rules import compile_rules, pattern_finder
from logstitch.redaction.texts import TextRule
from logstitch.redaction.turns import if_quick, result_of
from logstitch.sections import SECTIONS

MAX_PATHS: Final = 1000
"""Field paths that are counted one by one; what changes in others is in the sum only."""
MAX_SAMPLES: Final = 20
MAX_SAMPLE_CHARS: Final = 300
"""Of a value in an example. Of a longer one, what is around the first difference is shown."""
_CONTEXT: Final = 100
_LOOK: Final = 10_000
"""Characters in which the first difference is looked for."""

CHUNK: Final = 64
"""Events that are redacted together, if that is quick."""

# What redaction leaves behind, see ``behaviors``.
_MARKS: Final = "|".join(
    (
        r"\[REDACTED\](?: \([0-9]+\))?",
        "sha256:[0-9a-f]{64}",
        r"\*{4}-\*{4}-\*{4}-[0-9]{0,4}",
        r"\*{3}-\*{2,3}-[0-9]{0,4}",
        r"eyJ\*{3}",
        r"A[KS]IA\*{4}[0-9A-Z]{0,4}",
        r"[^\s@]?\*{3}@[^\s@]+",
        r"[0-9]{1,3}\.[0-9]{1,3}\.\*\.\*",
        r"\*{4}[^\s,;]{0,4}",
    )
)
_IS_MARK = compile_re2(f"^(?:{_MARKS})$")


class Sample(NamedTuple):
    """One field value that would change, as text, before and after; ``id`` and ``occurred_at`` of its event."""

    id: str
    occurred_at: str
    field: str
    before: str
    after: str


@dataclass(slots=True)
class Tally:
    """What was found so far. ``fields`` counts by path, in which ``*`` stands for the index of a list."""

    scanned: int = 0
    events_changed: int = 0
    fields_changed: int = 0
    fields: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count what another tally has found behind this one's events."""
        self.scanned += other.scanned
        self.events_changed += other.events_changed
        self.fields_changed += other.fields_changed
        for path, count in other.fields.items():
            self._count(path, count)
        for sample in other.samples:
            if self.wants(sample.field):
                self.show(sample)

    def count(self, path: str) -> None:
        """One more value changes there."""
        self.fields_changed += 1
        self._count(path, 1)

    def _count(self, path: str, count: int) -> None:
        if path in self.fields or len(self.fields) < MAX_PATHS:
            self.fields[path] += count

    def wants(self, path: str) -> bool:
        """Whether an example of this path is welcome: there is room, or others are shown more than once as often."""
        if len(self.samples) < MAX_SAMPLES:
            return True
        shown = Counter(sample.field for sample in self.samples)
        return shown[path] + 1 < max(shown.values())

    def show(self, sample: Sample) -> None:
        """Add an example, in the place of the last one of the path that is shown most often."""
        if len(self.samples) >= MAX_SAMPLES:
            path, _ = Counter(one.field for one in self.samples).most_common(1)[0]
            last = max(index for index, one in enumerate(self.samples) if one.field == path)
            del self.samples[last]
        self.samples.append(sample)

    def as_json(self) -> bytes:
        """For the other process."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return orjson.dumps({**values, "fields": dict(self.fields), "samples": [list(one) for one in self.samples]})

    @classmethod
    def of_json(cls, text: bytes) -> Tally:
        """The reverse of ``as_json``."""
        values = orjson.loads(text)
        values["fields"] = Counter(values["fields"])
        values["samples"] = [Sample(*sample) for sample in values["samples"]]
        return cls(**values)


class Difference(NamedTuple):
    """A value that differs between two versions of an event. ``path`` as in ``Tally.fields``."""

    path: str
    before: Any
    after: Any


class Experiment:
    """One rule, ready to be tried on events. ``exempt`` is the tenant whose events are left alone.

    The rule must have passed ``check_rule``; it is tried whether it is enabled or not. ``secret`` is what the project's
    hashes are keyed with.
    """

    def __init__(self, rule: CustomRule, *, secret: bytes, exempt: str | None = None) -> None:
        rules = compile_rules((), [dataclasses.replace(rule, enabled=True)], secret=secret)
        if rules.texts:
            guard = TextRule("", pattern_finder(_MARKS), str)
            rules = dataclasses.replace(rules, texts=(guard, *rules.texts))
        self._rules = rules
        self._exempt = exempt

    def run(
        self, events: Sequence[Mapping[str, Any]], *, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> Tally:
        """Try the rule on stored events, in their order, until ``seconds`` are over, but on one at least."""
        until = clock() + seconds
        tally = Tally()
        sections = [self._sections(event) for event in events]
        for event, before, redaction in zip(events, sections, _redacted(sections, self._rules), strict=True):
            tally.scanned += 1
            changed = False
            for path, old, new in differences(before, redaction):
                changed = True
                tally.count(path)
                if tally.wants(path):
                    tally.show(Sample(event["id"], event["occurred_at"], path, *_clipped(text_of(old), text_of(new))))
            tally.events_changed += changed
            if clock() >= until:
                break
        return tally

    def _sections(self, event: Mapping[str, Any]) -> dict[str, Any]:
        if self._exempt is not None and event.get("tenant_id") == self._exempt:
            return {}
        return {name: event[name] for name in SECTIONS if name in event}


def _redacted(events: Sequence[Mapping[str, Any]], rules: RuleSet) -> Iterator[Redaction]:
    for start in range(0, len(events), CHUNK):
        chunk = events[start : start + CHUNK]
        together = result_of(if_quick(slices(chunk, rules, shared=True)))
        yield from map(lambda event: redact(event, rules), chunk) if together is None else together


def differences(before: Mapping[str, Any], redaction: Redaction) -> Iterator[Difference]:
    """The values of an event that redaction has changed. One whose key was changed, too, counts once."""
    after, changes = redaction
    if after is before:
        return
    # An actor that was replaced as a whole is still an object, since an event cannot do without.
    whole = {change.field for change in changes if change.field in ("actor", "target")}
    for section, old in before.items():
        if section in whole:
            yield from _difference(section, old, after[section])
        else:
            yield from _walk(section, old, after[section])


def _walk(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if before is after:
        return
    if type(before) is dict and type(after) is dict:
        for (key, old), (name, new) in zip(before.items(), after.items(), strict=True):
            below = key_path(path, name)
            found = list(_walk(below, old, new))
            if key != name and not any(difference.path == below for difference in found):
                yield Difference(below, key, name)
            yield from found
    elif type(before) is list and type(after) is list:
        for old, new in zip(before, after, strict=True):
            yield from _walk(f"{path}.*", old, new)
    else:
        yield from _difference(path, before, after)


def _difference(path: str, before: Any, after: Any) -> Iterator[Difference]:
    if before != after and not (type(before) is str and _IS_MARK.search(before.encode()) is not None):
        yield Difference(path, before, after)


def _clipped(before: str, after: str) -> tuple[str, str]:
    """Both cut at the same place, so that what changes can be seen."""
    pairs = zip(before[:_LOOK], after[:_LOOK], strict=False)
    same = next((index for index, (old, new) in enumerate(pairs) if old != new), 0)
    start = max(0, same - _CONTEXT) if max(len(before), len(after)) > MAX_SAMPLE_CHARS else 0
    return _cut(before, start), _cut(after, start)


def _cut(text: str, start: int) -> str:
    end = start + MAX_SAMPLE_CHARS
    return ("…" if start else "") + text[start:end] + ("…" if len(text) > end else "")


# -- between processes ---------------------------------------------------------------------------------------------


def experiment_message(rule: CustomRule, *, secret: bytes, exempt: str) -> bytes:
    """The first message to ``serve``."""
    return frame(orjson.dumps({"rule": dataclasses.asdict(rule), "secret": secret.hex(), "exempt": exempt}))


def events_message(bodies: Iterable[bytes], *, seconds: float) -> bytes:
    """Every other one: stored events, JSON each, and how long they may take. It is answered by a tally's JSON."""
    return frame(b'{"seconds":%f,"events":[' % seconds + b",".join(bodies) + b"]}")


def serve(source: IO[bytes], answers: IO[bytes]) -> None:
    """Try the rule of the first message on the events of all that follow, until there are no more."""
    with suppress(EOFError):
        wanted = orjson.loads(read_frame(source) or b"")
        experiment = Experiment(
            CustomRule(
                **wanted["rule"]
                | {
                    "type": RuleType(wanted["rule"]["type"]),
                    "fields": tuple(wanted["rule"]["fields"]),
                    "behavior": Behavior(wanted["rule"]["behavior"]),
                }
            ),
            secret=bytes.fromhex(wanted["secret"]),
            exempt=wanted["exempt"],
        )
        while (message := read_frame(source)) is not None:
            batch = orjson.loads(message)
            write_frame(answers, experiment.run(batch["events"], seconds=batch["seconds"]).as_json())
            answers.flush()
