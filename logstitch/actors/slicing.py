"""Work that an actor does in slices: between two of them others have their turn."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import trio

from logstitch.actors.mailbox import Envelope
from logstitch.errors import Unavailable

T = TypeVar("T")


async def in_turns(envelope: Envelope[Any], work: Generator[None, None, T]) -> T | None:
    """What the work returns, slice by slice; ``None`` when nobody waits for it any more, which the envelope is told."""
    while not envelope.abandoned:
        try:
            next(work)
        except StopIteration as done:
            result: T = done.value
            return result
        await trio.lowlevel.checkpoint()
    work.close()
    envelope.refuse(Unavailable("Nobody waits for this any more."))
    return None
