"""Field paths: ``metadata.card``, ``changes.*.before``, ``metadata.**.ssn``.

``*`` is one level, ``**`` any number of levels, none included; at the end of a path ``**`` is everything below. A list
item is one level, named by its index. A key that has dots in it is also found by the parts between its dots, as if each
were a level: a path that ends at one of them takes all that such a level would hold, and so the value of the key. A key
is compared as it is, composed (NFC, as paths are), and as it is seen, folded.

The paths are customers' and the keys are senders', so the work for one key is bounded: so many parts, so many places
in the tree at once, so many places over all parts, and so many characters to fold. What lies beyond is not looked at
but taken: the value of such a key goes by the first of the rules that might still have found it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from unicodedata import normalize

import re2

from logstitch.redaction.budget import Budget
from logstitch.redaction.folding import fold
from logstitch.sections import SECTIONS

MAX_PATH_CHARS: Final = 512
MAX_PATH_PARTS: Final = 32
MAX_KEY_PARTS: Final = 64
"""Of a key with dots. A path without ``**`` cannot find more than its own 32."""
MAX_LIVE: Final = 256
"""Places in the tree at once. Paths share what they begin with, so only wildcards in many combinations make so many."""
MAX_STEPS: Final = 4096
"""Places over all parts of one key: 2 to 4 ms."""
MAX_FOLDED: Final = 8192
"""Characters of a key that is not plain ASCII. No path is nearly as long."""

_MOST_OF_PATTERN: Final = 500
"""Characters of the names that one pattern looks for: about an instruction each."""


class Node:
    """A place in the tree of all paths: where each next part of a key leads."""

    __slots__ = ("any", "below", "first", "named", "rule")

    def __init__(self, below: bool = False) -> None:
        self.named: dict[str, Node] = {}
        self.any: Node | None = None
        self.below = below
        """Whether the node stands for ``**``: it is still there one level down."""
        self.rule: int | None = None
        """The first rule one of whose paths ends here."""
        self.first: int | None = None
        """The first rule one of whose paths goes through here or ends here."""


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
            parts = normalize("NFC", path).split(".")
            for place, part in enumerate(parts):
                if part == "**":
                    node = node.named.setdefault("**", Node(below=True))
                    if place == len(parts) - 1:
                        _mark(node, index)
                        node.any = node = node.any or Node()
                elif part == "*":
                    node.any = node = node.any or Node()
                else:
                    node = node.named.setdefault(part, Node())
                _mark(node, index)
            if node.rule is None:
                node.rule = index
    return root if root.named else None


def start(root: Node) -> Nodes:
    """Where a look at an event begins."""
    return _closure((root,))


def step(nodes: Nodes, key: str, budget: Budget | None = None) -> tuple[Nodes, int | None]:
    """One level down: where the paths are now, and the first rule that has reached its end, or may have. The end may be
    at any part of a key with dots: the rest of the key and its value are below it.

    ``budget`` is told the steps that it took. It is for the caller to look at the clock after at most ``MAX_STEPS``.
    """
    found: dict[Node, None] = {}
    ended: set[int] = set()
    steps = 0
    unsure: Nodes = ()
    for name in _spellings(key):
        if name is None:
            unsure += nodes
            continue
        steps += len(nodes)
        found.update(dict.fromkeys(_one_level(nodes, name)))
        if "." in name:
            # As if each part were a level, but a wildcard level may stand for the whole key as well.
            now = nodes
            for place, part in enumerate(name.split(".", MAX_KEY_PARTS)):
                if not now:
                    break
                if place == MAX_KEY_PARTS or len(now) > MAX_LIVE or steps > MAX_STEPS:
                    unsure += now
                    break
                steps += len(now)
                now = _one_level(now, part)
                ended.update([node.rule for node in now if node.rule is not None])
            else:
                found.update(dict.fromkeys(now))
    if len(found) > MAX_LIVE:
        unsure += tuple(found)
    if budget is not None:
        budget.steps += steps + (0 if key.isascii() else min(len(key), MAX_FOLDED) // 16)
    ended.update([node.rule for node in found if node.rule is not None])
    if not ended and unsure:
        ended.update([node.first for node in unsure if node.first is not None])
    return tuple(found), min(ended, default=None)


def key_patterns(paths: Iterable[str]) -> Iterator[str]:
    """Patterns (RE2) one of which matches the JSON of every event in which one of these paths finds something.

    Keys in need of an escape, and keys that only look like the name, are for others to suspect.
    """
    names: dict[str, None] = {}
    for path in paths:
        parts = normalize("NFC", path).split(".")
        names[next(part for part in reversed(parts) if part not in ("*", "**") and not part.isdecimal())] = None
    waiting = list(map(re2.escape, names))
    while waiting:
        # Names share what may follow them, which takes as many instructions as a name or two.
        piece = [waiting.pop()]
        size = len(piece[0])
        while waiting and size + len(waiting[-1]) <= _MOST_OF_PATTERN:
            piece.append(waiting.pop())
            size += len(piece[-1])
        # A key with dots may go on. What is a value ends with no colon, whatever it says.
        yield f'(?:{"|".join(piece)})(?:\\.[^"\\\\]*)?":'


def _mark(node: Node, rule: int) -> None:
    if node.first is None:
        node.first = rule


def _spellings(key: str) -> tuple[str | None, ...]:
    """The readings of a key; None for the one that would take too long."""
    if key.isascii() and key.isprintable():
        return (key,)
    if len(key) > MAX_FOLDED:
        return (key, None)
    return tuple(dict.fromkeys((key, normalize("NFC", key), fold(key))))


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
    """``**`` may stand for no level at all. One node more than ``MAX_LIVE`` is as good as all of them."""
    found: dict[Node, None] = {}
    waiting = list(nodes)
    for node in waiting:
        if len(found) > MAX_LIVE:
            break
        if node not in found:
            found[node] = None
            if (below := node.named.get("**")) is not None:
                waiting.append(below)
    return tuple(found)
