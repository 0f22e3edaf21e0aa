"""What a ULID says of itself."""

from __future__ import annotations


def ulid_ms(id16: bytes) -> int:
    """The Unix time in milliseconds at which the id was made."""
    return int.from_bytes(id16[:6], "big")
