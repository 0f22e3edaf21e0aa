"""Stream ingest: one actor a process that stores the events of anonymous streams, many requests in one transaction.

Nobody pays for these events, so whatever costs little is asked first: whether the stream still takes any, whether this
address may begin another one, whether there is room. Then they are redacted, in slices, by the one rule set that all
streams have, and stored. Everything that was asked before is decided again under the stream's lock.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Final

import structlog
import trio

from logstitch import metrics
from logstitch.actors.bounds import COMMIT_SECONDS, HOLD_SECONDS, THREAD_BYTES
from logstitch.actors.mailbox import Envelope, Mailbox
from logstitch.actors.messages.events import Accepted
from logstitch.actors.messages.streams import GetStreamInfo, StreamInfo, SubmitStreamEvents
from logstitch.actors.slicing import in_turns
from logstitch.errors import (
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    LogStitchError,
    RateLimited,
    StreamDailyLimitReached,
    StreamNotFound,
    Unavailable,
)
from logstitch.ids import UlidMint
from logstitch.recording.commit import Recorded
from logstitch.recording.streams import (
    CEILING,
    Stored,
    StreamBatch,
    StreamCommit,
    StreamEvent,
    conflict_within,
    cost,
    ended,
    no_room,
    prepare_stream_event,
    repeated_keys,
    stream_rules,
)
from logstitch.redaction.engine import Redaction, slices
from logstitch.store import streams as store
from logstitch.store.database import Connection, Database
from logstitch.store.streams import StreamRow, Totals
from logstitch.streams import ADDRESS_BURST, ADDRESS_BYTES, ADDRESS_STREAMS
from logstitch.throttle import Throttle, network_of
from logstitch.times import from_ms

log = structlog.get_logger(__name__)

TAKE: Final = 16
"""Requests of one transaction: at most 1,600 events."""
GROUP_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the bodies of one transaction, unless it is a single request."""
TURN_SECONDS: Final = 0.004
"""How long events are encoded on the event loop between two checkpoints."""
MAX_LOOKS: Final = 32
"""Requests for a stream's status under way at the same time; more are refused."""
LOOKS_AT_ONCE: Final = 2
"""Of them, those that ask the database."""


Submission = Envelope[SubmitStreamEvents]


@dataclass(frozen=True, slots=True)
class _Taken:
    """What is on the account of some network for requests that may still come to nothing: streams that they begin, by
    their digests, and bytes. Whatever has come to something is taken out of here; the rest is given back."""

    streams: dict[bytes, str] = field(default_factory=dict)
    bytes: dict[Submission, tuple[str, int]] = field(default_factory=dict)


class StreamIngest:
    """Owns how many streams each address has begun lately and how much it has sent, as far as this process has seen
    it."""

    def __init__(self, database: Database, mint: UlidMint, *, per_address: int, ceiling: Totals = CEILING) -> None:
        """``per_address``: streams that one address may begin in an hour; 0 for no new streams."""
        self._database = database
        self._mint = mint
        self._per_address = per_address
        self._throttle = Throttle(per_address, burst=min(per_address, max(ADDRESS_BURST, per_address // 4)))
        self._bytes = Throttle(max(ADDRESS_BYTES, ADDRESS_BYTES * per_address // ADDRESS_STREAMS))
        self._ceiling = ceiling
        self._thread = trio.CapacityLimiter(1)
        self._looks = trio.CapacityLimiter(LOOKS_AT_ONCE)
        self._looking = 0

    async def run(self, mailbox: Mailbox) -> None:
        """Answer until the mailbox is closed and empty."""
        await trio.to_thread.run_sync(stream_rules, limiter=self._thread)  # compiled once, before anybody waits for it
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    envelopes = await mailbox.take(TAKE)
                except trio.EndOfChannel:
                    break
                submissions: list[Submission] = []
                for envelope in envelopes:
                    if isinstance(envelope.message, SubmitStreamEvents):
                        submissions.append(envelope)
                    elif self._looking >= MAX_LOOKS:
                        envelope.refuse(Unavailable("Too many requests about streams. Try again in a moment."))
                    else:
                        self._looking += 1
                        nursery.start_soon(self._look, envelope)
                for group in _groups(submissions):
                    await self._store(group, mailbox)

    # -- a look at one -----------------------------------------------------------------------------------------------

    async def _look(self, envelope: Envelope[GetStreamInfo]) -> None:
        request = envelope.message
        try:
            async with self._looks:
                rows = await self._find([request.digest])
            row = rows.get(request.digest)
            if row is None:
                raise StreamNotFound("No stream has this token.")
            envelope.reply(_info(row, from_ms(request.now_ms)))
        except LogStitchError as error:
            envelope.refuse(error)
        finally:
            self._looking -= 1

    async def _find(self, digests: Sequence[bytes]) -> dict[bytes, StreamRow]:
        return await self._database.transact(
            lambda conn: store.find_streams(conn, digests), hold=HOLD_SECONDS, read_only=True
        )

    # -- events ------------------------------------------------------------------------------------------------------

    async def _store(self, submissions: Sequence[Submission], mailbox: Mailbox) -> None:
        taken = _Taken()
        try:
            try:
                admitted = await self._admit(submissions, taken)
            except LogStitchError as error:
                _refuse(submissions, error)
                return
            ready = []
            for envelope in admitted:
                if (batch := await self._prepare(envelope)) is not None:
                    ready.append((envelope, batch))
                mailbox.progress()
            if ready:
                await self._commit(ready, taken)
        finally:
            now = trio.current_time()
            for network in taken.streams.values():  # begun by nobody, or by somebody else
                self._throttle.give_back(network, now)
            for network, size in taken.bytes.values():
                self._bytes.give_back(network, now, size)

    async def _admit(self, submissions: Sequence[Submission], taken: _Taken) -> list[Submission]:
        """Those that are worth the work."""
        digests = list({envelope.message.digest for envelope in submissions})

        def read(conn: Connection) -> tuple[dict[bytes, StreamRow], Totals]:
            return store.find_streams(conn, digests), store.read_totals(conn)

        rows, totals = await self._database.transact(read, hold=HOLD_SECONDS, read_only=True)
        admitted: list[Submission] = []
        for envelope in submissions:
            request = envelope.message
            row = rows.get(request.digest)
            refusal: LogStitchError | None = None
            if envelope.abandoned:
                refusal = Unavailable("Nobody waits for this any more.")
            elif row is not None:
                refusal = ended(row, from_ms(request.received_at_ms))
            refusal = refusal or self._charge(envelope, taken)
            begins = row is None and request.digest not in taken.streams
            if refusal is None and begins:
                refusal = self._begin(request, totals, taken)
            if refusal is None and (refusal := await self._conflict_within(request)) is not None:
                # Whoever contradicts himself has had an answer that costs something, so it counts.
                taken.bytes.pop(envelope)
                if begins:
                    taken.streams.pop(request.digest)
            if refusal is None:
                admitted.append(envelope)
            else:
                _refuse([envelope], refusal)
        return admitted

    def _charge(self, envelope: Submission, taken: _Taken) -> LogStitchError | None:
        """Take what the request sends on the account of its address, or say why not."""
        request = envelope.message
        network, size = network_of(request.address), cost(len(request.events), request.size)
        wait = self._bytes.take(network, trio.current_time(), size)
        if wait:
            return RateLimited("This address has sent as much as it may for now.", max(1, round(wait + 0.5)))
        taken.bytes[envelope] = network, size
        return None

    def _begin(self, request: SubmitStreamEvents, totals: Totals, taken: _Taken) -> LogStitchError | None:
        """Take a new stream on the account of its address, or say why not."""
        if self._per_address == 0:
            return Forbidden("This service takes no new streams.")
        if totals.bytes >= self._ceiling.bytes or totals.streams + len(taken.streams) >= self._ceiling.streams:
            return no_room()
        network = network_of(request.address)
        wait = self._throttle.take(network, trio.current_time())
        if wait:
            return RateLimited("Too many new streams from this address.", max(1, round(wait + 0.5)))
        taken.streams[request.digest] = network
        return None

    async def _conflict_within(self, request: SubmitStreamEvents) -> Conflict | None:
        """Why the request is refused whatever is stored: one key, and two events under it."""
        repeated = repeated_keys(request.events)
        if not repeated:
            return None
        look = partial(conflict_within, request.events, repeated, batch=request.batch)
        if request.size >= THREAD_BYTES:
            return await trio.to_thread.run_sync(look, limiter=self._thread)
        await trio.lowlevel.checkpoint()
        return look()

    async def _prepare(self, envelope: Submission) -> StreamBatch | None:
        """The request, redacted and encoded; None where nobody waits for it any more."""
        request = envelope.message
        work = slices([event.raw for event in request.events], stream_rules())
        results = await in_turns(envelope, work)
        if results is None:
            return None
        for result in results:
            metrics.redacted(rule_id for change in result.changes for rule_id in change.rules)
        ids = self._mint.mint(len(request.events), request.received_at_ms)
        encoding = _encode(request, results, ids)
        if request.size >= THREAD_BYTES:
            events = await trio.to_thread.run_sync(list, encoding, limiter=self._thread)
        else:
            events = []
            turn = trio.current_time()
            for event in encoding:
                events.append(event)
                if trio.current_time() - turn > TURN_SECONDS:
                    await trio.lowlevel.checkpoint()
                    turn = trio.current_time()
        return StreamBatch(request.digest, events, request.batch, request.received_at_ms)

    async def _commit(self, ready: Sequence[tuple[Submission, StreamBatch]], taken: _Taken) -> None:
        """Store them in one transaction and answer; what was not ``taken`` for nothing is so no more."""
        commit = StreamCommit([batch for _, batch in ready], ceiling=self._ceiling)
        try:
            stored: Stored = await self._database.transact(commit.run, timeout=COMMIT_SECONDS, hold=HOLD_SECONDS)
        except DatabaseUnavailable as error:
            _refuse([envelope for envelope, _ in ready], error)
            return
        except Exception as error:
            if len(ready) > 1:
                log.warning("streams.group_failed", requests=len(ready))
                for one in ready:
                    await self._commit([one], taken)
                return
            log.error("streams.request_failed", error=type(error).__name__)
            ready[0][0].refuse(error)
            return
        # From here to the last answer there is no checkpoint: what is committed is answered.
        for (envelope, _), outcome in zip(ready, stored.outcomes, strict=True):
            if isinstance(outcome, Recorded):
                envelope.reply(Accepted(outcome.ids, outcome.redacted_count, outcome.replays))
                metrics.STREAM_EVENTS_ACCEPTED.inc(len(outcome.ids) - outcome.replays)
            else:
                _refuse([envelope], outcome)
            if isinstance(outcome, Recorded | Conflict):
                taken.bytes.pop(envelope)
            if isinstance(outcome, Conflict):
                taken.streams.pop(envelope.message.digest, None)
        for digest in stored.made:
            taken.streams.pop(digest, None)
        metrics.STREAMS_CREATED.inc(len(stored.made))


def _groups(submissions: Sequence[Submission]) -> Generator[list[Submission], None, None]:
    group: list[Submission] = []
    size = 0
    for envelope in submissions:
        size += envelope.message.size
        if group and size > GROUP_BYTES:
            yield group
            group, size = [], envelope.message.size
        group.append(envelope)
    if group:
        yield group


def _encode(
    request: SubmitStreamEvents, results: Sequence[Redaction], ids: Sequence[bytes]
) -> Generator[StreamEvent, None, None]:
    for incoming, result, event_id in zip(request.events, results, ids, strict=True):
        yield prepare_stream_event(
            incoming, result.event, result.changes, received_at_ms=request.received_at_ms, event_id=event_id
        )


_REASONS: Final[dict[type[LogStitchError], str]] = {
    RateLimited: "limit",
    StreamDailyLimitReached: "day",
    Forbidden: "closed",
}


def _refuse(submissions: Sequence[Submission], error: LogStitchError) -> None:
    for envelope in submissions:
        envelope.refuse(error)
    if (reason := _REASONS.get(type(error))) is not None:
        metrics.STREAMS_REFUSED.labels(reason).inc(len(submissions))


def _info(row: StreamRow, now: datetime) -> StreamInfo:
    return StreamInfo(
        row.status_at(now), row.event_count, row.created_at, row.last_event_at, row.expires_at, row.claimed_at
    )
