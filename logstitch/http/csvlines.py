"""Events as lines of CSV (RFC 4180), in which a spreadsheet finds text and no formula, whatever the events hold.

The columns are the same for every export: what an event does not have, or a viewer is not shown, is an empty cell. A
section that redaction has replaced as a whole has its text in the first of its columns. What has no fixed form
(metadata, changes, redactions) is JSON.

A cell that a spreadsheet could take for a formula begins with an apostrophe, which makes it text
(https://owasp.org/www-community/attacks/CSV_Injection), and so does what stands in one behind a semicolon or a tab,
which separate cells in spreadsheets of many languages, or behind a line break, which then ends their row. So a cell is
not always what was sent: NDJSON is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson

CONTENT_TYPE: Final = b"text/csv; charset=utf-8; header=present"

_PLAIN: Final = ("id", "occurred_at", "received_at", "tenant_id", "action", "category")
_SECTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "actor": ("id", "type", "name", "email"),
    "target": ("id", "type", "name"),
    "context": ("ip_address", "user_agent", "location", "session_id"),
}
_JSON: Final = ("metadata", "changes")
_LAST: Final = ("idempotency_key", "content_hash")

COLUMNS: Final = (
    *_PLAIN,
    *(f"{section}_{field}" for section, fields in _SECTIONS.items() for field in fields),
    *_JSON,
    *_LAST,
    "redactions",
)

SIGNS: Final = "=+-@" + "＝＋－＠﹦﹢﹣﹫⁼⁺⁻₌₊₋−﬩"
"""What formulas begin with, and what programs fold into that: full-width, small, raised and lowered forms, and the
sign for minus."""
_BLANKS: Final = r"\s\x00-\x20\u200b-\u200f\u2060\ufeff"
"""Also behind blanks, visible or not, that programs skip."""
_SIGN: Final = f"[{re.escape(SIGNS)}]"
_FORMULA: Final = re.compile(rf"[{_BLANKS}]*+{_SIGN}|[\t\r\n]")
_SEPARATOR: Final = re.compile(r"\r\n|[;\t\r\n\v\f\x85\u2028\u2029]")
"""What may end a cell or a row (https://www.unicode.org/reports/tr14/#BK). Where it does, the quotes of ours are within
a cell of theirs, and protect nothing."""
_BEHIND: Final = re.compile(rf"(?:;[{_BLANKS}]*+|(?<![;{_BLANKS}])[{_BLANKS}]++)(?={_SIGN})")
"""What stands between a sign and the text before it. Separators but the semicolon are blanks, too. A run of blanks is
looked at once, from its beginning: whatever else is quadratic over a text of nothing else."""
_TO_BE_QUOTED: Final = re.compile(r'[",\r\n]')


def csv_line(body: str) -> bytes:
    """The line of an event that is JSON text, as the list of events has it."""
    event: dict[str, Any] = orjson.loads(body)
    cells = [_text(event.get(name)) for name in _PLAIN]
    for name, fields in _SECTIONS.items():
        section = event.get(name)
        if isinstance(section, dict):
            cells += [_text(section.get(field)) for field in fields]
        else:
            cells += [_text(section), *("" for _ in fields[1:])]
    cells += [_json(event.get(name)) for name in _JSON]
    cells += [_text(event.get(name)) for name in _LAST]
    cells.append(_json(event.get("redactions")))
    return _line(cells)


def _line(cells: list[str]) -> bytes:
    return (",".join([_cell(cell) for cell in cells]) + "\r\n").encode()


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    return _json(value)  # no event has anything else here


def _json(value: object) -> str:
    # Escaped, since an apostrophe within would make it another value.
    return "" if value is None else _behind_separators(orjson.dumps(value).decode(), _escaped)


def _cell(text: str) -> str:
    text = _behind_separators(text, _with_apostrophe)
    if _FORMULA.match(text):
        text = f"'{text}"
    return '"' + text.replace('"', '""') + '"' if _TO_BE_QUOTED.search(text) else text


def _behind_separators(text: str, guarded: Callable[[re.Match[str]], str]) -> str:
    """The text, with its separators before a sign replaced."""
    if not _SEPARATOR.search(text):
        return text
    return _BEHIND.sub(lambda found: _SEPARATOR.sub(guarded, found[0]), text)


def _with_apostrophe(separator: re.Match[str]) -> str:
    return f"{separator[0]}'"


def _escaped(separator: re.Match[str]) -> str:
    return f"\\u{ord(separator[0]):04x}"


HEAD: Final = _line(list(COLUMNS))
"""The line of the names."""
