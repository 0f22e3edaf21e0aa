"""Anonymous streams of a deployment in memory: what HTTP tests of them are run against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from logstitch.actors.messages.events import Accepted
from logstitch.actors.messages.streams import (
    ClaimStream,
    GetStreamInfo,
    StreamClaimed,
    StreamInfo,
    SubmitStreamEvents,
)
from logstitch.errors import (
    Conflict,
    Detail,
    Forbidden,
    LogStitchError,
    StreamAlreadyClaimed,
    StreamDailyLimitReached,
    StreamExpired,
    StreamNotFound,
)
from logstitch.ids import UlidMint, event_id_text
from logstitch.model import IncomingEvent
from logstitch.streams import DAILY_EVENTS, LIFE_DAYS, StreamStatus


@dataclass
class KeptStream:
    """A stream: how it stands, and its events with their ids."""

    info: StreamInfo
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class StreamsWorld:
    """All streams, by the digests of their tokens. ``open``: whether new ones are taken."""

    def __init__(self, later: Callable[[], datetime]) -> None:
        self._later = later
        self._mint = UlidMint()
        self.kept: dict[bytes, KeptStream] = {}
        self.addresses: list[str] = []
        self.open = True
        self.refusal: LogStitchError | None = None
        """What the next request with events is refused with."""

    def answer(self, message: object) -> Any:
        """Answer, or ``NotImplemented`` where it is not for streams."""
        match message:
            case SubmitStreamEvents():
                return self._submit(message)
            case GetStreamInfo(digest):
                return self._find(digest).info
            case ClaimStream():
                return self._claim(message)
        return NotImplemented

    def end(self, digest: bytes) -> None:
        """Its seven days are over."""
        kept = self.kept[digest]
        kept.info = replace(kept.info, status=StreamStatus.EXPIRED)

    def _submit(self, message: SubmitStreamEvents) -> Accepted:
        self.addresses.append(message.address)
        if self.refusal is not None:
            raise self.refusal
        now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=message.received_at_ms)
        kept = self.kept.get(message.digest)
        if kept is None:
            if not self.open:
                raise Forbidden("No new streams are taken here.")
            expires_at = now + timedelta(days=LIFE_DAYS)
            kept = KeptStream(StreamInfo(StreamStatus.ACTIVE, 0, now, None, expires_at, None))
        _check(kept.info)
        ids, fresh = self._admit(kept, message.events, message.received_at_ms)
        if len(kept.events) + len(fresh) > DAILY_EVENTS:
            raise StreamDailyLimitReached("The stream's events of this day are used up.", 3600)
        kept.events += fresh
        kept.info = replace(kept.info, event_count=len(kept.events), last_event_at=now)
        self.kept[message.digest] = kept
        return Accepted(tuple(ids), 0, len(ids) - len(fresh))

    def _admit(self, kept: KeptStream, events: Any, now_ms: int) -> tuple[list[str], list[tuple[str, dict[str, Any]]]]:
        incoming: list[IncomingEvent] = list(events)
        known = {event["idempotency_key"]: (id, event) for id, event in kept.events if "idempotency_key" in event}
        ids, fresh = [], []
        for index, one in enumerate(incoming):
            key = one.raw.get("idempotency_key")
            if key in known:
                if known[key][1] != one.raw:
                    raise Conflict("Used before.", [Detail(f"{index}.idempotency_key", "Was used with another event")])
                ids.append(known[key][0])
                continue
            stored = event_id_text(self._mint.one(now_ms)), one.raw
            ids.append(stored[0])
            fresh.append(stored)
            if key is not None:
                known[key] = stored
        return ids, fresh

    def _claim(self, message: ClaimStream) -> StreamClaimed:
        kept = self._find(message.digest)
        _check(kept.info)
        kept.info = replace(kept.info, status=StreamStatus.CLAIMED, claimed_at=self._later())
        return StreamClaimed(len(kept.events), 0)

    def _find(self, digest: bytes) -> KeptStream:
        if (kept := self.kept.get(digest)) is None:
            raise StreamNotFound("No stream has this token.")
        return kept


def _check(info: StreamInfo) -> None:
    if info.status is StreamStatus.CLAIMED:
        raise StreamAlreadyClaimed("This stream has been claimed.")
    if info.status is StreamStatus.EXPIRED:
        raise StreamExpired("This stream has expired.")
