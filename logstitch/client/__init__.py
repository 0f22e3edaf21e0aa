"""The client library: the service's API for programs, blocking or asynchronous, direct or through a queue.

``Client`` blocks; ``AsyncClient`` is for asyncio and for Trio. Both are shells around one core that does no I/O
(:mod:`logstitch.client.core`), so what is sent, what is repeated and what an answer means is written once.

Nothing is sent twice under two names: every event gets an idempotency key before it is sent for the first time, and
every repetition carries the same bytes. Nothing is dropped in silence: what a queue could not send is counted, logged,
and handed to ``on_drop``.

httpx logs the URL of each request at level INFO, and with it the filters of a list and the token of a stream: give the
logger ``httpx`` the level WARNING where these are nobody's business.
"""

from __future__ import annotations

from logstitch.client.aio import AsyncClient
from logstitch.client.buffer import Dropped, QueueOptions, QueueStatistics
from logstitch.client.encoding import with_key
from logstitch.client.errors import (
    ApiError,
    ClientClosed,
    ClientError,
    Conflict,
    Detail,
    Forbidden,
    Gone,
    InvalidRequest,
    NoAnswer,
    NotFound,
    ServerError,
    TooManyRequests,
    Unauthorized,
    UnsentEvents,
    UnusableAnswer,
)
from logstitch.client.retries import Retries
from logstitch.client.schema import (
    Actor,
    Change,
    Claimed,
    Context,
    Event,
    EventPage,
    Filters,
    Logged,
    NewEvent,
    Redaction,
    StreamInfo,
    Target,
    ViewerToken,
)
from logstitch.client.settings import new_stream_token
from logstitch.client.sync import Client

__all__ = [
    "Actor",
    "ApiError",
    "AsyncClient",
    "Change",
    "Claimed",
    "Client",
    "ClientClosed",
    "ClientError",
    "Conflict",
    "Context",
    "Detail",
    "Dropped",
    "Event",
    "EventPage",
    "Filters",
    "Forbidden",
    "Gone",
    "InvalidRequest",
    "Logged",
    "NewEvent",
    "NoAnswer",
    "NotFound",
    "QueueOptions",
    "QueueStatistics",
    "Redaction",
    "Retries",
    "ServerError",
    "StreamInfo",
    "Target",
    "TooManyRequests",
    "Unauthorized",
    "UnsentEvents",
    "UnusableAnswer",
    "ViewerToken",
    "new_stream_token",
    "with_key",
]
