"""The word index: written once for every closed segment, in the transaction that claimed it; read by prefix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("words")

_AFTER = b"\xff"
"""Begins no character of UTF-8: all words with a prefix sort before the prefix and this."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed segment that is to be indexed: events ``seqs`` of the project."""

    project_no: int
    number: int
    seqs: range


def claim_segment(conn: Connection, bits: int) -> Segment | None:
    """Take a closed segment that has no word blocks, until the transaction ends; ``None`` if others have them all.

    ``bits``: a segment has 2 to the power of it events.
    """
    row = conn.execute(_sql.claim_segment, {"bits": bits}).fetchone()
    if row is None:
        return None
    project_no, number = row
    return Segment(project_no, number, range((number << bits) + 1, (number + 1 << bits) + 1))


def read_bodies(conn: Connection, segment: Segment) -> Iterator[bytes]:
    """The segment's bodies in the order of seq, fetched as they are taken; all of them are to be taken."""
    bounds = {
        "project_no": segment.project_no,
        "after_seq": segment.seqs.start - 1,
        "last_seq": segment.seqs.stop - 1,
    }
    with conn.cursor() as cursor, cursor.copy(_sql.copy_bodies, bounds) as copy:
        copy.set_types(["bytea"])  # text would be decoded, to be encoded again
        count = 0
        for (body,) in copy.rows():
            yield body
            count += 1
    if count != len(segment.seqs):  # positions stand for seqs: one hole would move all that follow
        raise LookupError(f"segment {segment.number} of project {segment.project_no} has {count} events")


def write_blocks(conn: Connection, segment: Segment, blocks: Iterable[tuple[bytes, bytes]]) -> None:
    """Store the segment's blocks (first word and payload, in order) and mark it as indexed."""
    with conn.cursor() as cursor, cursor.copy(_sql.copy_blocks) as copy:
        copy.set_types(["int4", "int4", "bytea", "bytea"])
        for first_word, payload in blocks:
            copy.write_row((segment.project_no, segment.number, first_word, payload))
    conn.execute(_sql.mark_words_ready, {"project_no": segment.project_no, "segment": segment.number})


def find_blocks(conn: Connection, project_no: int, segments: Sequence[int], prefix: bytes) -> list[tuple[int, bytes]]:
    """Segment and payload of every block of the segments that may hold a word with the prefix."""
    values = {"project_no": project_no, "segments": list(segments), "prefix": prefix, "after": prefix + _AFTER}
    return conn.cursor(binary=True).execute(_sql.find_blocks, values).fetchall()
