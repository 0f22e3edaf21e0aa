"""What a run measured, and how it is told: percentiles that keep the tail, a table for people, JSON for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from logstitch.loadtest.ledger import Tally
from logstitch.loadtest.plan import Missed

PERCENTILES = (50.0, 90.0, 99.0, 99.9)


class Histogram:
    """Latencies in buckets whose width grows with their value, as in HdrHistogram: any percentile of any number of
    values in constant memory, at most 0.8 % too high and never too low."""

    _BITS = 7  # 128 buckets for each doubling

    def __init__(self) -> None:
        self._counts: list[int] = []
        self.count = 0
        self.highest = 0.0
        """The longest value, exactly, in seconds."""

    def record(self, seconds: float, count: int = 1) -> None:
        """Adds a value ``count`` times; kept to the microsecond."""
        micros = max(int(seconds * 1e6), 0)
        shift = max(micros.bit_length() - self._BITS - 1, 0)
        index = (shift << self._BITS) + (micros >> shift)
        if index >= len(self._counts):
            self._counts.extend([0] * (index + 1 - len(self._counts)))
        self._counts[index] += count
        self.count += count
        self.highest = max(self.highest, seconds)

    def record_missed(self, missed: Missed) -> None:
        """Adds evenly spaced values from the shortest to the longest, in at most 1,000 steps."""
        steps = min(missed.count, 1_000)
        for step in range(steps):
            share = (step + 1) / steps
            count = missed.count * (step + 1) // steps - missed.count * step // steps
            self.record(missed.shortest + (missed.longest - missed.shortest) * share, count)

    def percentile(self, percent: float) -> float | None:
        """Seconds within which ``percent`` % of the values lie; ``None`` without values."""
        if not self.count:
            return None
        rank = max(1.0, self.count * percent / 100)
        passed = 0
        for index, number in enumerate(self._counts):
            passed += number
            if passed >= rank - 1e-9:  # 99.9 % of 1,000 is 999.0000000000001 in binary
                return min(self._upper(index), self.highest)
        return self.highest

    def _upper(self, index: int) -> float:
        """The end of a bucket, in seconds."""
        shift = max((index >> self._BITS) - 1, 0)
        return ((index - (shift << self._BITS) + 1) << shift) / 1e6

    def milliseconds(self) -> dict[str, float | None]:
        """``{"p50": …, "p99.9": …, "max": …}`` in milliseconds."""
        figures = {f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES}
        figures["max"] = self.highest if self.count else None
        return {name: None if seconds is None else round(seconds * 1e3, 3) for name, seconds in figures.items()}


@dataclass(slots=True)
class Meters:
    """What is counted while the run goes on. Times in seconds, latencies of acknowledged requests only."""

    errors: Counter[str]
    latency: Histogram = field(default_factory=Histogram)
    """From the time a request was due (in a closed loop: sent) to its acknowledgement, retries included."""
    service: Histogram = field(default_factory=Histogram)
    """From the time it was sent."""
    acked: int = 0
    refused: int = 0
    unacked: int = 0
    replays: int = 0
    elapsed: float = 0.0
    missed: Missed = field(default_factory=Missed)
    phase: str = "sending"
    read: int = 0
    """Rows read back so far."""


@dataclass(frozen=True, slots=True)
class Report:
    """A finished run."""

    run: str
    seed: int
    url: str
    projects: Sequence[str]
    rate: float | None
    batch: int
    seconds: float
    interrupted: bool
    latency: Mapping[str, float | None]
    service: Mapping[str, float | None]
    errors: Mapping[str, int]
    complaint: str | None
    replays: int
    bad_answers: int
    missed_events: int
    tally: Tally

    @property
    def events_per_second(self) -> float:
        """Acknowledged events by the time it took to send them."""
        return self.tally.acked / self.seconds if self.seconds > 0 else 0.0

    @property
    def ok(self) -> bool:
        """Whether the service kept its word."""
        return self.tally.honest and not self.bad_answers

    @property
    def exit_code(self) -> int:
        """1: the service broke its word. 2: it took nothing of what was sent, so nothing was shown. 0: all is well."""
        if not self.ok:
            return 1
        return 2 if self.tally.sent and not self.tally.acked else 0

    def to_json(self) -> dict[str, Any]:
        """Everything, as one JSON object. Latencies in milliseconds."""
        tally = self.tally
        return {
            "ok": self.exit_code == 0,
            "run": self.run,
            "seed": self.seed,
            "url": self.url,
            "projects": list(self.projects),
            "rate": self.rate,
            "batch": self.batch,
            "seconds": round(self.seconds, 3),
            "interrupted": self.interrupted,
            "events_per_second": round(self.events_per_second, 1),
            "latency_ms": dict(self.latency),
            "service_time_ms": dict(self.service),
            "errors": dict(self.errors),
            "first_refusal": self.complaint,
            "idempotent_replays": self.replays,
            "bad_answers": self.bad_answers,
            "missed_events": self.missed_events,
            "ledger": {
                "sent": tally.sent,
                "acked": tally.acked,
                "stored": tally.stored,
                "lost": tally.lost,
                "duplicated": tally.duplicated,
                "unacked": tally.unacked,
                "unacked_stored": tally.unacked_stored,
                "refused": tally.refused,
                "refused_stored": tally.refused_stored,
                "foreign": tally.foreign,
                "compared": tally.compared,
                "altered": tally.altered,
            },
            "examples": {kind: list(listed) for kind, listed in tally.examples.items()},
        }

    def render(self) -> RenderableType:
        """The tables for a terminal."""
        tally = self.tally
        ledger = Table("sent", "acked", "stored", "lost", "duplicated", "unacked", title="ledger (events)")
        for column in ledger.columns:
            column.justify = "right"
        unacked = f"{tally.unacked:,}" + (f" ({tally.unacked_stored:,} stored)" if tally.unacked_stored else "")
        ledger.add_row(
            f"{tally.sent:,}",
            f"{tally.acked:,}",
            f"{tally.stored:,}",
            _alarm(tally.lost),
            _alarm(tally.duplicated),
            unacked,
        )
        parts: list[RenderableType] = [self._speed(), ledger]
        notes = [
            (tally.refused, "events were refused for good", False),
            (self.replays, "events had been stored by an attempt whose answer was lost", False),
            (self.missed_events, "events were due and never sent: every client was waiting for an answer", False),
            (self.bad_answers, "answers were 201 without one id for each event", True),
            (tally.refused_stored, "events were refused and stored all the same", True),
            (tally.foreign, "events were found where this run never sent them", True),
            (tally.altered, "events came back other than they were sent", True),
        ]
        parts += [Text(f"{count:,} {what}", style="red" if bad else "yellow") for count, what, bad in notes if count]
        parts += [Text(f"  {code}: {count:,}", style="yellow") for code, count in sorted(self.errors.items())]
        if self.complaint:
            parts.append(Text(f"first refusal: {self.complaint}", style="yellow"))
        for kind, listed in tally.examples.items():
            parts += [Text(f"{kind}: {what}", style="red") for what in listed]
        parts.append(self._verdict())
        return Group(*parts)

    def _speed(self) -> Table:
        table = Table("latency (ms)", *self.latency, title=f"{self.events_per_second:,.0f} acknowledged events/s")
        for column in table.columns[1:]:
            column.justify = "right"
        table.add_row("from the scheduled time" if self.rate else "per request", *_figures(self.latency))
        if self.rate:
            table.add_row("from sending", *_figures(self.service))
        return table

    def _verdict(self) -> Text:
        tally = self.tally
        if self.exit_code == 1:
            return Text("FAILED: the service did not keep its word about what it stored", style="bold red")
        if self.exit_code == 2:
            return Text("NOTHING SHOWN: no event was acknowledged", style="bold red")
        said = f"OK: all {tally.acked:,} acknowledged events are stored once; {tally.compared:,} compared equal"
        return Text(said + (" (stopped early)" if self.interrupted else ""), style="bold green")


def _alarm(count: int) -> Text:
    return Text(f"{count:,}", style="bold red" if count else "green")


def _figures(figures: Mapping[str, float | None]) -> list[str]:
    return ["–" if value is None else f"{value:,.1f}" for value in figures.values()]


def progress_line(meters: Meters, recent: float) -> str:
    """One line for a log; ``recent`` is acknowledged events a second since the last one."""
    if meters.phase != "sending":
        return f"{meters.phase}: {meters.read:,} events read"
    p50, p99 = (_milliseconds(meters.latency.percentile(percent)) for percent in (50.0, 99.0))
    return (
        f"{meters.elapsed:6.1f} s  {recent:9,.0f} events/s  p50 {p50}  p99 {p99}  "
        f"acked {meters.acked:,}  unacked {meters.unacked:,}  refused {meters.refused:,}  "
        f"errors {sum(meters.errors.values()):,}"
    )


def progress_table(meters: Meters, recent: float) -> RenderableType:
    """The same, to be redrawn in place on a terminal, 80 columns wide at most."""
    if meters.phase == "sending":
        p50, p99 = (_milliseconds(meters.latency.percentile(percent)) for percent in (50.0, 99.0))
        cells = {
            "seconds": f"{meters.elapsed:.1f}",
            "events/s": f"{recent:,.0f}",
            "p50 ms": p50,
            "p99 ms": p99,
            "acked": f"{meters.acked:,}",
            "unacked": f"{meters.unacked:,}",
            "refused": f"{meters.refused:,}",
            "errors": f"{sum(meters.errors.values()):,}",
        }
    else:
        cells = {"acked": f"{meters.acked:,}", "read": f"{meters.read:,}"}
    table = Table(*cells, title=meters.phase, box=None)
    for column in table.columns:
        column.justify = "right"
    table.add_row(*cells.values())
    return table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.1f}"


def show(report: Report, console: Console) -> None:
    """Prints the tables."""
    console.print(report.render())
