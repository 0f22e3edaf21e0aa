"""SQL lives in ``.sql`` files as named statements; Python only ever says their names.

A file in ``logstitch/store/sql``, say ``events.sql``, is a sequence of blocks::

    -- name: lock_head
    -- Whole-line comments are dropped: psycopg would read a ``%`` in them as a placeholder.
    SELECT seq FROM project_heads WHERE project_no = %(project_no)s FOR UPDATE;

What several statements of a file have to say alike stands once, before them, as a fragment, and each includes it::

    -- fragment: shown
    (%(categories)s::text[] IS NULL OR category = ANY (%(categories)s))
    AND (%(actions)s::text[] IS NULL OR action LIKE ANY (%(actions)s))

    -- name: find_shown_event
    SELECT body FROM events WHERE project_no = %(project_no)s AND id = %(id)s
      AND -- include: shown

The first line of the fragment takes the place of the words, the others stand below, as far to the right as the line
that includes it. A fragment may include those before it.

The module beside it says ``_sql = load("events")`` and then ``_sql.lock_head``. All files are read and checked once,
when this module is imported, so a malformed or missing one stops the program at start. An unknown name raises
``AttributeError`` where it is used; a test finds those beforehand by looking through the store's modules.

The shape follows procrastinate's ``sql/__init__.py``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import LiteralString

from logstitch.errors import ConfigurationError

_NAME_LINE = re.compile(r"--\s*(name|fragment):\s*(.*?)\s*")
_INCLUDE = re.compile(r"(?P<before>(?P<indent>\s*)(?:(?!--).)*)--\s*include:\s*(?P<name>.*?)\s*")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
# What psycopg replaces (its manual, "Passing parameters"): %s, %b, %t, the same with (name), and %% for a percent sign.
_PLACEHOLDER = re.compile(r"%(?:\((?P<name>[^)]*)\))?(?P<kind>.?)", re.DOTALL)
_PREPARABLE = ("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "VALUES", "WITH")


@dataclass(frozen=True, slots=True)
class Statement:
    """One named statement: ``text`` is what psycopg gets, ``source`` is ``file.sql:line`` for messages."""

    name: str
    text: LiteralString  # it is: the file is as much part of the program as a literal would be
    source: str

    @property
    def preparable(self) -> bool:
        """False for what PREPARE does not take: COPY, LISTEN, SET and other utility statements."""
        return self.text.lstrip("( \n").upper().startswith(_PREPARABLE)

    def numbered(self) -> LiteralString:
        """The statement as PREPARE wants it: ``$1``, ``$2``… instead of psycopg's placeholders, ``%%`` as ``%``.

        A name used twice keeps its number. Types are left to the server, so a parameter that it cannot infer (``%(x)s
        IS NULL``) needs a cast in the statement: psycopg sends strings untyped and would fail on it just the same.
        """
        numbers: dict[str, int] = {}

        def number(match: re.Match[str]) -> str:
            if match["kind"] == "%":
                return "%"
            key = match["name"] or f"#{len(numbers)}"
            return f"${numbers.setdefault(key, len(numbers) + 1)}"

        return _PLACEHOLDER.sub(number, self.text)


class Queries:
    """The statements of one file, by attribute (their text) or by iteration (:class:`Statement`)."""

    def __init__(self, statements: dict[str, Statement]) -> None:
        self._statements = statements

    def __getattr__(self, name: str) -> LiteralString:
        if name.startswith("_"):  # never a statement; copy and pickle ask for such names before __init__ has run
            raise AttributeError(name)
        try:
            return self._statements[name].text
        except KeyError:
            near = difflib.get_close_matches(name, self._statements, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise AttributeError(f"no statement is named {name!r}{hint}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._statements

    def __iter__(self) -> Iterator[Statement]:
        return iter(self._statements.values())

    def __len__(self) -> int:
        return len(self._statements)


def load(file: str) -> Queries:
    """The statements of ``<file>.sql``; :class:`ConfigurationError` when the package has no such file."""
    try:
        return _files[file]
    except KeyError:
        raise ConfigurationError(f"there is no {file}.sql among the statements") from None


def every_statement() -> Iterator[Statement]:
    """Every statement of every file: for a test that PREPAREs them all against the migrated schema."""
    for statements in _files.values():
        yield from statements


def read(directory: Traversable) -> dict[str, Queries]:
    """Read every ``*.sql`` directly inside ``directory`` (not below it: migrations are another thing), by file name.

    Raises :class:`ConfigurationError` naming file and line: text before the first name, a bad or repeated name, an
    empty statement, several statements under one name, a ``%`` that psycopg would refuse or take for something else, a
    fragment that is not there or that nothing includes.
    """
    return {
        file.name.removesuffix(".sql"): _read(file)
        for file in sorted(directory.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".sql")
    }


def _read(file: Traversable) -> Queries:
    statements: dict[str, Statement] = {}
    for statement in _parse(file.name, file.read_text(encoding="utf-8")):
        if (other := statements.get(statement.name)) is not None:
            raise ConfigurationError(f"{statement.source}: {statement.name!r} is also at {other.source}")
        statements[statement.name] = statement
    return Queries(statements)


def _parse(file: str, text: str) -> Iterator[Statement]:
    fragments = _Fragments()
    for block in _blocks(file, text):
        if not _NAME.fullmatch(block.name):
            raise ConfigurationError(f"{block.source}: {block.name!r} cannot name a statement")
        lines = [filled for source, line in block.lines for filled in fragments.fill(source, line)]
        if block.is_fragment:
            fragments.add(block.name, block.source, lines)
        else:
            yield _statement(block.name, block.source, lines)
    fragments.check()


@dataclass(frozen=True, slots=True)
class _Block:
    """A name and what stands below it: each line with its ``file.sql:line``, comments and empty lines left out."""

    is_fragment: bool
    name: str
    source: str
    lines: list[tuple[str, str]]


def _blocks(file: str, text: str) -> Iterator[_Block]:
    block = None
    for number, line in enumerate(text.splitlines(), start=1):
        source = f"{file}:{number}"
        if (match := _NAME_LINE.fullmatch(line.strip())) is not None:
            if block is not None:
                yield block
            block = _Block(match[1] == "fragment", match[2], source, [])
        elif line.strip() and (not line.lstrip().startswith("--") or _INCLUDE.fullmatch(line) is not None):
            if block is None:
                raise ConfigurationError(f"{source}: SQL before the first '-- name:' line")
            block.lines.append((source, line.rstrip()))
    if block is not None:
        yield block


class _Fragments:
    """The fragments of a file, as far as it was read."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}
        self._sources: dict[str, str] = {}
        self._unused: set[str] = set()

    def add(self, name: str, source: str, lines: list[str]) -> None:
        if name in self._sources:
            raise ConfigurationError(f"{source}: {name!r} is also at {self._sources[name]}")
        if not lines:
            raise ConfigurationError(f"{source}: {name!r} is empty")
        self._lines[name], self._sources[name] = lines, source
        self._unused.add(name)

    def fill(self, source: str, line: str) -> list[str]:
        """The line, or the lines that it makes with the fragment that it includes."""
        match = _INCLUDE.fullmatch(line)
        if match is None:
            return [line]
        if match["name"] not in self._lines:
            raise ConfigurationError(f"{source}: no fragment before this is named {match['name']!r}")
        self._unused.discard(match["name"])
        first, *rest = self._lines[match["name"]]
        return [match["before"] + first, *(match["indent"] + other for other in rest)]

    def check(self) -> None:
        """Raise for one that nothing includes: as likely as not, something should."""
        for name in sorted(self._unused):
            raise ConfigurationError(f"{self._sources[name]}: nothing includes {name!r}")


def _statement(name: str, source: str, lines: list[str]) -> Statement:
    text = "\n".join(lines).strip().removesuffix(";").rstrip()
    if not text:
        raise ConfigurationError(f"{source}: {name!r} is empty")
    if re.search(r";[ \t]*(\n|$)", text):
        # Two statements in one string only work without parameters, and never as a prepared statement.
        raise ConfigurationError(f"{source}: {name!r} has more than one statement")
    marks = list(_PLACEHOLDER.finditer(text))
    for mark in marks:
        if mark["kind"] not in ("s", "b", "t", "%") or (mark["name"] is not None and mark["kind"] == "%"):
            raise ConfigurationError(f"{source}: {name!r} has a '%' that is neither a placeholder nor '%%'")
    real = [mark for mark in marks if mark["kind"] != "%"]
    if marks and not real:
        # psycopg leaves '%%' alone where there are no parameters, so LIKE 'a%%' would mean two percent signs.
        raise ConfigurationError(f"{source}: {name!r} has '%%' but no parameter; pass the pattern as a parameter")
    if len({mark["name"] is None for mark in real}) > 1:
        raise ConfigurationError(f"{source}: {name!r} mixes named and positional parameters")
    return Statement(name, text, source)


_files = read(resources.files("logstitch.store") / "sql")
