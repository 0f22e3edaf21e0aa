"""Lines of CSV: read back as they were by an independent reader, and no formula to any spreadsheet."""

from __future__ import annotations

import csv
import io
import re
import sys
import time
import unicodedata
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from logstitch.http import examples
from logstitch.http.csvlines import COLUMNS, HEAD, SIGNS, csv_line

NASTY = st.text(
    st.one_of(
        st.sampled_from("=+-@＝＋－＠−\t\r\n\v \u3000\u00a0\u200b\ufeff\"',;\\\u2028\x1f1aé😀"),
        st.characters(codec="utf-8"),
    ),
    max_size=12,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | NASTY,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NASTY, inner, max_size=3),
    max_leaves=6,
)


def section(*fields: str) -> st.SearchStrategy[object]:
    """A section with any of its fields, or what redaction makes of the whole of it."""
    return st.fixed_dictionaries({}, optional=dict.fromkeys(fields, NASTY)) | NASTY


EVENTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        **dict.fromkeys(("id", "occurred_at", "received_at", "tenant_id", "action", "category", "content_hash"), NASTY),
        "actor": section("id", "type", "name", "email"),
    },
    optional={
        "target": section("id", "type", "name"),
        "context": section("ip_address", "user_agent", "location", "session_id"),
        "metadata": st.dictionaries(NASTY, JSON, max_size=3) | NASTY,
        "changes": st.lists(JSON, max_size=3) | NASTY,
        "idempotency_key": NASTY,
        "redactions": st.lists(st.fixed_dictionaries({"field": NASTY}), max_size=2),
    },
)
BREAKS = "[;\t\n\v\f\r\x85\u2028\u2029]"
FIRST = {"actor": "id", "target": "id", "context": "ip_address"}


def read(line: bytes) -> dict[str, str]:
    """The one row of it, by Python's reader of the dialect that RFC 4180 describes."""
    (row,) = csv.reader(io.StringIO(line.decode(), newline=""), strict=True)
    assert len(row) == len(COLUMNS)
    return dict(zip(COLUMNS, row, strict=True))


def line_of(event: dict[str, Any]) -> dict[str, str]:
    return read(csv_line(orjson.dumps(event).decode()))


def is_formula(cell: str) -> bool:
    """Told in another way than the writer does: strip whatever is blank, and fold."""
    return cell[:1] in ("\t", "\r", "\n") or any(map(begins_as_formula, re.split(BREAKS, cell)))


def begins_as_formula(cell: str) -> bool:
    seen = cell.lstrip(
        "".join(map(chr, range(33))) + "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\x85\u2028\u2029\u00a0\u3000 "
    )
    return unicodedata.normalize("NFKC", seen.strip())[:1] in ("=", "+", "-", "@", "\u2212") if seen else False


def expected(event: dict[str, Any], column: str) -> str:
    """What a column is about, as text; empty for what is not there."""
    if column in event and column not in ("metadata", "changes", "redactions"):
        text: str = event[column]
        return text
    for name, first in FIRST.items():
        if column.startswith(f"{name}_"):
            found, field = event.get(name, {}), column.removeprefix(f"{name}_")
            if isinstance(found, str):
                return found if field == first else ""
            inner: str = found.get(field, "")
            return inner
    return ""


@given(EVENTS)
@example({"id": "=1", "actor": "-x", "tenant_id": "  ＝cmd|' /C calc'!A0", "action": "\t=1", "category": "\u200b@x"})
@example({"id": "a\n=cmd|' /C calc'!A0;b", "actor": "a\r\n =1", "action": "a\r\r+1", "metadata": "a\u2028=1\x85-1"})
@example({"id": "a;=1", "actor": "b\t -x", "metadata": {";+1": "c; @d"}, "changes": ";;", "action": "; x"})
def test_every_cell_is_read_back_as_it_was_or_behind_an_apostrophe_and_none_is_a_formula(event: dict[str, Any]) -> None:
    row = line_of(event)

    assert not [cell for cell in row.values() if is_formula(cell)]
    for column, cell in row.items():
        if column in ("metadata", "changes", "redactions"):
            assert (orjson.loads(cell) if cell else None) == event.get(column)
        else:
            text = expected(event, column)
            assert cell.replace("'", "") == text.replace("'", "")
            assert cell == text or is_formula(text)


@given(st.lists(EVENTS, max_size=4))
def test_lines_stand_one_below_the_other(events: list[dict[str, Any]]) -> None:
    table = HEAD + b"".join(csv_line(orjson.dumps(event).decode()) for event in events)

    rows = list(csv.DictReader(io.StringIO(table.decode(), newline=""), strict=True))

    assert rows == [line_of(event) for event in events]


def test_an_event_as_it_is_sent() -> None:
    assert HEAD.decode() == (
        "id,occurred_at,received_at,tenant_id,action,category,actor_id,actor_type,actor_name,actor_email,"
        "target_id,target_type,target_name,context_ip_address,context_user_agent,context_location,context_session_id,"
        "metadata,changes,idempotency_key,content_hash,redactions\r\n"
    )
    assert csv_line(orjson.dumps(examples.EVENT).decode()).decode() == (
        "evt_01KARHK7T0C8Q2M4V6X9Z1B3D7,2026-11-23T08:00:00.123Z,2026-11-23T08:00:00.123Z,acme,user.role.updated,admin,"
        "usr_42,user,Ada Lovelace,,usr_77,user,Grace Hopper,203.0.113.42,,,,"
        '"{""reason"":""promotion"",""ticket"":4711}",'
        '"[{""field"":""role"",""before"":""member"",""after"":""admin""}]",'
        "7f3c2a90-1c1e-4b7e-9d51-2b8f7d0c9a11,9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08,\r\n"
    )


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        ("+49 30 1", "'+49 30 1"),
        ("-1", "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("\nx", "'\nx"),
        (" \u00a0\u3000=1", "' \u00a0\u3000=1"),
        ("\ufeff=1", "'\ufeff=1"),
        ("＝1", "'＝1"),
        ("＠x", "'＠x"),
        ("−1", "'−1"),
        ("a;=1", "a;'=1"),
        ("a;\t =1", "a;'\t' =1"),
        ("a; b;=1", "a; b;'=1"),
        ("a\n=cmd|' /C calc'!A0;b", "a\n'=cmd|' /C calc'!A0;b"),
        ("a\r\n=1", "a\r\n'=1"),
        ("a\r@x", "a\r'@x"),
        ("a\v\f=1", "a\v'\f'=1"),
        ("a\x85=1\u2028=2\u2029=3", "a\x85'=1\u2028'=2\u2029'=3"),
        ("a\n\nb", "a\n\nb"),
        ("a=b", "a=b"),
        ("1-2", "1-2"),
        ("'=1", "'=1"),
        ("", ""),
        (" ", " "),
    ],
)
def test_what_is_a_formula(text: str, cell: str) -> None:
    assert line_of({"tenant_id": text})["tenant_id"] == cell


@pytest.mark.parametrize("blank", ["\n", "\t", ";", "; ", "\u2028"])
def test_a_text_of_separators_takes_as_long_as_any_other(blank: str) -> None:
    text = "a" + blank * (100_000 // len(blank)) + "b"
    body = orjson.dumps({"tenant_id": text, "metadata": {"a": text}}).decode()

    began = time.thread_time()
    line = csv_line(body)

    assert time.thread_time() - began < 1  # a second look at what was looked at already makes it many
    assert line.decode().count(text) >= 1


def test_every_character_that_folds_into_a_sign_is_one() -> None:
    folded = {
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.normalize("NFKC", character) in ("=", "+", "-", "@", "\u2212")
    }

    assert folded == set(SIGNS)


def test_what_redaction_made_of_a_whole_section_is_in_its_first_column() -> None:
    row = line_of({"actor": "[REDACTED]", "context": "[REDACTED]", "metadata": "[REDACTED]", "changes": "[REDACTED]"})

    assert {column: cell for column, cell in row.items() if cell} == {
        "actor_id": "[REDACTED]",
        "context_ip_address": "[REDACTED]",
        "metadata": '"[REDACTED]"',
        "changes": '"[REDACTED]"',
    }
