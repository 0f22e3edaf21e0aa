"""Bounds that mean the same in actors of several kinds. What only one kind keeps to stands in its own module."""

from __future__ import annotations

from typing import Final

HOLD_SECONDS: Final = 8.0
"""How long a request is held through an outage of the database before it is answered 503."""
COMMIT_SECONDS: Final = 5.0
"""How long one attempt of a transaction that stores events may take."""
THREAD_BYTES: Final = 256 * 1024
"""Events of this size on are prepared in a thread: the event loop may not be kept from others for so long."""
CONCURRENCY: Final = 4
"""Look-ups and changes under way at the same time, in an actor whose questions take a few milliseconds each: half of a
worker's database connections, by default."""
