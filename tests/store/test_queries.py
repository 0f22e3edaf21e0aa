"""Named statements: how files are read, and that the package only says names that exist."""

from __future__ import annotations

import ast
import copy
from importlib import resources
from pathlib import Path

import psycopg
import pytest

from logstitch.errors import ConfigurationError
from logstitch.store.queries import Queries, Statement, every_statement, load, read

TWO = """\
-- What this file is about: 100% of the heads.

-- name: lock_head
-- With a remark of 50%.
SELECT size FROM heads
WHERE tenant = %(tenant)s FOR UPDATE;

-- name: forget
DELETE FROM heads WHERE tenant = %(tenant)s AND name LIKE '%%x' AND size > %(size)s OR tenant = %(tenant)s
"""


SHARED = """\
-- fragment: shown
(%(categories)s IS NULL OR category = ANY (%(categories)s))
AND (%(actions)s IS NULL OR action = ANY (%(actions)s))

-- What else may be asked for; a remark -- include: nothing
-- fragment: wanted
(%(actor)s IS NULL OR actor = %(actor)s)
AND -- include: shown

-- name: find
SELECT body FROM events
WHERE id = %(id)s
  AND -- include: shown
FOR UPDATE;

-- name: walk
SELECT id, (
    -- include: wanted
) AS passes FROM events;
"""


def parse(tmp_path: Path, text: str) -> Queries:
    (tmp_path / "some.sql").write_text(text, encoding="utf-8")
    return read(tmp_path)["some"]


def test_a_name_stands_for_its_statement(tmp_path: Path) -> None:
    queries = parse(tmp_path, TWO)

    assert queries.lock_head == "SELECT size FROM heads\nWHERE tenant = %(tenant)s FOR UPDATE"
    assert [statement.name for statement in queries] == ["lock_head", "forget"]
    assert len(queries) == 2
    assert "forget" in queries
    assert next(iter(queries)).source == "some.sql:3"


def test_what_statements_share_stands_once_and_is_put_where_they_include_it(tmp_path: Path) -> None:
    queries = parse(tmp_path, SHARED)

    assert [statement.name for statement in queries] == ["find", "walk"]
    assert queries.find == (
        "SELECT body FROM events\n"
        "WHERE id = %(id)s\n"
        "  AND (%(categories)s IS NULL OR category = ANY (%(categories)s))\n"
        "  AND (%(actions)s IS NULL OR action = ANY (%(actions)s))\n"
        "FOR UPDATE"
    )
    assert queries.walk == (
        "SELECT id, (\n"
        "    (%(actor)s IS NULL OR actor = %(actor)s)\n"
        "    AND (%(categories)s IS NULL OR category = ANY (%(categories)s))\n"
        "    AND (%(actions)s IS NULL OR action = ANY (%(actions)s))\n"
        ") AS passes FROM events"
    )


def test_an_unknown_name_is_refused_with_a_hint(tmp_path: Path) -> None:
    queries = parse(tmp_path, TWO)

    with pytest.raises(AttributeError, match=r"no statement is named 'lock_haed'; did you mean 'lock_head'\?"):
        _ = queries.lock_haed
    assert copy.copy(queries).lock_head == queries.lock_head


def test_an_unknown_file_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"no nothing\.sql"):
        load("nothing")


def test_numbered_placeholders_for_prepare(tmp_path: Path) -> None:
    _, forget = parse(tmp_path, TWO)

    assert forget.numbered() == "DELETE FROM heads WHERE tenant = $1 AND name LIKE '%x' AND size > $2 OR tenant = $1"


def test_positional_placeholders_are_all_different(tmp_path: Path) -> None:
    (statement,) = parse(tmp_path, "-- name: pair\nSELECT %s, %s::text, %b")

    assert statement.numbered() == "SELECT $1, $2::text, $3"


@pytest.mark.parametrize(
    ("text", "preparable"),
    [("WITH a AS (SELECT 1) SELECT", True), ("(SELECT 1)", True), ("COPY t FROM STDIN", False), ("LISTEN x", False)],
)
def test_utility_statements_cannot_be_prepared(text: str, preparable: bool) -> None:
    assert Statement("some", text, "some.sql:1").preparable is preparable


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("SELECT 1", r"some\.sql:1: SQL before the first"),
        ("-- name: Not A Name\nSELECT 1", r"some\.sql:1: 'Not A Name' cannot name"),
        ("-- name: empty\n-- nothing\n-- name: other\nSELECT 1", r"some\.sql:1: 'empty' is empty"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", r"some\.sql:3: 'a' is also at some\.sql:1"),
        ("-- name: a\nSELECT 1;\nSELECT 2;", "more than one statement"),
        ("-- name: a\nSELECT 5 % 2 WHERE %(x)s", "neither a placeholder"),
        ("-- name: a\nSELECT %(x)d", "neither a placeholder"),
        ("-- name: a\nSELECT %(x)s, 5 %", "neither a placeholder"),
        ("-- name: a\nSELECT 1 WHERE 'x' LIKE '%%'", "no parameter"),
        ("-- name: a\nSELECT %(x)s, %s", "mixes"),
        ("-- fragment: Not A Name\nid", r"some\.sql:1: 'Not A Name' cannot name"),
        ("-- fragment: a\n-- nothing\n-- name: b\nSELECT 1", r"some\.sql:1: 'a' is empty"),
        ("-- fragment: a\nid\n-- fragment: a\nid\n", r"some\.sql:3: 'a' is also at some\.sql:1"),
        ("-- fragment: a\nid\n-- name: b\nSELECT 1", r"some\.sql:1: nothing includes 'a'"),
        ("-- name: b\nSELECT\n-- include: a\n-- fragment: a\nid", r"some\.sql:3: no fragment before this is named 'a'"),
        ("-- fragment: a\n-- include: a\n-- name: b\nSELECT 1", r"some\.sql:2: no fragment before this is named 'a'"),
        ("-- include: a\n-- name: b\nSELECT 1", r"some\.sql:1: SQL before the first"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        parse(tmp_path, text)


def test_the_store_only_says_names_that_exist() -> None:
    """Follows ``_sql = load("file")`` and then every ``_sql.name`` in each module of the store."""
    store = resources.files("logstitch.store")
    wrong = []
    for module in (file for file in store.iterdir() if file.name.endswith(".py")):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        bound = {
            target.id: load(node.value.args[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Name)
            and node.value.func.id == "load"
            and isinstance(node.value.args[0], ast.Constant)
            and isinstance(node.value.args[0].value, str)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        wrong += [
            f"{module.name}:{node.lineno}: {node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in bound
            and node.attr not in bound[node.value.id]
        ]

    assert wrong == []


def test_every_statement_prepares_against_the_migrated_schema(database_url: str) -> None:
    """A misspelt column, a missing cast or a table of yesterday is found here, not by the first request."""
    broken = []
    with psycopg.connect(database_url, autocommit=True) as conn:
        for statement in every_statement():
            if statement.preparable:
                try:
                    conn.execute(f"PREPARE p AS {statement.numbered()}".encode())
                    conn.execute("DEALLOCATE p")
                except psycopg.Error as error:
                    broken.append(f"{statement.source} {statement.name}: {error.diag.message_primary}")

    assert broken == []
