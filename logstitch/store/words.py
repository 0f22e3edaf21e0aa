"""The word index: written once for every closed segment, in the transaction that claimed it; read by prefix.

Full parts of the open segment have blocks, too, until it is closed. They are in the same table, under negative numbers.
So have volumes, which are many segments together, under the highest numbers (see ``search.segments``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Final

from logstitch.store.database import Connection
from logstitch.store.queries import load

_sql = load("words")

PIECE_BYTES = 128 * 1024
RUN_BLOCKS: Final = 32
"""Blocks of one segment that are read at once to be merged: 128 KB, and there are as many segments as a volume has."""
FETCH_BLOCKS: Final = 1024
"""Blocks that a look-up holds at once, 4 MB. There are more of them for one or two letters only."""
_AFTER = b"\xff"
"""Begins no character of UTF-8: all words with a prefix sort before the prefix and this."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A segment that nobody else indexes until the transaction ends; ``part`` is set where it is open still.

    Or a volume: then ``segment`` is the number by which its blocks are stored.
    """

    project_no: int
    segment: int
    part: int | None


def claim_segment(conn: Connection, bits: int, skip: Sequence[tuple[int, int]] = ()) -> Claim | None:
    """Take a closed segment that has no word blocks; ``None`` if there is none, or it is being worked on.

    ``bits``: a segment has 2 to the power of it events. ``skip``: segments, by project and number, to leave alone.
    """
    return _claim(conn, conn.execute(_sql.find_unindexed_segment, {"bits": bits} | _skipped(skip)).fetchone())


def claim_volume(
    conn: Connection, bits: int, volume_bits: int, first_key: int, skip: Sequence[tuple[int, int]] = ()
) -> Claim | None:
    """Take a volume that has no word blocks, though all of its segments have; ``None`` as above.

    ``volume_bits``: a volume has 2 to the power of it segments. ``first_key``: the first volume's blocks are stored by
    this number, and so on; ``skip`` has volumes by it, too.
    """
    values = {"bits": bits, "volume_bits": volume_bits, "first_key": first_key} | _skipped(skip)
    row = conn.execute(_sql.find_unindexed_volume, values).fetchone()
    if row is None or not _lock(conn, claim := Claim(*row)):
        return None
    ready = {"project_no": claim.project_no, "volume": claim.segment - first_key}
    return claim if conn.execute(_sql.is_volume_ready, ready).fetchone() == (False,) else None


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
    if not _lock(conn, claim):
        return None
    values = {"project_no": claim.project_no, "segment": claim.segment}
    ready = conn.execute(_sql.are_words_ready, values).fetchone()
    return claim if ready == (False,) else None


def _lock(conn: Connection, claim: Claim) -> bool:
    values = {"project_no": claim.project_no, "segment": claim.segment}
    return conn.execute(_sql.lock_segment, values).fetchone() == (True,)


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
    """Store blocks (first word and payload, in order) of a segment, by its number, or of a part or a volume, by its
    key."""
    with conn.cursor() as cursor, cursor.copy(_sql.copy_blocks) as copy:
        copy.set_types(["int4", "int4", "bytea", "bytea"])
        for first_word, payload in blocks:
            copy.write_row((project_no, key, first_word, payload))


def read_blocks(conn: Connection, project_no: int, segments: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """All blocks of some segments, in the order of their first words; each with the index, within ``segments``, of the
    one it is of. A few are read ahead of each segment."""
    runs = [_read_run(conn, project_no, segment, number) for number, segment in enumerate(segments)]
    for _, number, block in heapq.merge(*runs, key=itemgetter(0)):
        yield number, block


def _read_run(conn: Connection, project_no: int, segment: int, number: int) -> Iterator[tuple[bytes, int, bytes]]:
    values = {"project_no": project_no, "segment": segment, "limit": RUN_BLOCKS}
    after = b""  # before every word
    while rows := conn.cursor(binary=True).execute(_sql.read_blocks, values | {"after": after}).fetchall():
        for first_word, block in rows:
            yield first_word, number, block
        after = rows[-1][0]


def mark_words_ready(conn: Connection, project_no: int, segment: int, part_keys: Sequence[int], volume: int) -> None:
    """The segment's blocks are complete: remove those of its parts. ``volume``: the one it belongs to."""
    conn.execute(_sql.delete_blocks, {"project_no": project_no, "keys": list(part_keys)})
    conn.execute(_sql.mark_words_ready, {"project_no": project_no, "segment": segment})
    conn.execute(_sql.add_volume, {"project_no": project_no, "volume": volume})


def mark_volume_ready(conn: Connection, project_no: int, volume: int) -> None:
    """The volume's blocks are complete."""
    conn.execute(_sql.mark_volume_ready, {"project_no": project_no, "volume": volume})


def find_volumes(conn: Connection, project_no: int) -> set[int]:
    """The volumes that have their blocks."""
    rows = conn.cursor(binary=True).execute(_sql.find_volumes, {"project_no": project_no})
    return {volume for (volume,) in rows}


def find_indexed(conn: Connection, project_no: int, keys: Sequence[int]) -> set[int]:
    """Those of the keys that have blocks."""
    rows = conn.cursor(binary=True).execute(_sql.find_indexed, {"project_no": project_no, "keys": list(keys)})
    return {key for (key,) in rows}


def count_backlog(conn: Connection, bits: int, part_bits: int) -> int:
    """Events of all projects that could have word blocks, since their part is full, and have none yet.

    A search reads the text of each of them. ``bits``, ``part_bits``: how large segments and parts are, as above.
    """
    row = conn.execute(_sql.count_backlog, {"bits": bits, "part_bits": part_bits}).fetchone()
    return int(row[0]) if row else 0


def find_blocks(
    conn: Connection, project_no: int, keys: Sequence[int], prefix: bytes, *, most: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Key and payload of every block under these keys that may hold a word with the prefix.

    ``most``: no more than this and one under each key; where there are as many, there may have been more. Else there is
    no bound, but they are fetched as they are taken.
    """
    values = {"project_no": project_no, "keys": list(keys), "prefix": prefix, "after": prefix + _AFTER, "most": most}
    limited = values | {"limit": FETCH_BLOCKS + 1}
    rows = conn.cursor(binary=True).execute(_sql.find_blocks, limited).fetchall()
    if len(rows) <= FETCH_BLOCKS:
        yield from rows
        return
    del rows  # the server's cursor takes three round trips, so it is for those that need it only
    with conn.cursor(name="blocks", binary=True) as cursor:
        cursor.itersize = FETCH_BLOCKS
        yield from cursor.execute(_sql.find_blocks, values | {"limit": None})


def find_exact_blocks(
    conn: Connection, project_no: int, keys: Sequence[int], wanted: Sequence[bytes]
) -> Iterator[tuple[int, bytes, bytes]]:
    """For each key and each word or facet that is wanted, the one block that may hold it: key, word and payload."""
    values = {"project_no": project_no, "keys": list(keys), "words": list(wanted)}
    for key, number, block in conn.cursor(binary=True).execute(_sql.find_exact_blocks, values):
        yield key, wanted[number - 1], block
