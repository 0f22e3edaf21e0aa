"""Indexer: one actor a process that writes the word index of segments, off the path of every commit.

Taking the words out of a segment's events is half a second of pure Python. In a thread it would hold the interpreter's
lock: the event loop's round trips fell to a third when that was measured. So a child process does it, with a low
priority, between two copies that are streamed through one transaction: bodies out, blocks in. The claim on the segment
is a lock of that transaction, so no two processes build the same one, and one that dies leaves no trace.

When all segments of a volume have their words, their blocks are merged to the volume's, in the child as well and in
another transaction. The blocks go to it in the order of their first words, some hundreds at a time, and what is
complete comes back in between: so neither side ever holds more than a few megabytes, however much the segments have.

A child that takes too long is killed. Its segment, and one that fails in any other way, is left alone for a while,
longer each time, so that the others get their turn. The child looks after itself, too: it ends when the service is
gone, however that ended.

Nobody sends it anything: it looks by itself, and its mailbox tells when to end.
"""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO

import structlog
import trio

from logstitch import children
from logstitch.actors.mailbox import Mailbox
from logstitch.errors import DatabaseUnavailable
from logstitch.search.blocks import MERGE_BLOCKS, Block, read_blocks, write_blocks, write_bodies
from logstitch.search.segments import FIRST_VOLUME_KEY, Layout, Unit
from logstitch.store import words
from logstitch.store.database import Connection, Database

log = structlog.get_logger(__name__)

POLL_SECONDS = 2.0
"""Between two looks for closed segments."""
SETTLE_SECONDS = 5.0
"""How long a part of an open segment has been full before it is indexed. At 3,000 events a second and more the segment
is closed by then and indexed once, as a whole; until then its events are scanned."""
SEGMENT_SECONDS = 120.0
"""For one segment: 200 times a common one, and enough for one of the largest events there can be. For one volume, too:
40 times a common one."""
CUT_SECONDS = 15.0
"""After these is the transaction cut as well: not before, so that what is told is what was wrong."""
SKIP_SECONDS = 300.0
"""For which a segment is left alone when it failed; twice as long each time after that, up to a day."""
MOST_SKIP_SECONDS = 86_400.0

_CHILD = """
from logstitch.search.blocks import serve
serve(sys.stdin.buffer, sys.stdout.buffer)
"""


class Indexer:
    """Builds the word blocks of closed segments, of volumes, and of the full parts of open segments."""

    def __init__(
        self,
        database: Database,
        *,
        poll_seconds: float = POLL_SECONDS,
        segment_seconds: float = SEGMENT_SECONDS,
        layout: Layout = Layout(),  # noqa: B008  # frozen
    ) -> None:
        self._database = database
        self._poll_seconds = poll_seconds
        self._segment_seconds = segment_seconds
        self._skipped: dict[tuple[int, int], tuple[float, float]] = {}
        """Until when, on Trio's clock, a segment is left alone, and for how long that was."""
        self._layout = layout

    async def run(self, mailbox: Mailbox) -> None:
        """Index what is closed, and look again, until the mailbox is closed."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._index, mailbox)
            async for _ in mailbox:
                pass
            nursery.cancel_scope.cancel()  # a claim that is not committed is given back

    async def _index(self, mailbox: Mailbox) -> None:
        while True:
            # The database is not this actor's to mend, and the next look is soon. Nor does the next segment follow at
            # once on one that failed: where a full disk fails them all, each costs a child and a line in the log.
            with suppress(DatabaseUnavailable, _Failed):
                await self._index_all(mailbox)
            await trio.sleep(self._poll_seconds)

    async def _index_all(self, mailbox: Mailbox) -> None:
        """Index until nothing is left. The child lives as long: an idle service has none."""
        with Builder() as builder:
            more = True
            while more:
                more = await self._index_one(builder)
                mailbox.progress()

    async def _index_one(self, builder: Builder) -> bool:
        """Index one segment, volume or part; False when there was none. Raises ``_Failed``, ``DatabaseUnavailable``."""
        ended = late = False

        async def kill_in_time() -> None:
            nonlocal late
            try:
                await trio.sleep(self._segment_seconds)
                late = True
            finally:
                if not ended:
                    builder.kill()  # whose thread waits for the child is done at once, not after the whole segment

        claims: list[words.Claim] = []
        now = trio.current_time()
        skip = [segment for segment, (until, _) in self._skipped.items() if until > now]
        error: Exception | None = None
        found = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill_in_time)
            try:
                found = await self._database.transact(
                    lambda conn: index_next(conn, builder, self._layout, skip=skip, on_claim=claims.append),
                    timeout=self._segment_seconds + CUT_SECONDS,
                )
            except Exception as caught:
                error = caught  # raised below: out of the nursery it would come in a group
                await trio.lowlevel.checkpoint_if_cancelled()  # then it was killed just above, and that is no failure
            finally:
                ended = True
                nursery.cancel_scope.cancel()
        claim = claims[-1] if claims else None
        if error is None:
            if claim is not None:
                self._skipped.pop((claim.project_no, claim.segment), None)
            if late:  # just when it was done: the child is dead all the same
                raise _Failed
            return found
        if claim is None or (isinstance(error, DatabaseUnavailable) and not late):
            raise error
        self._skip(claim, error, late=late)
        raise _Failed from error

    def _skip(self, claim: words.Claim, error: Exception, *, late: bool) -> None:
        segment = (claim.project_no, claim.segment)
        _, before = self._skipped.get(segment, (0.0, 0.0))
        seconds = min(max(SKIP_SECONDS, before * 2), MOST_SKIP_SECONDS)
        self._skipped[segment] = (trio.current_time() + seconds, seconds)
        log.error(
            "indexer.skipped",
            project_no=claim.project_no,
            segment=claim.segment,
            part=claim.part,
            late=late,
            seconds=seconds,
            exc_info=error,
        )


class _Failed(Exception):
    """One segment could not be indexed; the next one gets another child."""


def index_next(
    conn: Connection,
    builder: Builder,
    layout: Layout = Layout(),  # noqa: B008  # frozen
    *,
    skip: Sequence[tuple[int, int]] = (),
    on_claim: Callable[[words.Claim], None] | None = None,
) -> bool:
    """Index one closed segment or, when all have their words, one volume of them or one part of an open segment; False
    when there was none.

    Within the transaction that ``conn`` is in. Closed segments go first: where events come faster than they can be
    indexed, parts, which are indexed again with their segment, are the work to leave out. ``skip``: segments (project
    and number), and volumes (project and key), to leave alone. ``on_claim`` is told what is going to be indexed.
    """
    tell = on_claim or (lambda claim: None)
    if (claim := words.claim_segment(conn, layout.bits, skip)) is not None:
        tell(claim)
        _index(conn, builder, claim, layout.unit(claim.segment))
        part_keys = [part.key for part in layout.parts(claim.segment)]
        words.mark_words_ready(conn, claim.project_no, claim.segment, part_keys, layout.volume(claim.segment))
    elif (claim := words.claim_volume(conn, layout.bits, layout.volume_bits, FIRST_VOLUME_KEY, skip)) is not None:
        tell(claim)
        _index_volume(conn, builder, claim, layout)
    elif (
        claim := words.claim_part(conn, layout.bits, layout.part_bits, skip, settle_seconds=SETTLE_SECONDS)
    ) is not None:
        tell(claim)
        assert claim.part is not None  # noqa: S101
        _index(conn, builder, claim, layout.parts(claim.segment)[claim.part])
    return claim is not None


def _index(conn: Connection, builder: Builder, claim: words.Claim, unit: Unit) -> None:
    """Build the blocks of a segment or part from its bodies."""
    built = builder.build(words.read_bodies(conn, claim.project_no, unit.seqs))
    _write(conn, builder, claim.project_no, unit.key, built)


def _index_volume(conn: Connection, builder: Builder, claim: words.Claim, layout: Layout) -> None:
    """Build the blocks of a volume from those of its segments."""
    volume = claim.segment - FIRST_VOLUME_KEY
    blocks = words.read_blocks(conn, claim.project_no, layout.segments(volume))
    last = False
    try:
        while not last:
            some = list(itertools.islice(blocks, MERGE_BLOCKS))
            last = len(some) < MERGE_BLOCKS
            _write(conn, builder, claim.project_no, claim.segment, builder.merge(some, last=last))
    except BaseException:
        builder.close()  # half a volume is in there
        raise
    words.mark_volume_ready(conn, claim.project_no, volume)


def _write(conn: Connection, builder: Builder, project_no: int, key: int, built: Iterator[Block]) -> None:
    try:
        words.write_blocks(conn, project_no, key, ((block.first_word, block.payload) for block in built))
    except BaseException:
        builder.close()  # the rest of its answer is still to come, and must not be taken for the next one
        raise


class BuilderDied(Exception):
    """The child process ended in the middle of its work."""


class Builder:
    """The child process; it is started for the first segment and ended with the ``with`` block.

    ``build`` waits for pipes and belongs into a thread.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._killed = False
        self._lock = threading.Lock()  # whoever kills comes from another thread, maybe just before the child starts

    def __enter__(self) -> Builder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def build(self, bodies: Iterable[bytes]) -> Iterator[Block]:
        """The blocks of the segment that has these bodies, in pieces as ``search.blocks.write_bodies`` takes them. All
        of them are read before this returns."""
        return self._ask(lambda to_child: write_bodies(to_child, bodies))

    def merge(self, blocks: Iterable[tuple[int, bytes]], *, last: bool) -> Iterator[Block]:
        """The blocks of a volume that are complete, from some of its segments' blocks and all that were given before,
        as ``search.blocks.Merge`` takes them. With the ``last`` of them, the volume is done."""
        return self._ask(lambda to_child: write_blocks(to_child, blocks, last=last))

    def _ask(self, write: Callable[[IO[bytes]], None]) -> Iterator[Block]:
        try:
            to_child, from_child = self._pipes()
            write(to_child)
            return self._blocks(from_child)
        except BaseException as error:
            self.close()  # half a segment is in there
            if isinstance(error, BrokenPipeError):
                raise BuilderDied from error
            raise

    def _blocks(self, from_child: IO[bytes]) -> Iterator[Block]:
        try:
            yield from read_blocks(from_child)
        except EOFError as error:
            raise BuilderDied from error

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        with self._lock:
            if self._killed:
                raise BuilderDied
            if self._child is None:
                self._child = subprocess.Popen(children.command(_CHILD), **children.options())
            child = self._child
        assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018
        return child.stdin, child.stdout

    def kill(self) -> None:
        """End the child, whatever it is doing, for good. Waits for nothing, since a thread may be at its pipes."""
        with self._lock:
            self._killed = True
            if self._child is not None:
                self._child.kill()

    def close(self) -> None:
        """End the child and put its things away. The next segment gets a new one."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            with suppress(OSError), child:  # waits, and closes the pipes
                pass
