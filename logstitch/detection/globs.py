"""Globs over actions: ``*`` stands for any run of characters, dots included, and nothing else is special.

There is nothing to go back to: what stands between two stars is taken where it is found first, because an earlier place
leaves more to what follows. So the time is that of a few searches for a text, whatever the pattern.
"""

from __future__ import annotations

from collections.abc import Callable


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """Whether the whole of a text is as the pattern says."""
    first, *others = pattern.split("*")
    if not others:
        return lambda text: text == pattern
    *between, last = others
    parts = [part for part in between if part]
    shortest = len(first) + len(last)

    def matches(text: str) -> bool:
        if len(text) < shortest or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for part in parts:
            at = text.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return matches
