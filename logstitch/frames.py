"""Messages over the pipes of a child process (see ``children``): each is its length in four bytes, then its bytes.

Where one question or answer is made of several messages, a mark that stands in place of a length ends it.
"""

from __future__ import annotations

import struct
from typing import IO, Final

MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
"""Of one message; more is a defect."""

_LENGTH = struct.Struct(">I")
HEAD_BYTES: Final = _LENGTH.size
END: Final = _LENGTH.pack(0xFFFFFFFF)
"""The mark. No message can be so long."""


def frame(payload: bytes) -> bytes:
    """A message as it is sent. Raises ``ValueError`` where it would be refused."""
    return _head(payload) + payload


def length_of(head: bytes) -> int:
    """How long the message is that these four bytes announce. Raises ``ValueError`` for what cannot be."""
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise ValueError("a message of that length cannot be")
    return int(length)


def write_frame(stream: IO[bytes], payload: bytes) -> None:
    """Send a message, without a copy of it. Flushing is left to the caller."""
    stream.write(_head(payload))
    stream.write(payload)


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next message, or None for the mark. Raises ``EOFError`` when the stream ends at or within it."""
    head = _exactly(stream, HEAD_BYTES)
    return None if head == END else _exactly(stream, length_of(head))


def _head(payload: bytes) -> bytes:
    if len(payload) > MAX_FRAME_BYTES:
        raise ValueError("the message is too long")
    return _LENGTH.pack(len(payload))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data
