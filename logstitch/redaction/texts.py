"""One text through all rules in their order: each rule sees only what the rules before it have left.

What is left and right of a replacement is never joined: each piece is matched as if it were a text of its own.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Final, NamedTuple

from logstitch.redaction.behaviors import Replace
from logstitch.redaction.budget import MAX_TEXT, MAX_UNICODE_TEXT, Budget, OverBudget
from logstitch.redaction.builtins import Finder, Span
from logstitch.redaction.definitions import LIMIT, REDACTED
from logstitch.redaction.folding import View, views

MAX_GROWN: Final = 1536
MAX_GROWTH: Final = 4
"""Characters of a text that replacements (a hash has 71) made longer: the larger of 1,536 and four times the text. So
an id of 256 characters still fits into an index."""


class TextRule(NamedTuple):
    """A rule that looks for something in a text."""

    id: str
    find: Finder
    replace: Replace


class Redacted(NamedTuple):
    """A text that was changed, and the ids of the rules that changed it, ``LIMIT`` for none."""

    text: str
    rules: tuple[str, ...]


def text_slices(text: str, rules: Sequence[TextRule], budget: Budget) -> Generator[None, None, Redacted | None]:
    """``text`` as ``rules`` allow it to be stored; None where none of them finds anything.

    A text that is too long, that takes too long or that replacements make far longer becomes ``[REDACTED]`` altogether.
    In slices: it yields where others may have a turn.
    """
    changed: list[str] = []
    growth = max(MAX_GROWN, MAX_GROWTH * len(text)) - len(text)
    try:
        if len(text) > MAX_TEXT or (len(text) > MAX_UNICODE_TEXT and not text.isascii()):
            raise OverBudget
        budget.begin_value()
        left: list[tuple[int, int, list[View]]] = [(0, len(text), views(text))]
        replaced: list[tuple[int, int, str]] = []
        for rule in rules:
            found = []
            for begin, _, seen in left:
                if here := (yield from _find(rule, seen, budget)):
                    found.append((begin, here))
            if found:
                changed.append(rule.id)
                spans = [(begin + start, begin + end) for begin, spans in found for start, end in spans]
                for start, end in spans:
                    budget.count(0)
                    if budget.tired:
                        yield from _turn(budget)
                    instead = rule.replace(text[start:end])
                    growth -= len(instead) - (end - start)
                    if growth < 0:
                        raise OverBudget
                    replaced.append((start, end, instead))
                left = _without(text, left, spans, budget)
    except OverBudget:
        return Redacted(REDACTED, (*changed, LIMIT))
    if not replaced:
        return None
    replaced.sort()
    parts: list[str] = []
    done = 0
    for start, end, instead in replaced:
        parts += (text[done:start], instead)
        done = end
    parts.append(text[done:])
    return Redacted("".join(parts), tuple(changed))


def _turn(budget: Budget) -> Generator[None, None, None]:
    if budget.due():
        budget.pause()
        yield
        budget.resume()


def _find(rule: TextRule, seen: Sequence[View], budget: Budget) -> Generator[None, None, list[Span]]:
    spans: list[Span] = []
    for view in seen:
        for hit in rule.find(view.data, budget):
            if hit is not None:
                spans.append(view.span(*hit))
            if budget.tired:
                yield from _turn(budget)
        if budget.tired:
            yield from _turn(budget)
    if len(seen) == 1:
        return spans
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def _without(
    text: str, left: Sequence[tuple[int, int, list[View]]], spans: Sequence[Span], budget: Budget
) -> list[tuple[int, int, list[View]]]:
    """``left`` without ``spans``, each of which lies in one piece; both are in order."""

    def piece(begin: int, stop: int) -> tuple[int, int, list[View]]:
        budget.count(stop - begin)
        return begin, stop, views(text[begin:stop])

    pieces: list[tuple[int, int, list[View]]] = []
    taken = iter([*spans, (len(text) + 1, len(text) + 1)])
    start, end = next(taken)
    for begin, stop, seen in left:
        if start >= stop:
            pieces.append((begin, stop, seen))
            continue
        while start < stop:
            if start > begin:
                pieces.append(piece(begin, start))
            begin = end
            start, end = next(taken)
        if begin < stop:
            pieces.append(piece(begin, stop))
    return pieces
