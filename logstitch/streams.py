"""What an anonymous stream is outside of any table: its token, its states, and what it may hold.

A token is a bearer secret that a client made up: whoever has it may write to the stream and, with a master key, claim
it. So nothing keeps it or shows it; it is known by the digest of its one canonical spelling.
"""

from __future__ import annotations

import re
from enum import StrEnum
from hashlib import sha256
from typing import Final

LIFE_DAYS: Final = 7
"""Days from a stream's creation until it expires."""
DAILY_EVENTS: Final = 100
"""Events of a stream on one UTC day."""
STREAM_BYTES: Final = 8 * 1024 * 1024
"""Bytes of events that one stream may hold: ten times what 800 common events need, and a small part of what all streams
may hold together."""
ALL_BYTES: Final = 256 * 1024 * 1024
"""Bytes of events of all streams together. Nobody pays for them, so they must not fill the disk of those who do."""
ALL_STREAMS: Final = 100_000
"""Active streams."""
ADDRESS_STREAMS: Final = 20
"""Streams that one client address may begin in an hour, where the operator says nothing else."""
ADDRESS_BURST: Final = 5
"""Of them at once: a quarter of what an hour has, whatever the operator says, but no fewer than these."""
ADDRESS_BYTES: Final = 32 * 1024 * 1024
"""Bytes of events that one client address may send to streams in an hour: an eighth of what all may hold. More, in
proportion, where it may begin more streams, since many clients are behind it then."""

UUID4_PATTERN: Final = "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-4[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}"
"""RFC 9562: version 4, and the variant that the RFC is about."""

_TOKEN = re.compile(UUID4_PATTERN)


class StreamStatus(StrEnum):
    """Where a stream stands. What is claimed or expired stays so."""

    ACTIVE = "active"
    CLAIMED = "claimed"
    EXPIRED = "expired"


def token_digest(token: str) -> bytes:
    """The SHA-256 by which a stream is known: of its token, a UUIDv4 in any letter case, in lower case.

    Raises ``ValueError`` for anything else, with a message that has nothing of it: braces, ``urn:uuid:`` and missing
    dashes too, since a token has one spelling, but for its case.
    """
    if _TOKEN.fullmatch(token) is None:
        raise ValueError("Expected a UUID of version 4, such as 123e4567-e89b-42d3-a456-426614174000")
    return sha256(token.lower().encode()).digest()
