"""Field paths: ``metadata.card``, ``changes.*.before``, ``metadata.**.ssn``.

``*`` is one level, ``**`` any number of levels, none included; at the end of a path ``**`` is everything below. A list
item is one level, named by its index. A key that has dots in it is also found by the parts between its dots, and a key
is compared as it is and as it is seen, folded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import re2

from logstitch.redaction.definitions import SECTIONS
from logstitch.redaction.folding import fold

MAX_PATH_CHARS: Final = 512
MAX_PATH_PARTS: Final = 32


class Node:
    """A place in the tree of all paths: where each next part of a key leads."""

    __slots__ = ("any", "below", "named", "rule")

    def __init__(self, below: bool = False) -> None:
        self.named: dict[str, Node] = {}
        self.any: Node | None = None
        self.below = below
        """Whether the node stands for ``**``: it is still there one level down."""
        self.rule: int | None = None
        """The first rule one of whose paths ends here."""


Nodes = tuple[Node, ...]


def path_error(path: str) -> str | None:
    """What is wrong with a field path, or None."""
    parts = path.split(".")
    if len(path) > MAX_PATH_CHARS:
        return f"Must have at most {MAX_PATH_CHARS} characters"
    if parts[0] not in SECTIONS:
        return f"Must start with one of {', '.join(SECTIONS)}"
    if len(parts) > MAX_PATH_PARTS:
        return f"Must have at most {MAX_PATH_PARTS} parts"
    if not all(parts):
        return "Must not have an empty part"
    return None


def tree(rules: Iterable[Iterable[str]]) -> Node | None:
    """All paths of all rules as one tree; None for no path. Rules are known by their place in the order given."""
    root = Node()
    for index, paths in enumerate(rules):
        for path in paths:
            node = root
            parts = path.split(".")
            for place, part in enumerate(parts):
                if part == "**":
                    node = node.named.setdefault("**", Node(below=True))
                    if place == len(parts) - 1:
                        node.any = node = node.any or Node()
                elif part == "*":
                    node.any = node = node.any or Node()
                else:
                    node = node.named.setdefault(part, Node())
            if node.rule is None:
                node.rule = index
    return root if root.named else None


def start(root: Node) -> Nodes:
    """Where a look at an event begins."""
    return _closure((root,))


def step(nodes: Nodes, key: str) -> tuple[Nodes, int | None]:
    """One level down: where the paths are now, and the first rule that has reached its end."""
    found: dict[Node, None] = {}
    for name in _spellings(key):
        found.update(dict.fromkeys(_one_level(nodes, name)))
        if "." in name:
            # As if each part were a level, but a wildcard level may stand for the whole key as well.
            parts = name.split(".")
            now = nodes
            for part in parts:
                now = _one_level(now, part)
            found.update(dict.fromkeys(now))
    rules = [node.rule for node in found if node.rule is not None]
    return tuple(found), min(rules, default=None)


def key_patterns(paths: Iterable[str]) -> Iterator[str]:
    """For each path a pattern (RE2) that matches the JSON of every event in which the path finds something.

    Names in need of an escape, and keys that only look like the name, are for others to suspect.
    """
    for path in paths:
        parts = path.split(".")
        last = max(i for i, part in enumerate(parts) if part not in ("*", "**") and not part.isdecimal())
        # A key with dots may hold the rest of the path, too.
        yield re2.escape(parts[last]) + ('":' if last == len(parts) - 1 else '(?:":|\\.)')


def _spellings(key: str) -> tuple[str, ...]:
    if key.isascii() and key.isprintable():
        return (key,)
    folded = fold(key)
    return (key,) if folded == key else (key, folded)


def _one_level(nodes: Nodes, name: str) -> Nodes:
    found: dict[Node, None] = {}
    for node in nodes:
        if node.below:
            found[node] = None
        if node.any is not None:
            found[node.any] = None
        # A key may be called "**", but what stands under that name is the wildcard.
        if name != "**" and (child := node.named.get(name)) is not None:
            found[child] = None
    return _closure(found)


def _closure(nodes: Iterable[Node]) -> Nodes:
    """``**`` may stand for no level at all."""
    found: dict[Node, None] = {}
    waiting = list(nodes)
    for node in waiting:
        if node not in found:
            found[node] = None
            if (below := node.named.get("**")) is not None:
                waiting.append(below)
    return tuple(found)
