"""What a rule would have done about events that are stored already: how often it would have fired, and for whom.

It is the detector that finds it out, so nothing here can differ from what would have been. It begins with the first
event that it is given: what happened before is as if it had not been, neither in a window nor as silence.

It is made for a child process (see ``serve``), and what it holds is bounded. A detector that lets go of a group has it
read back; here there is nobody to ask, so the bounds are wider, and beyond them the result says that it is not exact:
it is then a little too low for groups that were not heard of for long, among very many.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Final, NamedTuple

import orjson

from logstitch.detection.detector import ActiveRule, Detector, Firing
from logstitch.detection.facts import Fact
from logstitch.detection.rows import parse_rows
from logstitch.detection.rules import Distinct, GroupBy, Rule, Severity
from logstitch.frames import frame, read_frame, write_frame

GROUPS: Final = 200_000
"""Windows and last firings in memory: 100 MB."""
TIMES: Final = 4_000_000
"""Events in all windows: 100 MB."""
MAX_FIRINGS: Final = 100
"""That are shown one by one, the first."""
SLICE: Final = 1000
"""Events between two looks at the memory."""

_DRAFT, _EXISTING = "draft", "existing"


class Shown(NamedTuple):
    """A firing, as ``detector.Firing`` has it."""

    triggered_at_ms: int
    group_key: str
    tenant_id: str
    event_count: int


@dataclass(slots=True)
class Tally:
    """What one rule would have done: the cooldown held it back ``held_back`` times. ``firings`` are the first."""

    fired: int = 0
    held_back: int = 0
    firings: list[Shown] = field(default_factory=list)

    def count(self, firing: Firing) -> None:
        """The rule would have fired."""
        self.fired += 1
        if len(self.firings) < MAX_FIRINGS:
            self.firings.append(
                Shown(firing.triggered_at_ms, firing.group_key, firing.tenant_id, firing.event_count),
            )

    def _values(self) -> dict[str, Any]:
        return {"fired": self.fired, "held_back": self.held_back, "firings": [list(one) for one in self.firings]}

    @classmethod
    def _of(cls, values: dict[str, Any]) -> Tally:
        return cls(values["fired"], values["held_back"], [Shown(*one) for one in values["firings"]])


@dataclass(slots=True)
class Outcome:
    """What both rules would have done; ``exact`` is explained above."""

    rule: Tally = field(default_factory=Tally)
    existing: Tally | None = None
    exact: bool = True

    def as_json(self) -> bytes:
        """For the other process."""
        return orjson.dumps(
            {
                "rule": self.rule._values(),
                "existing": None if self.existing is None else self.existing._values(),
                "exact": self.exact,
            }
        )

    @classmethod
    def of_json(cls, text: bytes) -> Outcome:
        """The reverse of ``as_json``."""
        values = orjson.loads(text)
        existing = values["existing"]
        return cls(
            Tally._of(values["rule"]),
            None if existing is None else Tally._of(existing),
            values["exact"],
        )


class TimeMachine:
    """One rule to be tried, whether it is enabled or not, and beside it the one that is there, as it is.

    The rule must have passed ``check_rule``. All events count for both.
    """

    def __init__(
        self, rule: Rule, existing: Rule | None = None, *, groups: int = GROUPS, times: int = TIMES, slice_: int = SLICE
    ) -> None:
        rules = [dataclasses.replace(rule, id=_DRAFT, enabled=True)]
        if existing is not None:
            rules.append(dataclasses.replace(existing, id=_EXISTING))
        self._detector = Detector([ActiveRule(one, since_seq=-1) for one in rules], groups=groups, times=times)
        self._detector.warm((), {})
        self._tallies = {_DRAFT: Tally()} if existing is None else {_DRAFT: Tally(), _EXISTING: Tally()}
        self._at_work = [one.id for one in rules if one.enabled]
        self._slice = slice_

    def run(self, facts: Sequence[Fact]) -> None:
        """The next events, in the order of ``seq``. Raises ``ValueError`` where they are not the next."""
        for start in range(0, len(facts), self._slice):
            for firing in self._detector.take(facts[start : start + self._slice]):
                self._tallies[firing.rule.id].count(firing)
            self._detector.trim()

    def outcome(self) -> Outcome:
        """What was found so far."""
        for rule_id in self._at_work:
            self._tallies[rule_id].held_back = self._detector.held_back(rule_id)
        return Outcome(self._tallies[_DRAFT], self._tallies.get(_EXISTING), exact=self._detector.dropped == 0)


# -- between processes ---------------------------------------------------------------------------------------------


def start_message(rule: Rule, existing: Rule | None) -> bytes:
    """The first message to ``serve``. Any number of ``rows_message`` may follow, and at any place ``frames.END``, which
    is answered by the JSON of an ``Outcome`` of all that came before."""
    return frame(
        orjson.dumps(
            {
                "rule": dataclasses.asdict(rule),
                "existing": None if existing is None else dataclasses.asdict(existing),
            }
        )
    )


def rows_message(data: bytes) -> bytes:
    """Rows for ``rows.parse_rows``, as they came from the server, and in the order of ``seq``. It is not answered."""
    return frame(data)


def serve(source: IO[bytes], answers: IO[bytes]) -> None:
    """Try the rules of the first message on the rows of all that follow, until there are no more."""
    with suppress(EOFError):
        wanted = orjson.loads(read_frame(source) or b"")
        machine = TimeMachine(_rule(wanted["rule"]), None if wanted["existing"] is None else _rule(wanted["existing"]))
        while True:
            rows = read_frame(source)
            if rows is not None:
                machine.run(parse_rows(rows))
            else:
                write_frame(answers, machine.outcome().as_json())
                answers.flush()


def _rule(values: dict[str, Any]) -> Rule:
    distinct = values["distinct"]
    return Rule(
        **values
        | {
            "group_by": GroupBy(values["group_by"]),
            "severity": Severity(values["severity"]),
            "distinct": None if distinct is None else Distinct(distinct),
        }
    )
