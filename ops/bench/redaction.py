"""What redaction costs an event: CPU of the engine alone, on batches of 100 realistic events, by rules and by dirt.

    ops/bench/run redaction [--rounds 15] [--json FILE]

Each line is the median, over rounds in which every line has its turn, of a batch's CPU time divided by its events;
`longest slice` is the longest time for which anything else would have waited. A dirty event has a card number in its
metadata and an AWS key id in its user agent. The patterns that cost most are those that the service still accepts when
they are saved, on the events that suit them worst; there the time is what one event of 32 KB of metadata takes.
Goals: a clean event takes 3 µs at most with the default rules, 10 µs with 20 custom patterns, and no slice 100 ms.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from logstitch.loadtest.plan import synthetic_event
from logstitch.redaction.engine import Redaction, RuleSet, slices
from logstitch.redaction.rules import (
    BUILTINS,
    DEFAULT_BUILTINS,
    Behavior,
    BuiltinState,
    CustomRule,
    RuleType,
    check_rule,
    compile_rules,
)
from ops.bench.measure import describe_machine

BATCH = 100
REPEATS = 5
"""Of a line before the next one has its turn: in a busy service, too, batch follows batch and finds its caches warm."""
SEED = 7
SECRET = bytes(32)
CARD = "4111 1111 1111 1111"
AWS_KEY = "AKIAIOSFODNN7EXAMPLE"
SENTENCES = (
    "登录失败，请稍后重试！（密码错误）",
    "ログインに失敗しました。再試行しますか？",
    "प्रवेश विफल रहा, कृपया पुनः प्रयास करें",
    "การเข้าสู่ระบบล้มเหลว โปรดลองอีกครั้ง",
    "deployed 🚀 looks good ❤️ 👨‍👩‍👧 …",
)

# What companies look for, and what their events do not hold.
_PATTERNS = r"""
CUST-\d{8}
EMP\d{6}
(?i)password\s*[:=]\s*\S+
(?i)secret\s*[:=]\s*\S+
\b[A-Z]{2}\d{2}[A-Z0-9]{11,30}\b
(?i)\bpassport\s+[A-Z]\d{8}\b
MRN-?\d{7}
\b\d{3}-\d{4}-\d{4}-\d{2}\b
(?i)dob:\s*\d{4}-\d\d-\d\d
ACCT#\d+
(?i)license\s+[A-Z]\d{7}
IBAN [A-Z0-9 ]{15,34}
BEGIN (?:RSA |EC )?PRIVATE KEY
xkeysib-[a-f0-9]{64}
shpat_[a-f0-9]{32}
https?://[^/\s:]+:[^@\s]+@
(?i)pin\s*code\s*\d{4,6}
NHS \d{3} \d{3} \d{4}
\bTAX-[0-9]{9}\b
(?i)medicare\s+\d{10}
"""
PATTERNS = _PATTERNS.strip("\n").splitlines()
WORST = {
    "worst pattern: matches every letter": (r"[a-z]", "ab" * 16_000),
    "worst pattern: remembers 150 characters": (r"e.{150}\x00", "e" * 32_000),
    "worst pattern: quadratic over all matches": (r".*[^A-Z]|[A-Z]", "A" * 32_000),
}


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table. ``us``: microseconds of CPU an event; ``slice_ms``: the longest slice."""

    name: str
    us: float
    slice_ms: float
    goal: str


def batch(dirty: float) -> list[dict[str, Any]]:
    """A batch as it leaves the gate, with a share of dirty events."""
    rng = random.Random(SEED)
    events = []
    for index in range(BATCH):
        event = json.loads(json.dumps(synthetic_event(rng, index)))
        if index < dirty * BATCH:
            event["metadata"]["payment"] = f"card {CARD}"
            event["context"]["user_agent"] += f" {AWS_KEY}"
        events.append(event)
    return events


def in_other_scripts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events, each with a sentence that is not English."""
    for index, event in enumerate(events):
        event["metadata"]["note"] = SENTENCES[index % len(SENTENCES)]
    return events


def rules(patterns: Sequence[str] = (), *, builtins: Sequence[BuiltinState] = DEFAULT_BUILTINS) -> RuleSet:
    """Compiled from what would be accepted when it is saved."""
    custom = [
        CustomRule(f"{index}", "bench", RuleType.PATTERN, pattern, (), Behavior.REPLACE, True)
        for index, pattern in enumerate(patterns)
    ]
    for rule in custom:
        check_rule(rule)
    return compile_rules(builtins, custom, secret=SECRET)


def timed(events: Sequence[dict[str, Any]], given: RuleSet) -> tuple[list[Redaction], float, float]:
    """The results, the CPU seconds of it all, and of the longest slice."""
    work = slices(events, given)
    total = longest = 0.0
    while True:
        began = time.thread_time()
        try:
            next(work)
            done = None
        except StopIteration as stop:
            done = stop.value
        used = time.thread_time() - began
        total, longest = total + used, max(longest, used)
        if done is not None:
            return done, total, longest


def cases() -> list[tuple[str, list[dict[str, Any]], RuleSet, str, Callable[[list[Redaction]], bool]]]:
    """Name, events, rules, goal, and whether what came out is what must come out."""
    every = [BuiltinState(one.slug, True, Behavior.REPLACE) for one in BUILTINS]
    default, twenty = rules(), rules(PATTERNS)

    def dirt(share: float) -> Callable[[list[Redaction]], bool]:
        return lambda done: sum(bool(one.changes) for one in done) == round(share * BATCH)

    found: list[tuple[str, list[dict[str, Any]], RuleSet, str, Callable[[list[Redaction]], bool]]] = [
        ("no rules", batch(0), RuleSet(), "", dirt(0)),
        ("clean, default rules", batch(0), default, "≤ 3", dirt(0)),
        ("clean, default rules and 20 patterns", batch(0), twenty, "≤ 10", dirt(0)),
        ("clean, in other scripts, default rules", in_other_scripts(batch(0)), default, "≤ 3", dirt(0)),
        ("clean, in other scripts, default rules and 20 patterns", in_other_scripts(batch(0)), twenty, "", dirt(0)),
        ("1 % dirty, default rules", batch(0.01), default, "", dirt(0.01)),
        ("1 % dirty, default rules and 20 patterns", batch(0.01), twenty, "", dirt(0.01)),
        ("100 % dirty, default rules", batch(1), default, "", dirt(1)),
        ("100 % dirty, default rules and 20 patterns", batch(1), twenty, "", dirt(1)),
        ("100 % dirty, all eight built-ins", batch(1), rules(builtins=every), "", dirt(1)),
    ]
    for name, (pattern, text) in WORST.items():
        event = batch(0)[0] | {"metadata": {"text": text}}
        found.append((name, [event], rules([pattern]), "slice < 100 ms", lambda done: len(done) == 1))
    return found


def measure(rounds: int) -> list[Line]:
    """Every case in every round. Raises ``RuntimeError`` where redaction itself went wrong."""
    todo = cases()
    totals: list[list[float]] = [[] for _ in todo]
    longest = [0.0] * len(todo)
    gc.collect()
    gc.freeze()
    for _ in range(rounds + 1):  # the first one warms up
        for index, (name, events, given, _, holds) in enumerate(todo):
            for _ in range(REPEATS):
                done, seconds, piece = timed(events, given)
                if not holds(done):
                    raise RuntimeError(f"{name}: not redacted as it should be")
                totals[index].append(seconds / len(events) * 1e6)
                longest[index] = max(longest[index], piece)
    return [
        Line(name, statistics.median(total[REPEATS:]), piece * 1e3, goal)
        for (name, _, _, goal, _), total, piece in zip(todo, totals, longest, strict=True)
    ]


def main() -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        prog="ops/bench/run redaction", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    given = parser.parse_args()
    lines = measure(given.rounds)
    print("| events and rules | µs an event | longest slice, ms | goal |\n| --- | ---: | ---: | --- |")
    for line in lines:
        print(f"| {line.name} | {line.us:,.1f} | {line.slice_ms:.1f} | {line.goal} |")
    if given.json:
        given.json.write_text(
            json.dumps({"machine": describe_machine(Path.cwd()), "lines": [asdict(line) for line in lines]})
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
