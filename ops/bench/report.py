"""From turns to a page: medians with their range, and ratios taken within a round, where the machine was most alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ops.bench.load import LoadResult
from ops.bench.measure import Cpu, Memory

COPY = "copy"
BUSY_OTHERS = 0.1
"""Processors' worth of foreign work from which on a run is not to be believed."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant's go in one round. ``stored`` are rows, ``sent`` what the client saw; for COPY, ``sent`` and
    ``memory`` are missing and ``load`` is ``copy``."""

    contestant: str
    load: str
    round: int
    events: int
    seconds: float
    stored: int
    cpu: Cpu
    client_cpu: float
    batch: int = 0
    sent: LoadResult | None = None
    memory: Memory | None = None
    unindexed: int | None = None

    @property
    def rate(self) -> float:
        """Events that were acknowledged, a second."""
        return self.events / self.seconds

    @property
    def exact(self) -> bool:
        """Whether rows stored and events acknowledged agree (an open request at the end may have stored its events)."""
        open_requests = self.sent.unanswered + self.sent.broken if self.sent else 0
        return self.events <= self.stored <= self.events + self.batch * open_requests

    def per_thousand(self, cpu_seconds: float) -> float:
        """CPU seconds for 1,000 events."""
        return cpu_seconds * 1000 / self.events if self.events else 0.0

    def summary(self) -> str:
        """One line, for whoever waits."""
        line = f"{self.contestant:15} {self.load:7}{self.rate:9,.0f} events/s"
        if not self.exact:
            line += f"  STORED {self.stored:,} OF {self.events:,}"
        others = self.cpu.others(self.client_cpu)
        return line + (f"  (others took {others:.2f} processors)" if others > BUSY_OTHERS else "")

    def to_json(self) -> dict[str, Any]:
        """Everything."""
        return {"rate": round(self.rate, 1), "exact": self.exact, **asdict(self)}


@dataclass(frozen=True, slots=True)
class Ratio:
    """A comparison: the median of the rounds' ratios, and the lowest and highest of them."""

    load: str
    of: str
    to: str
    median: float
    low: float
    high: float


def ratios(turns: Sequence[Turn], of: str, others: Iterable[str], loads: Sequence[str]) -> list[Ratio]:
    """How many times as fast ``of`` is as each of the others."""
    found = []
    for load in loads:
        for other in others:
            mine = {turn.round: turn.rate for turn in turns if turn.contestant == of and turn.load == load}
            theirs = {turn.round: turn.rate for turn in turns if turn.contestant == other and turn.load in (load, COPY)}
            each = [mine[number] / theirs[number] for number in mine.keys() & theirs.keys() if theirs[number]]
            if each:
                found.append(Ratio(load, of, other, statistics.median(each), min(each), max(each)))
    return found


def markdown(
    turns: Sequence[Turn],
    found: Sequence[Ratio],
    titles: Mapping[str, str],
    duties: Mapping[str, Mapping[str, bool]],
    machine: Mapping[str, Any],
    settings: Mapping[str, Any],
    loads: Sequence[str],
) -> str:
    """The report."""
    lines = ["# Ingest", ""]
    lines += [f"* {name.replace('_', ' ')}: {value}" for name, value in (*machine.items(), *settings.items())]
    lines += ["", *_warnings(turns, duties), ""]
    for load in loads:
        of_load = [turn for turn in turns if turn.load in (load, COPY)]
        batch = max((turn.batch for turn in of_load), default=1)
        what = "single events" if batch == 1 else f"batches of {batch}"
        lines += [f"## {what.capitalize()}", "", *_rates(of_load, titles), "", *_costs(of_load, titles), ""]
    lines += ["## Ratios", "", "| load | ratio | median | lowest to highest round |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {r.load} | {titles[r.of]} / {titles[r.to]} | **{r.median:.2f}** | {r.low:.2f} to {r.high:.2f} |"
        for r in found
    ]
    lines += ["", "## Duties, as probed before the rounds", "", *_duties(duties, titles), ""]
    return "\n".join(lines)


def _warnings(turns: Sequence[Turn], duties: Mapping[str, Mapping[str, bool]]) -> list[str]:
    lines = []
    undone = sorted({name for found in duties.values() for name, done in found.items() if not done})
    if undone:
        lines.append(f"**Not everybody {', or '.join(undone)}: see the duties below before you compare.**")
    worst = max((turn.cpu.others(turn.client_cpu) for turn in turns), default=0.0)
    if worst > BUSY_OTHERS:
        lines.append(
            f"**The machine was not idle: other work took up to {worst:.2f} processors during a turn. Do not quote "
            "these numbers.**"
        )
    if not all(turn.exact for turn in turns):
        lines.append("**Rows stored and events acknowledged differ in some turn.**")
    else:
        lines.append("Rows stored equalled events acknowledged in every turn.")
    return [line for each in lines for line in (each, "")][:-1]


def _rates(turns: Sequence[Turn], titles: Mapping[str, str]) -> list[str]:
    lines = [
        "| | events/s (median) | lowest to highest | p50 ms | p99 ms | refused, broken | stored = acknowledged |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for title, mine in _by_contestant(turns, titles):
        rates = [turn.rate for turn in mine]
        sent = [turn.sent for turn in mine if turn.sent]
        p50 = f"{statistics.median(s.p50_ms for s in sent):.1f}" if sent else ""
        p99 = f"{statistics.median(s.p99_ms for s in sent):.1f}" if sent else ""
        failed = f"{sum(s.refused for s in sent)}, {sum(s.broken for s in sent)}" if sent else ""
        verdict = "yes" if all(turn.exact for turn in mine) else "**NO**"
        lines.append(
            f"| {title} | {statistics.median(rates):,.0f} | {min(rates):,.0f} to {max(rates):,.0f} | {p50} | {p99} "
            f"| {failed} | {verdict} |"
        )
    return lines


def _costs(turns: Sequence[Turn], titles: Mapping[str, str]) -> list[str]:
    lines = [
        "| CPU seconds per 1,000 events | own process | its children | PostgreSQL backends | rest of PostgreSQL | sum "
        "| client | peak RSS MiB | RSS after load |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for title, mine in _by_contestant(turns, titles):
        parts = [
            _cost(mine, lambda turn: turn.cpu.own),
            _cost(mine, lambda turn: turn.cpu.children),
            _cost(mine, lambda turn: turn.cpu.backends),
            _cost(mine, lambda turn: turn.cpu.postgres_rest),
        ]
        columns = [f"{part:.4f}" for part in (*parts, sum(parts), _cost(mine, lambda turn: turn.client_cpu))]
        memory = [turn.memory for turn in mine if turn.memory]
        columns += [
            f"{max(m.peak for m in memory):.0f}" if memory else "",
            f"{statistics.median(m.steady for m in memory):.0f}" if memory else "",
        ]
        lines.append(f"| {title} | {' | '.join(columns)} |")
    behind = [turn.unindexed for turn in turns if turn.unindexed]
    if behind:
        lines += [
            "",
            f"Word index, built off the path of commits: up to {max(behind):,} events behind at a turn's end.",
        ]
    return lines


def _cost(turns: Sequence[Turn], part: Callable[[Turn], float]) -> float:
    return statistics.median(turn.per_thousand(part(turn)) for turn in turns)


def _duties(duties: Mapping[str, Mapping[str, bool]], titles: Mapping[str, str]) -> list[str]:
    names = list(next(iter(duties.values()), {}))
    lines = [f"| | {' | '.join(titles[name] for name in duties)} |", "| --- |" + " --- |" * len(duties)]
    return lines + [
        f"| {name} | {' | '.join('yes' if found[name] else '**no**' for found in duties.values())} |" for name in names
    ]


def _by_contestant(turns: Sequence[Turn], titles: Mapping[str, str]) -> list[tuple[str, list[Turn]]]:
    grouped = [(title, [turn for turn in turns if turn.contestant == name]) for name, title in titles.items()]
    return [(title, mine) for title, mine in grouped if mine]
