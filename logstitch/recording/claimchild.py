"""Preparing the events of a large stream in a child process, since ingest would feel what that takes.

The service tells the child the project's rules, then sends events, lot by lot, and gets each lot back as the project
stores it. The messages are pickles: both ends are the same program, and nobody else has the pipes.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Final

from logstitch.frames import frame, read_frame, write_frame
from logstitch.recording.claiming import PIECE_EVENTS, prepare_claim
from logstitch.recording.preparation import PreparedEvent
from logstitch.recording.rules import RuleBook
from logstitch.redaction.turns import result_of
from logstitch.store.streams import EventRow

LOT_BYTES: Final = 1024 * 1024
"""Of bodies that are sent together; a single one may be larger."""

CODE: Final = """
from logstitch.recording.claimchild import serve
serve(sys.stdin.buffer, sys.stdout.buffer)
"""
"""What the child runs."""


def rules_message(book: RuleBook) -> bytes:
    """The first message: the rules, and the secret that their hashes are keyed with."""
    return frame(pickle.dumps(book))


def events_messages(rows: Sequence[EventRow]) -> Iterator[bytes]:
    """The messages behind it, in the order of the rows; each is answered by one."""
    lot: list[EventRow] = []
    size = 0
    for row in rows:
        if lot and (len(lot) >= PIECE_EVENTS or size + len(row.body) > LOT_BYTES):
            yield frame(pickle.dumps(lot))
            lot, size = [], 0
        lot.append(row)
        size += len(row.body)
    if lot:
        yield frame(pickle.dumps(lot))


def prepared_of(answer: bytes) -> list[PreparedEvent]:
    """The prepared events of an answer, in the order in which they were sent."""
    prepared: list[PreparedEvent] = pickle.loads(answer)  # noqa: S301 - of our own child, see above
    return prepared


def serve(source: IO[bytes], answers: IO[bytes]) -> None:
    """Prepare the events of all messages behind the first one by its rules, until there are no more."""
    with suppress(EOFError):
        book: RuleBook = pickle.loads(read_frame(source) or b"")  # noqa: S301 - of the service, see above
        rules = book.compile()
        while (message := read_frame(source)) is not None:
            rows: list[EventRow] = pickle.loads(message)  # noqa: S301
            write_frame(answers, pickle.dumps(result_of(prepare_claim(rows, rules))))
            answers.flush()
