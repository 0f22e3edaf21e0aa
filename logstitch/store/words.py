"""The word index: written once for every closed segment, in the transaction that claimed it; read by prefix.

Full parts of the open segment have blocks, too, until it is closed. They are in the same table, under negative numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("words")

PIECE_BYTES = 128 * 1024
_AFTER = b"\xff"
"""Begins no character of UTF-8: all words with a prefix sort before the prefix and this."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A segment that nobody else indexes until the transaction ends; ``part`` is set where it is open still."""

    project_no: int
    segment: int
    part: int | None


def claim_segment(conn: Connection, bits: int, skip: Sequence[tuple[int, int]] = ()) -> Claim | None:
    """Take a closed segment that has no word blocks; ``None`` if there is none, or it is being worked on.

    ``bits``: a segment has 2 to the power of it events. ``skip``: segments, by project and number, to leave alone.
    """
    return _claim(conn, conn.execute(_sql.find_unindexed_segment, {"bits": bits} | _skipped(skip)).fetchone())


def claim_part(
    conn: Connection,
    bits: int,
    part_bits: int,
    skip: Sequence[tuple[int, int]] = (),
    *,
    settle_seconds: float = 0.0,
) -> Claim | None:
    """Take the first part of an open segment that is full and has no word blocks; ``None`` as above.

    ``part_bits``: a part has 2 to the power of it events. Parts are stored under ``~(parts before it in the project)``.
    ``settle_seconds``: for how long its last event must have been there.
    """
    values = {"bits": bits, "part_bits": part_bits, "settle_seconds": settle_seconds} | _skipped(skip)
    claim = _claim(conn, conn.execute(_sql.find_unindexed_part, values).fetchone())
    if claim is None or claim.part is None:
        return None
    # Somebody may have written it between the look and the lock; this statement sees what was committed by then.
    key = ~((claim.segment << bits - part_bits) + claim.part)
    return None if find_indexed(conn, claim.project_no, [key]) else claim


def _skipped(segments: Sequence[tuple[int, int]]) -> dict[str, Any]:
    return {"skip_projects": [no for no, _ in segments], "skip_segments": [segment for _, segment in segments]}


def _claim(conn: Connection, row: tuple[object, ...] | None) -> Claim | None:
    if row is None:
        return None
    claim = Claim(*row)  # type: ignore[arg-type]
    values = {"project_no": claim.project_no, "segment": claim.segment}
    locked = conn.execute(_sql.lock_segment, values).fetchone()
    if locked is None or not locked[0]:
        return None
    ready = conn.execute(_sql.are_words_ready, values).fetchone()
    return claim if ready == (False,) else None


def read_bodies(conn: Connection, project_no: int, seqs: range) -> Iterator[bytes]:
    """The bodies of these events in the order of seq, in pieces of about ``PIECE_BYTES`` with a line feed between two
    bodies (JSON in canonical form has none), fetched as they are taken; all of them are to be taken."""
    bounds = {"project_no": project_no, "after_seq": seqs.start - 1, "last_seq": seqs.stop - 1}
    with conn.cursor() as cursor, cursor.copy(_sql.copy_bodies, bounds | {"piece_bytes": PIECE_BYTES}) as copy:
        copy.set_types(["int8", "bytea"])  # text would be decoded, to be encoded again
        total = 0
        for count, piece in copy.rows():
            yield piece
            total += count
    if total != len(seqs):  # positions stand for seqs: one hole would move all that follow
        raise LookupError(f"project {project_no} has {total} events in {seqs}")


def write_blocks(conn: Connection, project_no: int, key: int, blocks: Iterable[tuple[bytes, bytes]]) -> None:
    """Store the blocks (first word and payload, in order) of a segment, by its number, or of a part, by its key."""
    with conn.cursor() as cursor, cursor.copy(_sql.copy_blocks) as copy:
        copy.set_types(["int4", "int4", "bytea", "bytea"])
        for first_word, payload in blocks:
            copy.write_row((project_no, key, first_word, payload))


def mark_words_ready(conn: Connection, project_no: int, segment: int, part_keys: Sequence[int]) -> None:
    """The segment's blocks are complete: remove those of its parts."""
    conn.execute(_sql.delete_blocks, {"project_no": project_no, "keys": list(part_keys)})
    conn.execute(_sql.mark_words_ready, {"project_no": project_no, "segment": segment})


def find_indexed(conn: Connection, project_no: int, keys: Sequence[int]) -> set[int]:
    """Those of the keys that have blocks."""
    rows = conn.cursor(binary=True).execute(_sql.find_indexed, {"project_no": project_no, "keys": list(keys)})
    return {key for (key,) in rows}


def find_blocks(conn: Connection, project_no: int, keys: Sequence[int], prefix: bytes) -> list[tuple[int, bytes]]:
    """Key and payload of every block under these keys that may hold a word with the prefix."""
    values = {"project_no": project_no, "keys": list(keys), "prefix": prefix, "after": prefix + _AFTER}
    return conn.cursor(binary=True).execute(_sql.find_blocks, values).fetchall()
