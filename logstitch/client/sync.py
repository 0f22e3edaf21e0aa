"""The blocking client: one httpx client, and one thread that empties the queue.

The thread is started by the first event that is queued. It is a daemon, so it never holds up the end of a program; that
is what ``close`` is for, which the end of the ``with`` block calls, and ``atexit`` for those who do not write one.

A fork copies the client and its lock, but not its thread, and its connections would be spoken on by two processes. So a
child begins with connections and a queue of its own. What was queued before stays the parent's to send. (A child that
ends by ``os._exit``, as those of ``multiprocessing`` do, runs no ``atexit``: call ``close`` there.)
"""

from __future__ import annotations

import atexit
import math
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Protocol, TypeVar, Unpack
from weakref import WeakSet

import httpx

from logstitch.client import wire
from logstitch.client.buffer import Dropped, Offer, Queue, QueueOptions, QueueStatistics
from logstitch.client.core import OUTAGE, Core, Idle, Paging, Reply, Send, Step, Steps, log
from logstitch.client.errors import ClientClosed, UnsentEvents
from logstitch.client.retries import Retries
from logstitch.client.schema import (
    Claimed,
    Event,
    EventPage,
    Filters,
    Logged,
    NewEvent,
    StreamInfo,
    ViewerToken,
)
from logstitch.client.settings import DEFAULT_TIMEOUT, Settings
from logstitch.client.transport import Body, TooMuch, build, lost
from logstitch.client.wire import Answer, Lost

T = TypeVar("T")

_LAST_WORD = 1.0
"""Seconds that the end waits beyond its deadline for a request that is about to be cut off by its own timeout."""


class _Run(Protocol):
    def __call__(self, steps: Steps[T]) -> T: ...


class Client:
    """The API with blocking calls. May be used by many threads.

    ``key`` is a project key, a master key (then ``project_id`` names the project, unless there is only one) or a viewer
    token; streams need none. ``timeout``, in seconds, is for connecting and for each read and write of one attempt; how
    long a call takes altogether, ``retries`` say. Proxies of the environment are used as httpx does. ``verify`` and
    ``transport`` are httpx's.

    What no timeout of httpx bounds is a sum of reads: a peer that sends the headers of an answer in drops, each within
    ``timeout``, holds a call, or the thread of the queue, for as long as it goes on, whatever ``retries`` say. Looking
    up the host's name takes as long as the system lets it. ``AsyncClient`` has a deadline around each attempt.

    Calls raise ``ClientError``, and ``TypeError`` or ``ValueError`` for what cannot be sent.
    """

    def __init__(
        self,
        base_url: str,
        key: str | None = None,
        *,
        project_id: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        retries: Retries = Retries(),  # noqa: B008 - frozen
        queue: QueueOptions = QueueOptions(),  # noqa: B008 - frozen
        on_drop: Callable[[Dropped], None] | None = None,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._settings = Settings(base_url, key, project_id, timeout)
        self._core = Core(retries, timeout, project_id, on_drop)
        self._options = queue
        self._verify = verify
        self._transport = transport
        self._closed = False
        self.events = Events(self._run, self._core)
        """Listing, and looking at one."""
        self.viewer_tokens = ViewerTokens(self._run, self._core)
        """For the browsers of your customers."""
        self.streams = Streams(self._run, self._core, self._settings)
        """For who has no key yet."""
        self._begin()
        _clients.add(self)

    def _begin(self) -> None:
        """What a process has to have of its own."""
        self._lock = threading.Lock()
        self._http: httpx.Client | None = None
        self._thread: threading.Thread | None = None
        self._queue = Queue(self._options)
        self._woken = threading.Event()
        self._changed = threading.Condition()

    # -- sending

    def log(self, event: NewEvent) -> Logged:
        """Store one event; it is on disk when this returns."""
        return self._run(self._core.log(event))

    def log_batch(self, events: Iterable[NewEvent]) -> Logged:
        """Store events, in order. Each request takes up to 100 of them and stores all of its events or none; where one
        fails, the error's ``stored`` has the ids of those before. Give the events keys (``with_key``) to be able to
        repeat the whole call."""
        return self._run(self._core.log_batch(events))

    def enqueue(self, event: NewEvent) -> bool:
        """Send an event soon, from another thread. Never blocks. False when the queue was full and the event dropped.

        An event with neither ``occurred_at`` nor an idempotency key gets the present time.
        """
        self._check_open()
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()
        offer = self._core.enqueue(self._queue, event)
        if offer is Offer.RIPE:
            self._woken.set()
        return offer is not Offer.FULL

    def flush(self, timeout: float | None = None) -> bool:
        """Send what is queued now. True when all of it is stored, or was refused and reported; False when the time, in
        seconds, was over first (it goes on being sent)."""
        number = self._queue.hurry()
        self._woken.set()
        with self._changed:
            self._changed.wait_for(lambda: self._queue.settled >= number or self._queue.finished, timeout)
        return self._queue.settled >= number

    def queue_statistics(self) -> QueueStatistics:
        """What waits, and what became of the rest."""
        return self._queue.statistics()

    # -- beginning and end

    def close(self) -> None:
        """Send what is queued, for up to ``close_timeout`` seconds, and close the connections.

        Raises ``UnsentEvents`` with what was left; ``on_drop`` was told before. Later calls do nothing.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        deadline = time.monotonic() + self._options.close_timeout
        self._queue.close(deadline)
        self._woken.set()
        thread, mine = self._thread, threading.current_thread()
        unsent: UnsentEvents | None = None
        try:
            if thread is not None and thread is not mine:
                thread.join(self._options.close_timeout + _LAST_WORD)
        finally:  # also when somebody presses Ctrl-C twice: what is left is never left in silence
            unsent = self._core.give_up(self._queue)
            with self._changed:
                self._changed.notify_all()
            atexit.unregister(self._at_exit)
            # A thread that is still in a request closes the connections itself: they are not taken from under it.
            if thread is None or thread is mine or not thread.is_alive():
                self._close_http()
        if unsent is not None:
            raise unsent

    def __enter__(self) -> Client:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except UnsentEvents as unsent:
            if error is None:
                raise
            error.add_note(f"logstitch: {unsent}")  # the first error is the one to be seen

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed")

    def _at_exit(self) -> None:
        with suppress(UnsentEvents):  # it was logged, and told to on_drop
            self.close()

    def _connections(self) -> httpx.Client:
        with self._lock:
            if self._http is None:
                self._http = httpx.Client(verify=self._verify, transport=self._transport, follow_redirects=False)
            return self._http

    def _close_http(self) -> None:
        with self._lock:
            http, self._http = self._http, None
        if http is not None:
            http.close()

    # -- doing what the core says

    def _run(self, steps: Steps[T]) -> T:
        self._check_open()
        return self._drive(steps)

    def _drive(self, steps: Steps[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                result: T = done.value
                return result
            reply = self._do(step)

    def _do(self, step: Step) -> Reply:
        with self._changed:
            self._changed.notify_all()
        if isinstance(step, Send):
            return self._attempt(step)
        if isinstance(step, Idle):
            self._woken.wait(None if step.seconds == math.inf else min(step.seconds, threading.TIMEOUT_MAX))
            self._woken.clear()
        else:
            time.sleep(step.seconds)
        return None

    def _attempt(self, send: Send) -> Answer | Lost:
        body = Body(time.monotonic, send.seconds)
        try:
            response = self._connections().send(build(self._settings, send), stream=True)
            try:
                for part in response.iter_bytes():
                    body.add(part)
            finally:
                response.close()
        except (httpx.HTTPError, TooMuch) as error:
            return lost(error)
        return body.answer(response)

    # -- the thread

    def _start(self) -> None:
        with self._lock:
            if self._closed or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._work, name="logstitch-client", daemon=True)
            atexit.unregister(self._at_exit)
            atexit.register(self._at_exit)
            self._thread.start()

    def _work(self) -> None:
        queue = self._queue
        while True:
            try:
                self._drive(self._core.deliver(queue))
                break
            except Exception:  # a defect of ours: what is queued is kept, and tried again
                log.exception("the delivery of queued events failed and begins again")
                self._do(Idle(OUTAGE.longest_pause))
        with self._changed:
            self._changed.notify_all()
        if self._closed:
            self._close_http()


class Events:
    """Reading events."""

    def __init__(self, run: _Run, core: Core) -> None:
        self._run = run
        self._core = core

    def list(self, *, page_size: int = 100, cursor: str | None = None, **filters: Unpack[Filters]) -> Iterator[Event]:
        """All events that match, newest first, page by page as they are asked for."""
        return (event for page in self.pages(page_size=page_size, cursor=cursor, **filters) for event in page.events)

    def pages(
        self, *, page_size: int = 100, cursor: str | None = None, **filters: Unpack[Filters]
    ) -> Iterator[EventPage]:
        """The same by pages, each with the cursor to go on from later."""
        return self._turn(Paging(filters, page_size, cursor))

    def _turn(self, paging: Paging) -> Iterator[EventPage]:
        while (request := paging.next()) is not None:
            page = self._run(self._core.exchange(request, wire.event_page))
            paging.turn(page)
            yield page

    def get(self, id: str) -> Event:
        """One event. Raises ``NotFound``."""
        return self._run(self._core.get_event(id))


class ViewerTokens:
    """Making viewer tokens; needs a project key."""

    def __init__(self, run: _Run, core: Core) -> None:
        self._run = run
        self._core = core

    def create(self, tenant_id: str, *, tier: str | None = None, expires_in: int | None = None) -> ViewerToken:
        """A token that reads this tenant's events, as the tier shows them, for ``expires_in`` seconds (60 to 86400; an
        hour, where nothing is said)."""
        return self._run(self._core.create_viewer_token(tenant_id, tier, expires_in))


class Streams:
    """Anonymous streams: their token (``new_stream_token``) is all that is needed, until somebody claims them."""

    def __init__(self, run: _Run, core: Core, settings: Settings) -> None:
        self._run = run
        self._core = core
        self._settings = settings

    def log(self, token: str, event: NewEvent) -> Logged:
        """Store one event; the first one begins the stream."""
        return self._run(self._core.log(event, token))

    def log_batch(self, token: str, events: Iterable[NewEvent]) -> Logged:
        """Store events, as ``Client.log_batch`` does. A stream takes 100 a day."""
        return self._run(self._core.log_batch(events, token))

    def info(self, token: str) -> StreamInfo:
        """How it stands. Raises ``NotFound``."""
        return self._run(self._core.stream_info(token))

    def claim(self, token: str, *, project_id: str | None = None) -> Claimed:
        """Make its events a project's: this one, or the client's. Needs a master key. Raises ``Gone`` when somebody
        else was first; when the error is ``uncertain``, it may have been this call."""
        return self._run(self._core.claim_stream(token, project_id))

    def claim_url(self, token: str) -> str:
        """The page on which a person claims it."""
        return self._settings.claim_url(token)


_clients: WeakSet[Client] = WeakSet()


def _after_fork() -> None:
    for client in list(_clients):
        client._begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
