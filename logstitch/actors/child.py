"""One child process for one conversation: it is sent messages, asked for some, and killed when that is over.

What it runs is the caller's (see ``children``), and so are the deadlines: a child that does not answer in time is one
whose conversation the caller leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from logstitch import children
from logstitch.frames import HEAD_BYTES, length_of

END_SECONDS: Final = 5.0
"""For a killed child to be gone. It takes milliseconds, except where the machine itself hangs."""


class ChildFailed(Exception):
    """The child process ended, or took far too long."""


class Child:
    """The other side of the conversation; made by ``open_child``."""

    def __init__(self, source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
        self._source = source
        self._sink = sink

    async def send(self, message: bytes) -> None:
        """Send a message as ``frames`` makes them, or a mark. Raises ``ChildFailed`` where nobody reads it any more."""
        try:
            await self._sink.send_all(message)
        except trio.BrokenResourceError as error:
            raise ChildFailed from error

    async def receive(self) -> bytes:
        """The next message of the child's, without its length.

        Raises ``ChildFailed`` where it ends before the message does, and ``ValueError`` for a length that cannot be.
        """
        return await self._exactly(length_of(await self._exactly(HEAD_BYTES)))

    async def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            some = await self._source.receive_some(size - len(data))
            if not some:
                raise ChildFailed
            data += some
        return bytes(data)


@asynccontextmanager
async def open_child(code: str) -> AsyncIterator[Child]:
    """A child process that runs ``code``, from here to the end of the block: it is killed there, whatever it is at."""
    process = await trio.lowlevel.open_process(children.command(code), **children.options())
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
    try:
        yield Child(process.stdout, process.stdin)
    finally:
        process.kill()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + END_SECONDS):
            await process.wait()
            await process.stdin.aclose()
            await process.stdout.aclose()
